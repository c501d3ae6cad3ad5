"""Commands about workers: list reads the store, change goes to the coordinator."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from broker_jobs.cli.connections import open_reader, open_request_client
from broker_jobs.cli.options import AsJson, StoreUrl, Url, load_settings
from broker_jobs.cli.output import print_json, print_table
from broker_jobs.errors import OptionError
from broker_jobs.messages.commands import ChangeWorker
from broker_jobs.messages.envelope import new_id
from broker_jobs.served_queues import ServedQueues, parse_limits

app = typer.Typer(
    help="List workers, and change what they do until they restart.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_workers(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """List workers as their last heartbeats told: queues, running jobs, concurrency."""
    with open_reader(load_settings(url=url, store=store)) as reader:
        workers = reader.processes.workers()
    if as_json:
        print_json([dataclasses.asdict(worker) for worker in workers])
        return
    print_table(
        ("id", "host", "pid", "queues", "limits", "running", "concurrency", "lost"),
        [
            (
                worker.id,
                worker.host,
                worker.pid,
                ",".join(worker.served or worker.queues),
                ",".join(f"{queue}={limit}" for queue, limit in worker.queue_limits.items()),
                worker.running,
                worker.concurrency,
                "lost" if worker.lost else "",
            )
            for worker in workers
        ],
        empty="no workers",
    )


@app.command("change")
def change(
    worker: Annotated[
        str, typer.Argument(metavar="[WORKER]", help="Id of a worker, as workers list shows it.", show_default=False)
    ] = "",
    *,
    host: Annotated[
        str, typer.Option("--host", help="All workers of this host, in place of one.", show_default=False)
    ] = "",
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", "-c", min=1, max=10_000, help="Jobs at once.", show_default="as before"),
    ] = None,
    queues: Annotated[
        str | None,
        typer.Option("--queues", "-Q", help="Queues to serve: mail,bulk or mail:3,bulk:1.", show_default="as before"),
    ] = None,
    queue_limit: Annotated[
        list[str] | None,
        typer.Option(
            "--queue-limit",
            metavar="QUEUE=NUMBER",
            help="Jobs of a queue at once; repeatable. These are all limits from now on.",
            show_default="as before",
        ),
    ] = None,
    no_queue_limits: Annotated[bool, typer.Option("--no-queue-limits", help="Remove all limits of queues.")] = False,
    url: Url = None,
) -> None:
    """Change the concurrency or the queues of a running worker, or of all of a host, until they restart.

    Running jobs go on. To change it for good, change the options with which the workers are started.
    """
    if queue_limit and no_queue_limits:
        raise OptionError("give either --queue-limit or --no-queue-limits")
    written = None if queues is None else [part.strip() for part in queues.split(",") if part.strip()]
    try:
        limits = parse_limits(",".join(queue_limit).split(",")) if queue_limit else {} if no_queue_limits else None
        if written is not None:
            ServedQueues.parse(written)
    except ValueError as error:
        raise OptionError(str(error)) from None
    with open_request_client(load_settings(url=url)) as requests:
        reply = requests.command(
            ChangeWorker(
                id=new_id(), at=requests.now(), by=requests.by, worker=worker, host=host, concurrency=concurrency,
                queues=written, queue_limits=limits,
            )
        )  # fmt: skip
    for changed in reply.detail["workers"]:
        typer.echo(f"{changed}\tchanged until it restarts")

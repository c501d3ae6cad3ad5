"""Commands about queues: list reads store and broker; pause, resume and purge go to the coordinator."""

from __future__ import annotations

from typing import Annotated

import typer

from broker_jobs.broker.work_depth import WorkDepth, work_depth
from broker_jobs.cli.connections import open_broker, open_jobs, open_reader
from broker_jobs.cli.options import AsJson, StoreUrl, Url, Yes, load_settings
from broker_jobs.cli.output import print_json, print_table
from broker_jobs.errors import BrokerError
from broker_jobs.messages.state import State

app = typer.Typer(help="List, pause, resume and purge queues.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="QUEUE", show_default=False)]


@app.command("list")
def list_queues(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """List queues with their ready messages (all, high and low), consumers on RabbitMQ, and jobs by state."""
    settings = load_settings(url=url, store=store)
    with open_reader(settings) as reader:
        paused = reader.queues.all()
        counts = reader.queues.counts()
    depths: dict[str, WorkDepth | None] = {}
    if not settings.in_memory:
        try:
            with open_broker(settings, "queues list") as broker:
                depths = {name: work_depth(broker, name) for name in counts}
        except BrokerError as error:
            typer.echo(f"warning: {error}", err=True)
    listed = [
        {
            "queue": name,
            "paused": paused.get(name, False),
            "ready": None if (depth := depths.get(name)) is None else depth.total,
            "high": None if depth is None else depth.ready["high"],
            "low": None if depth is None else depth.ready["low"],
            "consumers": None if depth is None else depth.consumers,
            **{str(state): of_queue[state] for state in State},
        }
        for name, of_queue in sorted(counts.items())
    ]
    if as_json:
        print_json(listed)
        return
    columns = ("queue", "paused", "ready", "high", "low", "consumers", *State)
    print_table(
        columns,
        [["paused" if k == "paused" and q[k] else "" if k == "paused" else q[k] for k in columns] for q in listed],
        empty="no queues",
    )


@app.command("pause")
def pause(name: Name, url: Url = None) -> None:
    """Stop workers from starting jobs of a queue; running jobs continue."""
    with open_jobs(load_settings(url=url)) as jobs:
        jobs.queues.pause(name)
    typer.echo(f"{name}\tpaused")


@app.command("resume")
def resume(name: Name, url: Url = None) -> None:
    """Let workers start jobs of a queue again."""
    with open_jobs(load_settings(url=url)) as jobs:
        jobs.queues.resume(name)
    typer.echo(f"{name}\tresumed")


@app.command("purge")
def purge(name: Name, yes: Yes = False, url: Url = None, store: StoreUrl = None) -> None:
    """Delete every enqueued job of a queue, each with a command of its own."""
    settings = load_settings(url=url, store=store)
    if not yes:
        typer.confirm(f"Delete all enqueued jobs of queue {name}?", abort=True)
    deleted = 0
    before: str | None = None
    with open_reader(settings) as reader, open_jobs(settings) as jobs:
        while rows := reader.jobs.newest(state=State.ENQUEUED, queue=name, limit=500, before_id=before):
            for row in rows:
                deleted += bool(jobs.receipt(row.id).delete())
            before = rows[-1].id
    typer.echo(f"{name}\t{deleted} deleted")

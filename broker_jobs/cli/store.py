"""Commands about the store: show it, accept a restored backup, adopt a store whose broker has moved."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from broker_jobs.cli.connections import open_reader, open_store
from broker_jobs.cli.options import AsJson, StoreUrl, Url, Yes, load_settings
from broker_jobs.cli.output import moment, print_json, print_pairs
from broker_jobs.errors import UsageError

app = typer.Typer(
    help="Show the store, accept a restored backup, adopt a store whose broker has moved.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("show")
def show(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Show which broker the store belongs to, when it was last written, and how many jobs are in it."""
    with open_reader(load_settings(url=url, store=store)) as reader:
        meta = reader.meta()
        installation = reader.installation()
        counts = reader.statistics.counts()
        workers = reader.processes.workers()
        dead_letters = reader.dead_letters.count()
    if as_json:
        print_json(
            dataclasses.asdict(meta)
            | {"installation": installation, "counts": counts, "workers": len(workers), "dead_letters": dead_letters}
        )
        return
    print_pairs(
        [
            ("store id", meta.store_id),
            ("installation", installation or "none yet: the first coordinator writes it"),
            ("schema", meta.schema),
            ("serial", meta.serial),
            ("last written", moment(meta.last_tick_at or None) or "never"),
            *((str(state), count) for state, count in counts.items()),
            ("workers", len(workers)),
            ("dead letters", dead_letters),
        ]
    )


@app.command("accept")
def accept(yes: Yes = False, url: Url = None, store: StoreUrl = None) -> None:
    """Accept that the store was restored from a backup.

    Until then the coordinator releases nothing: jobs that ended after the backup was made would run again.
    """
    settings = load_settings(url=url, store=store)
    if not yes:
        typer.confirm("Jobs that wait in the backup but have ended since may run again. Continue?", abort=True)
    with open_store(settings) as opened, opened.transaction() as transaction:
        waiting = transaction.accept_restored()
    typer.echo(f"accepted; the coordinator releases {waiting} waiting jobs from its next tick on")


@app.command("adopt")
def adopt(
    also: Annotated[
        bool, typer.Option("--also", help="Add --url as a second address of the broker the store belongs to.")
    ] = False,
    yes: Yes = False,
    url: Url = None,
    store: StoreUrl = None,
) -> None:
    """Make the store belong to the broker and virtual host of --url (or BROKER_JOBS_URL), after the broker has moved.

    First stop the coordinators that use the store. Two installations must not share a store.
    """
    settings = load_settings(url=url, store=store)
    if not settings.names_broker:
        raise UsageError(
            "adopt needs the broker that the store belongs to: "
            "give --url amqp://user:password@host:5672/vhost (or BROKER_JOBS_URL)"
        )
    if not yes:
        typer.confirm("The jobs in the store then belong to this broker. Continue?", abort=True)
    with open_store(settings, any_installation=True) as opened:
        from broker_jobs.store import installation  # noqa: PLC0415  # open_store has checked that SQLAlchemy is there

        typer.echo(f"the store belongs to {installation.adopt(opened, settings.url, also=also)}")

"""The commands about the store: what it is, what is parked in it, and the word a person gives after a restore."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.reach import opened, reading
from broker_jobs.cli.show import moment, print_json, print_pairs, print_table

app = typer.Typer(
    help="Look at the store, and accept one that was restored.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("show")
def show(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Say whose store it is, how far it has come, and what is in it."""
    with reading(settings_of(url=url, store=store)) as reader:
        meta = reader.meta()
        counts = reader.counts()
        workers = reader.workers()
        parked = reader.parked_count()
    if as_json:
        print_json(dataclasses.asdict(meta) | {"counts": counts, "workers": len(workers), "parked": parked})
        return
    print_pairs(
        [
            ("store id", meta.store_id),
            ("schema", meta.schema),
            ("serial", meta.serial),
            ("last written", moment(meta.last_tick_at or None) or "never by a coordinator"),
            *((str(state), count) for state, count in counts.items()),
            ("workers", len(workers)),
            ("parked", parked),
        ]
    )


@app.command("accept")
def accept(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, url: Url = None, store: StoreUrl = None
) -> None:
    """Accept that the store was restored from a backup.

    The coordinator releases nothing before: jobs that ended after the backup was made would run again.
    """
    settings = settings_of(url=url, store=store)
    if not yes:
        typer.confirm(
            "Jobs that ended after the backup was made and are waiting in it may run again. Go on?", abort=True
        )
    with opened(settings) as whole, whole.transaction() as transaction:
        waiting = transaction.accept_restored()
    typer.echo(f"accepted; {waiting} waiting jobs go on with the next tick of the coordinator")


def parked(
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 100,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List messages nobody could read.

    They are kept whole (--json prints the bodies) and decided again at every start of a coordinator.
    """
    with reading(settings_of(url=url, store=store)) as reader:
        rows = reader.parked(limit)
    if as_json:
        print_json([dataclasses.asdict(row) | {"body": row.body.decode(errors="replace")} for row in rows])
        return
    print_table(
        ("id", "at", "origin", "bytes", "reason"),
        [(row.id, moment(row.at), row.origin, len(row.body), row.reason) for row in rows],
        empty="nothing is parked",
    )

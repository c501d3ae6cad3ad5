"""The commands about the store: what it is, its dead letters, and what a person says after a restore or a move."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from broker_jobs.cli.connections import commanding, opened, reading
from broker_jobs.cli.masked import Unmasked, body_of, queries_of
from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.output import moment, print_json, print_pairs, print_table
from broker_jobs.errors import UsageError
from broker_jobs.messages.commands import DeleteDeadLetter, ReplayDeadLetter
from broker_jobs.messages.events import MAX_ID_CHARS

app = typer.Typer(
    help="Look at the store; accept one that was restored, adopt one whose broker has moved.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("show")
def show(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Say whose store it is, how far it has come, and what is in it."""
    with reading(settings_of(url=url, store=store)) as reader:
        meta = reader.meta()
        whose = reader.installation()
        counts = reader.counts()
        workers = reader.workers()
        dead_letters = reader.dead_letter_count()
    if as_json:
        print_json(
            dataclasses.asdict(meta)
            | {"installation": whose, "counts": counts, "workers": len(workers), "dead": dead_letters}
        )
        return
    print_pairs(
        [
            ("store id", meta.store_id),
            ("installation", whose or "none yet: the first coordinator writes it"),
            ("schema", meta.schema),
            ("serial", meta.serial),
            ("last written", moment(meta.last_tick_at or None) or "never by a coordinator"),
            *((str(state), count) for state, count in counts.items()),
            ("workers", len(workers)),
            ("dead", dead_letters),
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


@app.command("adopt")
def adopt(
    also: Annotated[
        bool, typer.Option("--also", help="It is another address of the broker that the store belongs to.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
    store: StoreUrl = None,
) -> None:
    """Let the store belong to the broker and virtual host of --url (or BROKER_JOBS_URL), as the broker has moved.

    Stop the coordinators that use the store first. Two installations must not share a store.
    """
    settings = settings_of(url=url, store=store)
    if not settings.names_broker:
        raise UsageError("say whose store it is: give --url amqp://user:password@host:5672/vhost (or BROKER_JOBS_URL)")
    if not yes:
        typer.confirm("The jobs in the store then belong to this broker. Go on?", abort=True)
    with opened(settings, any_installation=True) as whole:
        from broker_jobs.store import installation  # noqa: PLC0415  # here its library is known to be installed

        typer.echo(f"the store belongs to {installation.adopt(whole, settings.url, also=also)}")


dead_letters_app = typer.Typer(
    help="List messages nobody could read or decide; replay or delete one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
ParkedId = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="As the list shows it.")]


@dead_letters_app.callback()
def dead_letters(  # noqa: PLR0917  # its options; typer gives them by name
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 100,
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List messages nobody could read or decide; replay or delete one.

    Each is one record, kept whole, its neighbours were applied. --json prints the bodies (masked) and the tracebacks.
    One that a newer version wrote is decided by the first coordinator that can read it; all others wait for
    `dead-lettered replay`.
    """
    if context.invoked_subcommand is not None:
        return
    settings = settings_of(url=url, store=store)
    with reading(settings) as reader:
        rows = reader.dead_letters(limit)
        if as_json:
            queries = queries_of(reader, settings, unmasked=unmasked)
            print_json(
                [dataclasses.asdict(row) | {"body": body_of(queries, row.body, unmasked=unmasked)} for row in rows]
            )
            return
    print_table(
        ("id", "at", "origin", "bytes", "reason"),
        [(row.id, moment(row.at), row.origin, len(row.body), row.reason.partition("\n")[0]) for row in rows],
        empty="nothing is dead-lettered",
    )


@dead_letters_app.command("replay")
def replay(id: ParkedId, url: Url = None) -> None:
    """Decide a message again, once its cause is mended. Refused with the reason where it still cannot be."""
    with commanding(settings_of(url=url)) as requests:
        requests.command(ReplayDeadLetter(**requests.stamp(), dead_letter_id=_checked(id)))
    typer.echo(f"{id}\treplayed")


@dead_letters_app.command("delete")
def delete(id: ParkedId, url: Url = None) -> None:
    """Forget a message for good."""
    with commanding(settings_of(url=url)) as requests:
        requests.command(DeleteDeadLetter(**requests.stamp(), dead_letter_id=_checked(id)))
    typer.echo(f"{id}\tdeleted")


def _checked(id: str) -> str:
    if len(id) > MAX_ID_CHARS:
        raise UsageError(f"no dead letter has an id of {len(id):_} characters; see broker-jobs dead-letters")
    return id

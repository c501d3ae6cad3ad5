"""Commands about dead letters: `dead-letters` lists them, replay and delete go to the coordinator."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from broker_jobs.cli.connections import body_text, open_reader, open_request_client, queries_of
from broker_jobs.cli.options import AsJson, Limit, StoreUrl, Unmasked, Url, load_settings
from broker_jobs.cli.output import moment, print_json, print_table
from broker_jobs.errors import UsageError
from broker_jobs.messages.commands import DeleteDeadLetter, ReplayDeadLetter
from broker_jobs.messages.events import MAX_ID_CHARS

app = typer.Typer(
    help="List dead letters; replay or delete one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
DeadLetterId = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Id, as the list shows it.")]


@app.callback()
def dead_letters(  # noqa: PLR0917  # its options; typer gives them by name
    context: typer.Context,
    limit: Limit = 100,
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters: messages that could not be decoded, routed or applied. Replay or delete one.

    Each is kept whole; the messages around it were applied. --json prints the bodies (masked) and the tracebacks. A
    message from a newer version is replayed by the first coordinator that can decode it; for all others use
    `dead-letters replay`.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_settings(url=url, store=store)
    with open_reader(settings) as reader:
        rows = reader.dead_letters.oldest(limit)
        if as_json:
            queries = queries_of(reader, settings, unmasked=unmasked)
            print_json(
                [dataclasses.asdict(row) | {"body": body_text(queries, row.body, unmasked=unmasked)} for row in rows]
            )
            return
    print_table(
        ("id", "at", "origin", "bytes", "reason"),
        [(row.id, moment(row.at), row.origin, len(row.body), row.reason.partition("\n")[0]) for row in rows],
        empty="no dead letters",
    )


@app.command("replay")
def replay(id: DeadLetterId, url: Url = None) -> None:
    """Apply a dead letter again, after its cause is fixed. If it still cannot be applied, the error says why."""
    with open_request_client(load_settings(url=url)) as requests:
        requests.command(ReplayDeadLetter(**requests.command_fields(), dead_letter_id=_checked(id)))
    typer.echo(f"{id}\treplayed")


@app.command("delete")
def delete(id: DeadLetterId, url: Url = None) -> None:
    """Delete a dead letter permanently."""
    with open_request_client(load_settings(url=url)) as requests:
        requests.command(DeleteDeadLetter(**requests.command_fields(), dead_letter_id=_checked(id)))
    typer.echo(f"{id}\tdeleted")


def _checked(id: str) -> str:
    if len(id) > MAX_ID_CHARS:
        raise UsageError(f"no dead letter has an id of {len(id):_} characters; see broker-jobs dead-letters")
    return id

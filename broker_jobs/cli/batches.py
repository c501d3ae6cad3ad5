"""The commands about batches: list and show read the store; failures, delete and requeue ask the coordinator."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from broker_jobs.cli.bulk import bulk, meant
from broker_jobs.cli.connections import commanding, reading
from broker_jobs.cli.masked import Unmasked, queries_of
from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.output import moment, print_json, print_pairs, print_table
from broker_jobs.dashboard.masking import MASKED, Masking
from broker_jobs.errors import StoreError, UsageError, nearest
from broker_jobs.messages.commands import BulkRequeue
from broker_jobs.producer.batch import Batch
from broker_jobs.settings import Settings

if TYPE_CHECKING:
    from broker_jobs.store.records import BatchRow

app = typer.Typer(help="List, show and change batches.", no_args_is_help=True, rich_markup_mode=None)

Show: TypeAlias = Callable[[str, list[Any], dict[str, Any]], tuple[list[Any], dict[str, Any]]]
"""Tells by a job's name, args and kwargs what of these is shown."""
Id = Annotated[str, typer.Argument(metavar="ID", show_default=False)]
STATES = ("awaiting", "processing", "succeeded", "failed", "deleted")
COLUMNS = ("id", "title", "state", "total", "open", "succeeded", "failed", "deleted", "created", "ended")


@app.command("list")
def list_batches(
    *,
    state: Annotated[str | None, typer.Option("--state", help=f"One of {', '.join(STATES)}.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 50,
    before: Annotated[str | None, typer.Option("--before", help="The last id of the page before.")] = None,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List batches, the newest first."""
    if state is not None and state not in STATES:
        raise UsageError(f"no state {state!r}{nearest(state, list(STATES))}; states are {', '.join(STATES)}")
    with reading(settings_of(url=url, store=store)) as reader:
        rows = reader.batches(state=state, limit=limit, before=before)
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    print_table(COLUMNS, [[_brief(row)[name] for name in COLUMNS] for row in rows], empty="no batches")


@app.command("show")
def show(batch_id: Id, url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Show one batch, the batches inside it, and its newest jobs."""
    with reading(settings_of(url=url, store=store)) as reader:
        row = reader.batch(batch_id)
        inside = reader.sub_batches(batch_id)
        members = reader.jobs(batch=batch_id, limit=20)
    if row is None:
        raise UsageError(f"no batch {batch_id}: not heard of yet, or past its retention")
    if as_json:
        print_json(dataclasses.asdict(row) | {"batches": [dataclasses.asdict(sub) for sub in inside]})
        return
    print_pairs([*_brief(row).items(), ("part of", row.parent)])
    for sub in inside:
        typer.echo(f"  batch {sub.id}  {sub.state:<10}  {sub.total - sub.open} of {sub.total} ended  {sub.title}")
    for job in members:
        typer.echo(f"  {job.id}  {job.state:<10}  {job.job}  {job.reason}")
    if row.total > len(members) + len(inside):
        typer.echo(f"  … {row.total - len(members) - len(inside)} more")


@app.command("failures")
def failures(
    batch_id: Id,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List its failed jobs, those of batches inside it too, with their arguments and errors.

    The coordinator is asked; the store is read for the names of the arguments that are masked.
    """
    found: list[dict[str, Any]] = []
    settings = settings_of(url=url, store=store)
    with _shown(settings, unmasked=unmasked) as shown, commanding(settings) as requests:
        for failure in Batch(requests, id=batch_id).failures():
            args, kwargs = shown(failure.job, list(failure.args), dict(failure.kwargs))
            found.append(
                {
                    "id": failure.id,
                    "job": failure.job,
                    "attempts": failure.attempts,
                    "args": args,
                    "kwargs": kwargs,
                    "error": failure.error_type,
                    "message": failure.message,
                }
            )
            if len(found) == limit:
                break
    if as_json:
        print_json(found)
        return
    columns = ("id", "job", "attempts", "args", "kwargs", "error", "message")
    called = [f | {name: json.dumps(f[name], ensure_ascii=False) for name in ("args", "kwargs")} for f in found]
    print_table(columns, [[f[name] for name in columns] for f in called], empty="nothing has failed")


@app.command("delete")
def delete(batch_id: Id, url: Url = None) -> None:
    """Delete all its jobs that have not ended, in batches inside it too; those that run are asked to stop."""
    with commanding(settings_of(url=url)) as requests:
        deleted = Batch(requests, id=batch_id).delete()
    typer.echo(f"{batch_id}\t{'deleted' if deleted else 'had already ended'}")


@app.command("requeue")
def requeue(
    batch_id: Id,
    error: Annotated[
        str | None, typer.Option("--error", help="Only with this text in reason or error.", show_default=False)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = None,
) -> None:
    """Run its failed jobs again, those of batches inside it too, by one command."""
    given = meant(batch=batch_id, error_text=error)
    bulk(BulkRequeue, given, "Requeue", "failed", yes=yes, url=url)


@contextmanager
def _shown(settings: Settings, *, unmasked: bool) -> Iterator[Show]:
    """What tells how the arguments of a job are shown."""
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(reading(settings))
        except (StoreError, UsageError):
            if not unmasked:
                typer.echo("warning: without the store (--store) no argument given by position is shown", err=True)
            masking = Masking((), types=False) if unmasked else Masking(settings.mask)
            yield lambda _job, args, kwargs: (args if unmasked else [MASKED] * len(args), masking.value(kwargs))
        else:
            yield queries_of(reader, settings, unmasked=unmasked).shown_call


def _brief(row: BatchRow) -> dict[str, Any]:
    return dataclasses.asdict(row) | {"created": moment(row.created_at), "ended": moment(row.ended_at)}

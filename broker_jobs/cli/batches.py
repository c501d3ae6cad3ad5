"""Commands about batches: list and show read the store; failures, delete and requeue go to the coordinator."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from broker_jobs.cli.bulk import filter_fields, run_bulk
from broker_jobs.cli.connections import open_reader, open_request_client, queries_of
from broker_jobs.cli.options import AsJson, ErrorText, Limit, StoreUrl, Unmasked, Url, Yes, load_settings
from broker_jobs.cli.output import moment, print_json, print_pairs, print_table
from broker_jobs.dashboard.masking import MASKED, Masking
from broker_jobs.errors import StoreError, UsageError, nearest
from broker_jobs.messages.commands import BulkRequeue
from broker_jobs.producer.batch import Batch
from broker_jobs.settings import Settings

if TYPE_CHECKING:
    from broker_jobs.store.records import BatchRow

app = typer.Typer(help="List, show and change batches.", no_args_is_help=True, rich_markup_mode=None)

MaskCall: TypeAlias = Callable[[str, list[Any], dict[str, Any]], tuple[list[Any], dict[str, Any]]]
"""(job name, args, kwargs) -> args and kwargs as they may be shown."""
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the batch.", show_default=False)]
STATES = ("awaiting", "processing", "succeeded", "failed", "deleted")
COLUMNS = ("id", "title", "state", "total", "open", "succeeded", "failed", "deleted", "created", "ended")


@app.command("list")
def list_batches(
    *,
    state: Annotated[str | None, typer.Option("--state", help=f"One of {', '.join(STATES)}.")] = None,
    limit: Limit = 50,
    before: Annotated[
        str | None, typer.Option("--before", help="Continue after this id, the last of the previous page.")
    ] = None,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List batches, newest first."""
    if state is not None and state not in STATES:
        raise UsageError(f"unknown state {state!r}{nearest(state, list(STATES)) or '.'} States: {', '.join(STATES)}")
    with open_reader(load_settings(url=url, store=store)) as reader:
        rows = reader.batches.newest(state=state, limit=limit, before=before)
    if as_json:
        print_json([dataclasses.asdict(row) for row in rows])
        return
    print_table(COLUMNS, [[_brief(row)[name] for name in COLUMNS] for row in rows], empty="no batches")


@app.command("show")
def show(batch_id: Id, url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Show one batch, its sub-batches and its 20 newest jobs."""
    with open_reader(load_settings(url=url, store=store)) as reader:
        row = reader.batches.get(batch_id)
        sub_batches = reader.batches.inside(batch_id)
        members = reader.jobs.newest(batch=batch_id, limit=20)
    if row is None:
        raise UsageError(f"no batch {batch_id}: not recorded yet, or past its retention")
    if as_json:
        print_json(dataclasses.asdict(row) | {"batches": [dataclasses.asdict(sub) for sub in sub_batches]})
        return
    print_pairs([*_brief(row).items(), ("part of", row.parent)])
    for sub in sub_batches:
        typer.echo(f"  batch {sub.id}  {sub.state:<10}  {sub.total - sub.open} of {sub.total} ended  {sub.title}")
    for job in members:
        typer.echo(f"  {job.id}  {job.state:<10}  {job.job}  {job.reason}")
    if row.total > len(members) + len(sub_batches):
        typer.echo(f"  … {row.total - len(members) - len(sub_batches)} more")


@app.command("failures")
def failures(
    batch_id: Id,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="List at most this many.")] = 100,
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the failed jobs of a batch and its sub-batches, with arguments and errors.

    The list comes from the coordinator. The store is read for the names of the arguments, which decide what is masked.
    """
    found: list[dict[str, Any]] = []
    settings = load_settings(url=url, store=store)
    with _call_masking(settings, unmasked=unmasked) as mask_call, open_request_client(settings) as requests:
        for failure in Batch(requests, id=batch_id).failures():
            args, kwargs = mask_call(failure.job, list(failure.args), dict(failure.kwargs))
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
    as_text = [f | {name: json.dumps(f[name], ensure_ascii=False) for name in ("args", "kwargs")} for f in found]
    print_table(columns, [[f[name] for name in columns] for f in as_text], empty="no failed jobs")


@app.command("delete")
def delete(batch_id: Id, url: Url = None) -> None:
    """Delete the unfinished jobs of a batch and its sub-batches; running jobs are cancelled."""
    with open_request_client(load_settings(url=url)) as requests:
        deleted = Batch(requests, id=batch_id).delete()
    typer.echo(f"{batch_id}\t{'deleted' if deleted else 'had already ended'}")


@app.command("requeue")
def requeue(
    batch_id: Id,
    error: ErrorText = None,
    yes: Yes = False,
    url: Url = None,
) -> None:
    """Run the failed jobs of a batch and its sub-batches again, with one command."""
    fields = filter_fields(batch=batch_id, error_text=error)
    run_bulk(BulkRequeue, fields, "Requeue", "failed", yes=yes, url=url)


@contextmanager
def _call_masking(settings: Settings, *, unmasked: bool) -> Iterator[MaskCall]:
    """Yield the function that masks a call; without a store every positional argument is masked."""
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(open_reader(settings))
        except (StoreError, UsageError):
            if not unmasked:
                typer.echo(
                    "warning: positional arguments are masked, as their names are in the store; give --store", err=True
                )
            masking = Masking((), types=False) if unmasked else Masking(settings.mask)
            yield lambda _job, args, kwargs: (args if unmasked else [MASKED] * len(args), masking.value(kwargs))
        else:
            yield queries_of(reader, settings, unmasked=unmasked).jobs.mask_call


def _brief(row: BatchRow) -> dict[str, Any]:
    return dataclasses.asdict(row) | {"created": moment(row.created_at), "ended": moment(row.ended_at)}

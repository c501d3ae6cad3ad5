"""The commands about jobs: list and show read the store; delete, requeue and reschedule ask the coordinator."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from broker_jobs.cli.bulk import bulk, meant
from broker_jobs.cli.connections import asking, reading
from broker_jobs.cli.masked import Unmasked, queries_of
from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.output import moment, print_json, print_pairs, print_table, read_moment
from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.views import JobLine, JobsQuery
from broker_jobs.errors import UsageError
from broker_jobs.messages.commands import BulkDelete, BulkRequeue
from broker_jobs.messages.state import FINAL, State

if TYPE_CHECKING:
    from broker_jobs.dashboard.queries import Queries

MOST_ON_A_PAGE = 500

app = typer.Typer(help="List, show and change jobs.", no_args_is_help=True, rich_markup_mode=None)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids of jobs.", show_default=False)]
All = Annotated[bool, typer.Option("--all-matching", help="All jobs that the options mean, by one command.")]
OfQueue = Annotated[str | None, typer.Option("--queue", help="Only of this queue.", show_default=False)]
OfName = Annotated[str | None, typer.Option("--job", help="Only of this name.", show_default=False)]
OfBatch = Annotated[
    str | None, typer.Option("--batch", help="Only of this batch and those inside it.", show_default=False)
]
OfRecurring = Annotated[
    str | None, typer.Option("--recurring", help="Only those this recurring job made.", show_default=False)
]
Tagged = Annotated[str | None, typer.Option("--tag", help="Only with this tag.", show_default=False)]
Since = Annotated[
    str | None, typer.Option("--since", help="Only made since: 2h (ago), or an instant.", show_default=False)
]
Until = Annotated[
    str | None, typer.Option("--until", help="Only made before: 2h (ago), or an instant.", show_default=False)
]
Error = Annotated[
    str | None, typer.Option("--error", help="Only with this text in reason or error.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list")
def list_jobs(
    *,
    state: Annotated[str | None, typer.Option("--state", help=f"One of {', '.join(State)}.")] = None,
    queue: OfQueue = None,
    name: OfName = None,
    search: Annotated[
        str | None, typer.Option("--search", help="Part of an id, name, argument, tag, reason or error.")
    ] = None,
    error: Error = None,
    tag: Tagged = None,
    batch: OfBatch = None,
    recurring: OfRecurring = None,
    worker: Annotated[str | None, typer.Option("--worker", help="Only those it runs now.")] = None,
    retries: Annotated[bool, typer.Option("--retries", help="Only those to run again after a failure.")] = False,
    since: Since = None,
    until: Until = None,
    sort: Annotated[str, typer.Option("--sort", help="newest, oldest, changed or due.")] = "newest",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where a list ended.")] = None,
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first; the same search as the dashboard's."""
    given = meant(state=state, created_after=since, created_before=until)
    try:
        query = JobsQuery.model_validate(
            {
                "state": given.get("state"), "queue": queue, "job": name, "text": search, "error_text": error,
                "tag": tag, "batch": batch, "recurring": recurring, "worker": worker,
                "why": "retry" if retries else None, "created_after": _aware(given.get("created_after")),
                "created_before": _aware(given.get("created_before")), "sort": sort, "cursor": cursor,
                "limit": min(limit, MOST_ON_A_PAGE),
            }
        )  # fmt: skip
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        raise UsageError(f"--{first['loc'][0]}: {first['msg']}") from None
    settings = settings_of(url=url, store=store)
    with reading(settings) as reader:
        found, more = _pages(queries_of(reader, settings, unmasked=unmasked), query, limit)
    if as_json:
        print_json([_brief(line) for line in found])
    else:
        columns = ("id", "job", "queue", "state", "attempt", "changed", "due", "reason", "call")
        print_table(columns, [tuple(_brief(line).values()) for line in found], empty="no jobs")
    if more is not None:
        typer.echo(f"there may be more: --cursor {more}", err=True)


@app.command("show")
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of one job: arguments, history, error, lines it wrote."""
    settings = settings_of(url=url, store=store)
    with reading(settings) as reader:
        job = queries_of(reader, settings, unmasked=unmasked).job(job_id)
    if job is None:
        raise UsageError(f"no job {job_id}: not heard of yet, or past its retention")
    if as_json:
        print_json(job.model_dump(mode="json"))
        return
    bonds = {
        "after": ", ".join(f"{'batch ' if each.is_batch else ''}{each.id} ({each.on})" for each in job.parents),
        "waits for": "; ".join(job.waits_for),
        "batch": job.batch,
        "recurring": job.recurring,
        "stands for": job.stands_for,
        "made by": job.made_by,
    }
    print_pairs(
        [
            *_brief(job).items(),
            *((name, value) for name, value in bonds.items() if value),
            ("created", _moment(job.created_at)),
            ("started", _moment(job.started_at)),
            ("ended", _moment(job.ended_at)),
            ("worker", job.worker),
            ("progress", None if job.progress is None else f"{job.progress.done:g}/{job.progress.total or '?'}"),
            ("result", job.result if job.result_lost is None else f"({job.result_lost})"),
        ]
    )
    for step in job.steps:
        typer.echo(f"  {_moment(step.at)}  {step.state:<10}  {step.reason}")
    for line in job.lines:
        typer.echo(f"  {_moment(line.at)}  attempt {line.attempt}: {line.text}")
    if job.failure is not None:
        typer.echo(job.failure.traceback or f"{job.failure.type}: {job.failure.message}")


@app.command("delete")
def delete(
    ids: Ids = None,
    *,
    all_matching: All = False,
    state: Annotated[
        str | None, typer.Option("--state", help=f"One of {', '.join(State)}.", show_default="all that have not ended")
    ] = None,
    queue: OfQueue = None,
    name: OfName = None,
    batch: OfBatch = None,
    recurring: OfRecurring = None,
    tag: Tagged = None,
    since: Since = None,
    until: Until = None,
    error: Error = None,
    yes: Yes = False,
    url: Url = None,
) -> None:
    """Delete jobs; one that runs is asked to stop, and its end decides. By id, or --all-matching the options."""
    given = meant(
        state=state, queue=queue, job=name, batch=batch, recurring=recurring, tag=tag, created_after=since,
        created_before=until, error_text=error,
    )  # fmt: skip
    if _by_filter(ids, all_matching, given):
        bulk(BulkDelete, given, "Delete", state or "all jobs that have not ended", yes=yes, url=url)
        return
    with asking(settings_of(url=url)) as jobs:
        for job_id in ids or []:
            ended = not jobs.receipt(job_id).delete()
            typer.echo(f"{job_id}\t{'had already ended; shown as deleted' if ended else 'deleted'}")


@app.command("requeue")
def requeue(
    ids: Ids = None,
    *,
    all_matching: All = False,
    state: Annotated[
        str | None, typer.Option("--state", help=f"One of {', '.join(sorted(FINAL))}.", show_default="failed")
    ] = None,
    queue: OfQueue = None,
    name: OfName = None,
    batch: OfBatch = None,
    recurring: OfRecurring = None,
    tag: Tagged = None,
    since: Since = None,
    until: Until = None,
    error: Error = None,
    yes: Yes = False,
    url: Url = None,
) -> None:
    """Run jobs again, or waiting ones now. By id, or --all-matching the options."""
    given = meant(
        state=state, queue=queue, job=name, batch=batch, recurring=recurring, tag=tag, created_after=since,
        created_before=until, error_text=error,
    )  # fmt: skip
    if _by_filter(ids, all_matching, given):
        bulk(BulkRequeue, given, "Requeue", state or "failed", yes=yes, url=url)
        return
    with asking(settings_of(url=url)) as jobs:
        for job_id in ids or []:
            jobs.receipt(job_id).requeue()
            typer.echo(f"{job_id}\trequeued")


def _by_filter(ids: list[str] | None, all_matching: bool, given: dict[str, Any]) -> bool:
    """Whether a command is about all that its options mean, and not about ids."""
    if all_matching and ids:
        raise UsageError("give ids, or --all-matching with options, not both")
    if not all_matching and given:
        raise UsageError("options that choose jobs go with --all-matching")
    if not all_matching and not ids:
        raise UsageError("give ids of jobs, or --all-matching with options that choose them")
    return all_matching


@app.command("reschedule")
def reschedule(
    job_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    when: Annotated[
        str,
        typer.Argument(metavar="WHEN", help="30s, 5m, 2h, 7d from now, or 2027-01-01T09:00+03:00.", show_default=False),
    ],
    url: Url = None,
) -> None:
    """Give a job another time."""
    moment_given = read_moment(when)
    due = timedelta(seconds=moment_given) if isinstance(moment_given, float) else moment_given
    with asking(settings_of(url=url)) as jobs:
        jobs.receipt(job_id).reschedule(due)
        typer.echo(f"{job_id}\trescheduled")


def _pages(queries: Queries, query: JobsQuery, limit: int) -> tuple[list[JobLine], str | None]:
    """(at most so many jobs, the cursor behind them if there may be more); a search that takes long goes on."""
    found: list[JobLine] = []
    while True:
        page = queries.jobs(query.model_copy(update={"limit": min(limit - len(found), MOST_ON_A_PAGE)}))
        found += page.jobs
        if page.next is None or len(found) >= limit:
            return found, page.next
        query = query.model_copy(update={"cursor": page.next})


def _aware(instant: float | None) -> datetime | None:
    return None if instant is None else as_datetime(instant)


def _moment(at: datetime | None) -> str:
    return moment(None if at is None else at.timestamp())


def _brief(line: JobLine) -> dict[str, Any]:
    return {
        "id": line.id,
        "job": line.job,
        "queue": line.queue,
        "state": str(line.state),
        "attempt": line.attempt,
        "changed": _moment(line.changed_at),
        "due": _moment(line.due_at),
        "reason": line.reason,
        "call": line.call,
    }

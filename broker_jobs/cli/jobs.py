"""Commands about jobs: list and show read the store; those that change something go to the coordinator.

Over 300 lines: the options of each command are written out, as the command line is made of them.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from broker_jobs.cli.bulk import filter_fields, run_bulk
from broker_jobs.cli.connections import open_jobs, open_reader, queries_of
from broker_jobs.cli.options import AsJson, ErrorText, Limit, StoreUrl, Unmasked, Url, Yes, load_settings
from broker_jobs.cli.output import moment, print_json, print_pairs, print_table, read_moment
from broker_jobs.clock import as_datetime
from broker_jobs.errors import UsageError
from broker_jobs.messages.commands import BulkDelete, BulkFail, BulkRequeue
from broker_jobs.messages.state import FINAL, State

if TYPE_CHECKING:
    from broker_jobs.dashboard.queries import Queries
    from broker_jobs.dashboard.views import JobsQuery, JobSummary

MAX_PAGE = 500
"""Jobs per query."""

app = typer.Typer(help="List, show and change jobs.", no_args_is_help=True, rich_markup_mode=None)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids of jobs.", show_default=False)]
AllMatching = Annotated[bool, typer.Option("--all-matching", help="All jobs that match the options, instead of ids.")]
OfQueue = Annotated[str | None, typer.Option("--queue", help="Only jobs of this queue.", show_default=False)]
OfName = Annotated[str | None, typer.Option("--job", help="Only jobs of this name.", show_default=False)]
OfBatch = Annotated[
    str | None, typer.Option("--batch", help="Only jobs of this batch and its sub-batches.", show_default=False)
]
OfRecurring = Annotated[
    str | None, typer.Option("--recurring", help="Only runs of this recurring job.", show_default=False)
]
Tag = Annotated[str | None, typer.Option("--tag", help="Only jobs with this tag.", show_default=False)]
Unknown = Annotated[bool, typer.Option("--unknown", help="Only jobs that are held, as no living worker knows them.")]
Since = Annotated[
    str | None,
    typer.Option("--since", help="Only jobs created since: 30s, 5m, 2h, 7d ago, or an instant.", show_default=False),
]
Until = Annotated[
    str | None,
    typer.Option("--until", help="Only jobs created before: 30s, 5m, 2h, 7d ago, or an instant.", show_default=False),
]


@app.command("list")
def list_jobs(
    *,
    state: Annotated[str | None, typer.Option("--state", help=f"One of {', '.join(State)}.")] = None,
    queue: OfQueue = None,
    name: OfName = None,
    search: Annotated[
        str | None, typer.Option("--search", help="Part of an id, name, argument, tag, reason or error.")
    ] = None,
    error: ErrorText = None,
    tag: Tag = None,
    batch: OfBatch = None,
    recurring: OfRecurring = None,
    worker: Annotated[str | None, typer.Option("--worker", help="Only jobs that this worker runs now.")] = None,
    retries: Annotated[bool, typer.Option("--retries", help="Only jobs that wait for a retry.")] = False,
    unknown: Unknown = False,
    since: Since = None,
    until: Until = None,
    sort: Annotated[str, typer.Option("--sort", help="newest, oldest, changed or due.")] = "newest",
    limit: Limit = 50,
    cursor: Annotated[
        str | None, typer.Option("--cursor", help="Continue a list; the previous list printed this value.")
    ] = None,
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first, with the same search as the dashboard."""
    # Imported here, as it takes 50 ms and every command, `run` too, imports this file.
    from broker_jobs.dashboard.views import JobsQuery  # noqa: PLC0415

    fields = filter_fields(state=state, created_after=since, created_before=until)
    try:
        query = JobsQuery.model_validate(
            {
                "state": fields.get("state"), "queue": queue, "job": name, "text": search, "error_text": error,
                "tag": tag, "batch": batch, "recurring": recurring, "worker": worker,
                "reason_code": "retry" if retries else None, "unknown": unknown or None,
                "created_after": _aware(fields.get("created_after")),
                "created_before": _aware(fields.get("created_before")), "sort": sort, "cursor": cursor,
                "limit": min(limit, MAX_PAGE),
            }
        )  # fmt: skip
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        raise UsageError(f"--{first['loc'][0]}: {first['msg']}") from None
    settings = load_settings(url=url, store=store)
    with open_reader(settings) as reader:
        found, next_cursor = _read_pages(queries_of(reader, settings, unmasked=unmasked), query, limit)
    if as_json:
        print_json([_brief(line) for line in found])
    else:
        columns = ("id", "job", "queue", "state", "attempt", "changed", "due", "reason", "call")
        print_table(columns, [tuple(_brief(line).values()) for line in found], empty="no jobs")
    if next_cursor is not None:
        typer.echo(f"there may be more: --cursor {next_cursor}", err=True)


@app.command("show")
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one job: arguments, relations, history, error and log lines."""
    settings = load_settings(url=url, store=store)
    with open_reader(settings) as reader:
        job = queries_of(reader, settings, unmasked=unmasked).jobs.get(job_id)
    if job is None:
        raise UsageError(f"no job {job_id}: not recorded yet, or past its retention")
    if as_json:
        print_json(job.model_dump(mode="json"))
        return
    relations = {
        "after": ", ".join(f"{'batch ' if each.is_batch else ''}{each.id} ({each.on})" for each in job.parents),
        "waits for": "; ".join(job.waits_for),
        "batch": job.batch,
        "recurring": job.recurring,
        "alias of": job.alias_of,
        "created by": job.created_by,
    }
    print_pairs(
        [
            *_brief(job).items(),
            ("priority", job.priority),
            *((name, value) for name, value in relations.items() if value),
            ("created", _moment(job.created_at)),
            ("started", _moment(job.started_at)),
            ("ended", _moment(job.ended_at)),
            ("kept until", _moment(job.expires_at)),
            ("worker", job.worker),
            ("progress", None if job.progress is None else f"{job.progress.done:g}/{job.progress.total or '?'}"),
            ("result", job.result if job.result_lost is None else f"({job.result_lost})"),
        ]
    )
    for change in job.history:
        typer.echo(f"  {_moment(change.at)}  {change.state:<10}  {change.reason}")
    for line in job.log_lines:
        typer.echo(f"  {_moment(line.at)}  attempt {line.attempt}: {line.text}")
    if job.failure is not None:
        typer.echo(job.failure.traceback or f"{job.failure.type}: {job.failure.message}")


@app.command("delete")
def delete(
    ids: Ids = None,
    *,
    all_matching: AllMatching = False,
    state: Annotated[
        str | None, typer.Option("--state", help=f"One of {', '.join(State)}.", show_default="all that have not ended")
    ] = None,
    queue: OfQueue = None,
    name: OfName = None,
    batch: OfBatch = None,
    recurring: OfRecurring = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    error: ErrorText = None,
    unknown: Unknown = False,
    yes: Yes = False,
    url: Url = None,
) -> None:
    """Delete jobs by id, or all that match the options. A running job is asked to stop."""
    fields = filter_fields(
        state=state, queue=queue, job=name, batch=batch, recurring=recurring, tag=tag, created_after=since,
        created_before=until, error_text=error,
    )  # fmt: skip
    if unknown:
        fields["unknown"] = True
    if _is_bulk(ids, all_matching, fields):
        run_bulk(BulkDelete, fields, "Delete", state or ("held" if unknown else "not ended"), yes=yes, url=url)
        return
    with open_jobs(load_settings(url=url)) as jobs:
        for job_id in ids or []:
            ended = not jobs.receipt(job_id).delete()
            typer.echo(f"{job_id}\t{'had already ended; shown as deleted' if ended else 'deleted'}")


@app.command("requeue")
def requeue(
    ids: Ids = None,
    *,
    all_matching: AllMatching = False,
    state: Annotated[
        str | None, typer.Option("--state", help=f"One of {', '.join(sorted(FINAL))}.", show_default="failed")
    ] = None,
    queue: OfQueue = None,
    name: OfName = None,
    batch: OfBatch = None,
    recurring: OfRecurring = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    error: ErrorText = None,
    yes: Yes = False,
    url: Url = None,
) -> None:
    """Run ended jobs again, or waiting jobs now: by id, or all that match the options."""
    fields = filter_fields(
        state=state, queue=queue, job=name, batch=batch, recurring=recurring, tag=tag, created_after=since,
        created_before=until, error_text=error,
    )  # fmt: skip
    if _is_bulk(ids, all_matching, fields):
        run_bulk(BulkRequeue, fields, "Requeue", state or "failed", yes=yes, url=url)
        return
    with open_jobs(load_settings(url=url)) as jobs:
        for job_id in ids or []:
            jobs.receipt(job_id).requeue()
            typer.echo(f"{job_id}\trequeued")


@app.command("fail")
def fail(
    ids: Ids = None,
    *,
    all_matching: AllMatching = False,
    queue: OfQueue = None,
    name: OfName = None,
    batch: OfBatch = None,
    recurring: OfRecurring = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    yes: Yes = False,
    url: Url = None,
) -> None:
    """Fail jobs that are held, as no living worker knows them: by id, or all that match the options."""
    fields = filter_fields(
        queue=queue, job=name, batch=batch, recurring=recurring, tag=tag, created_after=since, created_before=until
    )
    if not _is_bulk(ids, all_matching, fields):
        fields, yes = {"ids": ids}, True
    run_bulk(BulkFail, fields, "Fail", "held, as no living worker knows them", yes=yes, url=url)


def _is_bulk(ids: list[str] | None, all_matching: bool, fields: dict[str, Any]) -> bool:
    """Whether a command is about all jobs that match its options, and not about ids."""
    if all_matching and ids:
        raise UsageError("give ids, or --all-matching with options, not both")
    if not all_matching and fields:
        raise UsageError("options that choose jobs need --all-matching")
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
    """Change the time at which a waiting job runs."""
    given = read_moment(when)
    due = given if isinstance(given, datetime) else timedelta(seconds=given)
    with open_jobs(load_settings(url=url)) as jobs:
        jobs.receipt(job_id).reschedule(due)
        typer.echo(f"{job_id}\trescheduled")


def _read_pages(queries: Queries, query: JobsQuery, limit: int) -> tuple[list[JobSummary], str | None]:
    """At most `limit` jobs, and the cursor after them if there may be more.

    A page may end early when its search has taken long; the next page continues it.
    """
    found: list[JobSummary] = []
    while True:
        page = queries.jobs.page(query.model_copy(update={"limit": min(limit - len(found), MAX_PAGE)}))
        found += page.jobs
        if page.next is None or len(found) >= limit:
            return found, page.next
        query = query.model_copy(update={"cursor": page.next})


def _aware(instant: float | None) -> datetime | None:
    return None if instant is None else as_datetime(instant)


def _moment(at: datetime | None) -> str:
    return moment(None if at is None else at.timestamp())


def _brief(line: JobSummary) -> dict[str, Any]:
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

"""The commands about jobs: list and show read the store; delete, requeue and reschedule ask the coordinator."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import Annotated, Any

import typer

from broker_jobs.cli.bulk import bulk, meant
from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.reach import asking, reading
from broker_jobs.cli.show import moment, print_json, print_pairs, print_table, read_moment
from broker_jobs.errors import UsageError
from broker_jobs.job.state import FINAL, State
from broker_jobs.outcome.command import BulkDelete, BulkRequeue
from broker_jobs.settings import nearest
from broker_jobs.store import Row, Why

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
    queue: Annotated[str | None, typer.Option("--queue", help="Only of this queue.")] = None,
    name: Annotated[str | None, typer.Option("--job", help="Only of this name.")] = None,
    search: Annotated[
        str | None, typer.Option("--search", help="Part of a name, tag or reason; start of an id.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")] = 50,
    before: Annotated[str | None, typer.Option("--before", help="The last id of the page before.")] = None,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    if state is not None and state not in list(State):
        raise UsageError(f"no state {state!r}{nearest(state, list(State))}; states are {', '.join(State)}")
    with reading(settings_of(url=url, store=store)) as reader:
        rows = reader.jobs(state=state, queue=queue, name=name, search=search, limit=limit, before_id=before)
    if as_json:
        print_json([_brief(row) for row in rows])
        return
    print_table(
        ("id", "job", "queue", "state", "attempt", "changed", "due", "reason"),
        [(r.id, r.job, r.queue, r.state, r.attempt, moment(r.changed_at), moment(r.due_at), r.reason) for r in rows],
        empty="no jobs",
    )


@app.command("show")
def show(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of one job: arguments, history, error, lines it wrote."""
    with reading(settings_of(url=url, store=store)) as reader:
        row = reader.job(job_id)
        lines = reader.lines(job_id)
        holds = reader.holds(job_id)
    if row is None:
        raise UsageError(f"no job {job_id}: not heard of yet, or past its retention")
    envelope = json.loads(row.envelope) if row.envelope else {}
    error = json.loads(row.error) if row.error else None
    if as_json:
        shown = dataclasses.asdict(row) | {"wire": row.wire.name.lower(), "envelope": envelope, "error": error}
        waits = {"holds": [dataclasses.asdict(hold) for hold in holds]}
        print_json(shown | waits | {"lines": [dataclasses.asdict(line) for line in lines]})
        return
    parents = [
        f"{'batch ' if parent.get('batch') else ''}{parent['id']} ({parent.get('on', 'succeeded')})"
        for parent in (envelope.get("hold") or {}).get("parents", [])
    ]
    alias = row.why == Why.ALIAS
    bonds = {
        "after": ", ".join(parents),
        "waits for": ", ".join(f"{hold.kind} {hold.target}{' (unmet)' if hold.unmet else ''}" for hold in holds),
        "batch": row.batch,
        "recurring": row.recurring,
        "stands for" if alias else "made by": row.parent,
    }
    print_pairs(
        [
            *_brief(row).items(),
            ("args", json.dumps(envelope.get("args", []), ensure_ascii=False)),
            ("kwargs", json.dumps(envelope.get("kwargs", {}), ensure_ascii=False)),
            *((name, value) for name, value in bonds.items() if value),
            ("created", moment(row.created_at)),
            ("started", moment(row.started_at)),
            ("ended", moment(row.ended_at)),
            ("worker", row.owner),
            ("progress", row.progress),
            ("result", row.result if row.result_lost is None else f"({row.result_lost})"),
        ]
    )
    for at, entered, reason in row.history:
        typer.echo(f"  {moment(at)}  {entered:<10}  {reason}")
    for line in lines:
        typer.echo(f"  {moment(line.at)}  attempt {line.attempt}: {line.text}")
    if error is not None:
        typer.echo(error.get("traceback") or f"{error.get('type')}: {error.get('message')}")


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


def _brief(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "job": row.job,
        "queue": row.queue,
        "state": str(row.state),
        "attempt": row.attempt,
        "changed": moment(row.changed_at),
        "due": moment(row.due_at),
        "reason": row.reason,
    }

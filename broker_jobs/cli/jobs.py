"""The commands about jobs: list and show read the store; delete, requeue and reschedule ask the coordinator."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import Annotated, Any

import typer

from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.reach import asking, reading
from broker_jobs.cli.show import moment, print_json, print_pairs, print_table, read_moment
from broker_jobs.errors import UsageError
from broker_jobs.job.state import State
from broker_jobs.settings import nearest
from broker_jobs.store import Row

app = typer.Typer(help="List, show and change jobs.", no_args_is_help=True, rich_markup_mode=None)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of jobs.", show_default=False)]


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
    if row is None:
        raise UsageError(f"no job {job_id}: not heard of yet, or past its retention")
    envelope = json.loads(row.envelope) if row.envelope else {}
    error = json.loads(row.error) if row.error else None
    if as_json:
        shown = dataclasses.asdict(row) | {"wire": row.wire.name.lower(), "envelope": envelope, "error": error}
        print_json(shown | {"lines": [dataclasses.asdict(line) for line in lines]})
        return
    print_pairs(
        [
            *_brief(row).items(),
            ("args", json.dumps(envelope.get("args", []), ensure_ascii=False)),
            ("kwargs", json.dumps(envelope.get("kwargs", {}), ensure_ascii=False)),
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
def delete(ids: Ids, url: Url = None) -> None:
    """Delete jobs; one that runs is asked to stop, and its end decides."""
    with asking(settings_of(url=url)) as jobs:
        for job_id in ids:
            ended = not jobs.receipt(job_id).delete()
            typer.echo(f"{job_id}\t{'had already ended; shown as deleted' if ended else 'deleted'}")


@app.command("requeue")
def requeue(ids: Ids, url: Url = None) -> None:
    """Run jobs again, or waiting ones now."""
    with asking(settings_of(url=url)) as jobs:
        for job_id in ids:
            jobs.receipt(job_id).requeue()
            typer.echo(f"{job_id}\trequeued")


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

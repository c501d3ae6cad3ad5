"""Commands about recurring jobs: list and show read the store, the others go to the coordinator."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from broker_jobs.beat import cron
from broker_jobs.cli.connections import body_text, open_jobs, open_reader, queries_of
from broker_jobs.cli.options import AsJson, StoreUrl, Unmasked, Url, load_settings
from broker_jobs.cli.output import moment, print_json, print_pairs, print_table
from broker_jobs.clock import Instant
from broker_jobs.errors import OptionError, UsageError, nearest
from broker_jobs.messages.priority import NORMAL

if TYPE_CHECKING:
    from broker_jobs.store.records import ScheduleRow
    from broker_jobs.store.row import Row

app = typer.Typer(
    help="List, show, trigger, pause and remove recurring jobs.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the recurring job.", show_default=False)]

NEXT_RUNS = 5
RUN_TIME_SERVICE = "put at run time"
"""Shown as the service of a recurring job that no program declares."""


@app.command("list")
def list_recurring(
    unmasked: Unmasked = False, url: Url = None, store: StoreUrl = None, as_json: AsJson = False
) -> None:
    """List recurring jobs."""
    settings = load_settings(url=url, store=store)
    with open_reader(settings) as reader:
        queries = queries_of(reader, settings, unmasked=unmasked)
        schedules = [
            dataclasses.replace(row, call=body_text(queries, row.call.encode(), unmasked=unmasked))
            for row in reader.schedules.all()
        ]
    if as_json:
        print_json([dataclasses.asdict(schedule) for schedule in schedules])
        return
    print_table(
        ("name", "cron", "tz", "paused", "last planned", "last job", "misfire", "overlap", "service"),
        [
            (
                s.name,
                cron.words(s.cron),
                s.tz,
                "paused" if s.paused else "",
                moment(s.last_planned_at),
                s.last_job_id,
                s.misfire,
                s.overlap,
                s.service or RUN_TIME_SERVICE,
            )
            for s in schedules
        ],
        empty="no recurring jobs",
    )


@app.command("show")
def show(
    name: Name,
    *,
    runs: Annotated[int, typer.Option("--runs", min=0, max=1_000, help="Show this many of the last runs.")] = 10,
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one recurring job: its call, its next runs in its time zone, its last runs and how they ended."""
    settings = load_settings(url=url, store=store)
    with open_reader(settings) as reader:
        from broker_jobs.store.search import SearchQuery  # noqa: PLC0415  # open_reader has checked that SQLAlchemy is there

        row = reader.schedules.get(name)
        queries = queries_of(reader, settings, unmasked=unmasked)
        call = {} if row is None else json.loads(body_text(queries, row.call.encode(), unmasked=unmasked))
        names = [] if row is not None else [schedule.name for schedule in reader.schedules.all()]
        last_runs = reader.jobs.search(SearchQuery(recurring=name, limit=runs)).rows if runs else []
    if row is None:
        raise UsageError(f"no recurring job is named {name!r}{nearest(name, names)}; see broker-jobs recurring list")
    upcoming = _next_runs(row)
    if as_json:
        print_json(
            dataclasses.asdict(row)
            | {"call": call, "next": [at.isoformat() for at in upcoming], "runs": [_run(job) for job in last_runs]}
        )
        return
    print_pairs(
        [
            ("name", row.name),
            ("runs", call.get("job")),
            ("args", json.dumps(call.get("args", []), ensure_ascii=False)),
            ("kwargs", json.dumps(call.get("kwargs", {}), ensure_ascii=False)),
            ("queue", call.get("queue", "default")),
            ("priority", call.get("priority", NORMAL)),
            ("cron", cron.words(row.cron)),
            ("tz", row.tz),
            ("misfire", row.misfire),
            ("overlap", row.overlap),
            ("paused", "yes: it does not run until it is resumed" if row.paused else "no"),
            ("service", row.service or RUN_TIME_SERVICE),
            ("last planned", moment(row.last_planned_at)),
            *((f"next {number}", f"{at.isoformat(sep=' ')} {row.tz}") for number, at in enumerate(upcoming, 1)),
        ]
    )
    if runs:
        typer.echo()
        columns = ("id", "planned", "started", "state", "seconds", "reason")
        print_table(
            columns, [[_run(job)[column] for column in columns] for job in last_runs], empty="it has not run yet"
        )


def _next_runs(row: ScheduleRow) -> list[datetime]:
    """Its next planned times, in its time zone; none while it is paused."""
    if row.paused:
        return []
    try:
        planned = cron.next_many(row.cron, row.tz, time.time(), NEXT_RUNS)
    except OptionError:  # a time zone that only the host of the program has
        return []
    return [datetime.fromtimestamp(at, ZoneInfo(row.tz)) for at in planned]


def _run(job: Row) -> dict[str, Any]:
    return {
        "id": job.id,
        "planned": moment(job.due_at),
        "started": moment(job.started_at),
        "state": job.state.value,
        "seconds": _seconds(job.started_at, job.ended_at),
        "reason": job.reason,
    }


def _seconds(started_at: Instant | None, ended_at: Instant | None) -> float | None:
    """How long the last attempt took; None: it has not started, or not ended."""
    if started_at is None or ended_at is None or ended_at < started_at:
        return None
    return round(ended_at - started_at, 3)


@app.command("trigger")
def trigger(name: Name, url: Url = None) -> None:
    """Run a recurring job now, in addition to its schedule, and print the id of the job."""
    with open_jobs(load_settings(url=url)) as jobs:
        typer.echo(jobs.recurring.trigger(name).id)


@app.command("pause")
def pause(name: Name, url: Url = None) -> None:
    """Pause a recurring job: it does not run until it is resumed."""
    with open_jobs(load_settings(url=url)) as jobs:
        jobs.recurring.pause(name)
    typer.echo(f"{name}\tpaused")


@app.command("resume")
def resume(name: Name, url: Url = None) -> None:
    """Resume a paused recurring job."""
    with open_jobs(load_settings(url=url)) as jobs:
        jobs.recurring.resume(name)
    typer.echo(f"{name}\tresumed")


@app.command("remove")
def remove(name: Name, url: Url = None) -> None:
    """Remove a recurring job. If code declares it, the next start of a beat of that program adds it again."""
    with open_jobs(load_settings(url=url)) as jobs:
        jobs.recurring.remove(name)
    typer.echo(f"{name}\tremoved")

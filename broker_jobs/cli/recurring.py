"""The commands about recurring jobs: list and show read the store, the others ask the coordinator."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from broker_jobs.beat import cron as cron
from broker_jobs.cli.connections import asking, reading
from broker_jobs.cli.masked import Unmasked, body_of, queries_of
from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.output import moment, print_json, print_pairs, print_table
from broker_jobs.clock import Instant
from broker_jobs.errors import OptionError, UsageError, nearest

if TYPE_CHECKING:
    from broker_jobs.store.records import ScheduleRow
    from broker_jobs.store.row import Row

app = typer.Typer(
    help="List, show, trigger, pause and remove recurring jobs.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]

NEXT_TIMES = 5


@app.command("list")
def list_recurring(
    unmasked: Unmasked = False, url: Url = None, store: StoreUrl = None, as_json: AsJson = False
) -> None:
    """List recurring jobs."""
    settings = settings_of(url=url, store=store)
    with reading(settings) as reader:
        queries = queries_of(reader, settings, unmasked=unmasked)
        schedules = [
            dataclasses.replace(row, call=body_of(queries, row.call.encode(), unmasked=unmasked))
            for row in reader.schedules()
        ]
    if as_json:
        print_json([dataclasses.asdict(schedule) for schedule in schedules])
        return
    print_table(
        ("name", "cron", "tz", "paused", "last planned", "last job", "misfire", "overlap", "origin"),
        [
            (
                s.name,
                s.cron,
                s.tz,
                "paused" if s.paused else "",
                moment(s.last_planned_at),
                s.last_job_id,
                s.misfire,
                s.overlap,
                s.origin or "put at run time",
            )
            for s in schedules
        ],
        empty="no recurring jobs",
    )


@app.command("show")
def show(
    name: Name,
    *,
    runs: Annotated[int, typer.Option("--runs", min=0, max=1_000, help="How many of the last runs.")] = 10,
    unmasked: Unmasked = False,
    url: Url = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show one: what it runs, its next times in its time zone, and how its last runs ended."""
    settings = settings_of(url=url, store=store)
    with reading(settings) as reader:
        from broker_jobs.store.search import SearchQuery  # noqa: PLC0415  # here its library is known to be installed

        row = reader.schedule(name)
        queries = queries_of(reader, settings, unmasked=unmasked)
        call = {} if row is None else json.loads(body_of(queries, row.call.encode(), unmasked=unmasked))
        names = [] if row is not None else [schedule.name for schedule in reader.schedules()]
        made = reader.search(SearchQuery(recurring=name, limit=runs)).rows if runs else []
    if row is None:
        raise UsageError(f"no recurring job is named {name!r}{nearest(name, names)}; broker-jobs recurring list")
    upcoming = _upcoming(row)
    if as_json:
        print_json(
            dataclasses.asdict(row)
            | {"call": call, "next": [at.isoformat() for at in upcoming], "runs": [_run(job) for job in made]}
        )
        return
    print_pairs(
        [
            ("name", row.name),
            ("runs", call.get("job")),
            ("args", json.dumps(call.get("args", []), ensure_ascii=False)),
            ("kwargs", json.dumps(call.get("kwargs", {}), ensure_ascii=False)),
            ("queue", call.get("queue", "default")),
            ("cron", row.cron),
            ("tz", row.tz),
            ("misfire", row.misfire),
            ("overlap", row.overlap),
            ("paused", "yes: nothing is planned until it is resumed" if row.paused else "no"),
            ("origin", row.origin or "put at run time"),
            ("last planned", moment(row.last_planned_at)),
            *((f"next {number}", f"{at.isoformat(sep=' ')} {row.tz}") for number, at in enumerate(upcoming, 1)),
        ]
    )
    if runs:
        typer.echo()
        columns = ("id", "planned", "started", "state", "seconds", "reason")
        print_table(columns, [[_run(job)[column] for column in columns] for job in made], empty="it has not run yet")


def _upcoming(row: ScheduleRow) -> list[datetime]:
    """Its next times, by its own clock; none while it is paused."""
    if row.paused:
        return []
    try:
        planned = cron.next_many(row.cron, row.tz, time.time(), NEXT_TIMES)
    except OptionError:  # of a program that knows another time zone
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
    """How long the last attempt took; None: it did not begin, or has not ended."""
    if started_at is None or ended_at is None or ended_at < started_at:
        return None
    return round(ended_at - started_at, 3)


@app.command("trigger")
def trigger(name: Name, url: Url = None) -> None:
    """Run one now, beside its schedule; prints the id of the job."""
    with asking(settings_of(url=url)) as jobs:
        typer.echo(jobs.recurring.trigger(name).id)


@app.command("pause")
def pause(name: Name, url: Url = None) -> None:
    """Let its times pass until it is resumed."""
    with asking(settings_of(url=url)) as jobs:
        jobs.recurring.pause(name)
    typer.echo(f"{name}\tpaused")


@app.command("resume")
def resume(name: Name, url: Url = None) -> None:
    """Fire again at its times."""
    with asking(settings_of(url=url)) as jobs:
        jobs.recurring.resume(name)
    typer.echo(f"{name}\tresumed")


@app.command("remove")
def remove(name: Name, url: Url = None) -> None:
    """Remove it. One that code declares comes back with the next start of its beat."""
    with asking(settings_of(url=url)) as jobs:
        jobs.recurring.remove(name)
    typer.echo(f"{name}\tremoved")

"""Decides what a fire makes: which planned times run, as which jobs. Pure.

A beat is a metronome: it says "this planned time has come" and may be one of several, late, or repeating itself. The
schedule's row takes each planned time once; what lies between the last one taken and this one was missed.
"""

from __future__ import annotations

import uuid

from broker_jobs.beat import schedule as cron
from broker_jobs.clock import Instant, as_datetime
from broker_jobs.coordinator.record import Fired
from broker_jobs.job import codec
from broker_jobs.outcome.command import Fire, Schedule
from broker_jobs.store.kept import ScheduleRow

LATE_SECONDS = 30.0
"""A planned time that is handled later than this was missed; the misfire rule decides about it."""
MOST_MISSED = 1_000
"""The most planned times one fire makes up for (misfire="all")."""
NAMESPACE = uuid.UUID("6f5c1a52-0d3b-5a77-9c1e-6b6f6b657273")


def planned_times(row: ScheduleRow, fire: Fire, now: Instant) -> list[Instant]:
    """The planned times that run now; empty when the fire is old, of another version, paused or too early."""
    last = row.last_planned_at
    if row.paused or fire.version != row.version or fire.planned_at > now:
        return []
    if last is not None and fire.planned_at <= last:
        return []
    times = [fire.planned_at]
    if last is not None:
        times = cron.missed(row.cron, row.tz, last, fire.planned_at, MOST_MISSED) or times
    missed = [t for t in times if now - t > LATE_SECONDS]
    timely = [t for t in times if now - t <= LATE_SECONDS]
    match row.misfire:
        case "skip":
            return timely
        case "all":
            return times
        case _:
            return timely or missed[-1:]


def fired(row: ScheduleRow, planned_at: Instant, now: Instant, *, waits: bool, id: str | None = None) -> Fired:
    """The job of one planned time; its id is made of name and time, so that two coordinators make the same one."""
    job_id = id or str(uuid.uuid5(NAMESPACE, f"{row.name}@{planned_at:.3f}"))
    envelope = codec.decode(row.call).evolve(
        id=job_id, epoch=0, attempt=1, created_at=as_datetime(now), due_at=as_datetime(planned_at), recurring=row.name
    )
    return Fired(envelope, codec.encode(envelope).decode(), waits)


def put(old: ScheduleRow | None, new: Schedule, now: Instant) -> ScheduleRow:
    """The row of a schedule that is declared or put; the same row when nothing changed."""
    if old is not None and _same(old, new):
        return old
    return ScheduleRow(
        name=new.name,
        cron=new.cron,
        tz=new.tz,
        misfire=new.misfire,
        overlap=new.overlap,
        call=new.call,
        origin=new.origin,
        version=old.version + 1 if old else 1,
        paused=old.paused if old else False,
        last_planned_at=now if old is None or (old.cron, old.tz) != (new.cron, new.tz) else old.last_planned_at,
        last_job_id=old.last_job_id if old else None,
        created_at=old.created_at if old else now,
        changed_at=now,
    )


def _same(old: ScheduleRow, new: Schedule) -> bool:
    rules = (old.cron, old.tz, old.misfire, old.overlap, old.origin)
    return rules == (new.cron, new.tz, new.misfire, new.overlap, new.origin) and _call(old.call) == _call(new.call)


def _call(text: str) -> object:
    """The part of a call that matters: ids and times of its making do not."""
    envelope = codec.decode(text)
    return envelope.evolve(id="", created_at=as_datetime(0.0))

"""Decides what a fire or a published event makes: which planned times run, as which jobs. Pure.

A beat is a metronome: it says "this planned time has come" and may be one of several, late, or repeating itself. The
schedule's row takes each planned time once; what lies between the last one taken and this one was missed.
"""

from __future__ import annotations

import hashlib
import uuid

from broker_jobs.beat import schedule as cron
from broker_jobs.clock import Instant, as_datetime
from broker_jobs.coordinator.record import Fired
from broker_jobs.job import codec
from broker_jobs.outcome.command import Fire, Schedule
from broker_jobs.outcome.published import Published
from broker_jobs.store.kept import ScheduleRow, SubscriptionRow

EARLY_SECONDS = 60.0
"""A beat's clock may be ahead by this much; its fires are taken, and their jobs scheduled for the planned time."""
LATE_SECONDS = 30.0
"""A planned time that is handled later than this was missed; the misfire rule decides about it."""
MOST_MISSED = 1_000
"""The most planned times one fire makes up for (misfire="all")."""


def takes(row: ScheduleRow, fire: Fire, now: Instant) -> bool:
    """Whether this planned time is the schedule's next one to take: not old, not of another version, not paused."""
    if row.paused or fire.version != row.version or fire.planned_at > now + EARLY_SECONDS:
        return False
    return row.last_planned_at is None or fire.planned_at > row.last_planned_at


def planned_times(row: ScheduleRow, fire: Fire, now: Instant) -> list[Instant]:
    """The planned times that run, in their order; those that a beat with a fast clock fired early wait for theirs."""
    last = row.last_planned_at
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


def planned_id(name: str, planned_at: Instant) -> str:
    """The id of the job of one planned time: a UUIDv7 of that time, its random part made of the name and the time."""
    return _seeded_id(planned_at, f"{name}@{planned_at:.3f}")


def _seeded_id(at: Instant, seed: str) -> str:
    """A UUIDv7 of a moment whose random part is made of a text."""
    chance = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:10])
    stamp = int(at * 1000) & (1 << 48) - 1
    high = stamp << 16 | 0x7000 | chance >> 68 & 0xFFF
    low = 0b10 << 62 | chance & (1 << 62) - 1
    return str(uuid.UUID(int=high << 64 | low))


def fired(row: ScheduleRow, planned_at: Instant, now: Instant, *, waits: bool, id: str | None = None) -> Fired:
    """The job of one planned time; two coordinators make the same one."""
    job_id = id or planned_id(row.name, planned_at)
    envelope = codec.decode(row.call).evolve(
        id=job_id, epoch=0, attempt=1, created_at=as_datetime(now), due_at=as_datetime(planned_at), recurring=row.name
    )
    return Fired(envelope, codec.encode(envelope).decode(), waits)


def answered(row: SubscriptionRow, event: Published) -> Fired:
    """The job a subscription gets for an event; however often the event comes, it is the same one."""
    job_id = _seeded_id(event.created_at.timestamp(), f"{event.id}>{row.origin}>{row.job}")
    template = codec.decode(row.call)
    envelope = template.evolve(
        id=job_id, epoch=0, attempt=1, created_at=event.created_at, due_at=None, args=event.args, kwargs=event.kwargs,
        parent=event.id,
    )  # fmt: skip
    return Fired(envelope, codec.encode(envelope).decode())


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

"""Decides what a fire or a published event makes: which planned times run, as which jobs. Pure.

A fire is only a prompt: "look at this schedule now". It may be one of several, late, out of order or repeated. The
schedule's row has a cursor, the last planned time that was decided. The first fire that is applied decides all planned
times after the cursor up to now and moves the cursor; the others find nothing. So fires that piled up during an outage
count as one, and what was missed is decided as a whole.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from typing import NamedTuple

from broker_jobs.beat import cron as cron
from broker_jobs.clock import Instant, as_datetime
from broker_jobs.coordinator.records import Fired
from broker_jobs.messages import codec
from broker_jobs.messages.commands import Fire, Schedule
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.store.records import ScheduleRow, SubscriptionRow

EARLY_SECONDS = 60.0
"""A beat's clock may be ahead by this much: the jobs of its fires are scheduled for the planned time. A fire of a clock
that is further ahead only prompts the times that have come here."""
MISSED_SECONDS = 60.0
"""A planned time that is decided later than this was missed; the misfire rule decides about it."""
SUPERSEDED_SECONDS = 5.0
"""So late it was missed if a later planned time of its schedule is due already."""
PAGE = 1_000
"""The planned times that a transaction makes up for (misfire="all"); the next transactions go on."""

_MOST_RECENT = int(MISSED_SECONDS + EARLY_SECONDS) + 2


class Decided(NamedTuple):
    """What a fire decides."""

    times: list[Instant]
    """The planned times that run, in their order; those that a beat with a fast clock fired early wait for theirs."""
    cursor: Instant | None
    """The last planned time that is decided now."""
    more: bool = False
    """Later planned times are due and not decided yet."""


def takes(row: ScheduleRow, fire: Fire) -> bool:
    """Whether this fire counts: its schedule is not paused and of the same version."""
    return not row.paused and fire.version == row.version


def decided(row: ScheduleRow, fire: Fire, now: Instant, page: int = PAGE) -> Decided:
    """Decide the planned times in (cursor, now], and up to the fire's own, which may be a little ahead of now.

    With misfire="all" at most `page` of them (1 or more), the earliest ones.
    """
    planned_at = fire.planned_at if fire.planned_at <= now + EARLY_SECONDS else now
    until = max(now, planned_at)
    cursor = row.last_planned_at
    if cursor is None or cursor > now + EARLY_SECONDS:  # never planned, or by a clock that was set back since
        cursor = planned_at - 1
    misses_none = row.misfire == "all" and row.overlap != "skip"
    times = cron.first(row.cron, row.tz, cursor, until, page + 1 if misses_none else 2)
    if not times:
        return Decided([], row.last_planned_at)
    if misses_none:
        return Decided(times[:page], times[:page][-1], more=len(times) > page)
    newest = times[0] if len(times) == 1 else cron.latest(row.cron, row.tz, cursor, until) or times[-1]
    if row.misfire == "all":  # the first one runs, and the others overlap with it
        return Decided(times[:1], newest)
    if len(times) > 1:  # only the last ones are looked at, so that a gap of a month costs no more than one of a minute
        times = cron.first(row.cron, row.tz, max(cursor, now - MISSED_SECONDS - 1), until, _MOST_RECENT)
    newest_due = max((time for time in times if time <= now), default=now)
    timely = [time for time in times if not _is_missed(time, now, newest_due)]
    return Decided(timely or [newest] if row.misfire == "once" else timely, newest)


def _is_missed(planned_at: Instant, now: Instant, newest_due: Instant) -> bool:
    late = now - planned_at
    return late > MISSED_SECONDS or (late > SUPERSEDED_SECONDS and planned_at < newest_due)


def _planned_id(planned_at: Instant) -> str:
    """A UUIDv7 of that time. Nobody can guess it: a producer that could might take it first with a job of its own."""
    return _uuid7(planned_at, secrets.randbits(80))


def _seeded_id(at: Instant, seed: str) -> str:
    """A UUIDv7 of a moment whose random part is made of a text."""
    return _uuid7(at, int.from_bytes(hashlib.sha256(seed.encode()).digest()[:10]))


def _uuid7(at: Instant, chance: int) -> str:
    stamp = int(at * 1000) & (1 << 48) - 1
    high = stamp << 16 | 0x7000 | chance >> 68 & 0xFFF
    low = 0b10 << 62 | chance & (1 << 62) - 1
    return str(uuid.UUID(int=high << 64 | low))


def fired(row: ScheduleRow, planned_at: Instant, now: Instant, *, id: str | None = None) -> Fired:
    """The job of one planned time, which is decided once: the cursor moves in the same transaction."""
    job_id = id or _planned_id(planned_at)
    envelope = codec.decode(row.call).evolve(
        id=job_id, epoch=0, attempt=1, created_at=as_datetime(now), due_at=as_datetime(planned_at), recurring=row.name
    )
    return Fired(envelope, codec.encode(envelope).decode())


def answered(row: SubscriptionRow, event: PublishedEvent) -> Fired:
    """The job a subscription gets for an event; however often the event comes, it is the same one."""
    job_id = _seeded_id(event.created_at.timestamp(), f"{event.id}>{row.origin}>{row.job}")
    template = codec.decode(row.call)
    envelope = template.evolve(
        id=job_id, epoch=0, attempt=1, created_at=event.created_at, due_at=None, args=event.args, kwargs=event.kwargs,
        parent=event.id, recurring=None,
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


def _call(text: str) -> bytes:
    """The part of a call that matters: ids and times of its making do not. As text, since 1 == True == 1.0."""
    envelope = codec.decode(text)
    return codec.encode(envelope.evolve(id="", created_at=as_datetime(0.0)))

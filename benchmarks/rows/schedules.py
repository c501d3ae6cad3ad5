"""Measures a schedule timer and the coordinator's engine with many schedules, without a broker, in its own process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from broker_jobs.beat.beat import ScheduleTimer
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.inputs import CommandReceived
from broker_jobs.messages import codec
from broker_jobs.messages.commands import Fire, PutRecurring, Schedule, ScheduleReply
from broker_jobs.messages.envelope import Envelope, new_id
from broker_jobs.store import Store

MINUTE = 60.0
MOST = 500
"""Commands of one transaction."""


def write(url: str, count: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds, by round: a beat learns all, ticks with none and all due, the coordinator takes all."""
    store = Store(url)
    store.open()
    engine = Engine(store, "bench", since=time.time())
    start = time.time() // MINUTE * MINUTE
    call = codec.encode(
        Envelope.model_validate({"id": new_id(), "job": "empty", "created_at": start, "queue": "default"})
    ).decode()
    for first in range(0, count, MOST):
        puts = [
            PutRecurring(
                id=new_id(), at=start, by="bench", schedule=Schedule(name=f"s{n}", cron="* * * * *", call=call)
            )
            for n in range(first, min(first + MOST, count))
        ]
        engine.apply([CommandReceived(put, None, None) for put in puts], start)
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        now = start + number * MINUTE
        views = [
            ScheduleReply(
                name=row.name, cron=row.cron, tz=row.tz, version=row.version, paused=row.paused,
                last_planned_at=row.last_planned_at,
            )
            for row in store.reader.schedules.all()
        ]  # fmt: skip
        beat = ScheduleTimer()
        with _timed(found, "a beat learns all"):
            beat.update(views, now)
        with _timed(found, "a tick, none due"):
            beat.due(now)
        with _timed(found, "a tick, all due"):
            due = beat.due(now + MINUTE)
        if len(due) != count:
            raise RuntimeError(f"{len(due)} of {count} were due")
        fires = [
            Fire(id=new_id(), at=now + MINUTE, name=one.name, version=one.version, planned_at=one.planned_at)
            for one in due
        ]
        with _timed(found, "all taken by the coordinator"):
            for first in range(0, count, MOST):
                engine.apply([CommandReceived(fire, None, None) for fire in fires[first : first + MOST]], now + MINUTE)
        made = sum(store.reader.statistics.counts().values())
        if made != count * (number + 1):
            raise RuntimeError(f"{made} jobs were made of {count * (number + 1)} fires")
    store.close()
    return found


@contextmanager
def _timed(found: dict[str, list[float]], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    found.setdefault(what, []).append((time.perf_counter() - began) * 1000)

"""broker_jobs; its address is in BROKER_JOBS_URL."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from benchmarks import stamps
from broker_jobs import BrokerJobs, Concurrency, result_of

CHUNK = 500

jobs = BrokerJobs()


@jobs.job
def empty() -> None:
    """Do nothing."""


@jobs.job
def stamp(expected: float) -> None:
    """Note when it starts."""
    stamps.stamp(expected)


@jobs.job
def parent() -> float:
    """Say when it ends."""
    return time.time()


class Enqueuer:
    """Enqueues one at a time, confirmed."""

    def send_empty(self) -> None:
        empty.enqueue()

    def send_stamp(self) -> None:
        stamp.enqueue(time.time())

    def send_many(self, count: int) -> None:
        jobs.enqueue_many([empty.bind() for _ in range(count)])

    def close(self) -> None:
        jobs.stop()


def connect() -> None:
    """Connect, without enqueueing."""
    jobs.queues.declare("default")


def send_family() -> None:
    """A parent, and a child that stamps how long after its end it starts."""
    born = parent.enqueue()
    stamp.after(born).enqueue(result_of(born))


def send_batch(count: int) -> None:
    """A batch, made as it is sent, and a child that stamps when it has ended."""
    with jobs.batch("bench") as batch:
        for _ in range(count):
            batch.enqueue(empty)
    stamp.after(batch).enqueue(time.time())


def send_limited(count: int, slots: int) -> None:
    """Empty jobs that share slots."""
    job = empty.using(limit=Concurrency("bench", slots))
    jobs.enqueue_many([job.bind() for _ in range(count)])


def send_delayed(count: int, due: float) -> None:
    """Empty jobs that come due at one instant, many on their way."""
    asyncio.run(_in_chunks([partial(empty.schedule_async, datetime.fromtimestamp(due, UTC))] * count))


def send_families(count: int) -> None:
    """Parents with a child each."""
    for start in range(0, count, CHUNK):
        born = jobs.enqueue_many([empty.bind() for _ in range(min(CHUNK, count - start))])
        jobs.enqueue_many([empty.after(one).bind() for one in born])


def send_siblings(count: int) -> None:
    """Children of one parent, which is due when they are here."""
    born = empty.schedule(timedelta(seconds=count / 1_500 + 3))
    for start in range(0, count, CHUNK):
        jobs.enqueue_many([empty.after(born).bind() for _ in range(min(CHUNK, count - start))])


def put_schedules(count: int) -> None:
    """Schedules of every second."""
    for number in range(count):
        jobs.recurring.put(f"bench-{number}", "* * * * * *", empty)


def schedule_at(dues: Sequence[float]) -> None:
    """Enqueue a stamp for each of these instants, many on their way."""
    asyncio.run(_in_chunks([partial(stamp.schedule_async, datetime.fromtimestamp(due, UTC), due) for due in dues]))


def schedule_far(count: int) -> None:
    """Enqueue jobs that are due in a month, many on their way."""
    asyncio.run(_in_chunks([partial(empty.schedule_async, timedelta(days=30))] * count))


async def _in_chunks(sends: Sequence[Callable[[], Coroutine[Any, Any, object]]]) -> None:
    for start in range(0, len(sends), CHUNK):
        await asyncio.gather(*(send() for send in sends[start : start + CHUNK]))

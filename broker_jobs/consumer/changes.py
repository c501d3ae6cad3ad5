"""Finds out what a worker does after a person has changed it. Pure."""

from __future__ import annotations

from typing import NamedTuple

from broker_jobs.messages.control import WorkerChange
from broker_jobs.served_queues import ServedQueues


class Serves(NamedTuple):
    """What a worker serves, and how many jobs it runs at once."""

    queues: ServedQueues
    concurrency: int


def changed(started: Serves, change: WorkerChange) -> Serves:
    """What a worker does from now on, of which `started` is what it was started with.

    Raises:
        ValueError: the queues are not written as a worker takes them.
    """
    written = started.queues.written() if change.queues is None else change.queues
    limits = change.queue_limits
    if limits is None:  # those of queues that it does not serve any more fall away
        names = {each.partition(":")[0] for each in written}
        limits = {queue: limit for queue, limit in started.queues.limits.items() if queue in names}
    return Serves(ServedQueues.parse(written, limits), change.concurrency or started.concurrency)

"""Proves that messages are lost: never by age, only by an empty queue seen twice. State, but no I/O and no clock.

Proof (transitions R12): after the release the work queue was seen with nothing ready, twice, 60 s of log time apart,
and no worker was lost in between. Prefetched deliveries are not "ready", so jobs that a living worker lists are spared
by the caller. A long queue is never "lost".
"""

from __future__ import annotations

from dataclasses import dataclass

from broker_jobs.clock import Instant

APART_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Empty:
    log_at: float
    seen_at: Instant


class LostMessageDetector:
    """What was seen of each work queue."""

    def __init__(self) -> None:
        self._empty: dict[str, _Empty] = {}

    def worker_lost(self) -> None:
        """A worker's lease ended: what it held is going back to the queues; start over."""
        self._empty.clear()

    def seen(self, queue: str, ready: int, log_now: float, now: Instant) -> Instant | None:
        """Take a look at a queue's depth into account.

        Returns the instant before which whatever was released to this queue and is still out is proven lost, or None.
        """
        if ready > 0:
            self._empty.pop(queue, None)
            return None
        first = self._empty.get(queue)
        if first is None:
            self._empty[queue] = _Empty(log_now, now)
            return None
        if log_now - first.log_at < APART_SECONDS:
            return None
        self._empty[queue] = _Empty(log_now, now)
        return first.seen_at

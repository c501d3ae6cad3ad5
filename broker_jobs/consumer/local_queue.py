"""Keeps what was taken and is not started, in the order it is to be started: the first named queue, in it what is high.

One per kind (threads, event loop). Deques of C and no lock, as several threads put and take thousands a second.

What the broker is about to deliver counts too: a worker may have only a few deliveries of each work queue, so what is
high and runs can be all that it may have, while more is in the broker. When such a run has ended, the next high job
comes a moment later. Until then, or for a second at most, what is lower in its queue waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from broker_jobs.broker.names import work_queue
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.consumer.acknowledger import Acknowledger
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.messages.priority import PRIORITIES, Priority

DELIVERY_SECONDS = 0.05
"""From an acknowledgement to the delivery that the broker sends for it."""
REPORT_SECONDS = 1.0
"""From the end of a run to its acknowledgement; it takes longer only while the broker is away."""

Line = tuple[str, Priority]


class LocalQueue:
    """Deliveries that wait to be started; any thread may put and take.

    Args:
        queues: the first is preferred.
        acknowledger: knows what the broker may still have; None: nothing is waited for.
        clock: that of the acknowledger.
    """

    def __init__(
        self, queues: Sequence[str], acknowledger: Acknowledger | None = None, clock: Clock | None = None
    ) -> None:
        self._acknowledger = acknowledger
        self._clock: Clock = clock or SystemClock()
        self._waiting: dict[Line, deque[ReceivedDelivery]] = {}
        self._lines: tuple[deque[ReceivedDelivery], ...] = ()
        self._order: tuple[tuple[deque[ReceivedDelivery], tuple[str, ...]], ...] = ()
        """Each line, and the work queues of what is higher in its queue."""
        self._ended_at: dict[str, float] = {}
        """When a run of a work queue ended of which the broker may have more."""
        self._expected_at: dict[str, float] = {}
        """Since when a first delivery of a work queue is expected."""
        for queue in queues:
            self._add(queue)

    def _add(self, queue: str) -> None:
        """Add the lines of a queue, behind all others."""
        lines = [deque[ReceivedDelivery]() for _ in PRIORITIES]
        for place, priority in enumerate(PRIORITIES):
            self._waiting[queue, priority] = lines[place]
        higher = [tuple(work_queue(queue, each) for each in PRIORITIES[:place]) for place in range(len(PRIORITIES))]
        self._order += tuple(zip(lines, higher, strict=True))
        self._lines += tuple(lines)

    def put(self, received: ReceivedDelivery) -> None:
        """Add a delivery behind the others of its queue and priority."""
        if received.line not in self._waiting:  # a queue that was not asked for: last
            self._add(received.queue)
        self._waiting[received.line].append(received)

    def pop(self) -> ReceivedDelivery | None:
        """The next delivery. None: nothing waits, or (it has a length) what is higher is to come first."""
        for line, higher in self._order:
            if line:
                if higher and any(map(self._may_come, higher)):
                    return None
                try:
                    return line.popleft()
                except IndexError:  # another taker was faster
                    continue
        return None

    def expect(self, name: str) -> None:
        """The broker has something of a work queue, of which nothing was delivered yet."""
        self._expected_at[name] = self._clock.monotonic()

    def ended(self, received: ReceivedDelivery) -> None:
        """A delivery that was taken has been run, and its outcome is on its way."""
        name = received.delivery.queue
        if self._acknowledger is not None and self._acknowledger.is_full(name):
            self._ended_at[name] = self._clock.monotonic()

    def _may_come(self, name: str) -> bool:
        """Whether the broker may be about to deliver more of a work queue, as some of it is done."""
        acknowledger = self._acknowledger
        if acknowledger is None:
            return False
        ended_at, freed_at = self._ended_at.get(name), acknowledger.freed_at(name)
        expected_at = self._expected_at.get(name)
        if ended_at is None and freed_at is None and expected_at is None:
            return False
        now = self._clock.monotonic()
        return (
            (freed_at is not None and now - freed_at < DELIVERY_SECONDS)
            or (ended_at is not None and now - ended_at < REPORT_SECONDS and acknowledger.is_full(name))
            or (expected_at is not None and now - expected_at < REPORT_SECONDS and not acknowledger.has_had(name))
        )

    def remove(self, which: Callable[[ReceivedDelivery], bool]) -> list[ReceivedDelivery]:
        """Take out what is not to be started any more."""
        removed: list[ReceivedDelivery] = []
        for received in self.held():
            if which(received):
                try:
                    self._waiting[received.line].remove(received)
                except ValueError:  # started meanwhile
                    continue
                removed.append(received)
        return removed

    def held(self) -> list[ReceivedDelivery]:
        """What waits now."""
        return [received for line in self._lines for received in _copy(line)]

    def oldest_monotonic(self) -> float | None:
        """Since when the longest waiting one waits."""
        oldest: float | None = None
        for line in self._lines:
            try:
                since = line[0].received_monotonic
            except IndexError:
                continue
            oldest = since if oldest is None else min(oldest, since)
        return oldest

    def __len__(self) -> int:
        return sum(map(len, self._lines))


def _copy(line: deque[ReceivedDelivery]) -> list[ReceivedDelivery]:
    while True:
        try:
            return list(line)
        except RuntimeError:  # changed while it was copied
            continue

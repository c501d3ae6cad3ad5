"""Keeps what was taken and is not started, in the order it is to be started: the first named queue first.

One per kind (threads, event loop). Deques of C and no lock, as several threads put and take thousands a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from broker_jobs.consumer.received_delivery import ReceivedDelivery


class LocalQueue:
    """Deliveries that wait to be started; any thread may put and take."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._waiting: dict[str, deque[ReceivedDelivery]] = {queue: deque() for queue in queues}
        self._lines: tuple[deque[ReceivedDelivery], ...] = tuple(self._waiting.values())

    def put(self, received: ReceivedDelivery) -> None:
        """Add a delivery behind the others of its queue."""
        line = self._waiting.get(received.queue)
        if line is None:  # a queue that was not asked for: last
            line = self._waiting[received.queue] = deque()
            self._lines = tuple(self._waiting.values())
        line.append(received)

    def pop(self) -> ReceivedDelivery | None:
        """The next delivery, or None."""
        for line in self._lines:
            if line:
                try:
                    return line.popleft()
                except IndexError:  # another taker was faster
                    continue
        return None

    def remove(self, which: Callable[[ReceivedDelivery], bool]) -> list[ReceivedDelivery]:
        """Take out what is not to be started any more."""
        removed: list[ReceivedDelivery] = []
        for received in self.held():
            if which(received):
                try:
                    self._waiting[received.queue].remove(received)
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

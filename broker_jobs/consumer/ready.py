"""Keeps what was taken and is not started, in the order it is to be started: the first named queue first.

One per kind (threads, event loop). Deques of C and no lock, as several threads put and take thousands a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from broker_jobs.consumer.taken import Taken


class Ready:
    """Deliveries that wait to be started; any thread may put and take."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._waiting: dict[str, deque[Taken]] = {queue: deque() for queue in queues}
        self._lines: tuple[deque[Taken], ...] = tuple(self._waiting.values())

    def put(self, taken: Taken) -> None:
        """Add a delivery behind the others of its queue."""
        line = self._waiting.get(taken.queue)
        if line is None:  # a queue that was not asked for: last
            line = self._waiting[taken.queue] = deque()
            self._lines = tuple(self._waiting.values())
        line.append(taken)

    def pop(self) -> Taken | None:
        """The next delivery, or None."""
        for line in self._lines:
            if line:
                try:
                    return line.popleft()
                except IndexError:  # another taker was faster
                    continue
        return None

    def remove(self, which: Callable[[Taken], bool]) -> list[Taken]:
        """Take out what is not to be started any more."""
        removed: list[Taken] = []
        for taken in self.held():
            if which(taken):
                try:
                    self._waiting[taken.queue].remove(taken)
                except ValueError:  # started meanwhile
                    continue
                removed.append(taken)
        return removed

    def held(self) -> list[Taken]:
        """What waits now."""
        return [taken for line in self._lines for taken in _copy(line)]

    def oldest_monotonic(self) -> float | None:
        """Since when the longest waiting one waits."""
        oldest: float | None = None
        for line in self._lines:
            try:
                since = line[0].taken_monotonic
            except IndexError:
                continue
            oldest = since if oldest is None else min(oldest, since)
        return oldest

    def __len__(self) -> int:
        return sum(map(len, self._lines))


def _copy(line: deque[Taken]) -> list[Taken]:
    while True:
        try:
            return list(line)
        except RuntimeError:  # changed while it was copied
            continue

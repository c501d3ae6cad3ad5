"""Knows who waits in lines, in their order, as far as it was read in this transaction."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from broker_jobs.store.lines import LineEntry, LineStore, Stage

HEADS = 100
"""Waiting entries that are read at once."""


class _Order:
    """The jobs that wait in one line."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, str]] = []
        """Their places and ids; some may have left."""
        self.read_to = 0
        self.all_read = False


class WaitingJobs:
    """The jobs that wait in lines, in one transaction.

    Args:
        store: where they are read.
        entries: of the lines, as they are now, by line and job.
        know: takes an entry that was read; as it is now, or None where its job has left.
    """

    def __init__(
        self,
        store: LineStore,
        entries: Mapping[tuple[str, str], LineEntry],
        know: Callable[[LineEntry], LineEntry | None],
    ) -> None:
        self._store = store
        self._entries = entries
        self._know = know
        self._orders: dict[str, _Order] = {}

    def add(self, entry: LineEntry) -> None:
        """A job waits now."""
        order = self._orders.setdefault(entry.key, _Order())
        heapq.heappush(order.heap, (entry.place, entry.job_id))

    def head(self, key: str) -> LineEntry | None:
        """The first that waits in a line."""
        order = self._orders.setdefault(key, _Order())
        while True:
            while order.heap:
                place, job_id = order.heap[0]
                entry = self._entries.get((key, job_id))
                if entry is not None and entry.stage is Stage.WAITS and entry.place == place:
                    break
                heapq.heappop(order.heap)
            if order.all_read or (order.heap and order.heap[0][0] <= order.read_to):
                return self._entries[key, order.heap[0][1]] if order.heap else None
            self._read(key, order)

    def first(self, key: str, count: int) -> list[str]:
        """The first jobs that wait in a line, about so many of those that were read."""
        self.head(key)  # reads them
        return [job_id for _, job_id in heapq.nsmallest(count, self._orders[key].heap)]

    def _read(self, key: str, order: _Order) -> None:
        page = self._store.waiting(key, order.read_to, HEADS)
        order.all_read = len(page) < HEADS
        if page:
            order.read_to = page[-1].place
        for known in filter(None, map(self._know, page)):
            if known.stage is Stage.WAITS:
                heapq.heappush(order.heap, (known.place, known.job_id))

"""Keeps the last stretch of every delay: which jobs come due in the next seconds. State, but no I/O and no clock."""

from __future__ import annotations

import heapq
import itertools

from broker_jobs.clock import Instant

HORIZON_SECONDS = 30.0
"""What comes due later is the store's to remember."""


class DueTimers:
    """A heap of (due_at, job); a job may stand in it several times, ringing too often is harmless."""

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, str]] = []
        self._nearest: dict[str, Instant] = {}
        self._order = itertools.count()

    def set(self, id: str, due_at: Instant) -> None:
        """Ring for this job at this time (again)."""
        if self._nearest.get(id) == due_at:
            return
        self._nearest[id] = due_at
        heapq.heappush(self._heap, (due_at, next(self._order), id))

    def clear(self) -> None:
        """Forget all: this coordinator is no longer the active one."""
        self._heap.clear()
        self._nearest.clear()

    def next_at(self) -> Instant | None:
        """When the first rings."""
        return self._heap[0][0] if self._heap else None

    def ring(self, now: Instant, limit: int) -> list[str]:
        """The jobs whose time has come, at most `limit`; each only for its latest setting."""
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now and len(due) < limit:
            due_at, _, id = heapq.heappop(self._heap)
            if self._nearest.get(id) == due_at:
                del self._nearest[id]
                due.append(id)
        return due

    def __len__(self) -> int:
        return len(self._nearest)

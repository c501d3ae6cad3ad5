"""Holds the starts of rates in one transaction: when the next job of a rate may start, and which have started."""

from __future__ import annotations

from collections.abc import Callable

from broker_jobs.clock import Instant
from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.store.lines import LimitLineRow, LineStore

STARTS = 100
"""Starts of a rate that are read at once."""
FORGOTTEN_PER_START = 2
SHORTEST_SPAN = 0.001
"""Seconds. A rate of a shorter span is one of this: a clock does not tell such spans apart, so that none would end."""


class Rates:
    """The starts of all rates, in one transaction.

    Args:
        store: reads and writes them.
        cascade: takes the lines that get free capacity.
        now: wall time.
        until: what is due by then is due now.
    """

    def __init__(self, store: LineStore, cascade: Cascade, *, now: Instant, until: Instant) -> None:
        self._store = store
        self._cascade = cascade
        self._now = now
        self._until = until
        self._starts: dict[str, _Starts] = {}
        self._new_starts: list[tuple[str, Instant, str, int]] = []

    def start_moment(self, line: LimitLineRow) -> Instant | None:
        """When a job that has a turn of a rate may start."""
        return self.next_start(line, 0)

    def next_start(self, line: LimitLineRow, kept: int) -> Instant | None:
        """When one more job may start, after so many that have a turn; None: not before a turn is given back."""
        if line.capacity <= kept:
            return None
        starts = self._starts.get(line.key)
        if starts is None:
            starts = self._starts[line.key] = _Starts(self._store, line.key, now=self._now, until=self._until)
        span = max(line.span or 1.0, SHORTEST_SPAN)
        if line.fixed:
            return starts.fixed(line.capacity - kept, span)
        blocking = starts.latest(line.capacity - kept - 1)
        return self._now if blocking is None else max(self._now, blocking + span)

    def start(self, line: LimitLineRow, job_id: str, epoch: int, at: Instant) -> None:
        """A job starts under a rate, of which it had a turn."""
        self._starts[line.key].add(at)
        self._new_starts.append((line.key, at, job_id, epoch))

    def give_back_start(self, job_id: str, epoch: int) -> None:
        """The release of a job was certainly not published: it was no start.

        No starts were read yet: records are decided before jobs are asked when they may start.
        """
        for key in self._store.give_back_start(job_id, epoch):
            self._cascade.add(Kind.CALL, key)

    def write(self, line_of: Callable[[str], LimitLineRow]) -> None:
        """Write the new starts, and forget old ones of their rates."""
        self._store.add_starts(self._new_starts)
        for key in {key for key, *_ in self._new_starts}:
            forget = self._now - 2 * (line_of(key).span or 1.0)
            self._store.forget_starts(key, forget, FORGOTTEN_PER_START * len(self._new_starts))


class _Starts:
    """The starts of one rate, the latest first, as far as they are asked for."""

    def __init__(self, store: LineStore, key: str, *, now: Instant, until: Instant) -> None:
        self._store = store
        self._key = key
        self._now = now
        self._until = until
        self._new: list[Instant] = []
        self._page: dict[int, list[Instant]] = {}
        latest = store.latest_starts(key, 0, 1)
        if latest and latest[0] > until:
            store.bring_back_starts(key, until, now)

    def add(self, at: Instant) -> None:
        """One more start, the latest."""
        self._new.append(at)

    def latest(self, n: int) -> Instant | None:
        """The start with so many later ones; None: there is none."""
        if n < len(self._new):
            return sorted(self._new, reverse=True)[n]
        n -= len(self._new)
        number, place = divmod(n, STARTS)
        if number not in self._page:
            self._page[number] = self._store.latest_starts(self._key, number * STARTS, STARTS)
        page = self._page[number]
        return page[place] if place < len(page) else None

    def fixed(self, most: int, span: float) -> Instant:
        """The first moment from now on whose window has fewer than `most` starts."""
        moment, number = self._now, window_of(self._now, span)
        while True:
            window, end = number * span, (number + 1) * span
            new = sum(1 for at in self._new if window <= at < end)
            if new + self._store.starts_since(self._key, window) < most:
                return moment
            moment, number = end, number + 1


def window_of(moment: Instant, span: float) -> int:
    """The number of the window that a moment is in: it begins at the number times the span.

    A quotient alone may be one too low at a window's begin, which is rounded: the window after it would be itself.
    """
    number = int(moment // span)
    while (number + 1) * span <= moment:
        number += 1
    return number

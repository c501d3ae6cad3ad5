"""Tells how long recurring jobs have been due that no beat has fired: a silent beat is seen nowhere else.

Pure. What was computed of a schedule is kept until it has fired, as cron expressions are costly and schedules many.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker_jobs.beat import cron as cron
from broker_jobs.clock import Instant
from broker_jobs.errors import OptionError
from broker_jobs.store.records import ScheduleRow


class Overdue:
    """Remembers the next planned time of each schedule."""

    def __init__(self) -> None:
        self._next: dict[str, tuple[int, Instant, Instant]] = {}  # name → version, last planned, next

    def seconds(self, rows: Iterable[ScheduleRow], now: Instant) -> float:
        """How long ago the planned time was that has waited longest for its fire; 0: none waits. Not of paused ones."""
        known, self._next = self._next, {}
        oldest = now
        for row in rows:
            if row.paused or row.last_planned_at is None:
                continue
            kept = known.get(row.name)
            if kept is None or kept[:2] != (row.version, row.last_planned_at):
                try:
                    kept = row.version, row.last_planned_at, cron.next_after(row.cron, row.tz, row.last_planned_at)
                except OptionError:  # its time zone is not known here: another coordinator may have taken it
                    continue
            self._next[row.name] = kept
            oldest = min(oldest, kept[2])
        return now - oldest

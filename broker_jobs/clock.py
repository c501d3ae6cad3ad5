"""Provides the clocks, so that everything else takes the time as an argument.

Wall time is for records and due times; monotonic time is for differences. Instants in rows and events are seconds since
the Unix epoch in UTC: a float is compared and stored without conversion on the hot path. Instants that users see are
aware datetimes.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias

Instant: TypeAlias = float
"""Seconds since 1970-01-01T00:00Z."""

Seconds: TypeAlias = float | timedelta
"""A length of time: a timedelta, or a number of seconds."""

When: TypeAlias = timedelta | datetime
"""A time: a timedelta from now, or an aware datetime. A number is refused."""


class Clock(Protocol):
    """A wall clock and a monotonic clock."""

    def now(self) -> Instant:
        """The wall clock: seconds since the Unix epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since a fixed moment. Never steps back or forward."""
        ...


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class ManualClock:
    """A clock for tests: it stands still until `advance` is called."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = (start or datetime(2026, 1, 1, tzinfo=UTC)).timestamp()
        self._monotonic = 0.0

    def now(self) -> Instant:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by `seconds` (0 or more)."""
        if seconds < 0:
            raise ValueError("seconds must be 0 or more; use set_wall() to step the wall clock back")
        self._now += seconds
        self._monotonic += seconds

    def set_wall(self, now: Instant) -> None:
        """Set only the wall clock, as NTP may do."""
        self._now = now


def as_datetime(instant: Instant) -> datetime:
    """Return an instant as an aware UTC datetime."""
    return datetime.fromtimestamp(instant, UTC)


def as_seconds(length: Seconds) -> float:
    """Return a length of time in seconds."""
    return length.total_seconds() if isinstance(length, timedelta) else float(length)

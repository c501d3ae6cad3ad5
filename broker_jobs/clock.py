"""Tells the time, so that time is an argument everywhere else.

Wall time is for records and for "is it due"; monotonic time is for differences. Instants inside rows and events
are seconds since the Unix epoch in UTC (a float compares and stores without conversion on the hot path); instants
a person sees are aware datetimes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias

Instant: TypeAlias = float
"""Seconds since 1970-01-01T00:00Z."""

Seconds: TypeAlias = float | timedelta
"""A length of time; a bare number is seconds."""


When: TypeAlias = timedelta | datetime
"""A time: a timedelta from now, or an aware datetime; a bare number is refused."""


class Clock(Protocol):
    """What a part needs to know of time."""

    def now(self) -> Instant:
        """The wall clock: seconds since the Unix epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps."""


class SystemClock:
    """The machine's clocks."""

    now: Callable[[], Instant] = staticmethod(time.time)
    monotonic: Callable[[], float] = staticmethod(time.monotonic)


class ManualClock:
    """A clock that stands still until it is told to move; both times move together."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = (start or datetime(2026, 1, 1, tzinfo=UTC)).timestamp()
        self._monotonic = 0.0

    def now(self) -> Instant:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks on by `seconds` (0 or more)."""
        if seconds < 0:
            raise ValueError("a clock does not go back; use set_wall() for a step of the wall clock")
        self._now += seconds
        self._monotonic += seconds

    def set_wall(self, now: Instant) -> None:
        """Step the wall clock alone, as NTP may do."""
        self._now = now


def as_datetime(instant: Instant) -> datetime:
    """The aware UTC datetime of an instant."""
    return datetime.fromtimestamp(instant, UTC)


def as_seconds(length: Seconds) -> float:
    """The number of seconds in a length of time."""
    return length.total_seconds() if isinstance(length, timedelta) else float(length)

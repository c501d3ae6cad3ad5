"""Provides the clocks, so that everything else takes the time as an argument.

Wall time is for records and due times; monotonic time is for differences. Instants in rows and events are seconds since
the Unix epoch in UTC: a float is compared and stored without conversion on the hot path. Instants that users see are
aware datetimes. The coordinator tells three clocks apart by the types WallTime, LogTime and RemoteTime: a decision that
mixes two of them is wrong as soon as one of them is.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, overload

Instant: TypeAlias = float
"""Seconds since 1970-01-01T00:00Z."""

Seconds: TypeAlias = float | timedelta
"""A length of time: a timedelta, or a number of seconds."""

When: TypeAlias = timedelta | datetime
"""A time: a timedelta from now, or an aware datetime. A number is refused."""


if TYPE_CHECKING:
    _Own = TypeVar("_Own")

    class _Reading(Generic[_Own]):
        """A reading of one clock, which compares with readings of the same clock alone. At run time it is a float."""

        def __init__(self, seconds: float) -> None: ...
        def __float__(self) -> float: ...
        def __add__(self, seconds: float) -> _Own: ...
        @overload
        def __sub__(self, other: _Own) -> float: ...
        @overload
        def __sub__(self, other: float) -> _Own: ...
        def __sub__(self, other: Any) -> Any: ...
        def __lt__(self, other: _Own) -> bool: ...
        def __le__(self, other: _Own) -> bool: ...
        def __gt__(self, other: _Own) -> bool: ...
        def __ge__(self, other: _Own) -> bool: ...

    class WallTime(_Reading["WallTime"]):
        """An instant by the clock of this coordinator's machine. It may step."""

    class LogTime(_Reading["LogTime"]):
        """Seconds of log time: the sum of the ticks that active coordinators have read. It never steps."""

    class RemoteTime:
        """An instant that another machine wrote: for display, and for the functions below."""

        def __init__(self, seconds: float) -> None: ...
        def __float__(self) -> float: ...

else:
    WallTime = LogTime = RemoteTime = float

STEP_SECONDS = 60.0
"""A clock that is behind by more than this was set back; by less, its messages arrived in another order."""


def is_newer(said_at: RemoteTime, before: RemoteTime) -> bool:
    """Whether one machine wrote the first after the second. They compare as one clock wrote both.

    An instant that is earlier by more than a minute is newer too: the clock was set back.
    """
    return float(said_at) > float(before) or float(before) - float(said_at) > STEP_SECONDS


def is_since(said_at: RemoteTime, start: RemoteTime) -> bool:
    """Whether the first is not before the second. Call it with instants of one machine only."""
    return float(said_at) >= float(start)


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

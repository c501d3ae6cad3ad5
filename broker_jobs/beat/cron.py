"""Computes the planned times of a cron expression in a time zone. Pure; the only file that uses croniter.

An expression has five fields (minute hour day month weekday) or six with the **second first**, as in Hangfire and
Quartz: `*/5 * * * * *` is every five seconds. Names (JAN … DEC, MON … SUN), ranges, steps, `L`, `15W`, `FRI#2` and the
names @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually are supported. If both day and weekday are
given, a date that matches either of them matches, as in every Unix cron.

Changes to and from summer time:

* Spring. Local times that do not exist fire once, together, at the first instant after the gap: `30 2 * * *` fires at
  03:00 that day. An expression that fires every hour (`*/5 * * * *`, `30 * * * *`) skips the gap.
* Autumn. A local time that occurs twice fires the first time only: `30 2 * * *` runs once. An expression that counts
  intervals, that is one with `*`, `-` or `/` in its seconds, minutes or hours, fires both times: `*/5 * * * *`
  continues every five real minutes.

The rules are those of vixie-cron and Cronos. croniter computes local times without a zone; the mapping to instants is
ours, because croniter's own duplicates or drops times at some changes.
"""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime
from functools import lru_cache
from math import floor
from zoneinfo import ZoneInfo, available_timezones

from broker_jobs.clock import Instant
from broker_jobs.errors import OptionError, nearest

_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...], str], ...] = (
    ("second", 0, 59, (), ""),
    ("minute", 0, 59, (), ""),
    ("hour", 0, 23, (), ""),
    ("day", 1, 31, (), r"\?|L|(\d+)W|W(\d+)"),
    ("month", 1, 12, _MONTHS, ""),
    ("weekday", 0, 7, _WEEKDAYS, r"\?|L[0-7]|([0-7]|MON|TUE|WED|THU|FRI|SAT|SUN)#([1-5]|L)"),
)
"""Name, lowest, highest, names, and a pattern of other values that are allowed."""

_YEAR_2000 = 946_684_800
"""Where the search for a first match starts; it covers fifty years."""

CACHE_SIZE = 16_384
"""Parsed expressions in the cache: parsing takes ten times as long as computing the next planned time."""


@lru_cache(maxsize=CACHE_SIZE)
def check(cron: str, tz: str) -> None:
    """Check an expression and a time zone.

    Raises:
        OptionError: names the wrong part, or says that no date ever matches (`0 0 30 2 *`).
    """
    _zone(tz)
    _plan(cron).next(_YEAR_2000)


def next_after(cron: str, tz: str, after: Instant) -> Instant:
    """The first planned time later than `after`; a whole second.

    Raises:
        OptionError: as `check`.
    """
    plan, zone, start = _plan(cron), _zone(tz), floor(after)
    wall = start + _offset(zone, start)
    candidate = plan.next(wall)
    first, second = _readings(zone, wall)
    if plan.interval and first == start < second:  # the clock will go back and show this time again
        repeat = _change(zone, start, second)
        if candidate - (wall - start) >= repeat:
            candidate = plan.next(repeat + _offset(zone, repeat) - 1)
    while True:
        first, second = _readings(zone, candidate)
        if first > second:  # the clock skips this time
            end = _change(zone, second, first)
            if not plan.every_hour:
                return float(end)
            candidate = plan.next(end + _offset(zone, end) - 1)
            continue
        if first > start:
            return float(first)
        if plan.interval and second > start:
            return float(second)
        candidate = plan.next(candidate)


def next_many(cron: str, tz: str, after: Instant, n: int) -> list[Instant]:
    """The next `n` planned times after `after`, in order."""
    planned: list[Instant] = []
    while len(planned) < n:
        after = next_after(cron, tz, after)
        planned.append(after)
    return planned


def first(cron: str, tz: str, after: Instant, until: Instant, limit: int) -> list[Instant]:
    """The planned times in (after, until], in order, at most the first `limit`."""
    planned: list[Instant] = []
    while len(planned) < limit:
        after = next_after(cron, tz, after)
        if after > until:
            break
        planned.append(after)
    return planned


def latest(cron: str, tz: str, after: Instant, until: Instant) -> Instant | None:
    """The last planned time in (after, until], or None. Bisects: for a year of seconds it takes 25 steps."""
    low, high = floor(after), floor(until)
    planned = next_after(cron, tz, low)
    if planned > until:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if (candidate := next_after(cron, tz, middle)) <= until:
            low, planned = middle, candidate
        else:
            high = middle
    return planned


class _Plan:
    """A parsed expression: the matching local times, as seconds since 1970-01-01T00:00 on a clock without a zone."""

    def __init__(self, cron: str, fields: list[str]) -> None:
        # Imported here, so that a producer without recurring jobs does not load croniter.
        from croniter import CroniterBadDateError, CroniterError, croniter  # noqa: PLC0415

        self._cron = cron
        self._no_such_date = CroniterBadDateError
        try:
            self._iterator = croniter(" ".join(fields), 0.0, float, second_at_beginning=True)
        except (CroniterError, ValueError) as error:
            raise OptionError(f"cron {cron!r}: {error}") from None
        self._lock = threading.Lock()
        hours = self._iterator.expanded[1]
        self.interval = any(sign in field for field in fields[-5:-3] + fields[:1] for sign in "*-/")
        self.every_hour = "*" in hours or len(hours) == 24

    def next(self, wall: int) -> int:
        """The first matching local time later than `wall`."""
        with self._lock:
            try:
                return int(self._iterator.get_next(float, start_time=float(wall)))
            except self._no_such_date:
                raise OptionError(f"cron {self._cron!r} never fires: no date matches it") from None


@lru_cache(maxsize=CACHE_SIZE)
def _plan(cron: str) -> _Plan:
    fields = _named(cron).upper().split()
    if len(fields) not in {5, 6}:
        raise OptionError(
            f"cron {cron!r} has {len(fields)} fields; write 5 (minute hour day month weekday) or 6 (the second first)"
        )
    for field, (name, low, high, names, special) in zip(fields, _FIELDS[-len(fields) :], strict=True):
        for part in field.split(","):
            base, slash, step = part.partition("/")
            if slash and not (_is_number(step) and 1 <= int(step) <= high):
                raise OptionError(f"cron {cron!r}: {part!r} needs a step of 1 … {high} after the /")
            if base == "*" or (special and not slash and re.fullmatch(special, base, re.ASCII)):
                continue
            for value in base.split("-", 1):
                if value not in names and not (_is_number(value) and low <= int(value) <= high):
                    known = f"{names[0]} … {names[-1]}" if names and not _is_number(value) else f"{low} … {high}"
                    raise OptionError(f"cron {cron!r}: {value!r} is not a valid {name} ({known})")
    return _Plan(cron, [",".join(_single(part) for part in field.split(",")) for field in fields])


def _single(part: str) -> str:
    """Write a range of one value as that value: croniter reads 5-5 as the full range."""
    low, _, high = part.partition("/")[0].partition("-")
    return low if low == high else part


def _named(cron: str) -> str:
    text = cron.strip()
    if not text.startswith("@"):
        return text
    try:
        return _NAMED[text.lower()]
    except KeyError:
        raise OptionError(f"cron {cron!r} is not a known name{nearest(text, _NAMED)}") from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4


@lru_cache(maxsize=1024)
def _zone(tz: str) -> ZoneInfo:
    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError):  # not found, a path, a folder of zones
        raise OptionError(f"unknown time zone {tz!r}{nearest(tz, available_timezones())}") from None


def _offset(zone: ZoneInfo, instant: int) -> int:
    """How many seconds the zone's clock is ahead of UTC."""
    return _seconds(datetime.fromtimestamp(instant, zone))


def _readings(zone: ZoneInfo, wall: int) -> tuple[int, int]:
    """The two instants at which the zone's clock shows `wall`: equal for most times; the first is the earlier one if
    `wall` occurs twice, and the later one if it does not occur.
    """
    local = datetime.fromtimestamp(wall, UTC).replace(tzinfo=zone)
    return wall - _seconds(local), wall - _seconds(local.replace(fold=1))


def _seconds(local: datetime) -> int:
    offset = local.utcoffset()
    assert offset is not None
    return offset.days * 86_400 + offset.seconds


def _change(zone: ZoneInfo, before: int, after: int) -> int:
    """The first instant in (before, after] with another offset than `before`."""
    offset = _offset(zone, before)
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(zone, middle) == offset:
            before = middle
        else:
            after = middle
    return after

"""Computes the planned times of a cron expression in a time zone. Pure; the only file that uses croniter.

An expression has five fields (minute hour day month weekday) or six with the **second first**, as in Hangfire and
Quartz: `*/5 * * * * *` is every five seconds. Names (JAN … DEC, MON … SUN), ranges, steps, the days of days.py (`L`,
`L-3`, `LW`, `15W`, `FRI#2`, `5L`) and the names @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually are
supported. If both day and weekday are given, a date that matches either of them matches, as in every Unix cron.
`@every 5m` is an interval (interval.py).

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
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from broker_jobs.beat.days import DAY_FORMS, WEEKDAY_FORMS, WEEKDAYS, MonthDays, is_special
from broker_jobs.beat.interval import interval_seconds, interval_words, next_multiple
from broker_jobs.beat.interval import interval_text as interval_text  # for those who may import this file alone
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
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...], str], ...] = (
    ("second", 0, 59, (), ""),
    ("minute", 0, 59, (), ""),
    ("hour", 0, 23, (), ""),
    ("day", 1, 31, (), rf"\?|{DAY_FORMS}"),
    ("month", 1, 12, _MONTHS, ""),
    ("weekday", 0, 7, WEEKDAYS, rf"\?|{WEEKDAY_FORMS}"),
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
    if interval_seconds(cron) is None:
        _plan(cron).next(_YEAR_2000)
    elif tz != "UTC":
        raise OptionError(f"an interval is counted from 1970-01-01 00:00 UTC, in no time zone: leave out tz={tz!r}")


def words(cron: str) -> str:
    """A schedule as it is shown: an interval as "every 5 minutes", an expression as it is written."""
    try:
        seconds = interval_seconds(cron)
    except OptionError:  # of a program that knows more
        return cron
    return cron if seconds is None else interval_words(seconds)


def next_after(cron: str, tz: str, after: Instant) -> Instant:
    """The first planned time later than `after`; a whole second.

    Raises:
        OptionError: as `check`.
    """
    if (seconds := interval_seconds(cron)) is not None:
        return next_multiple(seconds, after)
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
        special = is_special(fields[-3]) or is_special(fields[-1])
        try:
            self._days = _month_days(fields, croniter) if special else None
            timed = [*fields[:-3], "*", "*", "*"] if special else fields
            self._iterator = croniter(" ".join(timed), 0.0, float, second_at_beginning=True)
        except (CroniterError, ValueError) as error:
            raise OptionError(f"cron {cron!r}: {error}") from None
        self._lock = threading.Lock()
        hours = self._iterator.expanded[1]
        self.interval = any(sign in field for field in fields[-5:-3] + fields[:1] for sign in "*-/")
        self.every_hour = "*" in hours or len(hours) == 24

    def next(self, wall: int) -> int:
        """The first matching local time later than `wall`."""
        found = self._next(wall)
        if self._days is None or self._days.matches(found // 86_400):
            return found
        day = self._days.after(found // 86_400)
        if day is None:
            raise OptionError(f"cron {self._cron!r} never fires: no date matches it")
        return self._next(day * 86_400 - 1)  # with any date each day has a time

    def _next(self, wall: int) -> int:
        with self._lock:
            try:
                return int(self._iterator.get_next(float, start_time=float(wall)))
            except self._no_such_date:
                raise OptionError(f"cron {self._cron!r} never fires: no date matches it") from None


def _month_days(fields: list[str], croniter: Any) -> MonthDays:
    """The dates of an expression with special days; croniter reads the plain parts of its fields."""
    days, month, weekdays = (field.split(",") for field in fields[-3:])
    special_days, special_weekdays = (tuple(filter(is_special, parts)) for parts in (days, weekdays))
    plain_days, plain_weekdays = ([part for part in parts if not is_special(part)] for parts in (days, weekdays))
    known = [",".join(parts) or "*" for parts in (plain_days, month, plain_weekdays)]
    expanded = croniter(f"0 0 {' '.join(known)}", 0.0, float).expanded
    return MonthDays(
        days=special_days,
        weekdays=special_weekdays,
        plain_days=_known_days(expanded[2], range(1, 32), in_list=bool(special_days and plain_days)),
        plain_weekdays=_known_days(expanded[4], range(7), in_list=bool(special_weekdays and plain_weekdays)),
        months=_known_days(expanded[3], range(1, 13), in_list=True),
    )


def _known_days(expanded: list[Any], every: range, *, in_list: bool) -> frozenset[int]:
    """The values of croniter; of a star all in a list with others, and none alone: then the other field decides."""
    if expanded == ["*"]:
        return frozenset(every if in_list else ())
    return frozenset(value % 7 if every.stop == 7 else value for value in expanded)


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

"""Computes the days of a month that `L`, `W` and `#` mean in a cron expression. Pure.

croniter knows some of them, alone; here each may stand in a list, beside others and beside plain days:

| in the field | means |
|---|---|
| day `L`, `L-3` | the last day of the month, the third before it |
| day `15W` | the weekday (Monday to Friday) nearest to the 15th, or to the last day, within the month |
| day `LW`, `L-3W` | the weekday nearest to that day, within the month |
| weekday `FRI#2`, `FRI#L` | the second Friday, the last one; a month without a fifth has no `#5` |
| weekday `FRIL`, `5L`, `LFRI`, `L5` | the last Friday |
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date

WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_WEEKDAY = f"[0-7]|{'|'.join(WEEKDAYS)}"
DAY_FORMS = r"L(-([1-9]|[12]\d|30))?W?|([1-9]|[12]\d|3[01])W|W([1-9]|[12]\d|3[01])"
WEEKDAY_FORMS = rf"L({_WEEKDAY})|({_WEEKDAY})L|({_WEEKDAY})#([1-5]|L)"
"""What a part of each field may be beside plain values, in capitals."""

_EPOCH = date(1970, 1, 1).toordinal()
_LAST_YEARS = 50


def is_special(field: str) -> bool:
    """Whether a field of days or weekdays, in capitals, has a part that means other days in each month."""
    return any(re.fullmatch(f"{DAY_FORMS}|{WEEKDAY_FORMS}", part, re.ASCII) for part in field.split(","))


@dataclass(frozen=True)
class MonthDays:
    """The dates of an expression: those that either field means, if both are given.

    Args:
        days, weekdays: the special parts of both fields.
        plain_days: the plain days of the month, 1 to 31.
        plain_weekdays: the plain weekdays, 0 (Sunday) to 6.
        months: 1 to 12.
    """

    days: tuple[str, ...]
    weekdays: tuple[str, ...]
    plain_days: frozenset[int]
    plain_weekdays: frozenset[int]
    months: frozenset[int]

    def matches(self, day: int) -> bool:
        """Whether a day matches, given as days since 1970-01-01."""
        at = date.fromordinal(_EPOCH + day)
        return at.day in self.of(at.year, at.month)

    def after(self, day: int) -> int | None:
        """The first matching day later than a day; None: none in fifty years."""
        at = date.fromordinal(_EPOCH + day)
        year, month, above = at.year, at.month, at.day
        for _ in range(_LAST_YEARS * 12 + 1):
            later = [found for found in self.of(year, month) if found > above]
            if later:
                return date(year, month, min(later)).toordinal() - _EPOCH
            year, month, above = (year + 1, 1, 0) if month == 12 else (year, month + 1, 0)
        return None

    def of(self, year: int, month: int) -> set[int]:
        """The matching days of a month."""
        if month not in self.months:
            return set()
        first, length = monthrange(year, month)
        found = {day for day in self.plain_days if day <= length}
        found |= {day for part in self.days if (day := _day(part, year, month, length)) is not None}
        of_weekday = [range(1 + (weekday - first) % 7, length + 1, 7) for weekday in range(7)]  # Monday is 0
        for plain in self.plain_weekdays:
            found.update(of_weekday[(plain - 1) % 7])
        for weekday, which in map(_nth, self.weekdays):
            if which <= len(of_weekday[weekday]):
                found.add(of_weekday[weekday][which - 1])
        return found


def _day(part: str, year: int, month: int, length: int) -> int | None:
    """The day that a part of the day field means in a month; None: the month has none."""
    number = int("".join(re.findall(r"\d", part)) or 0)
    day = length - number if "L" in part else min(number, length)
    if day < 1:
        return None
    return _nearest_weekday(date(year, month, day), length) if "W" in part else day


def _nearest_weekday(day: date, length: int) -> int:
    match day.weekday():
        case 5:
            return day.day - 1 if day.day > 1 else 3
        case 6:
            return day.day + 1 if day.day < length else length - 2
        case _:
            return day.day


def _nth(part: str) -> tuple[int, int]:
    """(weekday, which of the month, 0: the last) of a part of the weekday field. Monday is 0."""
    name, sign, which = part.partition("#")
    if not sign:
        name, which = part.replace("L", "", 1), "L"
    weekday = WEEKDAYS.index(name) if name in WEEKDAYS else (int(name) - 1) % 7
    return weekday, 0 if which == "L" else int(which)

"""Intervals as schedules: `@every 5m` plans a time at each multiple of five minutes since 1970-01-01T00:00 UTC. Pure.

So every process computes the same times, whenever it was started, and no change of a clock to summer time matters.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache
from math import floor

from broker_jobs.clock import Instant
from broker_jobs.errors import OptionError
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS

PREFIX = "@every"
_UNITS = (("d", "day", 86_400), ("h", "hour", 3_600), ("m", "minute", 60), ("s", "second", 1))
_COUNTS = "".join(rf"(?:(\d{{1,9}}){unit})?" for unit, _, _ in _UNITS)
_TEXT = re.compile(rf"@every\s+(?=\d){_COUNTS}", re.ASCII | re.IGNORECASE)


def interval_text(length: timedelta) -> str:
    """An interval as the text of a schedule: "@every 1h30m".

    Raises:
        OptionError: it is no whole number of seconds, less than one second, or more than ten years.
    """
    if length.microseconds:
        raise OptionError(f"an interval must be a whole number of seconds, not {length.total_seconds():g}")
    seconds = _checked(length.days * 86_400 + length.seconds, str(length))
    return f"{PREFIX} {''.join(f'{count}{unit}' for count, unit, _ in _parts(seconds))}"


@lru_cache(maxsize=16_384)
def interval_seconds(schedule: str) -> int | None:
    """The seconds of an interval; None: the text is a cron expression.

    Raises:
        OptionError: it begins with "@every" and is no interval, less than one second, or more than ten years.
    """
    text = schedule.strip()
    if text[: len(PREFIX)].lower() != PREFIX:
        return None
    found = _TEXT.fullmatch(text)
    if found is None:
        raise OptionError(f"{schedule!r} is no interval; write '@every 90s', '@every 5m' or '@every 1d12h'")
    counts = zip(found.groups(), _UNITS, strict=True)
    return _checked(sum(int(count or 0) * seconds for count, (_, _, seconds) in counts), repr(schedule))


def interval_words(seconds: int) -> str:
    """An interval in words: "every 5 minutes", "every day", "every 1 hour 30 minutes"."""
    parts = _parts(seconds)
    if len(parts) == 1 and parts[0][0] == 1:
        return f"every {parts[0][2]}"
    return f"every {' '.join(f'{count} {name}' if count == 1 else f'{count} {name}s' for count, _, name in parts)}"


def next_multiple(seconds: int, after: Instant) -> Instant:
    """The first multiple of an interval later than `after`."""
    return float((floor(after) // seconds + 1) * seconds)


def _checked(seconds: int, shown: str) -> int:
    if not 1 <= seconds <= MAX_DELAY_SECONDS:
        raise OptionError(f"an interval must be at least 1 second and at most 10 years, not {shown}")
    return seconds


def _parts(seconds: int) -> list[tuple[int, str, str]]:
    """(how many, unit, its name), the largest unit first."""
    parts: list[tuple[int, str, str]] = []
    for unit, name, size in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append((count, unit, name))
    return parts

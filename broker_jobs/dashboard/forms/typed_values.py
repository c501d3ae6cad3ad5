"""Converts typed text into values: integers, numbers, dates, times and JSON. Pure.

Every error message is the rest of a sentence that begins with the name of the field: "user_id must be an integer".
"""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time
from typing import Any, Literal

from broker_jobs.dashboard.masking import is_too_deep


def parse_integer(typed: str) -> int:
    """An integer. Raises ValueError."""
    try:
        return int(typed.strip())
    except ValueError:
        raise ValueError(f"must be an integer, not {typed[:40]!r}") from None


def parse_number(typed: str) -> float:
    """A finite number. Raises ValueError."""
    try:
        number = float(typed.strip())
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"must be a number, not {typed[:40]!r}")
    return number


def parse_calendar(kind: Literal["date", "time", "datetime"], typed: str) -> str:
    """A date, time or instant as ISO 8601 text. Raises ValueError."""
    try:
        if kind == "date":
            return date.fromisoformat(typed).isoformat()
        if kind == "time":
            return time.fromisoformat(typed).isoformat()
    except ValueError:
        raise ValueError(f"must be a {kind}, not {typed[:40]!r}") from None
    at = parse_datetime(typed)
    if at is None:
        raise ValueError(f"must be a time, not {typed[:40]!r}: write 2026-01-31T08:00")
    return at.isoformat().replace("+00:00", "Z")


def parse_datetime(text: str) -> datetime | None:
    """The instant of a text, in UTC unless it names a zone. None: no time, or outside the years 1970 to 2999."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if not 1970 <= at.year < 3000:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)


def parse_json(typed: str) -> Any:
    """The value of a JSON text. Raises ValueError."""
    try:
        value = json.loads(typed, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"is not valid JSON: {error.msg.lower()} at {where} (write texts in double quotes)") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if is_too_deep(value):
        raise ValueError("is nested too deeply")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"is not valid JSON: JSON has no {name}")


def require_object(value: Any) -> dict[str, Any]:
    """A value that must be a JSON object. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object: {…}")  # noqa: TRY004 - of what was typed
    return value

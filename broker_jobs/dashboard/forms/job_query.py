"""Turns the query string of a list into what is looked for, and back: tabs, filters to remove, pages, links.

The address is the only memory of a list: it can be bookmarked, sent to somebody, and works without JavaScript.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError

from broker_jobs.dashboard.views import JobsQuery

LABELS = {
    "text": "anywhere",
    "job": "name",
    "queue": "queue",
    "tag": "tag",
    "error_text": "error",
    "batch": "batch",
    "recurring": "recurring job",
    "worker": "worker",
    "created_after": "created from",
    "created_before": "created before",
    "why": "only",
    "state": "state",
}
"""What the filters are called, in the order they are shown."""
NOT_FOR_ALL = ("text", "worker", "why")
"""A command about all that match cannot express these."""
_PAGING = {"cursor": None}


@dataclass(frozen=True)
class JobQuery:
    """What a query string asks for, and what in it could not be understood."""

    query: JobsQuery
    mistakes: list[str]


@dataclass(frozen=True)
class Chip:
    """A filter in force, and the query string without it."""

    label: str
    value: str
    without: str


def query_of(given: Mapping[str, str], page_size: int, **fixed: Any) -> JobQuery:
    """What a query string asks for. What is empty does not count; what cannot be is left out and told.

    Args:
        given: the query string's fields.
        page_size: jobs a page, where the string does not say.
        fixed: fields that the page sets whatever the string says.
    """
    fields: dict[str, Any] = {"limit": page_size}
    mistakes = []
    for name in JobsQuery.model_fields:
        value = given.get(name, "").strip()
        if not value or name in fixed:
            continue
        if name in ("created_after", "created_before"):
            moment = moment_of(value)
            if moment is None:
                mistakes.append(f"{LABELS[name]}: {value[:40]!r} is no time; write 2026-01-31T08:00")
            else:
                fields[name] = moment
        else:
            fields[name] = value
    fields |= fixed
    while True:
        try:
            return JobQuery(JobsQuery.model_validate(fields), mistakes)
        except ValidationError as error:
            wrong = sorted({str(detail["loc"][0]) for detail in error.errors(include_url=False)})
            mistakes += [f"{LABELS.get(name, name)}: {str(fields.pop(name))[:40]!r} is not possible" for name in wrong]
            fields.setdefault("limit", page_size)


def moment_of(text: str) -> datetime | None:
    """The instant in a text; UTC where it names no zone. None: it is no time a job can have."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if not 1970 <= moment.year < 3000:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def text_of(query: JobsQuery, /, **changes: Any) -> str:
    """The query string of a query with some fields changed: "" or "?state=failed&…". Any change but of `cursor` itself
    begins at the first page again."""
    fields = query.model_dump(exclude_defaults=True) | _PAGING | changes
    pairs = [(name, _plain(value)) for name, value in fields.items() if value not in (None, "")]
    return f"?{urlencode(pairs)}" if pairs else ""


def fields_of(query: JobsQuery, *but: str) -> dict[str, str]:
    """The fields of a query as a form sends them along, without its place in the list."""
    fields = query.model_dump(exclude_defaults=True, exclude={"cursor", *but})
    return {name: _plain(value) for name, value in fields.items() if value is not None}


def chips_of(query: JobsQuery, *but: str) -> list[Chip]:
    """The filters in force, for a person to see and remove.

    Args:
        query: of the list.
        but: fields that are shown elsewhere.
    """
    fields = fields_of(query, *but)
    return [
        Chip(label, _shown(name, fields[name]), text_of(query, **{name: None}))
        for name, label in LABELS.items()
        if name in fields
    ]


def input_value(moment: datetime | None) -> str:
    """A time as `<input type="datetime-local">` takes it, in UTC."""
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _shown(name: str, value: str) -> str:
    if name == "why":
        return "retries"
    return value.replace("T", " ").replace("+00:00", " UTC") if name.startswith("created_") else value

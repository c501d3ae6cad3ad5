"""Converts the query string of a job list into a JobsQuery, and back into links: tabs, filters, pages.

The whole state of a list is in its address, so that a list can be bookmarked and shared, and works without JavaScript.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from pydantic import ValidationError

from broker_jobs.dashboard.forms.typed_values import parse_datetime
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
    "reason_code": "only",
    "unknown": "only",
    "state": "state",
}
"""Field -> label of the filter, in display order."""
NOT_IN_BULK = ("text", "worker", "reason_code")
"""Filters that a bulk command does not have."""
_PAGING = {"cursor": None}


@dataclass(frozen=True)
class ParsedQuery:
    """A parsed query string, and the mistakes in it."""

    query: JobsQuery
    mistakes: list[str]


@dataclass(frozen=True)
class ActiveFilter:
    """An active filter, and the query string without it."""

    label: str
    value: str
    without: str


def parse_query(given: Mapping[str, str], page_size: int, **fixed: Any) -> ParsedQuery:
    """Parses a query string. Empty fields are ignored; invalid ones are left out and reported as mistakes.

    Args:
        given: the query string's fields.
        page_size: the default for `limit`.
        fixed: fields set by the page; they override the query string.
    """
    fields: dict[str, Any] = {"limit": page_size}
    mistakes = []
    for name in JobsQuery.model_fields:
        value = given.get(name, "").strip()
        if not value or name in fixed:
            continue
        if name in ("created_after", "created_before"):
            at = parse_datetime(value)
            if at is None:
                mistakes.append(f"{LABELS[name]}: {value[:40]!r} is no time; write 2026-01-31T08:00")
            else:
                fields[name] = at
        else:
            fields[name] = value
    fields |= fixed
    while True:
        try:
            return ParsedQuery(JobsQuery.model_validate(fields), mistakes)
        except ValidationError as error:
            wrong = sorted({str(detail["loc"][0]) for detail in error.errors(include_url=False)})
            mistakes += [f"{LABELS.get(name, name)}: {str(fields.pop(name))[:40]!r} is not valid" for name in wrong]
            fields.setdefault("limit", page_size)


def query_string(query: JobsQuery, /, **changes: Any) -> str:
    """The query string of a query with some fields changed: "" or "?state=failed&…". Without a `cursor` in the changes
    it starts at the first page."""
    fields = query.model_dump(exclude_defaults=True) | _PAGING | changes
    pairs = [(name, _plain(value)) for name, value in fields.items() if value not in (None, "")]
    return f"?{urlencode(pairs)}" if pairs else ""


def form_fields(query: JobsQuery, *but: str) -> dict[str, str]:
    """The fields of a query for hidden inputs of a form, without the cursor."""
    fields = query.model_dump(exclude_defaults=True, exclude={"cursor", *but})
    return {name: _plain(value) for name, value in fields.items() if value is not None}


def active_filters(query: JobsQuery, *but: str) -> list[ActiveFilter]:
    """The active filters, each with a way to remove it.

    Args:
        query: of the list.
        but: fields that the page shows elsewhere.
    """
    fields = form_fields(query, *but)
    return [
        ActiveFilter(label, _display(name, fields[name]), query_string(query, **{name: None}))
        for name, label in LABELS.items()
        if name in fields
    ]


def datetime_input_value(at: datetime | None) -> str:
    """The value of an `<input type="datetime-local">`, in UTC."""
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _display(name: str, value: str) -> str:
    if name == "reason_code":
        return "retries"
    if name == "unknown":
        return "jobs that no living worker knows" if value == "True" else "all"
    return value.replace("T", " ").replace("+00:00", " UTC") if name.startswith("created_") else value

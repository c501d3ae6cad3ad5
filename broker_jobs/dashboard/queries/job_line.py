"""Makes the line of a job in a list out of its row: what it was called with, how long it waited and ran. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard import call_source
from broker_jobs.dashboard.masking import Given, Masking, read_json
from broker_jobs.dashboard.queries.base import moment, named_of
from broker_jobs.dashboard.views import FunctionView, JobLine, ProgressView
from broker_jobs.messages.state import State
from broker_jobs.store import Row

MOST_LINE_CHARS = 32_768
"""Of an envelope; a list does not read a longer one."""
ERROR_LINE_CHARS = 300


class Called(NamedTuple):
    """A call as it may be shown."""

    args: list[Given]
    kwargs: list[Given]
    queue: str | None
    """Where it is not the queue of its function."""


def read_envelope(text: str) -> dict[str, Any]:
    """The fields of an envelope's JSON; empty where it is not known or no envelope."""
    try:
        found = read_json(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def called(envelope: Mapping[str, Any], queue: str, function: FunctionView | None, masking: Masking) -> Called:
    """What a job was called with."""
    args, kwargs = envelope.get("args"), envelope.get("kwargs")
    given, named = masking.arguments(
        args if isinstance(args, list) else [], kwargs if isinstance(kwargs, dict) else {}, named_of(function)
    )
    usual = "default" if function is None else function.queue
    return Called(given, named, None if queue == usual else queue)


def call_line(row: Row, function: FunctionView | None, masking: Masking) -> str:
    """A job's call on one line."""
    if len(row.envelope) > MOST_LINE_CHARS:
        return f"{row.job}.enqueue(…)"
    if not row.envelope:
        return f"{row.job}.enqueue(…)" if row.job else ""
    return call_source.line(row.job, *called(read_envelope(row.envelope), row.queue, function, masking))


def line_fields(row: Row, function: FunctionView | None, masking: Masking, now: Instant) -> dict[str, Any]:
    """The fields of a job's line."""
    ran_until = row.ended_at if row.state.is_final else now if row.state is State.PROCESSING else None
    return {
        "id": row.id,
        "job": row.job,
        "call": call_line(row, function, masking),
        "queue": row.queue,
        "state": row.state,
        "why": row.reason_code,
        "reason": row.reason,
        "attempt": row.attempt,
        "retries": row.retries,
        "created_at": as_datetime(row.created_at),
        "changed_at": as_datetime(row.changed_at),
        "due_at": moment(row.due_at),
        "started_at": moment(row.started_at),
        "ended_at": moment(row.ended_at),
        "wait_seconds": _waited(row),
        "run_seconds": _span(row.started_at, ran_until),
        "worker": row.owner if row.state is State.PROCESSING else None,
        "progress": _progress(row.progress),
        "error": None if row.state is State.SUCCEEDED else _error_line(row.error),
        "tags": row.tags.split(),
        "batch": row.batch,
        "recurring": row.recurring,
    }


def job_line(row: Row, function: FunctionView | None, masking: Masking, now: Instant) -> JobLine:
    """A job in a list."""
    return JobLine(**line_fields(row, function, masking, now))


def read_error(text: str | None) -> tuple[str, str, str] | None:
    """Type, message and traceback of what was raised."""
    found = read_envelope(text or "")
    if not found:
        return None
    return str(found.get("type", "")), str(found.get("message", "")), str(found.get("traceback", ""))


def _error_line(text: str | None) -> str | None:
    error = read_error(text)
    if error is None:
        return None
    first = next(iter(error[1].splitlines()), "")
    line = f"{error[0]}: {first}" if first else error[0]
    return line if len(line) <= ERROR_LINE_CHARS else line[: ERROR_LINE_CHARS - 1] + "…"


def _waited(row: Row) -> float | None:
    if row.started_at is None:
        return None
    begins = row.created_at
    if row.due_at is not None and begins < row.due_at <= row.started_at:
        begins = row.due_at
    return _span(begins, row.started_at)


def _span(begin: Instant | None, end: Instant | None) -> float | None:
    """Seconds between; two clocks may disagree, and no length is negative."""
    return None if begin is None or end is None else max(0.0, end - begin)


def _progress(text: str | None) -> ProgressView | None:
    """As the store keeps it: done, or done/total."""
    done_text, slash, total_text = (text or "").partition("/")
    try:
        done, total = float(done_text), float(total_text) if slash else None
    except ValueError:
        return None
    if not math.isfinite(done) or not math.isfinite(total or 0.0):
        return None
    percent = min(100.0, max(0.0, 100.0 * done / total)) if total else None
    return ProgressView(done=done, total=total, percent=percent)

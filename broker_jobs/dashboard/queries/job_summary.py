"""Turns a row of the store into a job's list entry: its masked call, its waiting time and its run time. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard.masking import MaskedArgument, Masking, read_json
from broker_jobs.dashboard.queries import call_source
from broker_jobs.dashboard.queries.query_context import optional_datetime, parameter_names
from broker_jobs.dashboard.views import FunctionView, JobSummary, ProgressView
from broker_jobs.messages.priority import NORMAL
from broker_jobs.messages.state import State
from broker_jobs.store import Row

MAX_ENVELOPE_CHARS = 32_768
"""A list does not parse a longer envelope."""
MAX_ERROR_CHARS = 300


class MaskedCall(NamedTuple):
    """A call with hidden values masked."""

    args: list[MaskedArgument]
    kwargs: list[MaskedArgument]
    queue: str | None
    """None: the queue of its function."""
    priority: str | None
    """None: the priority of its function."""


def read_envelope(text: str) -> dict[str, Any]:
    """The fields of an envelope's JSON; empty where the text is none."""
    try:
        found = read_json(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def masked_call(envelope: Mapping[str, Any], queue: str, function: FunctionView | None, masking: Masking) -> MaskedCall:
    """The call of a job, hidden values masked."""
    args, kwargs = envelope.get("args"), envelope.get("kwargs")
    positional, named = masking.arguments(
        args if isinstance(args, list) else [], kwargs if isinstance(kwargs, dict) else {}, parameter_names(function)
    )
    default, usual = ("default", NORMAL) if function is None else (function.queue, function.priority)
    priority = envelope.get("priority", NORMAL)
    return MaskedCall(
        positional, named, None if queue == default else queue, None if priority == usual else str(priority)
    )


def call_line(row: Row, function: FunctionView | None, masking: Masking) -> str:
    """A job's call on one line."""
    if len(row.envelope) > MAX_ENVELOPE_CHARS:
        return f"{row.job}.enqueue(…)"
    if not row.envelope:
        return f"{row.job}.enqueue(…)" if row.job else ""
    return call_source.line(row.job, *masked_call(read_envelope(row.envelope), row.queue, function, masking))


def summary_fields(row: Row, function: FunctionView | None, masking: Masking, now: Instant) -> dict[str, Any]:
    """The fields of a job's list entry."""
    ran_until = row.ended_at if row.state.is_final else now if row.state is State.PROCESSING else None
    return {
        "id": row.id,
        "job": row.job,
        "call": call_line(row, function, masking),
        "queue": row.queue,
        "priority": row.priority or NORMAL,
        "state": row.state,
        "reason_code": row.reason_code,
        "reason": row.reason,
        "attempt": row.attempt,
        "retries": row.retries,
        "created_at": as_datetime(row.created_at),
        "changed_at": as_datetime(row.changed_at),
        "due_at": optional_datetime(row.due_at),
        "started_at": optional_datetime(row.started_at),
        "ended_at": optional_datetime(row.ended_at),
        "wait_seconds": _wait_seconds(row),
        "run_seconds": _seconds_between(row.started_at, ran_until),
        "worker": row.owner if row.state is State.PROCESSING else None,
        "progress": _progress(row.progress),
        "error": None if row.state is State.SUCCEEDED else error_summary(row.error),
        "tags": row.tags.split(),
        "batch": row.batch,
        "recurring": row.recurring,
    }


def job_summary(row: Row, function: FunctionView | None, masking: Masking, now: Instant) -> JobSummary:
    """A job in a list."""
    return JobSummary(**summary_fields(row, function, masking, now))


def read_error(text: str | None) -> tuple[str, str, str] | None:
    """Type, message and traceback of an error."""
    found = read_envelope(text or "")
    if not found:
        return None
    return str(found.get("type", "")), str(found.get("message", "")), str(found.get("traceback", ""))


def error_summary(text: str | None) -> str | None:
    """Type and first line of the message of an error."""
    error = read_error(text)
    if error is None:
        return None
    first = next(iter(error[1].splitlines()), "")
    line = f"{error[0]}: {first}" if first else error[0]
    return line if len(line) <= MAX_ERROR_CHARS else line[: MAX_ERROR_CHARS - 1] + "…"


def _wait_seconds(row: Row) -> float | None:
    if row.started_at is None:
        return None
    begins = row.created_at
    if row.due_at is not None and begins < row.due_at <= row.started_at:
        begins = row.due_at
    return _seconds_between(begins, row.started_at)


def _seconds_between(begin: Instant | None, end: Instant | None) -> float | None:
    """Seconds between two instants, at least 0: the clocks of two machines may disagree."""
    return None if begin is None or end is None else max(0.0, end - begin)


def _progress(text: str | None) -> ProgressView | None:
    """Reads the stored text: done, or done/total."""
    done_text, slash, total_text = (text or "").partition("/")
    try:
        done, total = float(done_text), float(total_text) if slash else None
    except ValueError:
        return None
    if not math.isfinite(done) or not math.isfinite(total or 0.0):
        return None
    percent = min(100.0, max(0.0, 100.0 * done / total)) if total else None
    return ProgressView(done=done, total=total, percent=percent)

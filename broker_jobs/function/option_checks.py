"""Checks the value of each option of a job, and says what it must be. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

from broker_jobs.broker.names import QUEUE_NAME_RULE, is_queue_name
from broker_jobs.clock import as_seconds
from broker_jobs.errors import OptionError
from broker_jobs.function.backoff import backoff_option
from broker_jobs.function.keys import text_error, unique_option
from broker_jobs.messages.envelope import (
    BATCH_PREFIX,
    JOB_ID_RULE,
    MAX_DELAY_SECONDS,
    MAX_NAME_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TRACE,
    MAX_TRACE_CHARS,
)
from broker_jobs.messages.priority import PRIORITIES, Priority

_JOB_ID = re.compile(r"[A-Za-z0-9._:@/+-]{1,100}")
_MAX_RETRIES = 1_000_000
_SHOWN_CHARS = 200
MAX_PUBLISH_SECONDS = 600.0
MIN_MEMORY_LIMIT = 1024 * 1024


def _wrong(option: str, must: str, value: object) -> NoReturn:
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}…"
    raise OptionError(f"{option} must be {must}, not {shown}")


def _queue(value: Any) -> str:
    if not isinstance(value, str):
        _wrong("queue", "a str", value)
    if not is_queue_name(value):
        raise OptionError(f"{value[:_SHOWN_CHARS]!r} is not a queue name: use {QUEUE_NAME_RULE}")
    return value


def _priority(value: Any) -> Priority:
    for priority in PRIORITIES:
        if isinstance(value, str) and value == priority:
            return priority
    _wrong("priority", "'high', 'normal' or 'low'", value)


def _retries(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_RETRIES:
        _wrong("retries", f"an int from 0 to {_MAX_RETRIES:_}", value)
    return value


def _length(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        _wrong(option, "seconds or a timedelta", value)
    seconds = as_seconds(value)
    if not seconds > 0:
        _wrong(option, "more than 0 seconds", value)
    if seconds > MAX_DELAY_SECONDS:
        _wrong(option, "10 years or less", value)
    return seconds


def _optional_length(option: str, value: Any) -> float | None:
    return None if value is None else _length(option, value)


def _publish_timeout(value: Any) -> float:
    seconds = _length("publish_timeout", value)
    if seconds > MAX_PUBLISH_SECONDS:
        _wrong("publish_timeout", f"{MAX_PUBLISH_SECONDS:g} seconds or less", value)
    return seconds


def _fail_fast(value: Any) -> bool:
    if not isinstance(value, bool):
        _wrong("fail_fast", "True or False", value)
    return value


def _tags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        _wrong("tags", f"a sequence of str; write tags=[{value!r}]", value)
    if not isinstance(value, Sequence) or not all(isinstance(tag, str) for tag in value):
        _wrong("tags", "a sequence of str", value)
    if len(value) > MAX_TAGS or any(len(tag) > MAX_TAG_CHARS for tag in value):
        _wrong("tags", f"at most {MAX_TAGS} of at most {MAX_TAG_CHARS} characters", value)
    for tag in value:
        if (wrong := text_error(tag)) is not None:
            raise OptionError(f"the tag {tag!r} {wrong}")
    return tuple(value)


def _name(value: Any) -> str:
    check_name(value, "name")
    return str(value)


def _kinds(option: str, value: Any) -> tuple[type[Exception], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    if not kinds or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        _wrong(option, "an exception class or a tuple of them", value)
    return kinds


def check_retried_kinds(retry_on: tuple[type[Exception], ...], never_retry: tuple[type[Exception], ...]) -> None:
    """Raise OptionError if a class is in both."""
    both = [kind.__name__ for kind in never_retry if kind in retry_on]
    if both == ["Exception"]:
        raise OptionError("never_retry=Exception leaves nothing to retry: write retries=0")
    if both:
        raise OptionError(f"{both[0]} is in retry_on and in never_retry: write it in one of them")


def _isolation(value: Any) -> str:
    if value not in {"thread", "process"}:
        _wrong("isolation", "'thread' or 'process'", value)
    return str(value)


def _memory_limit(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < MIN_MEMORY_LIMIT:
        _wrong("memory_limit", f"an int of bytes, {MIN_MEMORY_LIMIT:_} or more", value)
    return value


def check_name(value: object, title: str) -> None:
    """Raise OptionError unless this can be the name of a job, a recurring job or a program."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARS:
        _wrong(title, f"a str of 1 to {MAX_NAME_CHARS} characters", value)
    if (wrong := text_error(value)) is not None:
        raise OptionError(f"{title} {wrong}: {value!r}")


def check_id(value: object, title: str = "id") -> str:
    """Check the id of a job or batch. Raises OptionError."""
    if not isinstance(value, str) or _JOB_ID.fullmatch(value) is None or value.startswith(BATCH_PREFIX):
        _wrong(title, JOB_ID_RULE, value)
    return value


def _trace(value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        _wrong("trace", "a mapping of texts, as {'traceparent': '00-…'}", value)
    if len(value) > MAX_TRACE:
        _wrong("trace", f"at most {MAX_TRACE} texts", value)
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            _wrong("trace", "a mapping of texts, as {'traceparent': '00-…'}", value)
        if len(name) > MAX_NAME_CHARS or len(text) > MAX_TRACE_CHARS:
            _wrong(
                "trace", f"names of at most {MAX_NAME_CHARS}, texts of at most {MAX_TRACE_CHARS:_} characters", value
            )
        for part in (name, text):
            if (wrong := text_error(part)) is not None:
                raise OptionError(f"trace: {part[:_SHOWN_CHARS]!r} {wrong}")
    return dict(value)


POLICY = frozenset({"retries", "backoff", "timeout", "expires", "keep", "keep_result"})
"""Options that travel in the policy of the envelope."""
CHECKS: dict[str, Callable[[Any], Any]] = {
    "queue": _queue,
    "priority": _priority,
    "retries": _retries,
    "backoff": backoff_option,
    "timeout": partial(_optional_length, "timeout"),
    "expires": partial(_optional_length, "expires"),
    "keep": partial(_optional_length, "keep"),
    "keep_result": partial(_optional_length, "keep_result"),
    "unique": unique_option,
    "tags": _tags,
    "name": _name,
    "retry_on": partial(_kinds, "retry_on"),
    "never_retry": partial(_kinds, "never_retry"),
    "isolation": _isolation,
    "memory_limit": _memory_limit,
    "id": check_id,
    "trace": _trace,
    "publish_timeout": _publish_timeout,
    "fail_fast": _fail_fast,
}

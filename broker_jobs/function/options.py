"""Checks the options of a job and of one call, and stores them in a frozen value.

Type checkers see the options as TypedDicts. They are checked again at run time, so that a mistyped option raises and
is not silently ignored. Over 300 lines: each option has its text and its check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypedDict

from broker_jobs.broker.names import QUEUE_NAME_RULE, is_queue_name
from broker_jobs.clock import Seconds, as_seconds
from broker_jobs.errors import OptionError, nearest
from broker_jobs.function.keys import Limit, Unique, limit_option, text_error, unique_option
from broker_jobs.messages.envelope import (
    BATCH_PREFIX,
    JOB_ID_RULE,
    MAX_BACKOFFS,
    MAX_DELAY_SECONDS,
    MAX_NAME_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    Policy,
)
from broker_jobs.messages.priority import NORMAL, PRIORITIES, Priority


class Options(TypedDict, total=False):
    """Options that a job declares, and that one call can change with `using`."""

    queue: str
    """The queue whose workers run it; default "default"."""
    priority: Priority
    """How urgent it is within its queue: "high", "normal" or "low"; default "normal". A worker starts what is high
    before what is normal, and that before what is low. What runs is not interrupted. As long as higher jobs wait, lower
    ones do too."""
    retries: int
    """Runs after the first one, 0 to 1,000,000; default 10."""
    backoff: Sequence[Seconds]
    """The pause before each retry, 1 to 1,000 of them, each at most ten years; the last one is repeated. Default before
    the n-th retry: (n-1)^4 + 15 + a random number from 0 to 29 times n seconds."""
    timeout: Seconds | None
    """How long an attempt may run; None: without limit. At the timeout a coroutine gets CancelledError at its next
    await, and a plain function JobTimedOut at the next step of its Python code, which cannot be within a call in C. If
    it returns nevertheless, it has succeeded. If it still runs after `timeout_grace`, its worker process leaves."""
    expires: Seconds | None
    """How long the job may wait to start, counted from the enqueue or from its due time; then it fails with the error
    Expired, and is not retried. None: without limit."""
    unique: str | Unique
    """Only one job with this key exists at a time; a str means `Unique(key)`."""
    limit: Limit | Sequence[Limit]
    """At most so many jobs with a key run at once or start in a time: Concurrency, RateLimit, Ordered; at most
    8."""
    tags: Sequence[str]
    """Words to find the job by in the dashboard; at most 50, of at most 100 characters each."""


class JobOptions(Options, total=False):
    """Options of `@jobs.job`: those of `Options`, and some that belong to the function."""

    name: str
    """The name of the job in messages; default: the name of the function. Keep it when you rename the function."""
    isolation: Literal["thread", "process"]
    """"process": it runs in a child process, which is killed at the timeout and when the job is deleted, and whose end
    by itself (a crash in C, `os._exit`, no memory) is the failure of this job alone. "thread", the default: it runs in
    a thread of the worker, or on its event loop."""
    memory_limit: int
    """Bytes of memory that an attempt may take, beyond what its process has when it begins; 1 MiB or more. Only with
    isolation="process". Beyond it the job gets a MemoryError, or its process is killed."""
    retry_on: type[Exception] | tuple[type[Exception], ...]
    """The exceptions after which the job is retried; default Exception."""


class PublishOptions(TypedDict, total=False):
    """How long a call may wait for RabbitMQ: options of `job.using` and `jobs.using`."""

    publish_timeout: Seconds
    """How long an enqueue waits for RabbitMQ's confirm, a connect included; more than 0, at most 600 seconds. Default:
    the setting publish_timeout, 10 seconds."""
    fail_fast: bool
    """Whether an enqueue raises at once while RabbitMQ is known to be unreachable or to block publishing. Default: the
    setting fail_fast, which is False: it waits until its publish timeout."""


class CallOptions(Options, PublishOptions, total=False):
    """Options of `job.using`: those of `Options`, an id, and how long the call may wait."""

    id: str
    """Your own id. A job with this id runs once, however often it is enqueued."""


_USUAL = Policy()


@dataclass(frozen=True)
class FunctionOptions:
    """The checked options of a function, or of one call of it. Only a call has an `id` and options of publishing."""

    name: str | None = None
    queue: str = "default"
    priority: Priority = NORMAL
    policy: Policy = _USUAL
    unique: Unique | None = None
    limits: tuple[Limit, ...] = ()
    tags: tuple[str, ...] = ()
    retry_on: tuple[type[Exception], ...] = (Exception,)
    isolation: Literal["thread", "process"] = "thread"
    memory_limit: int | None = None
    id: str | None = None
    publish_timeout: float | None = None
    fail_fast: bool | None = None

    @property
    def timeout(self) -> float | None:
        """Seconds an attempt may run; None: without limit. See `Options`."""
        return self.policy.timeout

    @property
    def expires(self) -> float | None:
        """Seconds it may wait to start; None: without limit."""
        return self.policy.expires

    def changed(self, options: Mapping[str, Any]) -> FunctionOptions:
        """These options, changed by the options of one call.

        Raises:
            OptionError: an option is unknown, only for `@jobs.job`, or out of range.
        """
        _refuse_unknown(options, CALL, "Options of one call")
        return _with(self, options)


NO_OPTIONS = FunctionOptions()


def job_options(options: Mapping[str, Any]) -> FunctionOptions:
    """Check the options of `@jobs.job(…)`.

    Raises:
        OptionError: an option is unknown, only for one call, or out of range.
    """
    _refuse_unknown(options, JOB, "Options of a job")
    chosen = _with(NO_OPTIONS, options)
    if chosen.memory_limit is not None and chosen.isolation != "process":
        raise OptionError(
            "memory_limit needs a process of its own: write @jobs.job(isolation='process', memory_limit=…)"
        )
    return chosen


def publish_options(options: Mapping[str, Any]) -> FunctionOptions:
    """Check the options of `jobs.using(…)`.

    Raises:
        OptionError: an option is unknown, of a call or a job, or out of range.
    """
    _refuse_unknown(options, PUBLISH, "Options of jobs.using")
    return _with(NO_OPTIONS, options)


PUBLISH = tuple(sorted(PublishOptions.__annotations__))
CALL = tuple(sorted(CallOptions.__annotations__))
JOB = tuple(sorted(JobOptions.__annotations__))
_JOB_ID = re.compile(r"[A-Za-z0-9._:@/+-]{1,100}")
_MAX_RETRIES = 1_000_000
_SHOWN_CHARS = 200
MAX_PUBLISH_SECONDS = 600.0
MIN_MEMORY_LIMIT = 1024 * 1024


def _refuse_unknown(options: Mapping[str, Any], known: tuple[str, ...], title: str) -> None:
    for option in options:
        if option in known:
            continue
        if option == "isolation":
            raise OptionError("isolation is decided where the function is written: @jobs.job(isolation=…)")
        if option in JOB:
            raise OptionError(f"{option} belongs to the function: write @jobs.job({option}=…)")
        if option in CALL:
            raise OptionError(f"{option} belongs to one call: write .using({option}=…).enqueue(…)")
        raise OptionError(f"no option {option!r}{nearest(option, known) or '.'} {title}: {', '.join(known)}")


def _with(base: FunctionOptions, options: Mapping[str, Any]) -> FunctionOptions:
    changes: dict[str, Any] = {}
    policy: dict[str, Any] = {}
    for option, value in options.items():
        if option in _POLICY:
            policy[option] = _CHECKS[option](value)
        elif option == "limit":
            changes["limits"] = limit_option(value)
        else:
            changes[option] = _CHECKS[option](value)
    if policy:
        kept = {name: getattr(base.policy, name) for name in Policy.model_fields}
        changes["policy"] = Policy(**{**kept, **policy})
    return replace(base, **changes) if changes else base


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


def _backoff(value: Any) -> tuple[float, ...]:
    if isinstance(value, int | float | timedelta):
        _wrong("backoff", f"a sequence of lengths; write backoff=[{value!r}]", value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        _wrong("backoff", "a sequence of lengths, as [1, 5, timedelta(minutes=1)]", value)
    if len(value) > MAX_BACKOFFS:
        _wrong("backoff", f"at most {MAX_BACKOFFS:_} lengths (the last one is repeated)", value)
    return tuple(_length("backoff", item, least=0.0) for item in value)


def _length(option: str, value: Any, *, least: float | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        _wrong(option, "seconds or a timedelta", value)
    seconds = as_seconds(value)
    if not (seconds > 0 if least is None else seconds >= least):
        _wrong(option, "more than 0 seconds" if least is None else f"{least:g} seconds or more", value)
    if seconds > MAX_DELAY_SECONDS:
        _wrong(option, "10 years or less", value)
    return seconds


def _timeout(value: Any) -> float | None:
    return None if value is None else _length("timeout", value)


def _expires(value: Any) -> float | None:
    return None if value is None else _length("expires", value)


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


def _retry_on(value: Any) -> tuple[type[Exception], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    if not kinds or not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        _wrong("retry_on", "an exception class or a tuple of them", value)
    return kinds


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


_POLICY = frozenset({"retries", "backoff", "timeout", "expires"})
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "queue": _queue,
    "priority": _priority,
    "retries": _retries,
    "backoff": _backoff,
    "timeout": _timeout,
    "expires": _expires,
    "unique": unique_option,
    "tags": _tags,
    "name": _name,
    "retry_on": _retry_on,
    "isolation": _isolation,
    "memory_limit": _memory_limit,
    "id": check_id,
    "publish_timeout": _publish_timeout,
    "fail_fast": _fail_fast,
}

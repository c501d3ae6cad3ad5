"""Checks the options of a job and of one call, and stores them in a frozen value.

Type checkers see the options as TypedDicts. They are checked again at run time, so that a mistyped option raises and
is not silently ignored. Over 300 lines: each option has its text and its check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from broker_jobs.clock import Seconds
from broker_jobs.errors import OptionError, nearest
from broker_jobs.function.backoff import Backoff
from broker_jobs.function.keys import Limit, Unique, limit_option
from broker_jobs.function.option_checks import CHECKS, POLICY, check_retried_kinds
from broker_jobs.messages.envelope import Policy
from broker_jobs.messages.priority import NORMAL, Priority


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
    backoff: Sequence[Seconds] | Backoff
    """The pause before each retry, 1 to 1,000 of them, each at most ten years, the last one is repeated; or `Backoff`,
    which grows. Default before the n-th retry: (n-1)^4 + 15 + a random number from 0 to 29 times n seconds, at most a
    day."""
    timeout: Seconds | None
    """How long an attempt may run; None: without limit. At the timeout a coroutine gets CancelledError at its next
    await, and a plain function JobTimedOut at the next step of its Python code, which cannot be within a call in C. If
    it returns nevertheless, it has succeeded. If it still runs after `timeout_grace`, its worker process leaves."""
    expires: Seconds | None
    """How long the job may wait to start, counted from the enqueue or from its due time; then it fails with the error
    Expired, and is not retried. None: without limit."""
    unique: str | Unique
    """Only one job with this key exists at a time; a str means `Unique(key)`."""
    keep: Seconds | None
    """How long the job is kept after its end, however it ended: more than 0 and at most ten years. None: as the
    settings `keep_succeeded`, `keep_failed` and `keep_deleted` of the coordinator say. It is kept for a minute at
    least, and what other jobs need of it until they have ended."""
    keep_result: Seconds | None
    """How long its result is kept after its end: more than 0 and at most ten years. None: as long as the job. Jobs that
    wait for the result get it."""
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
    never_retry: type[Exception] | tuple[type[Exception], ...]
    """The exceptions after which the job fails at once; default: none. If an exception is of a class of `retry_on` and
    of one of `never_retry`, the class that is nearer to it decides."""


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
    trace: Mapping[str, str]
    """The trace context that it carries, as {"traceparent": "00-…"} (W3C Trace Context); `current_job().trace` has it.
    At most 50 texts of at most 8,192 characters. A job that another one enqueues has the context of that one,
    unless it is given another."""


_USUAL = Policy()


@dataclass(frozen=True)
class FunctionOptions:
    """The checked options of a function, or of one call of it. Only a call has an `id`, a `trace` and options of
    publishing."""

    name: str | None = None
    queue: str = "default"
    priority: Priority = NORMAL
    policy: Policy = _USUAL
    unique: Unique | None = None
    limits: tuple[Limit, ...] = ()
    tags: tuple[str, ...] = ()
    retry_on: tuple[type[Exception], ...] = (Exception,)
    never_retry: tuple[type[Exception], ...] = ()
    isolation: Literal["thread", "process"] = "thread"
    memory_limit: int | None = None
    id: str | None = None
    trace: Mapping[str, str] | None = None
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
    check_retried_kinds(chosen.retry_on, chosen.never_retry)
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
        if option in POLICY:
            policy[option] = CHECKS[option](value)
        elif option == "limit":
            changes["limits"] = limit_option(value)
        else:
            changes[option] = CHECKS[option](value)
    if policy:
        kept = {name: getattr(base.policy, name) for name in Policy.model_fields}
        changes["policy"] = Policy(**{**kept, **policy})
    return replace(base, **changes) if changes else base

"""Gives a running function its job: what it is called with, progress, log lines, and whether to stop.

Separate from the consumer, so that a job imports nothing that connects to a broker; the consumer passes callbacks in.
If a function is called directly, there is no job: progress and log lines are dropped, so that `welcome(42)` runs, and
only reading what the job is (its id, attempt, name, arguments, …) raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from broker_jobs.errors import UsageError

if TYPE_CHECKING:
    from broker_jobs.messages.envelope import Envelope
    from broker_jobs.messages.priority import Priority
    from broker_jobs.producer.batch import Batch


class JobCancelled(BaseException):
    """Raised inside a running function that has to stop: its job was deleted, or its worker has to leave.

    A plain function gets it in its thread, at the next step of its Python code, or from
    `current_job().raise_if_cancelled()`. A coroutine gets CancelledError. Let it pass: what has to be closed is closed
    by `with` and `finally`.

    Not an Exception, as CancelledError of asyncio is none, so that `except Exception` inside a job does not catch it.
    """

    def __str__(self) -> str:
        return super().__str__() or "the job was asked to stop"


class JobTimedOut(JobCancelled):
    """Raised inside a running function whose `timeout` is over."""

    def __str__(self) -> str:
        return BaseException.__str__(self) or "the job ran longer than its timeout"


def _no_progress(done: float, total: float | None) -> None:
    del done, total


def _no_line(text: str) -> None:
    del text


def _not_cancelled() -> type[JobCancelled] | None:
    return None


class CurrentJob:
    """The attempt that runs here. Get it with `current_job()`.

    A thread that the function starts has no current job: pass the object to it.

    job = current_job()
    for number, row in enumerate(rows):
        job.raise_if_cancelled()
        load(row)
        job.progress(number + 1, len(rows))

    Args:
        id: the job's id; None outside a job.
        attempt: the number of the run, from 1; None outside a job.
        on_progress: called with (done, total).
        on_line: called with each log line.
        asked_to_stop: what to raise if the attempt should stop, or None.
        batch: the batch that the job is part of.
        envelope: the job as it travelled, for its name, queue, priority, tags, retries and trace.
        log_fields: what the log records that are made in it carry.
    """

    def __init__(
        self,
        id: str | None = None,
        attempt: int | None = None,
        *,
        on_progress: Callable[[float, float | None], None] = _no_progress,
        on_line: Callable[[str], None] = _no_line,
        asked_to_stop: Callable[[], type[JobCancelled] | None] = _not_cancelled,
        batch: Batch | None = None,
        envelope: Envelope | None = None,
        log_fields: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self.log_fields = log_fields
        self._id = id
        self._attempt = attempt
        self._on_progress = on_progress
        self._on_line = on_line
        self._asked_to_stop = asked_to_stop
        self._batch = batch
        self._envelope = envelope
        self._read_arguments: Callable[[], Mapping[str, Any]] = dict
        self._arguments: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """The job's id, the same in each attempt.

        Raises:
            UsageError: outside a job.
        """
        if self._id is None:
            raise UsageError("current_job().id: no job runs here; the function was called directly")
        return self._id

    @property
    def attempt(self) -> int:
        """The number of this run, from 1.

        Raises:
            UsageError: outside a job.
        """
        if self._attempt is None:
            raise UsageError("current_job().attempt: no job runs here; the function was called directly")
        return self._attempt

    @property
    def batch(self) -> Batch | None:
        """The batch that the job is part of, or None. Jobs can be added: `with job.batch as batch: batch.enqueue(…)`.

        The batch does not end before the added jobs have ended. A repeated attempt adds them again.

        Raises:
            UsageError: outside a job.
        """
        if self._id is None:
            raise UsageError("current_job().batch: no job runs here; the function was called directly")
        return self._batch

    @property
    def name(self) -> str:
        """The job's name: that of its function, or `@jobs.job(name=…)`.

        Raises:
            UsageError: outside a job.
        """
        return self._known("name").job

    @property
    def queue(self) -> str:
        """The queue that it was enqueued in.

        Raises:
            UsageError: outside a job.
        """
        return self._known("queue").queue

    @property
    def priority(self) -> Priority:
        """Its priority: "high", "normal" or "low".

        Raises:
            UsageError: outside a job.
        """
        return self._known("priority").priority

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, in the order in which they were given.

        Raises:
            UsageError: outside a job.
        """
        return self._known("tags").tags

    @property
    def retries(self) -> int:
        """How many runs may follow the first one: the option `retries`.

        Raises:
            UsageError: outside a job.
        """
        return self._known("retries").policy.retries

    @property
    def retries_left(self) -> int:
        """How many runs may follow this one; 0: if this run fails, the job has failed.

        if current_job().retries_left == 0:
            warn_somebody()

        A run that a person asks for (requeue) begins to count again.

        Raises:
            UsageError: outside a job.
        """
        return max(0, self._known("retries_left").policy.retries + 1 - self.attempt)

    @property
    def arguments(self) -> Mapping[str, Any]:
        """What the function was called with, by parameter, with its defaults; what `Depends` provides is not in it.

        The mapping is read-only. Its values are the very objects that the function got.

        user_id = current_job().arguments["user_id"]

        Raises:
            UsageError: outside a job.
        """
        self._known("arguments")
        if self._arguments is None:
            self._arguments = MappingProxyType(dict(self._read_arguments()))
        return self._arguments

    @property
    def trace(self) -> Mapping[str, str]:
        """The trace context that the job was enqueued with (`using(trace=…)`), as {"traceparent": "00-…"}; or {}.

        The mapping is read-only. A job that is enqueued by this one inherits it.

        Raises:
            UsageError: outside a job.
        """
        return MappingProxyType(dict(self._known("trace").trace or {}))

    def called_with(self, read_arguments: Callable[[], Mapping[str, Any]]) -> None:
        """The worker has decoded the arguments; `read_arguments` names them when they are asked for."""
        self._read_arguments = read_arguments

    def _known(self, what: str) -> Envelope:
        if self._envelope is None:
            raise UsageError(f"current_job().{what}: no job runs here; the function was called directly")
        return self._envelope

    def progress(self, done: float, total: float | None = None, /) -> None:
        """Report progress, as 3 of 10. Sent at most once a second. Does nothing outside a job."""
        self._on_progress(done, total)

    def log(self, message: str, /, **fields: object) -> None:
        """Store a log line with the job, at most 100 per attempt. Does nothing outside a job.

        current_job().log("imported", rows=42)
        """
        self._on_line(" ".join([message, *(f"{name}={value}" for name, value in fields.items())]))

    def cancelled(self) -> bool:
        """Whether to stop: the job was deleted, timed out, or its worker shuts down. False outside a job."""
        return self._asked_to_stop() is not None

    def raise_if_cancelled(self) -> None:
        """Stop the job here, if it should stop.

        Raises:
            JobTimedOut: its `timeout` is over.
            JobCancelled: the job was deleted, or its worker shuts down.
        """
        if (exception := self._asked_to_stop()) is not None:
            raise exception


_NO_JOB = CurrentJob()
_current: ContextVar[CurrentJob] = ContextVar("broker_jobs_current_job", default=_NO_JOB)


def current_job() -> CurrentJob:
    """The job that runs in this thread or task. Outside a job, an object whose methods do nothing."""
    return _current.get()


def inherited_trace() -> dict[str, str] | None:
    """The trace context of the job that runs here, for the jobs that it enqueues; None: there is none."""
    envelope = _current.get()._envelope  # noqa: SLF001  # of this module
    return None if envelope is None or not envelope.trace else dict(envelope.trace)


def inside_job() -> bool:
    """Whether a job runs here."""
    return _current.get() is not _NO_JOB


@contextmanager
def running(job: CurrentJob) -> Iterator[CurrentJob]:
    """Make `job` the current job of this thread or task inside the block."""
    token = _current.set(job)
    try:
        yield job
    finally:
        _current.reset(token)

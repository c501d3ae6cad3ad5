"""Tells a function which job it is: id, attempt, progress, log lines, and whether it is asked to stop.

Apart from the consumer, so that a job imports nothing that speaks to a broker. What is reported goes into sinks the
consumer injects. In a function that is called directly there is no job: reporting does nothing, so that
`welcome(42)` just runs, and only asking for an id is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from broker_jobs.errors import UsageError

if TYPE_CHECKING:
    from broker_jobs.producer.batch import Batch


class JobCancelled(BaseException):
    """Raised by raise_if_cancelled(): the job stops as it was asked to.

    Not an Exception, so that an `except Exception` inside a job does not swallow it.
    """


def _no_progress(done: float, total: float | None) -> None:
    del done, total


def _no_line(text: str) -> None:
    del text


def _not_cancelled() -> bool:
    return False


class CurrentJob:
    """The running attempt, as its function sees it.

    It does not follow into threads the function starts: take `job = current_job()` along.

    Args:
        id: the job's id; None outside a job.
        attempt: number of the run, from 1; None outside a job.
        on_progress: takes (done, total).
        on_line: takes a log line.
        is_cancelled: says whether the attempt is asked to stop.
        batch: the batch the job is part of.
    """

    def __init__(
        self,
        id: str | None = None,  # the word users read
        attempt: int | None = None,
        *,
        on_progress: Callable[[float, float | None], None] = _no_progress,
        on_line: Callable[[str], None] = _no_line,
        is_cancelled: Callable[[], bool] = _not_cancelled,
        batch: Batch | None = None,
    ) -> None:
        self._id = id
        self._attempt = attempt
        self._on_progress = on_progress
        self._on_line = on_line
        self._is_cancelled = is_cancelled
        self._batch = batch

    @property
    def id(self) -> str:
        """The job's id; the same in each attempt.

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
        """The batch the job is part of, to add to it: `with job.batch as mine: mine.enqueue(…)`; None: of none.

        The batch does not end before what is added here has ended. An attempt that is repeated adds again.

        Raises:
            UsageError: outside a job.
        """
        if self._id is None:
            raise UsageError("current_job().batch: no job runs here; the function was called directly")
        return self._batch

    def progress(self, done: float, total: float | None = None, /) -> None:
        """Say how far the job is; shown at most once a second. Outside a job: nothing."""
        self._on_progress(done, total)

    def log(self, message: str, /, **fields: object) -> None:
        """Keep a line with the job, shown with it; at most 100 an attempt. Outside a job: nothing."""
        self._on_line(" ".join([message, *(f"{name}={value}" for name, value in fields.items())]))

    def cancelled(self) -> bool:
        """Whether this attempt is asked to stop: deleted, timed out, or the worker shuts down. Outside a job: False."""
        return self._is_cancelled()

    def raise_if_cancelled(self) -> None:
        """Stop here if asked to.

        Raises:
            JobCancelled: the attempt is asked to stop.
        """
        if self._is_cancelled():
            raise JobCancelled


_NO_JOB = CurrentJob()
_current: ContextVar[CurrentJob] = ContextVar("broker_jobs_current_job", default=_NO_JOB)


def current_job() -> CurrentJob:
    """The job that runs here; outside a job one whose methods do nothing."""
    return _current.get()


def inside_job() -> bool:
    """Whether a job runs here."""
    return _current.get() is not _NO_JOB


@contextmanager
def running(job: CurrentJob) -> Iterator[CurrentJob]:
    """Make `job` the current one in this thread or task while the block runs."""
    token = _current.set(job)
    try:
        yield job
    finally:
        _current.reset(token)

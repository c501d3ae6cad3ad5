"""What is known of a job: its name, state, error, runs and times, as `receipt.info()` returns them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker_jobs.clock import Instant, as_datetime
from broker_jobs.messages.commands import JobReply
from broker_jobs.messages.priority import NORMAL, Priority
from broker_jobs.messages.state import State


@dataclass(frozen=True)
class JobError:
    """An exception that a run ended with: `type` is the name of its class, "ValueError" or "shop.errors.Refused"."""

    type: str
    message: str
    traceback: str


@dataclass(frozen=True)
class JobInfo:
    """What is known of a job at a moment. Returned by `receipt.info()`.

    Times are aware datetimes in UTC. `enqueued_at` is by the clock of the program that enqueued it, `started_at` and
    `ended_at` are by that of the worker.
    """

    id: str
    name: str
    queue: str
    priority: Priority
    tags: tuple[str, ...]
    state: State
    reason: str
    """Why it is in this state, as a sentence; "" where there is nothing to say."""
    error: JobError | None
    """The exception of its last run, while it waits for a retry or when it has ended; None: there was none."""
    attempts: int
    """How many runs have begun. Each counts, also one that was interrupted or crashed."""
    retries: int
    """How many retries its options allow."""
    enqueued_at: datetime
    due_at: datetime | None
    """The time before which it does not run, or did not: of a delay, or of its next retry; None: it has none."""
    started_at: datetime | None
    """When its last run began; None: it has not run, or its start is not known yet."""
    ended_at: datetime | None
    """When it ended; None: it has not."""


def job_info(id: str, reply: JobReply) -> JobInfo:
    """What a reply of the coordinator says of the job of a receipt."""
    error = reply.error
    return JobInfo(
        id=id,
        name=reply.job,
        queue=reply.queue,
        priority=reply.priority or NORMAL,
        tags=tuple(reply.tags),
        state=State(reply.state),
        reason=reply.reason,
        error=None if error is None else JobError(error.type, error.message, error.traceback),
        attempts=reply.runs,
        retries=reply.retries,
        enqueued_at=as_datetime(reply.created_at),
        due_at=_datetime(reply.due_at),
        started_at=_datetime(reply.started_at),
        ended_at=_datetime(reply.ended_at),
    )


def _datetime(instant: Instant | None) -> datetime | None:
    return None if instant is None else as_datetime(instant)

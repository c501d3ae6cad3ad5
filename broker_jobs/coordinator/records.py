"""Describes the records that a job's row is decided by, beside the workers' events.

Some come from messages (an envelope, a due notice, a command), some from the coordinator's own knowledge (a confirm
came, a lease is over, a queue is proven empty). All of them name one job.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker_jobs.messages.commands import DeleteJob, RequeueJob, RescheduleJob
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import Failed, Interrupted, LogLine, Overrun, Progress, Returned, Started, Succeeded


@dataclass(frozen=True, slots=True)
class ReadyCopy:
    """The log's copy of an envelope a producer published straight to its work queue."""

    envelope: Envelope
    body: str


@dataclass(frozen=True, slots=True)
class WaitingCopy:
    """An envelope the coordinator is to release.

    `copied_for`: a copy of it may be in the delay queues for so many seconds from now.
    """

    envelope: Envelope
    body: str
    copied_for: float | None = None
    member: bool = False
    """It came in a chunk: it takes nothing before its batch submission is complete."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """A producer repeats an envelope whose first message may or may not be in its work queue."""

    envelope: Envelope
    body: str


@dataclass(frozen=True, slots=True)
class DueNotice:
    """A copy came out of the delay queues: look at this job now."""

    envelope: Envelope
    body: str


@dataclass(frozen=True, slots=True)
class TimerDue:
    """A timer, or the end of a grace, or a change that may let a scheduled job go: apply the due rule."""

    id: str


@dataclass(frozen=True, slots=True)
class Released:
    """RabbitMQ has confirmed the release of this epoch."""

    id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ReleaseUnknown:
    """The release of this epoch may have been published: its coordinator died, or the confirm never came."""

    id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ReleaseFailed:
    """The release of this epoch was certainly not published."""

    id: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unroutable:
    """The job's queue does not exist and cannot be declared."""

    id: str
    epoch: int
    reason: str
    envelope: str


@dataclass(frozen=True, slots=True)
class LeaseOver:
    """The worker is dead in log time, or lives and does not list the job, twice and two seconds apart."""

    id: str
    worker: str
    reason: str
    release: str = ""
    """The version that the worker reported; empty: the worker is still known."""


@dataclass(frozen=True, slots=True)
class ProvenLost:
    """Proof that no message of this epoch is out (transitions R12)."""

    id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Fired:
    """A recurring job's planned time was taken, a person started a job, or an event was published."""

    envelope: Envelope
    body: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A person gives up a job that no living worker knows."""

    id: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class Undecidable:
    """What the coordinator itself knows of the job cannot be decided: deciding it raised, twice."""

    id: str
    reason: str


WorkerEvent = Started | Succeeded | Failed | Returned | Interrupted | Overrun | Progress | LogLine
JobCommand = DeleteJob | RequeueJob | RescheduleJob


@dataclass(frozen=True, slots=True)
class FromWorker:
    """An event of a worker."""

    worker: str
    event: WorkerEvent
    host: str = ""


JobRecord = (
    ReadyCopy
    | WaitingCopy
    | Repeat
    | DueNotice
    | TimerDue
    | Released
    | ReleaseUnknown
    | ReleaseFailed
    | Unroutable
    | LeaseOver
    | ProvenLost
    | Undecidable
    | GivenUp
    | Fired
    | FromWorker
    | DeleteJob
    | RequeueJob
    | RescheduleJob
)


def job_id(record: JobRecord) -> str:
    """The job a record is about."""
    match record:
        case ReadyCopy() | WaitingCopy() | Repeat() | DueNotice() | Fired():
            return record.envelope.id
        case FromWorker():
            return record.event.id
        case DeleteJob() | RequeueJob() | RescheduleJob():
            return record.job_id
        case _:
            return record.id

"""Says which jobs an input names, whose rows are asked for to decide it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from broker_jobs.coordinator.inputs import (
    CheckpointRead,
    ChunkReceived,
    CommandReceived,
    HeartbeatReceived,
    Input,
    MarkRemoved,
    ReadAgain,
    SupervisedReceived,
    UnknownParents,
    Unreadable,
    WorkItemsWaiting,
)
from broker_jobs.coordinator.records import DueNotice, ReadyCopy, Released, WaitingCopy, job_id
from broker_jobs.messages.batch import BatchCommit
from broker_jobs.messages.commands import DeleteJob, GetJob, RequeueJob, RescheduleJob
from broker_jobs.messages.events import Tick
from broker_jobs.messages.published import PublishedEvent


def named(one: Input) -> Sequence[str]:
    """The jobs whose rows are asked for to decide an input."""
    match one:
        case CommandReceived(command=DeleteJob() | RequeueJob() | RescheduleJob() | GetJob() as command):
            return (command.job_id,)
        case ChunkReceived():
            return [member.envelope.id for member in one.members]
        case (
            ReadAgain()
            | MarkRemoved()
            | CommandReceived()
            | HeartbeatReceived()
            | SupervisedReceived()
            | Tick()
            | CheckpointRead()
            | Unreadable()
            | BatchCommit()
            | PublishedEvent()
            | WorkItemsWaiting()
            | UnknownParents()
            | Released()
        ):
            return ()
        case _:
            return (job_id(one),)


def parents_named(one: Input) -> Sequence[str]:
    """The jobs that the job of an input waits for, which are asked about when it is accepted."""
    match one:
        case ReadyCopy() | WaitingCopy() | DueNotice() if one.envelope.after is not None:
            return [parent.id for parent in one.envelope.after.parents if not parent.batch]
        case _:
            return ()

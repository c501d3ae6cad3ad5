"""Decides what one record makes of one job's row, as a pure function: a single match says who decides what.

`decide` reads no clock, no store and no broker. Its cells are those of the tables in docs/internals/transitions.md, and
the model in tests/unit/coordinator walks through their interleavings.
"""

from __future__ import annotations

from typing import assert_never

from broker_jobs.coordinator.argument_edit import changes_arguments
from broker_jobs.coordinator.records import (
    DueNotice,
    Fired,
    FromWorker,
    GivenUp,
    JobRecord,
    LeaseOver,
    ProvenLost,
    ReadyCopy,
    Released,
    ReleaseFailed,
    ReleaseUnknown,
    Repeat,
    TimerDue,
    Undecidable,
    Unroutable,
    WaitingCopy,
)
from broker_jobs.coordinator.state_machine import people, workers
from broker_jobs.coordinator.state_machine.context import Context, Decision
from broker_jobs.coordinator.state_machine.envelopes import on_ready_copy, on_waiting_copy
from broker_jobs.coordinator.state_machine.releases import on_due, on_release, on_unroutable
from broker_jobs.messages.commands import DeleteJob, RequeueJob, RescheduleJob
from broker_jobs.store.row import Row


def decide(row: Row | None, record: JobRecord, at: Context) -> Decision:
    """The row after the record, and what is said about it.

    The given row is not changed; the decision has the same object when nothing changes.
    """
    match record:
        case ReadyCopy():
            return Decision(on_ready_copy(row, record, at))
        case WaitingCopy() | Repeat() | DueNotice() | Fired():
            return Decision(on_waiting_copy(row, record, at))
        case TimerDue():
            return Decision(None if row is None else on_due(row, at))
        case Released() | ReleaseUnknown() | ReleaseFailed() | ProvenLost():
            return Decision(row if row is None or row.epoch != record.epoch else on_release(row, record, at))
        case Unroutable():
            matched, notes = workers.matched(row, (record.id, record.epoch, record.envelope), at)
            return Decision(row if matched is None else on_unroutable(matched, record, at), notes=notes)
        case LeaseOver():
            return Decision(None if row is None else workers.on_lease_over(row, record, at))
        case Undecidable():
            return Decision() if row is None else workers.on_undecidable(row, record, at)
        case FromWorker():
            return workers.on_worker_event(row, record, at)
        case DeleteJob():
            return people.on_delete(row, record, at)
        case GivenUp():
            return people.on_given_up(row, record, at)
        case RequeueJob() if row is not None and changes_arguments(record):
            return people.on_requeue_changed(row, record, at)
        case RequeueJob():
            return people.requeued(row, at.now, at)
        case RescheduleJob():
            return people.on_reschedule(row, record, at)
        case _:
            assert_never(record)

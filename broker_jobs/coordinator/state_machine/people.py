"""Decides what a person's command makes of a job. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from broker_jobs.clock import Instant
from broker_jobs.coordinator.argument_edit import edited, refusal
from broker_jobs.coordinator.records import GivenUp
from broker_jobs.coordinator.state_machine.context import Context, Decision
from broker_jobs.coordinator.state_machine.steps import (
    DELETED,
    FAILED,
    SCHEDULED,
    entered,
    fence_of,
    is_clear,
    stub,
    waiting,
)
from broker_jobs.messages.commands import NO_SUCH_JOB, DeleteJob, RequeueJob, RescheduleJob
from broker_jobs.messages.state import State
from broker_jobs.store.row import Conditions, Reason, Row, WaitReason


def on_delete(row: Row | None, record: DeleteJob, at: Context) -> Decision:
    """A job is deleted: at once, or when its run has stopped."""
    if row is None:
        tomb = stub(record.job_id, 1, at)
        return Decision(entered(tomb, DELETED, at.now, "deleted before it was seen", fence=1))
    kept = {"reason_code": row.reason_code if row.reason_code in (Reason.RETURNED, Reason.REPEAT) else Reason.NONE}
    match row.state:
        case State.AWAITING:
            return Decision(entered(row, DELETED, at.now, "deleted", **kept))
        case State.SCHEDULED | State.ENQUEUED:
            return Decision(entered(row, DELETED, at.now, "deleted", fence=fence_of(row), **kept))
        case State.PROCESSING:
            return Decision(row.evolve(reason_code=Reason.CANCEL, reason="asked to stop"), cancel=True)
        case State.DELETED:
            if row.reason_code == Reason.UNSATISFIED or row.is_alias:
                group = None if row.is_alias else row.alias_group
                row = row.evolve(reason_code=Reason.NONE, reason="deleted", alias_group=group)
            return Decision(row, ended_before=True)
        case State.SUCCEEDED | State.FAILED:
            reason = f"deleted after it had {row.state.value}"
            return Decision(entered(row, DELETED, at.now, reason, **kept), ended_before=True)
        case _:
            assert_never(row.state)


def requeued(row: Row | None, due_at: Instant, at: Context, reason_code: str = Reason.NOW) -> Decision:
    """A job is to run again, or now."""
    if row is None:
        return Decision(refused=NO_SUCH_JOB)
    match row.state:
        case State.AWAITING:
            again = row.evolve(due_at=due_at, reason="run now, as asked", reason_code=reason_code, changed_at=at.now)
            stays = row.waits & ~(WaitReason.DEPENDENCY | WaitReason.UNKNOWN)
            return Decision(waiting(again, stays, at, "run now, as asked"))
        case State.SCHEDULED:
            kept = (
                row.reason_code
                if row.reason_code in (Reason.RETURNED, Reason.REPEAT, Reason.RETRY, Reason.CRASH)
                else reason_code
            )
            return Decision(row.evolve(due_at=due_at, reason_code=kept, reason="run now, as asked", changed_at=at.now))
        case State.ENQUEUED:
            return Decision(row, refused="it is already on its way: enqueued")
        case State.PROCESSING:
            return Decision(row, refused="it is running: delete it first, then requeue it")
        case State.SUCCEEDED | State.FAILED | State.DELETED:
            kept = (
                row.reason_code
                if row.state is DELETED and row.reason_code in (Reason.RETURNED, Reason.REPEAT)
                else reason_code
            )
            again = entered(
                row, SCHEDULED, at.now, "requeued, as asked", reason_code=kept, due_at=due_at, attempt=1, crashes=0,
                returns=0, unknowns=0, interruptions=0, lost_since=0, fence=fence_of(row), result=None,
                result_lost=None, progress=None, gives_back=not is_clear(row, at),
                conditions=row.conditions & ~Conditions.RELEASED,
            )  # fmt: skip
            return Decision(again)
        case _:
            assert_never(row.state)


def on_given_up(row: Row | None, record: GivenUp, at: Context) -> Decision:
    """A person fails a job that is held, as no living worker knows it."""
    if row is None:
        return Decision(refused=NO_SUCH_JOB)
    if not row.is_waiting or not row.waits & WaitReason.UNKNOWN:
        return Decision(row, refused="it is not held as a job that no living worker knows: delete it instead")
    by = f" by {record.by}" if record.by else ""
    reason = f"failed{by}, as no worker of queue {row.queue!r} knows a job named {row.job!r}"
    return Decision(entered(row, FAILED, at.now, reason, reason_code=Reason.NONE))


def on_requeue_changed(row: Row, record: RequeueJob, at: Context) -> Decision:
    """As a requeue, with other arguments."""
    changed = refusal(row, at.log_now) or edited(row, record, at.max_body)
    if isinstance(changed, str):
        return Decision(row, refused=changed)
    decision = requeued(changed, at.now, at)
    again = decision.row
    if again is None or decision.refused is not None:
        return replace(decision, row=row)
    reason = "requeued with changed arguments" + (f" by {record.by}" if record.by else "")
    last = (at.now, again.state.value, reason)
    history = [*again.history, last] if row.state is SCHEDULED else [*again.history[:-1], last]
    return replace(decision, row=again.evolve(reason=reason, history=history))


def on_reschedule(row: Row | None, record: RescheduleJob, at: Context) -> Decision:
    """A job is to run at another time."""
    if row is None:
        return Decision(refused=NO_SUCH_JOB)
    match row.state:
        case State.PROCESSING:
            return Decision(row, refused="it is running: delete it first, then reschedule it")
        case State.AWAITING | State.SCHEDULED:
            back = not is_clear(row, at)
            reason = "rescheduled, as asked"
            return Decision(row.evolve(due_at=record.due_at, reason=reason, changed_at=at.now, gives_back=back))
        case State.ENQUEUED:
            later = entered(
                row, SCHEDULED, at.now, "rescheduled, as asked", reason_code=Reason.RESCHEDULED, due_at=record.due_at,
                fence=row.epoch, gives_back=True,
            )  # fmt: skip
            return Decision(later)
        case State.SUCCEEDED | State.FAILED | State.DELETED:
            return requeued(row, record.due_at, at, Reason.RESCHEDULED)
        case _:
            assert_never(row.state)

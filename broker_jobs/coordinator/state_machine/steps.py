"""Makes the small changes of a row that all decisions are made of. Pure."""

from __future__ import annotations

from broker_jobs.clock import Instant
from broker_jobs.coordinator.state_machine.context import Context
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope, Policy
from broker_jobs.messages.priority import NORMAL
from broker_jobs.messages.state import State
from broker_jobs.store.row import Conditions, Publication, Reason, Row, WaitReason

AWAITING, SCHEDULED, ENQUEUED = State.AWAITING, State.SCHEDULED, State.ENQUEUED
PROCESSING, SUCCEEDED, FAILED, DELETED = State.PROCESSING, State.SUCCEEDED, State.FAILED, State.DELETED

COME = "what it waited for has come"
"""Why a job goes on."""


def born(envelope: Envelope, body: str, state: State, at: Context, **columns: object) -> Row:
    due_at = envelope.due_at.timestamp() if envelope.due_at is not None else None
    created_at = envelope.created_at.timestamp()
    row = Row(
        id=envelope.id,
        job=envelope.job,
        queue=envelope.queue,
        state=state,
        epoch=envelope.epoch,
        attempt=envelope.attempt,
        due_at=due_at,
        created_at=created_at,
        changed_at=at.now,
        retries=envelope.policy.retries,
        envelope=body,
        parent=envelope.parent,
        batch=envelope.batch,
        recurring=envelope.recurring,
        tags=" ".join(envelope.tags),
        priority=None if envelope.priority == NORMAL else envelope.priority,
        conditions=Conditions.KEPT if envelope.policy.has_own_retention else Conditions.NONE,
    )
    for name, value in columns.items():
        setattr(row, name, value)
    return row


def completed(row: Row, envelope: Envelope, body: str) -> Row:
    """What an envelope tells of a row that was made from an event or a command before it was seen."""
    if row.envelope:
        return row
    return row.evolve(
        job=envelope.job,
        queue=envelope.queue,
        envelope=body,
        created_at=envelope.created_at.timestamp(),
        due_at=row.due_at if row.due_at is not None or envelope.due_at is None else envelope.due_at.timestamp(),
        retries=envelope.policy.retries,
        parent=envelope.parent,
        batch=envelope.batch,
        recurring=envelope.recurring,
        tags=" ".join(envelope.tags),
        priority=None if envelope.priority == NORMAL else envelope.priority,
        conditions=row.conditions | (Conditions.KEPT if envelope.policy.has_own_retention else Conditions.NONE),
    )


def was_due(row: Row, now: Instant) -> Instant:
    """Since when a job may start. It stays when a worker gives the job back, as `expires` counts from it."""
    return min(now, row.created_at if row.due_at is None else row.due_at)


def late_by(row: Row, now: Instant) -> float:
    """How many seconds after its time a job is released; of one that came back, since it came back."""
    waited_from = row.history[-2][0] if len(row.history) > 1 else 0.0
    return max(0.0, now - max(row.due_at or 0.0, waited_from))


def entered(row: Row, state: State, at: Instant, reason: str, **columns: object) -> Row:
    """The row in another state, the step written into its history."""
    columns.setdefault("reason_code", Reason.NONE)
    columns.setdefault("waits", WaitReason.NOTHING)
    ended_at = at if state.is_final else None
    history = [*row.history, (at, state.value, reason)]
    return row.evolve(state=state, changed_at=at, ended_at=ended_at, reason=reason, history=history, **columns)


def waiting(row: Row, waits: int, at: Context, reason: str) -> Row:
    """A job that is to be released, with what it waits for: awaiting while a bit is set, scheduled when none is."""
    state = AWAITING if waits else SCHEDULED
    if not waits and row.due_at is None:  # jobs are found by their time, also by the next coordinator
        row = row.evolve(due_at=at.now)
    if state is row.state:
        return row if waits == row.waits else row.evolve(waits=waits, reason=reason)
    return entered(row, state, at.now, reason, waits=waits, reason_code=row.reason_code)


def grace_ended(row: Row, at: Context) -> Row:
    """No report came of what may have been running: nothing of it is out any more, and what still is shall not run."""
    if row.grace_until is None or row.grace_until > at.log_now or row.publication is not Publication.NONE:
        return row
    return row.evolve(grace_until=None, fence=max(row.fence, row.epoch) if row.is_waiting else row.fence)


def unpublished(row: Row) -> Row:
    """Nothing of the job is out any more; its fence has nothing left to stop."""
    return row.evolve(publication=Publication.NONE, fence=0, sender=None)


NOT_PUBLISHED: dict[str, object] = {
    "publication": Publication.NONE,
    "fence": 0,
    "sender": None,
    "owner": None,
    "owned": False,
}
"""The columns of a row that neither a queue nor a worker holds."""


def fence_of(row: Row) -> int:
    """The fence that stops whatever of this row may be out, also where it is only not known to be gone."""
    return (
        row.epoch
        if row.publication is not Publication.NONE or row.reason_code in (Reason.RETURNED, Reason.REPEAT)
        else row.fence
    )


def policy_of(row: Row) -> Policy:
    return codec.decode(row.envelope).policy if row.envelope else Policy()


def stub(id: str, epoch: int, at: Context) -> Row:
    """An enqueued row for a job that is only known from an event so far."""
    return Row(
        id=id,
        state=ENQUEUED,
        epoch=epoch,
        publication=Publication.PUBLISHED,
        created_at=at.now,
        changed_at=at.now,
        released_at=at.now,
    )


def is_due(row: Row, at: Context) -> bool:
    """Whether a scheduled job may be released now: its time has come, nothing of it is out, its grace is over."""
    return row.state is SCHEDULED and is_clear(row, at) and (row.due_at is None or row.due_at <= at.until)


def is_clear(row: Row, at: Context) -> bool:
    """Whether nothing of a job may be running: no message is out, and its grace is over."""
    return row.publication is Publication.NONE and (row.grace_until is None or row.grace_until <= at.log_now)

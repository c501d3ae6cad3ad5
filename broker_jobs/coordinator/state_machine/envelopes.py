"""Decides what an envelope makes of a job: direct, to be released, repeated, or due. Pure."""

from __future__ import annotations

from broker_jobs.coordinator.records import DueNotice, Fired, ReadyCopy, Repeat, WaitingCopy
from broker_jobs.coordinator.state_machine.context import Context
from broker_jobs.coordinator.state_machine.steps import AWAITING, ENQUEUED, SCHEDULED, born, completed, entered
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Reason, Row, WaitReason

GRACE_SECONDS = 10.0
"""Log time for which a job whose message came back waits for a report of the worker that may have run it.

It outlives a reconnect and a flush.
"""
INCOMPLETE = "waits for its batch to be complete"
"""The reason of a member whose submission is not complete."""


def on_ready_copy(row: Row | None, record: ReadyCopy, at: Context) -> Row:
    envelope = record.envelope
    if row is None:
        if envelope.has_conditions:
            return _held_direct(envelope, record, at)
        created_at = envelope.created_at.timestamp()
        # The producer's clock proves nothing: its message is out since now at the latest.
        fresh = born(envelope, record.body, ENQUEUED, at, publication=Publication.PUBLISHED, released_at=at.now)
        fresh.history.append((created_at, ENQUEUED.value, ""))
        return fresh
    row = completed(row, envelope, record.body)
    if envelope.epoch < row.epoch:
        return row
    if envelope.epoch > row.epoch:
        row = row.evolve(epoch=envelope.epoch, publication=Publication.PUBLISHED, sender=None)
    match row.state:
        case State.SCHEDULED if row.reason_code == Reason.REPEAT:
            return entered(
                row,
                ENQUEUED,
                at.now,
                "its first message was in the queue",
                publication=Publication.PUBLISHED,
                grace_until=None,
            )
        case State.DELETED if row.publication is not Publication.NONE:
            return row.evolve(fence=row.epoch)
        case _:
            return row


def _held_direct(envelope: Envelope, record: ReadyCopy, at: Context) -> Row:
    """A job that was published straight to its queue though it has conditions: a worker returns its message unrun."""
    waits = WaitReason.NOTHING if envelope.after is None else WaitReason.DEPENDENCY
    reason = "waits for its message, which was published without its conditions being asked"
    row = born(
        envelope, record.body, AWAITING if waits else SCHEDULED, at, publication=Publication.PUBLISHED,
        released_at=at.now, fence=envelope.epoch, waits=waits, due_at=at.now,
    )  # fmt: skip
    row.reason = _what_is_waited_for(envelope) if waits else reason
    row.history.append((at.now, row.state.value, row.reason))
    return row


def on_waiting_copy(row: Row | None, record: WaitingCopy | Repeat | DueNotice | Fired, at: Context) -> Row:
    envelope = record.envelope
    if row is not None:
        never_out = isinstance(record, WaitingCopy) and _was_only_deleted(row)
        row = completed(row, envelope, record.body)
        if never_out:
            row = row.evolve(publication=Publication.NONE)
        if isinstance(record, WaitingCopy) and record.copied_for is not None and row.copy_until is None:
            return row.evolve(copy_until=at.now + record.copied_for)
        return row.evolve(copy_until=None) if isinstance(record, DueNotice) else row
    if isinstance(record, Repeat):
        fresh = born(envelope, record.body, SCHEDULED, at, epoch=max(1, envelope.epoch), reason_code=Reason.REPEAT)
        fresh.reason = "repeated by its producer; waits for word of the first message"
        fresh.grace_until = at.log_now + GRACE_SECONDS
    else:
        epoch = envelope.epoch if isinstance(record, DueNotice) else 0
        waits = _waits_of(record)
        fresh = born(envelope, record.body, AWAITING if waits else SCHEDULED, at, epoch=epoch, waits=waits)
        fresh.reason = _what_is_waited_for(envelope) if waits else ""
        if isinstance(record, WaitingCopy) and record.copied_for is not None:
            fresh.copy_until = at.now + record.copied_for
    if fresh.due_at is None and fresh.state is SCHEDULED:
        fresh.due_at = at.now
    fresh.history.append((at.now, fresh.state.value, fresh.reason))
    return fresh


def _was_only_deleted(row: Row) -> bool:
    """Whether nothing is known of a job but that a person has deleted it, and perhaps requeued it since.

    It may have been out then. If it is one that the coordinator releases, it never was.
    """
    return not row.envelope and row.fence == row.epoch == 1 and row.started_at is None and row.owner is None


def _waits_of(record: WaitingCopy | DueNotice | Fired) -> int:
    """What a new job waits for, before any of it was asked."""
    if isinstance(record, WaitingCopy) and record.member:
        return WaitReason.COMMIT
    return WaitReason.NOTHING if record.envelope.after is None else WaitReason.DEPENDENCY


def _what_is_waited_for(envelope: Envelope) -> str:
    after = envelope.after
    if after is None:
        return INCOMPLETE
    first = after.parents[0]
    more = f" and {len(after.parents) - 1} more" if len(after.parents) > 1 else ""
    return f"waits for {'batch ' if first.batch else ''}{first.id} to have {first.on}{more}"

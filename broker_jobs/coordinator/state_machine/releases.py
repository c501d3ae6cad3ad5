"""Decides the release of a job, and what becomes known of the message that was published for it. Pure."""

from __future__ import annotations

from broker_jobs.coordinator.records import ProvenLost, Released, ReleaseFailed, ReleaseUnknown, Unroutable
from broker_jobs.coordinator.state_machine.context import Context
from broker_jobs.coordinator.state_machine.envelopes import GRACE_SECONDS
from broker_jobs.coordinator.state_machine.steps import (
    ENQUEUED,
    FAILED,
    NOT_PUBLISHED,
    PROCESSING,
    SCHEDULED,
    entered,
    is_due,
    unpublished,
)
from broker_jobs.messages.envelope import MAX_NUMBER
from broker_jobs.store.row import Conditions, Publication, Reason, Row

UNRELEASED_SECONDS = 1.0
"""A release that failed for certain is made again after this."""


def on_due(row: Row, at: Context) -> Row:
    if not is_due(row, at):
        return row
    fence = row.epoch if row.grace_until is not None else row.fence
    if row.epoch > 0 and row.reason_code in (Reason.CRASH, Reason.RETURNED):  # its run may live, and succeed
        row = row.evolve(lost_since=row.lost_since or row.epoch)
    return released(row, at, fence, row.attempt + (row.reason_code in (Reason.RETRY, Reason.CRASH)))


def released(row: Row, at: Context, fence: int, attempt: int) -> Row:
    if not row.envelope:
        return entered(row, FAILED, at.now, "its envelope was never seen: it cannot be released", **NOT_PUBLISHED)
    if row.epoch >= MAX_NUMBER or attempt > MAX_NUMBER:  # as a message made up; nobody could read the next one
        reason = (
            f"it cannot be released: its epoch is {row.epoch} and its attempt {attempt}, and {MAX_NUMBER} is the last"
        )
        return entered(row, FAILED, at.now, reason, **NOT_PUBLISHED)
    return entered(
        row, ENQUEUED, at.now, "", publication=Publication.PUBLISHING, sender=at.coordinator, epoch=row.epoch + 1,
        fence=fence, attempt=attempt, released_at=max(at.now, row.due_at or 0.0), grace_until=None,
        owner=None, owned=False, gives_back=False, conditions=row.conditions | Conditions.RELEASED,
    )  # fmt: skip


def on_release(row: Row, record: Released | ReleaseUnknown | ReleaseFailed | ProvenLost, at: Context) -> Row:
    match record:
        case Released():
            return (
                row.evolve(publication=Publication.PUBLISHED, sender=None)
                if row.publication is Publication.PUBLISHING
                else row
            )
        case ReleaseUnknown() if row.publication is Publication.PUBLISHING:
            if row.state is not ENQUEUED:
                return row.evolve(publication=Publication.PUBLISHED, sender=None)
            reason = "its release may or may not have been published"
            return entered(
                row,
                SCHEDULED,
                at.now,
                reason,
                reason_code=Reason.RETURNED,
                due_at=at.now,
                grace_until=at.log_now + GRACE_SECONDS,
                **NOT_PUBLISHED,
            )
        case ReleaseFailed() if row.publication is Publication.PUBLISHING:
            if row.state is not ENQUEUED:
                return unpublished(row)
            due_at = max(at.now + UNRELEASED_SECONDS, row.due_at or 0.0)
            return entered(
                row, SCHEDULED, at.now, record.reason, reason_code=Reason.NOW, due_at=due_at, **NOT_PUBLISHED
            )
        case ProvenLost() if row.publication is Publication.PUBLISHED:
            if row.state is PROCESSING:
                return row
            if row.state is ENQUEUED:
                return released(row.evolve(reason="its message was lost"), at, row.epoch, row.attempt)
            return unpublished(row)
        case _:
            return row


def on_unroutable(row: Row, record: Unroutable, at: Context) -> Row:
    if row.state is ENQUEUED:
        return entered(row, FAILED, at.now, record.reason, **NOT_PUBLISHED)
    return row if row.state is PROCESSING else unpublished(row)

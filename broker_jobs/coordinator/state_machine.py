"""Decides what one record makes of one job's row: the law, as a pure function.

`decide(row, record, at)` returns the next row and what must be said about it. It reads no clock, no store and no
broker. Its cells are those of the table in docs/internals/transitions.md, and the model in tests/unit/coordinator walks
through their interleavings. The engine compares the row before and after: a row that became `publishing` is published
after the commit, a fence that grew is told to the workers, an arrow into a final state ends what waits for the job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from broker_jobs.clock import Instant
from broker_jobs.coordinator.argument_edit import changes_arguments, edited, refusal
from broker_jobs.coordinator.backoff import retry_delay
from broker_jobs.coordinator.records import (
    DependencyFailed,
    DependencyMet,
    DueNotice,
    Duplicate,
    Fired,
    FromWorker,
    JobRecord,
    LeaseOver,
    LimitReached,
    Postponed,
    ProvenLost,
    ReadyCopy,
    Released,
    ReleaseFailed,
    ReleaseUnknown,
    Repeat,
    Replaced,
    SlotFreed,
    TimerDue,
    Undecidable,
    Unroutable,
    Unsatisfied,
    WaitingCopy,
    WaitsAgain,
)
from broker_jobs.messages import codec
from broker_jobs.messages.commands import NO_SUCH_JOB, DeleteJob, RequeueJob, RescheduleJob
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS, Envelope, Policy
from broker_jobs.messages.events import Failed, Interrupted, LogLine, Progress, Returned, Started, Succeeded
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Reason, Row

GRACE_SECONDS = 10.0
"""Log time a job that came back waits for word of who ran it; outlives a reconnect and a flush."""
MAX_CRASHES = 3
MAX_UNKNOWN = 10
MAX_INTERRUPTIONS = 10
"""So many count as one crash: a job that outlasts every shutdown must not run without end."""
LEAVING_SECONDS = 1.0
"""How long a process may take to end after it said that a job still runs in it that RabbitMQ no longer backs."""
UNKNOWN_JOB_SECONDS = 30.0
UNRELEASED_SECONDS = 1.0

INTERRUPTED = "interrupted: its worker had to leave before it ended"

AWAITING, SCHEDULED, ENQUEUED = State.AWAITING, State.SCHEDULED, State.ENQUEUED
PROCESSING, SUCCEEDED, FAILED, DELETED = State.PROCESSING, State.SUCCEEDED, State.FAILED, State.DELETED


@dataclass(frozen=True, slots=True)
class Context:
    """When and by whom is decided: wall time, log time, this coordinator's id, and chance for the back-off."""

    now: Instant
    log_now: float
    coordinator: str
    chance: Callable[[], float]
    ahead: float = 0.0
    """Seconds: what comes due so soon is released now, and let go at its time (see precise_timer.py)."""
    max_body: int = 256 * 1024
    """Bytes a message may have."""

    @property
    def until(self) -> Instant:
        """What is due by then is due now: the one bound that every question about a job's time is asked with."""
        return self.now + self.ahead


@dataclass(slots=True)
class Decision:
    """What a decision says beside the row."""

    refused: str | None = None
    """Why a command did nothing, and what to do instead."""
    ended_before: bool = False
    """The command found the job ended."""
    cancel: bool = False
    """The worker is to be told that the job should stop."""
    fenced_runner: str | None = None
    """A worker runs what has ended: it is to be told."""
    metrics: list[str] = field(default_factory=list)


def decide(row: Row | None, record: JobRecord, at: Context) -> tuple[Row | None, Decision]:
    """The row after the record (None: nothing is known of the job still), and what is said.

    The given row is not changed; the same object is returned when nothing changes.
    """
    said = Decision()
    match record:
        case ReadyCopy():
            return _ready(row, record, at), said
        case WaitingCopy() | Repeat() | DueNotice() | Fired():
            return _held(row, record, at), said
        case TimerDue():
            return (None if row is None else _due(row, at)), said
        case DependencyMet() | Unsatisfied() | WaitsAgain() | DependencyFailed():
            return (None if row is None else _waited(row, record, at)), said
        case LimitReached() | SlotFreed() | Postponed() | Duplicate() | Replaced():
            return (None if row is None else _limited(row, record, at)), said
        case Released() | ReleaseUnknown() | ReleaseFailed() | ProvenLost():
            return (row if row is None or row.epoch != record.epoch else _set_publication(row, record, at)), said
        case Unroutable():
            return _unroutable(_matched(row, (record.id, record.epoch, record.envelope), at, said), record, at), said
        case LeaseOver():
            return (None if row is None else _lease_over(row, record, at)), said
        case Undecidable():
            return (None if row is None else _undecidable(row, record, at, said)), said
        case FromWorker():
            return _by_own_clock(row, _told(row, record, at, said), at), said
        case DeleteJob():
            return _delete(row, record, at, said), said
        case RequeueJob() if row is not None and changes_arguments(record):
            return _requeue_changed(row, record, at, said), said
        case RequeueJob():
            return _requeue(row, at.now, at, said), said
        case RescheduleJob():
            return _reschedule(row, record, at, said), said
        case _:
            assert_never(record)


# ---- the row and its small changes ---------------------------------------------------------------------------------


def _born(envelope: Envelope, body: str, state: State, at: Context, **columns: object) -> Row:
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
    )
    for name, value in columns.items():
        setattr(row, name, value)
    return row


def _fill(row: Row, envelope: Envelope, body: str) -> Row:
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
    )


def _enter(row: Row, state: State, at: Instant, reason: str, **columns: object) -> Row:
    """The row in another state, the step written into its history."""
    columns.setdefault("reason_code", Reason.NONE)
    ended_at = at if state.is_final else None
    history = [*row.history, (at, state.value, reason)]
    return row.evolve(state=state, changed_at=at, ended_at=ended_at, reason=reason, history=history, **columns)


def _by_own_clock(before: Row | None, row: Row | None, at: Context) -> Row | None:
    """The row that a worker's event made, its state entered now by this coordinator's clock.

    Retention and statistics go by it; the worker's clock is for display.
    """
    if row is not None and row is not before and (before is None or len(row.history) != len(before.history)):
        row.changed_at = at.now  # nothing else holds this row yet
    return row


def _unwired(row: Row) -> Row:
    """Nothing of the job is out any more; its fence has nothing left to stop."""
    if row.publication is Publication.NONE and not row.fence:
        return row
    return row.evolve(publication=Publication.NONE, fence=0, sender=None)


NOT_PUBLISHED: dict[str, object] = {
    "publication": Publication.NONE,
    "fence": 0,
    "sender": None,
    "owner": None,
    "owned": False,
}
"""The columns of a row that neither a queue nor a worker holds."""


def _fenced(row: Row) -> int:
    """The fence that stops whatever of this row may be out, also where it is only not known to be gone."""
    return (
        row.epoch
        if row.publication is not Publication.NONE or row.reason_code in (Reason.RETURNED, Reason.REPEAT)
        else row.fence
    )


def _policy(row: Row) -> Policy:
    return codec.decode(row.envelope).policy if row.envelope else Policy(retries=row.retries)


def _matched(row: Row | None, told: tuple[str, int, str], at: Context, said: Decision) -> Row | None:
    """The row an event of `epoch` is decided against; None when the event is of an older epoch.

    A row the store does not know, or knows at an older epoch (it was restored), takes the event's. `told` is the job's
    id, the epoch, and the envelope's JSON or an empty string.
    """
    id, epoch, body = told
    if row is None:
        row = _stub(id, epoch, at)
    elif epoch < row.epoch:
        said.metrics.append("stale")
        return None
    elif epoch > row.epoch:
        row = row.evolve(epoch=epoch, publication=Publication.PUBLISHED, sender=None)
    if body and not row.envelope:
        try:
            row = _fill(row, codec.decode(body), body)
        except codec.Undecodable:
            said.metrics.append("undecodable envelope in event")
    return row


def _stub(id: str, epoch: int, at: Context) -> Row:
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


# ---- envelopes -----------------------------------------------------------------------------------------------------


def _ready(row: Row | None, record: ReadyCopy, at: Context) -> Row:
    envelope = record.envelope
    if row is None:
        created_at = envelope.created_at.timestamp()
        # The producer's clock proves nothing: its message is out since now at the latest.
        fresh = _born(envelope, record.body, ENQUEUED, at, publication=Publication.PUBLISHED, released_at=at.now)
        fresh.history.append((created_at, ENQUEUED.value, ""))
        return fresh
    row = _fill(row, envelope, record.body)
    if envelope.epoch < row.epoch:
        return row
    if envelope.epoch > row.epoch:
        row = row.evolve(epoch=envelope.epoch, publication=Publication.PUBLISHED, sender=None)
    match row.state:
        case State.SCHEDULED if row.reason_code == Reason.REPEAT:
            return _enter(
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


def _held(row: Row | None, record: WaitingCopy | Repeat | DueNotice | Fired, at: Context) -> Row:
    envelope = record.envelope
    if row is not None:
        row = _fill(row, envelope, record.body)
        if isinstance(record, WaitingCopy) and record.copied_for is not None and row.copy_until is None:
            return row.evolve(copy_until=at.now + record.copied_for)
        return row.evolve(copy_until=None) if isinstance(record, DueNotice) and row.copy_until is not None else row
    if isinstance(record, Repeat):
        fresh = _born(envelope, record.body, SCHEDULED, at, epoch=max(1, envelope.epoch), reason_code=Reason.REPEAT)
        fresh.reason = "repeated by its producer; waits for word of the first message"
        fresh.grace_until = at.log_now + GRACE_SECONDS
    elif isinstance(record, Fired | WaitingCopy) and record.waits:
        fresh = _born(envelope, record.body, AWAITING, at, epoch=0)
        fresh.reason = _what_is_waited_for(record)
    else:
        epoch = envelope.epoch if isinstance(record, DueNotice) else 0
        fresh = _born(envelope, record.body, SCHEDULED, at, epoch=epoch)
        if isinstance(record, WaitingCopy) and record.copied_for is not None:
            fresh.copy_until = at.now + record.copied_for
    if fresh.due_at is None and fresh.state is SCHEDULED:
        fresh.due_at = at.now
    fresh.history.append((at.now, fresh.state.value, fresh.reason))
    return fresh


def _what_is_waited_for(record: WaitingCopy | Fired) -> str:
    if isinstance(record, Fired):
        return "waits for the run before it"
    after = record.envelope.after
    if after is None:
        return "waits for its batch to be complete"
    first = after.parents[0]
    more = f" and {len(after.parents) - 1} more" if len(after.parents) > 1 else ""
    return f"waits for {'batch ' if first.batch else ''}{first.id} to have {first.on}{more}"


# ---- releases ------------------------------------------------------------------------------------------------------


def is_due(row: Row, at: Context) -> bool:
    """Whether a scheduled job may be released now: its time has come, nothing of it is out, its grace is over."""
    return row.state is SCHEDULED and is_clear(row, at) and (row.due_at is None or row.due_at <= at.until)


def is_clear(row: Row, at: Context) -> bool:
    """Whether nothing of a job may be running: no message is out, and its grace is over."""
    return row.publication is Publication.NONE and (row.grace_until is None or row.grace_until <= at.log_now)


def _due(row: Row, at: Context) -> Row:
    if not is_due(row, at):
        return row
    fence = row.epoch if row.grace_until is not None else 0
    return _release(row, at, fence, row.attempt + (row.reason_code in (Reason.RETRY, Reason.CRASH)))


def _release(row: Row, at: Context, fence: int, attempt: int) -> Row:
    if not row.envelope:
        return _enter(row, FAILED, at.now, "its envelope was never seen: it cannot be released", **NOT_PUBLISHED)
    return _enter(
        row, ENQUEUED, at.now, "", publication=Publication.PUBLISHING, sender=at.coordinator, epoch=row.epoch + 1,
        fence=fence, attempt=attempt, released_at=max(at.now, row.due_at or 0.0), grace_until=None,
        owner=None, owned=False,
    )  # fmt: skip


def _waited(row: Row, record: DependencyMet | Unsatisfied | WaitsAgain | DependencyFailed, at: Context) -> Row:
    """What the job waited for has come, can not come, may come again, or was never there."""
    unsatisfied = row.state is DELETED and row.reason_code == Reason.UNSATISFIED
    match record:
        case DependencyMet() if row.state is AWAITING or unsatisfied:
            due_at = max(at.now + _delay_after(row), row.due_at or 0.0)
            return _enter(row, SCHEDULED, at.now, "what it waited for has come", reason_code=Reason.NOW, due_at=due_at)
        case Unsatisfied() if row.state is AWAITING:
            return _enter(row, DELETED, at.now, record.reason, reason_code=Reason.UNSATISFIED)
        case WaitsAgain() if unsatisfied:
            return _enter(row, AWAITING, at.now, "what it waits for may come again")
        case DependencyFailed() if row.state in (AWAITING, SCHEDULED) and row.publication is Publication.NONE:
            return _enter(row, FAILED, at.now, record.reason)
        case _:
            return row


def _limited(row: Row, record: LimitReached | SlotFreed | Postponed | Duplicate | Replaced, at: Context) -> Row:
    """What limits and unique keys make of a job that nothing is out of."""
    if row.publication is not Publication.NONE or row.state not in (SCHEDULED, AWAITING):
        return row
    match record:
        case LimitReached():
            return (
                row
                if row.state is AWAITING
                else _enter(row, AWAITING, at.now, record.reason, reason_code=row.reason_code)
            )
        case SlotFreed():
            return (
                row
                if row.state is SCHEDULED
                else _enter(row, SCHEDULED, at.now, "a slot is free", reason_code=row.reason_code)
            )
        case Postponed():
            return row.evolve(due_at=record.due_at, reason=record.reason)
        case Duplicate():
            return _enter(row, DELETED, at.now, f"duplicate of {record.of}", reason_code=Reason.ALIAS, parent=record.of)
        case Replaced():
            return _enter(row, DELETED, at.now, f"replaced by {record.by}")
        case _:
            assert_never(record)


def _delay_after(row: Row) -> float:
    """The seconds a job waits after the last of its parents."""
    after = codec.decode(row.envelope).after if row.envelope else None
    return 0.0 if after is None or after.delay is None else after.delay


def _set_publication(row: Row, record: Released | ReleaseUnknown | ReleaseFailed | ProvenLost, at: Context) -> Row:
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
            return _enter(
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
                return _unwired(row)
            due_at = max(at.now + UNRELEASED_SECONDS, row.due_at or 0.0)
            return _enter(row, SCHEDULED, at.now, record.reason, reason_code=Reason.NOW, due_at=due_at, **NOT_PUBLISHED)
        case ProvenLost() if row.publication is Publication.PUBLISHED:
            if row.state is PROCESSING:
                return row
            if row.state is ENQUEUED:
                return _release(row.evolve(reason="its message was lost"), at, row.epoch, row.attempt)
            return _unwired(row)
        case _:
            return row


def _unroutable(row: Row | None, record: Unroutable, at: Context) -> Row | None:
    if row is None or row.state is not ENQUEUED:
        return row
    return _enter(row, FAILED, at.now, record.reason, **NOT_PUBLISHED)


# ---- what workers tell ---------------------------------------------------------------------------------------------


def _told(row: Row | None, record: FromWorker, at: Context, said: Decision) -> Row | None:
    event = record.event
    body = event.envelope if isinstance(event, Failed | Returned | Interrupted) else ""
    matched = _matched(row, (event.id, event.epoch, body), at, said)
    if matched is None:
        return row
    if matched.state is AWAITING and row is not None and row.epoch == event.epoch > 0:
        matched = matched.evolve(state=SCHEDULED)  # it stands in line for its next run; word of the last one overtakes
    match event:
        case Started():
            return _started(matched, event, record.worker, said)
        case Succeeded():
            return _succeeded(matched, event)
        case Failed():
            return _failed(matched, event, at)
        case Returned():
            return _on_returned(matched, event, record.worker, at)
        case Interrupted():
            return _interrupted(matched, event, record.worker, at)
        case Progress():
            return _progress(matched, event)
        case LogLine():
            return matched
        case _:
            assert_never(event)


def _started(row: Row, event: Started, worker: str, said: Decision) -> Row:
    match row.state:
        case State.SCHEDULED if row.reason_code in (Reason.RETURNED, Reason.REPEAT):
            return _processing(row, event.at, worker, owned=True)
        case State.SCHEDULED if row.publication is Publication.PUBLISHED:
            return _processing(row, event.at, worker, owned=event.owned)
        case State.ENQUEUED if row.reason_code == Reason.INTERRUPTED:  # told again: that run is over
            return row
        case State.ENQUEUED:
            return _processing(row, event.at, worker, owned=event.owned)
        case State.PROCESSING if row.owner == worker:
            return row.evolve(owned=True) if event.owned and not row.owned else row
        case State.PROCESSING:
            said.metrics.append("started twice")
            return row
        case State.SUCCEEDED | State.FAILED | State.DELETED if event.owned:
            said.fenced_runner = worker
            return row
        case _:
            return row


def _processing(row: Row, started_at: Instant, worker: str, *, owned: bool) -> Row:
    return _enter(
        row, PROCESSING, started_at, "", publication=Publication.PUBLISHED, sender=None, owner=worker, owned=owned,
        started_at=started_at, grace_until=None,
    )  # fmt: skip


def _with_run(row: Row, started_at: Instant) -> Row:
    """The row with the run in its history, for a job too short to have been reported as started."""
    if row.state is PROCESSING:
        return row
    return row.evolve(started_at=started_at, history=[*row.history, (started_at, PROCESSING.value, "")])


def _succeeded(row: Row, event: Succeeded) -> Row:
    match row.state:
        case State.AWAITING:
            return row
        case State.SCHEDULED | State.ENQUEUED | State.PROCESSING:
            return _enter(
                _with_run(row, event.started_at), SUCCEEDED, event.ended_at, "", grace_until=None,
                result=event.result, result_lost=event.result_lost, error=None, **NOT_PUBLISHED,
            )  # fmt: skip
        case _:
            return _unwired(row)


def _failed(row: Row, event: Failed, at: Context) -> Row:
    match row.state:
        case State.AWAITING:
            return row
        case State.SCHEDULED if row.reason_code in (Reason.RETRY, Reason.CRASH):
            return row
        case State.SCHEDULED if row.reason_code not in (Reason.RETURNED, Reason.REPEAT):
            return _unwired(row)
        case State.SCHEDULED | State.ENQUEUED | State.PROCESSING:
            cancelled = row.reason_code == Reason.CANCEL
            return _retry_or_fail(_with_run(row, event.started_at), event, at, cancelled=cancelled)
        case _:
            return _unwired(row)


def _retry_or_fail(row: Row, event: Failed, at: Context, *, cancelled: bool) -> Row:
    text = f"{event.error.type}: {event.error.message}".split("\n", 1)[0][:300]
    seen: dict[str, object] = {"error": event.error.model_dump_json(), "grace_until": None, **NOT_PUBLISHED}
    if cancelled:
        return _enter(row, DELETED, event.ended_at, "stopped as asked", **seen)
    if event.cancelled:
        return _enter(
            row, SCHEDULED, event.ended_at, "stopped at shutdown", reason_code=Reason.NOW, due_at=at.now, **seen
        )
    if event.final or row.attempt > row.retries:
        runs = f" after {row.attempt} runs" if row.attempt > 1 else ""
        return _enter(row, FAILED, event.ended_at, f"failed{runs}: {text}", **seen)
    asked = event.retry_after
    delay = min(asked, MAX_DELAY_SECONDS) if asked is not None else retry_delay(_policy(row), row.attempt, at.chance)
    reason = f"retry {row.attempt} of {row.retries}: {text}"
    return _enter(row, SCHEDULED, event.ended_at, reason, reason_code=Reason.RETRY, due_at=at.now + delay, **seen)


def _on_returned(row: Row, event: Returned, worker: str, at: Context) -> Row:
    match event.reason:
        case "redelivered" | "fenced" | "delivery limit":
            return _return(row, event, at)
        case "shutdown" | "pause" | "unknown job" | "waited too long" | "no queue":
            return _given_back(row, event, worker, at)
        case _:
            assert_never(event.reason)


def _return(row: Row, event: Returned, at: Context) -> Row:
    """A delivery that may have been run by somebody before: never run again without the coordinator's word."""
    grace = at.log_now + GRACE_SECONDS if event.redelivered else row.grace_until
    match row.state:
        case State.AWAITING:
            return row
        case State.SCHEDULED:
            reason_code = Reason.RETURNED if row.reason_code == Reason.REPEAT else row.reason_code
            return _unwired(row).evolve(grace_until=grace, reason_code=reason_code)
        case State.ENQUEUED if row.reason_code == Reason.INTERRUPTED:  # the process has ended: nobody runs it
            return _after_interruption(row, at.now, at, "its worker has left: it runs again", at.now)
        case State.ENQUEUED if row.reason_code == Reason.VANISHED and row.crashes + 1 >= MAX_CRASHES:
            reason = f"its worker died {row.crashes + 1} times while running it"
            return _enter(row, FAILED, at.now, reason, crashes=row.crashes + 1, **NOT_PUBLISHED)
        case State.ENQUEUED:
            vanished = row.reason_code == Reason.VANISHED
            return _enter(
                row, SCHEDULED, at.now, f"may have run already ({event.reason}); waits for a report",
                reason_code=Reason.RETURNED, due_at=at.now, grace_until=at.log_now + GRACE_SECONDS,
                crashes=row.crashes + vanished, returns=row.returns + (not vanished), **NOT_PUBLISHED,
            )  # fmt: skip
        case State.PROCESSING:
            return row.evolve(owned=True)
        case _:
            reason_code = (
                Reason.RETURNED
                if event.redelivered and row.state is DELETED and row.publication is not Publication.NONE
                else row.reason_code
            )
            return _unwired(row).evolve(grace_until=grace, reason_code=reason_code)


def _given_back(row: Row, event: Returned, worker: str, at: Context) -> Row:
    """A delivery that was certainly not run."""
    match row.state:
        case State.AWAITING:
            return row
        case State.ENQUEUED:
            return _again(row, event, at)
        case State.PROCESSING if row.owner == worker:
            return _again(row, event, at)
        case State.PROCESSING:
            return row.evolve(owned=True)
        case _:
            return _unwired(row)


def _again(row: Row, event: Returned, at: Context) -> Row:
    if row.reason_code == Reason.CANCEL:
        return _enter(row, DELETED, at.now, "deleted before it ran", **NOT_PUBLISHED)
    if event.reason != "unknown job":
        return _enter(
            row, SCHEDULED, at.now, f"returned: {event.reason}", reason_code=Reason.NOW, due_at=at.now, **NOT_PUBLISHED
        )
    if row.unknowns + 1 >= MAX_UNKNOWN:
        reason = f"no worker of queue {row.queue!r} knows a job named {row.job!r}"
        return _enter(row, FAILED, at.now, reason, unknowns=row.unknowns + 1, **NOT_PUBLISHED)
    return _enter(
        row, SCHEDULED, at.now, f"the worker knows no job named {row.job!r}", reason_code=Reason.NOW,
        due_at=at.now + UNKNOWN_JOB_SECONDS, unknowns=row.unknowns + 1, **NOT_PUBLISHED,
    )  # fmt: skip


def _interrupted(row: Row, event: Interrupted, worker: str, at: Context) -> Row:
    """A run was cut off because its worker had to leave: neither a failure nor a crash, and it runs again at once.

    It must not run beside what the leaving process still does. The message of the job says when that process has ended:
    it comes back. Where none will come back the job waits a moment.
    """
    match row.state:
        case State.ENQUEUED if row.reason_code != Reason.INTERRUPTED:
            pass
        case State.PROCESSING if row.owner == worker:
            pass
        case _:
            return row
    row = _with_run(row, event.started_at).evolve(interruptions=row.interruptions + 1)
    match row.reason_code, row.owned or event.acknowledged:
        case Reason.CANCEL, True:
            return _enter(row, DELETED, event.ended_at, "stopped as asked", **NOT_PUBLISHED)
        case Reason.CANCEL, False:
            return _enter(row, DELETED, event.ended_at, "stopped as asked", fence=row.epoch, owner=None)
        case _, True:
            return _after_interruption(row, event.ended_at, at, INTERRUPTED, at.now + LEAVING_SECONDS)
        case _:
            return _enter(row, ENQUEUED, event.ended_at, INTERRUPTED, reason_code=Reason.INTERRUPTED, owner=None)


def _after_interruption(row: Row, entered_at: Instant, at: Context, reason: str, due_at: Instant) -> Row:
    """Nothing of an interrupted job is out any more."""
    if row.interruptions < MAX_INTERRUPTIONS:
        return _enter(row, SCHEDULED, entered_at, reason, reason_code=Reason.NOW, due_at=due_at, **NOT_PUBLISHED)
    crashes = row.crashes + 1
    counted: dict[str, object] = {"crashes": crashes, "interruptions": 0, **NOT_PUBLISHED}
    counts_as = f"interrupted {row.interruptions} times, which counts as a crash"
    if crashes >= MAX_CRASHES:
        return _enter(row, FAILED, entered_at, f"{counts_as}: crash {crashes} of {MAX_CRASHES}", **counted)
    due_at = at.now + retry_delay(_policy(row), crashes, at.chance)
    return _enter(row, SCHEDULED, entered_at, counts_as, reason_code=Reason.CRASH, due_at=due_at, **counted)


def _progress(row: Row, event: Progress) -> Row:
    text = f"{event.done:g}" if event.total is None else f"{event.done:g}/{event.total:g}"
    return row if row.progress == text else row.evolve(progress=text)


def _undecidable(row: Row, record: Undecidable, at: Context, said: Decision) -> Row:
    """The job fails, and what may be out of it is stopped: it would raise for ever."""
    if row.state.is_final:
        return row
    said.cancel = row.state is PROCESSING
    return _enter(
        row, FAILED, at.now, record.reason, fence=_fenced(row), sender=None, owner=None, owned=False, grace_until=None
    )


def _lease_over(row: Row, record: LeaseOver, at: Context) -> Row:
    if row.state is not PROCESSING or row.owner != record.worker:
        return row
    if row.reason_code == Reason.CANCEL:
        if row.owned:
            return _enter(row, DELETED, at.now, f"deleted; {record.reason}", **NOT_PUBLISHED)
        return _enter(row, DELETED, at.now, f"deleted; {record.reason}", fence=row.epoch, owner=None, owned=False)
    if not row.owned:
        return _enter(row, ENQUEUED, at.now, record.reason, reason_code=Reason.VANISHED, owner=None)
    crashes = row.crashes + 1
    if crashes >= MAX_CRASHES:
        reason = f"its worker died {crashes} times while running it"
        return _enter(row, FAILED, at.now, reason, crashes=crashes, **NOT_PUBLISHED)
    due_at = at.now + retry_delay(_policy(row), crashes, at.chance)
    return _enter(
        row, SCHEDULED, at.now, record.reason, reason_code=Reason.CRASH, due_at=due_at, crashes=crashes, **NOT_PUBLISHED
    )


# ---- what people ask -----------------------------------------------------------------------------------------------


def _delete(row: Row | None, record: DeleteJob, at: Context, said: Decision) -> Row:
    if row is None:
        tomb = _stub(record.job_id, 1, at)
        return _enter(tomb, DELETED, at.now, "deleted before it was seen", fence=1)
    kept = {"reason_code": row.reason_code if row.reason_code in (Reason.RETURNED, Reason.REPEAT) else Reason.NONE}
    match row.state:
        case State.AWAITING:
            return _enter(row, DELETED, at.now, "deleted", **kept)
        case State.SCHEDULED | State.ENQUEUED:
            return _enter(row, DELETED, at.now, "deleted", fence=_fenced(row), **kept)
        case State.PROCESSING:
            said.cancel = True
            return row.evolve(reason_code=Reason.CANCEL, reason="asked to stop")
        case State.DELETED:
            said.ended_before = True
            return (
                row.evolve(reason_code=Reason.NONE, reason="deleted") if row.reason_code == Reason.UNSATISFIED else row
            )
        case State.SUCCEEDED | State.FAILED:
            said.ended_before = True
            return _enter(row, DELETED, at.now, f"deleted after it had {row.state.value}", **kept)
        case _:
            assert_never(row.state)


def _requeue(
    row: Row | None, due_at: Instant, at: Context, said: Decision, reason_code: str = Reason.NOW
) -> Row | None:
    if row is None:
        said.refused = NO_SUCH_JOB
        return None
    match row.state:
        case State.AWAITING:
            return _enter(row, SCHEDULED, at.now, "run now, as asked", reason_code=reason_code, due_at=due_at)
        case State.SCHEDULED:
            kept = (
                row.reason_code
                if row.reason_code in (Reason.RETURNED, Reason.REPEAT, Reason.RETRY, Reason.CRASH)
                else reason_code
            )
            return row.evolve(due_at=due_at, reason_code=kept, reason="run now, as asked", changed_at=at.now)
        case State.ENQUEUED:
            said.refused = "it is already on its way: enqueued"
            return row
        case State.PROCESSING:
            said.refused = "it is running: delete it first, then requeue it"
            return row
        case State.SUCCEEDED | State.FAILED | State.DELETED:
            kept = (
                row.reason_code
                if row.state is DELETED and row.reason_code in (Reason.RETURNED, Reason.REPEAT)
                else reason_code
            )
            return _enter(
                row, SCHEDULED, at.now, "requeued, as asked", reason_code=kept, due_at=due_at, attempt=1, crashes=0,
                returns=0, unknowns=0, interruptions=0, fence=_fenced(row), result=None, result_lost=None,
                progress=None,
            )  # fmt: skip
        case _:
            assert_never(row.state)


def _requeue_changed(row: Row, record: RequeueJob, at: Context, said: Decision) -> Row:
    """As a requeue, with other arguments."""
    changed = refusal(row, at.log_now) or edited(row, record, at.max_body)
    if isinstance(changed, str):
        said.refused = changed
        return row
    again = _requeue(changed, at.now, at, said)
    if again is None or said.refused is not None:
        return row
    reason = "requeued with changed arguments" + (f" by {record.by}" if record.by else "")
    last = (at.now, again.state.value, reason)
    history = [*again.history, last] if row.state is SCHEDULED else [*again.history[:-1], last]
    return again.evolve(reason=reason, history=history)


def _reschedule(row: Row | None, record: RescheduleJob, at: Context, said: Decision) -> Row | None:
    if row is None:
        said.refused = NO_SUCH_JOB
        return None
    match row.state:
        case State.AWAITING:
            said.refused = "it waits for something other than time"
            return row
        case State.PROCESSING:
            said.refused = "it is running: delete it first, then reschedule it"
            return row
        case State.SCHEDULED:
            return row.evolve(due_at=record.due_at, reason="rescheduled, as asked", changed_at=at.now)
        case State.ENQUEUED:
            return _enter(
                row,
                SCHEDULED,
                at.now,
                "rescheduled, as asked",
                reason_code=Reason.RESCHEDULED,
                due_at=record.due_at,
                fence=row.epoch,
            )
        case State.SUCCEEDED | State.FAILED | State.DELETED:
            return _requeue(row, record.due_at, at, said, Reason.RESCHEDULED)
        case _:
            assert_never(row.state)

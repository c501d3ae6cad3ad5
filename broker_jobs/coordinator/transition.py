"""Decides what one record makes of one job's row: the law, as a pure function.

`decide(row, record, at)` returns the next row and what must be said about it. It reads no clock, no store and no
broker. Its cells are those of the table in docs/transitions.md, and the model in tests/unit/coordinator walks through
their interleavings. The engine compares the row before and after: a row that became `sending` is published after the
commit, a fence that grew is told to the workers, an arrow into a final state ends what waits for the job.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from broker_jobs.clock import Instant
from broker_jobs.coordinator.backoff import retry_delay
from broker_jobs.coordinator.edit import changes_arguments, edited, refusal
from broker_jobs.coordinator.record import (
    Awaits,
    Bell,
    Due,
    Duplicate,
    Fired,
    Held,
    HoldOver,
    Hopeless,
    InLine,
    JobRecord,
    LeaseOver,
    Postponed,
    Ready,
    Released,
    Repeat,
    Replaced,
    SlotFree,
    Swept,
    Told,
    Unmet,
    Unreleased,
    Unroutable,
    Unsure,
)
from broker_jobs.job import codec
from broker_jobs.job.envelope import MAX_DELAY_SECONDS, Envelope, Policy
from broker_jobs.job.state import State
from broker_jobs.outcome.command import NO_SUCH_JOB, DeleteJob, RequeueJob, RescheduleJob
from broker_jobs.outcome.event import Failed, HandedBack, Interrupted, LogLine, Progress, Started, Succeeded
from broker_jobs.store.row import Row, Why, Wire

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
class At:
    """When and by whom is decided: wall time, log time, this coordinator's id, and chance for the back-off."""

    now: Instant
    log_now: float
    coordinator: str
    chance: Callable[[], float]
    ahead: float = 0.0
    """Seconds: what comes due so soon is released now, and let go at its time (see gate.py)."""
    max_body: int = 256 * 1024
    """Bytes a message may have."""

    @property
    def until(self) -> Instant:
        """What is due by then is due now: the one bound that every question about a job's time is asked with."""
        return self.now + self.ahead


@dataclass(slots=True)
class Said:
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


def decide(row: Row | None, record: JobRecord, at: At) -> tuple[Row | None, Said]:
    """The row after the record (None: nothing is known of the job still), and what is said.

    The given row is not changed; the same object is returned when nothing changes.
    """
    said = Said()
    match record:
        case Ready():
            return _ready(row, record, at), said
        case Held() | Repeat() | Bell() | Fired():
            return _held(row, record, at), said
        case Due():
            return (None if row is None else _due(row, at)), said
        case HoldOver() | Unmet() | Awaits() | Hopeless():
            return (None if row is None else _waited(row, record, at)), said
        case InLine() | SlotFree() | Postponed() | Duplicate() | Replaced():
            return (None if row is None else _limited(row, record, at)), said
        case Released() | Unsure() | Unreleased() | Swept():
            return (row if row is None or row.epoch != record.epoch else _wire(row, record, at)), said
        case Unroutable():
            return _unroutable(_matched(row, (record.id, record.epoch, record.envelope), at, said), record, at), said
        case LeaseOver():
            return (None if row is None else _lease_over(row, record, at)), said
        case Told():
            return _told(row, record, at, said), said
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


def _born(envelope: Envelope, body: str, state: State, at: At, **columns: object) -> Row:
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
    columns.setdefault("why", Why.NONE)
    ended_at = at if state.is_final else None
    history = [*row.history, (at, state.value, reason)]
    return row.evolve(state=state, changed_at=at, ended_at=ended_at, reason=reason, history=history, **columns)


def _unwired(row: Row) -> Row:
    """Nothing of the job is out any more; its fence has nothing left to stop."""
    if row.wire is Wire.NONE and not row.fence:
        return row
    return row.evolve(wire=Wire.NONE, fence=0, sender=None)


OUT_OF_WIRE: dict[str, object] = {"wire": Wire.NONE, "fence": 0, "sender": None, "owner": None, "owned": False}
"""The columns of a row that neither a queue nor a worker holds."""


def _fenced(row: Row) -> int:
    """The fence that stops whatever of this row may be out, also where it is only not known to be gone."""
    return row.epoch if row.wire is not Wire.NONE or row.why in (Why.CAME_BACK, Why.REPEAT) else row.fence


def _policy(row: Row) -> Policy:
    return codec.decode(row.envelope).policy if row.envelope else Policy(retries=row.retries)


def _matched(row: Row | None, told: tuple[str, int, str], at: At, said: Said) -> Row | None:
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
        row = row.evolve(epoch=epoch, wire=Wire.OUT, sender=None)
    if body and not row.envelope:
        try:
            row = _fill(row, codec.decode(body), body)
        except codec.Undecodable:
            said.metrics.append("undecodable envelope in event")
    return row


def _stub(id: str, epoch: int, at: At) -> Row:
    """An enqueued row for a job that is only known from an event so far."""
    return Row(
        id=id, state=ENQUEUED, epoch=epoch, wire=Wire.OUT, created_at=at.now, changed_at=at.now, released_at=at.now
    )


# ---- envelopes -----------------------------------------------------------------------------------------------------


def _ready(row: Row | None, record: Ready, at: At) -> Row:
    envelope = record.envelope
    if row is None:
        created_at = envelope.created_at.timestamp()
        fresh = _born(envelope, record.body, ENQUEUED, at, wire=Wire.OUT, released_at=created_at)
        fresh.history.append((created_at, ENQUEUED.value, ""))
        return fresh
    row = _fill(row, envelope, record.body)
    if envelope.epoch < row.epoch:
        return row
    if envelope.epoch > row.epoch:
        row = row.evolve(epoch=envelope.epoch, wire=Wire.OUT, sender=None)
    match row.state:
        case State.SCHEDULED if row.why == Why.REPEAT:
            return _enter(row, ENQUEUED, at.now, "its first message was in the queue", wire=Wire.OUT, grace_until=None)
        case State.DELETED if row.wire is not Wire.NONE:
            return row.evolve(fence=row.epoch)
        case _:
            return row


def _held(row: Row | None, record: Held | Repeat | Bell | Fired, at: At) -> Row:
    envelope = record.envelope
    if row is not None:
        row = _fill(row, envelope, record.body)
        if isinstance(record, Held) and record.copied_until is not None and row.copy_until is None:
            return row.evolve(copy_until=record.copied_until)
        return row.evolve(copy_until=None) if isinstance(record, Bell) and row.copy_until is not None else row
    if isinstance(record, Repeat):
        fresh = _born(envelope, record.body, SCHEDULED, at, epoch=max(1, envelope.epoch), why=Why.REPEAT)
        fresh.reason = "repeated by its producer; waits for word of the first message"
        fresh.grace_until = at.log_now + GRACE_SECONDS
    elif isinstance(record, Fired | Held) and record.waits:
        fresh = _born(envelope, record.body, AWAITING, at, epoch=0)
        fresh.reason = _what_is_waited_for(record)
    else:
        epoch = envelope.epoch if isinstance(record, Bell) else 0
        fresh = _born(envelope, record.body, SCHEDULED, at, epoch=epoch)
        if isinstance(record, Held):
            fresh.copy_until = record.copied_until
    if fresh.due_at is None and fresh.state is SCHEDULED:
        fresh.due_at = at.now
    fresh.history.append((at.now, fresh.state.value, fresh.reason))
    return fresh


def _what_is_waited_for(record: Held | Fired) -> str:
    if isinstance(record, Fired):
        return "waits for the run before it"
    hold = record.envelope.hold
    if hold is None:
        return "waits for its batch to be complete"
    first = hold.parents[0]
    more = f" and {len(hold.parents) - 1} more" if len(hold.parents) > 1 else ""
    return f"waits for {'batch ' if first.batch else ''}{first.id} to have {first.on}{more}"


# ---- releases ------------------------------------------------------------------------------------------------------


def is_due(row: Row, at: At) -> bool:
    """Whether a scheduled job may be released now: its time has come, nothing of it is out, its grace is over."""
    return row.state is SCHEDULED and is_clear(row, at) and (row.due_at is None or row.due_at <= at.until)


def is_clear(row: Row, at: At) -> bool:
    """Whether nothing of a job may be running: no message is out, and its grace is over."""
    return row.wire is Wire.NONE and (row.grace_until is None or row.grace_until <= at.log_now)


def _due(row: Row, at: At) -> Row:
    if not is_due(row, at):
        return row
    fence = row.epoch if row.grace_until is not None else 0
    return _release(row, at, fence, row.attempt + (row.why in (Why.RETRY, Why.CRASH)))


def _release(row: Row, at: At, fence: int, attempt: int) -> Row:
    if not row.envelope:
        return _enter(row, FAILED, at.now, "its envelope was never seen: it cannot be released", **OUT_OF_WIRE)
    return _enter(
        row, ENQUEUED, at.now, "", wire=Wire.SENDING, sender=at.coordinator, epoch=row.epoch + 1, fence=fence,
        attempt=attempt, released_at=max(at.now, row.due_at or 0.0), grace_until=None, owner=None, owned=False,
    )  # fmt: skip


def _waited(row: Row, record: HoldOver | Unmet | Awaits | Hopeless, at: At) -> Row:
    """What the job waited for has come, can not come, may come again, or was never there."""
    unmet = row.state is DELETED and row.why == Why.UNMET
    match record:
        case HoldOver() if row.state is AWAITING or unmet:
            due_at = max(at.now + _delay_after(row), row.due_at or 0.0)
            return _enter(row, SCHEDULED, at.now, "what it waited for has come", why=Why.NOW, due_at=due_at)
        case Unmet() if row.state is AWAITING:
            return _enter(row, DELETED, at.now, record.reason, why=Why.UNMET)
        case Awaits() if unmet:
            return _enter(row, AWAITING, at.now, "what it waits for may come again")
        case Hopeless() if row.state in (AWAITING, SCHEDULED) and row.wire is Wire.NONE:
            return _enter(row, FAILED, at.now, record.reason)
        case _:
            return row


def _limited(row: Row, record: InLine | SlotFree | Postponed | Duplicate | Replaced, at: At) -> Row:
    """What limits and unique keys make of a job that nothing is out of."""
    if row.wire is not Wire.NONE or row.state not in (SCHEDULED, AWAITING):
        return row
    match record:
        case InLine():
            return row if row.state is AWAITING else _enter(row, AWAITING, at.now, record.reason, why=row.why)
        case SlotFree():
            return row if row.state is SCHEDULED else _enter(row, SCHEDULED, at.now, "a slot is free", why=row.why)
        case Postponed():
            return row.evolve(due_at=record.due_at, reason=record.reason)
        case Duplicate():
            return _enter(row, DELETED, at.now, f"duplicate of {record.of}", why=Why.ALIAS, parent=record.of)
        case Replaced():
            return _enter(row, DELETED, at.now, f"replaced by {record.by}")
        case _:
            assert_never(record)


def _delay_after(row: Row) -> float:
    """The seconds a job waits after the last of its parents."""
    hold = codec.decode(row.envelope).hold if row.envelope else None
    return 0.0 if hold is None or hold.delay is None else hold.delay


def _wire(row: Row, record: Released | Unsure | Unreleased | Swept, at: At) -> Row:
    match record:
        case Released():
            return row.evolve(wire=Wire.OUT, sender=None) if row.wire is Wire.SENDING else row
        case Unsure() if row.wire is Wire.SENDING:
            if row.state is not ENQUEUED:
                return row.evolve(wire=Wire.OUT, sender=None)
            reason = "its release may or may not have been published"
            return _enter(
                row,
                SCHEDULED,
                at.now,
                reason,
                why=Why.CAME_BACK,
                due_at=at.now,
                grace_until=at.log_now + GRACE_SECONDS,
                **OUT_OF_WIRE,
            )
        case Unreleased() if row.wire is Wire.SENDING:
            if row.state is not ENQUEUED:
                return _unwired(row)
            due_at = max(at.now + UNRELEASED_SECONDS, row.due_at or 0.0)
            return _enter(row, SCHEDULED, at.now, record.reason, why=Why.NOW, due_at=due_at, **OUT_OF_WIRE)
        case Swept() if row.wire is Wire.OUT:
            if row.state is PROCESSING:
                return row
            if row.state is ENQUEUED:
                return _release(row.evolve(reason="its message was lost"), at, row.epoch, row.attempt)
            return _unwired(row)
        case _:
            return row


def _unroutable(row: Row | None, record: Unroutable, at: At) -> Row | None:
    if row is None or row.state is not ENQUEUED:
        return row
    return _enter(row, FAILED, at.now, record.reason, **OUT_OF_WIRE)


# ---- what workers tell ---------------------------------------------------------------------------------------------


def _told(row: Row | None, record: Told, at: At, said: Said) -> Row | None:
    event = record.event
    body = event.envelope if isinstance(event, Failed | HandedBack | Interrupted) else ""
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
        case HandedBack():
            return _handed_back(matched, event, record.worker, at)
        case Interrupted():
            return _interrupted(matched, event, record.worker, at)
        case Progress():
            return _progress(matched, event)
        case LogLine():
            return matched
        case _:
            assert_never(event)


def _started(row: Row, event: Started, worker: str, said: Said) -> Row:
    match row.state:
        case State.SCHEDULED if row.why in (Why.CAME_BACK, Why.REPEAT):
            return _processing(row, event.at, worker, owned=True)
        case State.SCHEDULED if row.wire is Wire.OUT:
            return _processing(row, event.at, worker, owned=event.owned)
        case State.ENQUEUED if row.why == Why.INTERRUPTED:  # told again: that run is over
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
        row, PROCESSING, started_at, "", wire=Wire.OUT, sender=None, owner=worker, owned=owned,
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
                result=event.result, result_lost=event.result_lost, error=None, **OUT_OF_WIRE,
            )  # fmt: skip
        case _:
            return _unwired(row)


def _failed(row: Row, event: Failed, at: At) -> Row:
    match row.state:
        case State.AWAITING:
            return row
        case State.SCHEDULED if row.why in (Why.RETRY, Why.CRASH):
            return row
        case State.SCHEDULED if row.why not in (Why.CAME_BACK, Why.REPEAT):
            return _unwired(row)
        case State.SCHEDULED | State.ENQUEUED | State.PROCESSING:
            cancelled = row.why == Why.CANCEL
            return _after_failure(_with_run(row, event.started_at), event, at, cancelled=cancelled)
        case _:
            return _unwired(row)


def _after_failure(row: Row, event: Failed, at: At, *, cancelled: bool) -> Row:
    text = f"{event.error.type}: {event.error.message}".split("\n", 1)[0][:300]
    seen: dict[str, object] = {"error": event.error.model_dump_json(), "grace_until": None, **OUT_OF_WIRE}
    if cancelled:
        return _enter(row, DELETED, event.ended_at, "stopped as asked", **seen)
    if event.cancelled:
        return _enter(row, SCHEDULED, event.ended_at, "stopped at shutdown", why=Why.NOW, due_at=at.now, **seen)
    if event.final or row.attempt > row.retries:
        runs = f" after {row.attempt} runs" if row.attempt > 1 else ""
        return _enter(row, FAILED, event.ended_at, f"failed{runs}: {text}", **seen)
    asked = event.retry_after
    delay = min(asked, MAX_DELAY_SECONDS) if asked is not None else retry_delay(_policy(row), row.attempt, at.chance)
    reason = f"retry {row.attempt} of {row.retries}: {text}"
    return _enter(row, SCHEDULED, event.ended_at, reason, why=Why.RETRY, due_at=at.now + delay, **seen)


def _handed_back(row: Row, event: HandedBack, worker: str, at: At) -> Row:
    match event.reason:
        case "redelivered" | "fenced" | "delivery limit":
            return _came_back(row, event, at)
        case "shutdown" | "pause" | "unknown job" | "waited too long" | "no queue":
            return _given_back(row, event, worker, at)
        case _:
            assert_never(event.reason)


def _came_back(row: Row, event: HandedBack, at: At) -> Row:
    """A delivery that may have been run by somebody before: never run again without the coordinator's word."""
    grace = at.log_now + GRACE_SECONDS if event.redelivered else row.grace_until
    match row.state:
        case State.AWAITING:
            return row
        case State.SCHEDULED:
            why = Why.CAME_BACK if row.why == Why.REPEAT else row.why
            return _unwired(row).evolve(grace_until=grace, why=why)
        case State.ENQUEUED if row.why == Why.INTERRUPTED:  # the process has ended: nobody runs it
            return _after_interruption(row, at.now, at, "its worker has left: it runs again", at.now)
        case State.ENQUEUED if row.why == Why.VANISHED and row.crashes + 1 >= MAX_CRASHES:
            reason = f"its worker died {row.crashes + 1} times while running it"
            return _enter(row, FAILED, at.now, reason, crashes=row.crashes + 1, **OUT_OF_WIRE)
        case State.ENQUEUED:
            vanished = row.why == Why.VANISHED
            return _enter(
                row, SCHEDULED, at.now, f"came back ({event.reason}); waits for word of who ran it", why=Why.CAME_BACK,
                due_at=at.now, grace_until=at.log_now + GRACE_SECONDS, crashes=row.crashes + vanished,
                returns=row.returns + (not vanished), **OUT_OF_WIRE,
            )  # fmt: skip
        case State.PROCESSING:
            return row.evolve(owned=True)
        case _:
            why = Why.CAME_BACK if event.redelivered and row.state is DELETED and row.wire is not Wire.NONE else row.why
            return _unwired(row).evolve(grace_until=grace, why=why)


def _given_back(row: Row, event: HandedBack, worker: str, at: At) -> Row:
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


def _again(row: Row, event: HandedBack, at: At) -> Row:
    if row.why == Why.CANCEL:
        return _enter(row, DELETED, at.now, "deleted before it ran", **OUT_OF_WIRE)
    if event.reason != "unknown job":
        return _enter(row, SCHEDULED, at.now, f"handed back: {event.reason}", why=Why.NOW, due_at=at.now, **OUT_OF_WIRE)
    if row.unknowns + 1 >= MAX_UNKNOWN:
        reason = f"no worker of queue {row.queue!r} knows a job named {row.job!r}"
        return _enter(row, FAILED, at.now, reason, unknowns=row.unknowns + 1, **OUT_OF_WIRE)
    return _enter(
        row, SCHEDULED, at.now, f"the worker knows no job named {row.job!r}", why=Why.NOW,
        due_at=at.now + UNKNOWN_JOB_SECONDS, unknowns=row.unknowns + 1, **OUT_OF_WIRE,
    )  # fmt: skip


def _interrupted(row: Row, event: Interrupted, worker: str, at: At) -> Row:
    """A run was cut off because its worker had to leave: neither a failure nor a crash, and it runs again at once.

    It must not run beside what the leaving process still does. The message of the job says when that process has ended:
    it comes back. Where none will come back the job waits a moment.
    """
    match row.state:
        case State.ENQUEUED if row.why != Why.INTERRUPTED:
            pass
        case State.PROCESSING if row.owner == worker:
            pass
        case _:
            return row
    row = _with_run(row, event.started_at).evolve(interruptions=row.interruptions + 1)
    match row.why, row.owned or event.acknowledged:
        case Why.CANCEL, True:
            return _enter(row, DELETED, event.ended_at, "stopped as asked", **OUT_OF_WIRE)
        case Why.CANCEL, False:
            return _enter(row, DELETED, event.ended_at, "stopped as asked", fence=row.epoch, owner=None)
        case _, True:
            return _after_interruption(row, event.ended_at, at, INTERRUPTED, at.now + LEAVING_SECONDS)
        case _:
            return _enter(row, ENQUEUED, event.ended_at, INTERRUPTED, why=Why.INTERRUPTED, owner=None)


def _after_interruption(row: Row, entered_at: Instant, at: At, reason: str, due_at: Instant) -> Row:
    """Nothing of an interrupted job is out any more."""
    if row.interruptions < MAX_INTERRUPTIONS:
        return _enter(row, SCHEDULED, entered_at, reason, why=Why.NOW, due_at=due_at, **OUT_OF_WIRE)
    crashes = row.crashes + 1
    counted: dict[str, object] = {"crashes": crashes, "interruptions": 0, **OUT_OF_WIRE}
    counts_as = f"interrupted {row.interruptions} times, which counts as a crash"
    if crashes >= MAX_CRASHES:
        return _enter(row, FAILED, entered_at, f"{counts_as}: crash {crashes} of {MAX_CRASHES}", **counted)
    due_at = at.now + retry_delay(_policy(row), crashes, at.chance)
    return _enter(row, SCHEDULED, entered_at, counts_as, why=Why.CRASH, due_at=due_at, **counted)


def _progress(row: Row, event: Progress) -> Row:
    text = f"{event.done:g}" if event.total is None else f"{event.done:g}/{event.total:g}"
    return row if row.progress == text else row.evolve(progress=text)


def _lease_over(row: Row, record: LeaseOver, at: At) -> Row:
    if row.state is not PROCESSING or row.owner != record.worker:
        return row
    if row.why == Why.CANCEL:
        if row.owned:
            return _enter(row, DELETED, at.now, f"deleted; {record.reason}", **OUT_OF_WIRE)
        return _enter(row, DELETED, at.now, f"deleted; {record.reason}", fence=row.epoch, owner=None, owned=False)
    if not row.owned:
        return _enter(row, ENQUEUED, at.now, record.reason, why=Why.VANISHED, owner=None)
    crashes = row.crashes + 1
    if crashes >= MAX_CRASHES:
        reason = f"its worker died {crashes} times while running it"
        return _enter(row, FAILED, at.now, reason, crashes=crashes, **OUT_OF_WIRE)
    due_at = at.now + retry_delay(_policy(row), crashes, at.chance)
    return _enter(row, SCHEDULED, at.now, record.reason, why=Why.CRASH, due_at=due_at, crashes=crashes, **OUT_OF_WIRE)


# ---- what people ask -----------------------------------------------------------------------------------------------


def _delete(row: Row | None, record: DeleteJob, at: At, said: Said) -> Row:
    if row is None:
        tomb = _stub(record.job_id, 1, at)
        return _enter(tomb, DELETED, at.now, "deleted before it was seen", fence=1)
    kept = {"why": row.why if row.why in (Why.CAME_BACK, Why.REPEAT) else Why.NONE}
    match row.state:
        case State.AWAITING:
            return _enter(row, DELETED, at.now, "deleted", **kept)
        case State.SCHEDULED | State.ENQUEUED:
            return _enter(row, DELETED, at.now, "deleted", fence=_fenced(row), **kept)
        case State.PROCESSING:
            said.cancel = True
            return row.evolve(why=Why.CANCEL, reason="asked to stop")
        case State.DELETED:
            said.ended_before = True
            return row.evolve(why=Why.NONE, reason="deleted") if row.why == Why.UNMET else row
        case State.SUCCEEDED | State.FAILED:
            said.ended_before = True
            return _enter(row, DELETED, at.now, f"deleted after it had {row.state.value}", **kept)
        case _:
            assert_never(row.state)


def _requeue(row: Row | None, due_at: Instant, at: At, said: Said, why: str = Why.NOW) -> Row | None:
    if row is None:
        said.refused = NO_SUCH_JOB
        return None
    match row.state:
        case State.AWAITING:
            return _enter(row, SCHEDULED, at.now, "run now, as asked", why=why, due_at=due_at)
        case State.SCHEDULED:
            kept = row.why if row.why in (Why.CAME_BACK, Why.REPEAT, Why.RETRY, Why.CRASH) else why
            return row.evolve(due_at=due_at, why=kept, reason="run now, as asked", changed_at=at.now)
        case State.ENQUEUED:
            said.refused = "it is already on its way: enqueued"
            return row
        case State.PROCESSING:
            said.refused = "it is running: delete it first, then requeue it"
            return row
        case State.SUCCEEDED | State.FAILED | State.DELETED:
            kept = row.why if row.state is DELETED and row.why in (Why.CAME_BACK, Why.REPEAT) else why
            return _enter(
                row, SCHEDULED, at.now, "requeued, as asked", why=kept, due_at=due_at, attempt=1, crashes=0, returns=0,
                unknowns=0, interruptions=0, fence=_fenced(row), result=None, result_lost=None, progress=None,
            )  # fmt: skip
        case _:
            assert_never(row.state)


def _requeue_changed(row: Row, record: RequeueJob, at: At, said: Said) -> Row:
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


def _reschedule(row: Row | None, record: RescheduleJob, at: At, said: Said) -> Row | None:
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
                why=Why.RESCHEDULED,
                due_at=record.due_at,
                fence=row.epoch,
            )
        case State.SUCCEEDED | State.FAILED | State.DELETED:
            return _requeue(row, record.due_at, at, said, Why.RESCHEDULED)
        case _:
            assert_never(row.state)

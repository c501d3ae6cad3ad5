"""Decides what a worker's event, or its death, makes of a job. Pure.

An event names the epoch that it is about: one of an older epoch says nothing.

Over 300 lines: all that a worker may report, each with what it makes of a job in each state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from broker_jobs.clock import Instant
from broker_jobs.coordinator.backoff import retry_delay
from broker_jobs.coordinator.records import FromWorker, LeaseOver, Undecidable, WorkerEvent
from broker_jobs.coordinator.state_machine.context import Context, Decision
from broker_jobs.coordinator.state_machine.envelopes import GRACE_SECONDS
from broker_jobs.coordinator.state_machine.steps import (
    AWAITING,
    DELETED,
    ENQUEUED,
    FAILED,
    NOT_PUBLISHED,
    PROCESSING,
    SCHEDULED,
    SUCCEEDED,
    completed,
    entered,
    fence_of,
    policy_of,
    stub,
    unpublished,
    was_due,
)
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS
from broker_jobs.messages.events import Failed, Interrupted, LogLine, Overrun, Progress, Returned, Started, Succeeded
from broker_jobs.messages.state import State
from broker_jobs.store.row import Conditions, Publication, Reason, Row

MAX_CRASHES = 3
MAX_INTERRUPTIONS = 10
"""So many count as one crash: a job that outlasts every shutdown must not run without end."""
LEAVING_SECONDS = 1.0
"""How long a process may take to end after it said that a job still runs in it that RabbitMQ no longer backs."""
OVERRUN = "timed out, ending"
INTERRUPTED = "interrupted: its worker had to leave before it ended"


def on_worker_event(row: Row | None, record: FromWorker, at: Context) -> Decision:
    """A worker reports of a run, or of a delivery that it did not run."""
    event = record.event
    if isinstance(event, Succeeded) and row is not None and _is_late_success(row, event):
        return Decision(_late_success(row, event, record), notes=("late success",), cancel=row.state is PROCESSING)
    body = event.envelope if isinstance(event, Failed | Returned | Interrupted) else ""
    known, notes = matched(row, (event.id, event.epoch, body), at)
    if known is None:
        return Decision(row, notes=notes)
    if known.state is AWAITING and row is not None and row.epoch == event.epoch > 0:
        known = known.evolve(state=SCHEDULED)  # it waits in a line for its next run; a report of the last one overtakes
    decision = (
        _started(known, event, record) if isinstance(event, Started) else Decision(_reported(known, event, record, at))
    )
    after = decision.row
    if (
        after is not None and after.state is SCHEDULED and after.waits
    ):  # the report changed nothing of what it waits for
        after = after.evolve(state=AWAITING)
    return replace(decision, row=after, notes=notes + decision.notes)


def _reported(row: Row, event: WorkerEvent, record: FromWorker, at: Context) -> Row:
    match event:
        case Succeeded():
            return _succeeded(row, event, record)
        case Failed():
            return _failed(row, event, record, at)
        case Returned():
            return _on_returned(row, event, record.worker, at)
        case Interrupted():
            return _interrupted(row, event, record, at)
        case Overrun():
            return _overrun(row, record.worker)
        case Progress():
            return _progress(row, event)
        case LogLine() | Started():
            return row
        case _:
            assert_never(event)


def matched(row: Row | None, reported: tuple[str, int, str], at: Context) -> tuple[Row | None, tuple[str, ...]]:
    """(the row an event of `epoch` is decided against, what is counted); no row: the event is of an older epoch.

    A row the store does not know, or knows at an older epoch (it was restored), takes the event's. `reported` is the
    job's id, the epoch, and the envelope's JSON or an empty string.
    """
    id, epoch, body = reported
    if row is None:
        row = stub(id, epoch, at)
    elif epoch < row.epoch:
        return None, ("stale",)
    elif epoch > row.epoch:
        row = row.evolve(epoch=epoch, publication=Publication.PUBLISHED, sender=None)
    if body and not row.envelope:
        try:
            envelope = codec.decode(body)
        except codec.Undecodable:
            return row, ("undecodable envelope in event",)
        if envelope.id != id:
            return row, ("envelope of another job in event",)
        row = completed(row, envelope, body)
    return row, ()


def _started(row: Row, event: Started, record: FromWorker) -> Decision:
    worker = record.worker
    match row.state:
        case State.SCHEDULED if row.reason_code in (Reason.RETURNED, Reason.REPEAT):
            return Decision(_processing(row, event.at, record, owned=True))
        case State.SCHEDULED if row.publication is Publication.PUBLISHED:
            return Decision(_processing(row, event.at, record, owned=event.owned))
        case State.ENQUEUED if row.reason_code == Reason.INTERRUPTED:  # reported again: that run is over
            return Decision(row)
        case State.ENQUEUED:
            return Decision(_processing(row, event.at, record, owned=event.owned))
        case State.PROCESSING if row.owner == worker:
            return Decision(row.evolve(owned=True) if event.owned else row)
        case State.PROCESSING:
            return Decision(row, notes=("started twice",))
        case State.SUCCEEDED | State.FAILED | State.DELETED if event.owned:
            return Decision(row, fenced_runner=worker)
        case State.DELETED if row.publication is not Publication.NONE:  # it had begun when it was deleted
            return Decision(row, fenced_runner=worker)
        case _:
            return Decision(row)


def _processing(row: Row, started_at: Instant, record: FromWorker, *, owned: bool) -> Row:
    if row.due_at is not None and row.released_at is not None:  # it may have been given a later time, too late
        row = row.evolve(due_at=min(row.due_at, row.released_at))
    return entered(
        row, PROCESSING, started_at, "", publication=Publication.PUBLISHED, sender=None, owner=record.worker,
        owned=owned, ran_on=record.worker, ran_host=record.host, started_at=started_at, grace_until=None,
        unknowns=0, gives_back=False, conditions=row.conditions | Conditions.RELEASED,
    )  # fmt: skip


def _with_run(row: Row, started_at: Instant, record: FromWorker) -> Row:
    """The row with the run in its history, for a job too short to have been reported as started."""
    if row.state is not PROCESSING:
        history = [*row.history, (started_at, PROCESSING.value, "")]
        return row.evolve(started_at=started_at, history=history, ran_on=record.worker, ran_host=record.host)
    if row.ran_on == record.worker:
        return row
    return row.evolve(ran_on=record.worker, ran_host=record.host)


def _succeeded(row: Row, event: Succeeded, record: FromWorker) -> Row:
    match row.state:
        case State.AWAITING:
            return row
        case State.SCHEDULED | State.ENQUEUED | State.PROCESSING:
            return entered(
                _with_run(row, event.started_at, record), SUCCEEDED, event.ended_at, "", grace_until=None,
                result=event.result, result_lost=event.result_lost, error=None, **NOT_PUBLISHED,
            )  # fmt: skip
        case _:
            return unpublished(row)


def _is_late_success(row: Row, event: Succeeded) -> bool:
    """Whether a run has succeeded that was taken for lost, while the job has another one before it."""
    return not row.state.is_final and 0 < row.lost_since <= event.epoch < row.epoch


def _late_success(row: Row, event: Succeeded, record: FromWorker) -> Row:
    """The job has succeeded: what is out of it is fenced, and a run of it is asked to stop."""
    reason = "a run that was taken for lost has succeeded"
    row = row.evolve(started_at=event.started_at, ran_on=record.worker, ran_host=record.host)
    return entered(
        row, SUCCEEDED, event.ended_at, reason, grace_until=None, result=event.result, result_lost=event.result_lost,
        error=None, fence=fence_of(row), owner=None, owned=False,
    )  # fmt: skip


def _failed(row: Row, event: Failed, record: FromWorker, at: Context) -> Row:
    match row.state:
        case State.AWAITING:
            return row
        case State.SCHEDULED if row.reason_code not in (Reason.RETURNED, Reason.REPEAT):
            return unpublished(row)
        case State.SCHEDULED | State.ENQUEUED | State.PROCESSING:
            cancelled = row.reason_code == Reason.CANCEL
            return _retry_or_fail(_with_run(row, event.started_at, record), event, at, cancelled=cancelled)
        case _:
            return unpublished(row)


def _retry_or_fail(row: Row, event: Failed, at: Context, *, cancelled: bool) -> Row:
    text = f"{event.error.type}: {event.error.message}".split("\n", 1)[0][:300]
    seen: dict[str, object] = {"error": event.error.model_dump_json(), "grace_until": None, **NOT_PUBLISHED}
    if cancelled:
        return entered(row, DELETED, event.ended_at, "stopped as asked", **seen)
    if event.ended == "cancelled":
        return entered(
            row, SCHEDULED, event.ended_at, "stopped at shutdown", reason_code=Reason.NOW, due_at=at.now, **seen
        )
    if event.final or row.attempt > row.retries:
        runs = f" after {row.attempt} runs" if row.attempt > 1 else ""
        return entered(row, FAILED, event.ended_at, f"failed{runs}: {text}", **seen)
    asked = event.retry_after
    delay = min(asked, MAX_DELAY_SECONDS) if asked is not None else retry_delay(policy_of(row), row.attempt, at.chance)
    if event.runs_on:
        delay = max(delay, LEAVING_SECONDS)
    reason = f"retry {row.attempt} of {row.retries}: {text}"
    return entered(row, SCHEDULED, event.ended_at, reason, reason_code=Reason.RETRY, due_at=at.now + delay, **seen)


def _on_returned(row: Row, event: Returned, worker: str, at: Context) -> Row:
    match event.reason:
        case "redelivered" | "fenced" | "delivery limit":
            return _return(row, event, at)
        case "shutdown" | "pause" | "unknown job" | "waited too long" | "no queue" | "not released":
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
            # It came back before, and its slots were given back with that: the fence marks a run of it after all.
            fence = row.fence if event.redelivered and row.publication is Publication.NONE else 0
            return unpublished(row).evolve(grace_until=grace, reason_code=reason_code, fence=fence)
        case State.ENQUEUED if row.reason_code == Reason.INTERRUPTED:  # the process has ended: nobody runs it
            return _after_interruption(row, at.now, at, "its worker has left: it runs again", at.now)
        case State.ENQUEUED if row.reason_code == Reason.VANISHED and row.crashes + 1 >= MAX_CRASHES:
            reason = f"its worker died {row.crashes + 1} times while running it"
            return entered(row, FAILED, at.now, reason, crashes=row.crashes + 1, **NOT_PUBLISHED)
        case State.ENQUEUED:
            vanished = row.reason_code == Reason.VANISHED
            return entered(
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
            return unpublished(row).evolve(grace_until=grace, reason_code=reason_code)


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
            return unpublished(row)


def _again(row: Row, event: Returned, at: Context) -> Row:
    if row.reason_code == Reason.CANCEL:
        return entered(row, DELETED, at.now, "deleted before it ran", **NOT_PUBLISHED)
    if event.reason != "unknown job":
        return entered(
            row, SCHEDULED, at.now, f"returned: {event.reason}", reason_code=Reason.NOW, due_at=was_due(row, at.now),
            **NOT_PUBLISHED,
        )  # fmt: skip
    return entered(  # whether it is held is asked by KnownJobRules
        row, SCHEDULED, at.now, f"a worker that knows no job named {row.job!r} gave it back", reason_code=Reason.NOW,
        due_at=was_due(row, at.now), unknowns=row.unknowns + 1, **NOT_PUBLISHED,
    )  # fmt: skip


def _interrupted(row: Row, event: Interrupted, record: FromWorker, at: Context) -> Row:
    """A run was cut off because its worker had to leave: neither a failure nor a crash, and it runs again at once.

    It must not run beside what the leaving process still does. The message of the job says when that process has ended:
    it comes back. Where none will come back the job waits a moment.
    """
    match row.state:
        case State.ENQUEUED if row.reason_code != Reason.INTERRUPTED:
            pass
        case State.PROCESSING if row.owner == record.worker:
            pass
        case _:
            return row
    row = _with_run(row, event.started_at, record).evolve(interruptions=row.interruptions + 1)
    match row.reason_code, row.owned or event.acknowledged:
        case Reason.CANCEL, True:
            return entered(row, DELETED, event.ended_at, "stopped as asked", **NOT_PUBLISHED)
        case Reason.CANCEL, False:
            return entered(row, DELETED, event.ended_at, "stopped as asked", fence=row.epoch, owner=None)
        case _, True:
            return _after_interruption(row, event.ended_at, at, INTERRUPTED, at.now + LEAVING_SECONDS)
        case _:
            return entered(row, ENQUEUED, event.ended_at, INTERRUPTED, reason_code=Reason.INTERRUPTED, owner=None)


def _after_interruption(row: Row, entered_at: Instant, at: Context, reason: str, due_at: Instant) -> Row:
    """Nothing of an interrupted job is out any more."""
    if row.interruptions < MAX_INTERRUPTIONS:
        return entered(row, SCHEDULED, entered_at, reason, reason_code=Reason.NOW, due_at=due_at, **NOT_PUBLISHED)
    crashes = row.crashes + 1
    counted: dict[str, object] = {"crashes": crashes, "interruptions": 0, **NOT_PUBLISHED}
    counts_as = f"interrupted {row.interruptions} times, which counts as a crash"
    if crashes >= MAX_CRASHES:
        return entered(row, FAILED, entered_at, f"{counts_as}: crash {crashes} of {MAX_CRASHES}", **counted)
    due_at = at.now + retry_delay(policy_of(row), crashes, at.chance)
    return entered(row, SCHEDULED, entered_at, counts_as, reason_code=Reason.CRASH, due_at=due_at, **counted)


def _overrun(row: Row, worker: str) -> Row:
    """It should have ended and goes on: the outcome, the retry and what it holds of limits wait for its end."""
    if row.state is not PROCESSING or row.owner != worker or row.reason_code != Reason.NONE:
        return row
    return row.evolve(reason=OVERRUN)


def _progress(row: Row, event: Progress) -> Row:
    text = f"{event.done:g}" if event.total is None else f"{event.done:g}/{event.total:g}"
    return row.evolve(progress=text)


def on_undecidable(row: Row, record: Undecidable, at: Context) -> Decision:
    """The job fails, and what may be out of it is stopped: it would raise for ever."""
    if row.state.is_final:
        return Decision(row)
    failed = entered(
        row, FAILED, at.now, record.reason, fence=fence_of(row), sender=None, owner=None, owned=False, grace_until=None
    )
    return Decision(failed, cancel=row.state is PROCESSING)


def on_lease_over(row: Row, record: LeaseOver, at: Context) -> Row:
    if row.state is not PROCESSING or row.owner != record.worker:
        return row
    if row.reason_code == Reason.CANCEL:
        if row.owned:
            return entered(row, DELETED, at.now, f"deleted; {record.reason}", **NOT_PUBLISHED)
        return entered(row, DELETED, at.now, f"deleted; {record.reason}", fence=row.epoch, owner=None, owned=False)
    if not row.owned:
        return entered(row, ENQUEUED, at.now, record.reason, reason_code=Reason.VANISHED, owner=None)
    crashes = row.crashes + 1
    if crashes >= MAX_CRASHES:
        reason = f"its worker died {crashes} times while running it"
        return entered(row, FAILED, at.now, reason, crashes=crashes, **NOT_PUBLISHED)
    due_at = at.now + retry_delay(policy_of(row), crashes, at.chance)
    return entered(
        row, SCHEDULED, at.now, record.reason, reason_code=Reason.CRASH, due_at=due_at, crashes=crashes, **NOT_PUBLISHED
    )

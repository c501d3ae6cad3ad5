"""Says how an attempt of a job ended, when a record tells so. Pure.

Apart from the decision about the row: a run ends as it ends, also when its job has moved on.
"""

from __future__ import annotations

from broker_jobs.clock import Instant
from broker_jobs.coordinator.records import FromWorker, JobRecord, LeaseOver
from broker_jobs.coordinator.state_machine.steps import PROCESSING, SUCCEEDED
from broker_jobs.messages.commands import RequeueJob, RescheduleJob
from broker_jobs.messages.error_fingerprint import fingerprint
from broker_jobs.messages.events import Failed, Interrupted, Returned, Succeeded
from broker_jobs.store.records import AttemptRow
from broker_jobs.store.row import Reason, Row

TIMED_OUT, CANCELLED, INTERRUPTED = "timed out", "cancelled", "interrupted"
CRASHED, RETURNED = "crashed", "returned"


def attempt_of(before: Row | None, record: JobRecord, after: Row | None, now: Instant) -> AttemptRow | None:
    """The attempt that a record ends, or None: it ends none, or one that simply succeeded.

    Args:
        before, after: the job's row before and after the record was decided.
        now: wall time of the coordinator.
    """  # fmt: skip
    if after is None:
        return None
    match record:
        case FromWorker(event=Succeeded() as event):
            if after is not before and event.epoch < after.epoch:  # it was taken for lost
                late = _run(after, record, SUCCEEDED.value, (event.started_at, event.ended_at), now)
                late.epoch = event.epoch
                late.attempt = max(1, after.attempt - (after.epoch - event.epoch))
                return late
            if event.epoch != after.epoch or _simply_succeeded(after):
                return None
            return _run(after, record, SUCCEEDED.value, (event.started_at, event.ended_at), now)
        case FromWorker(event=Failed() as event):
            return None if event.epoch != after.epoch else _failed(before, record, event, after, now)
        case FromWorker(event=Interrupted() as event):
            if after is before or event.epoch != after.epoch:
                return None
            asked = before is not None and before.reason_code == Reason.CANCEL
            ended = CANCELLED if asked else INTERRUPTED
            return _run(after, record, ended, (event.started_at, event.ended_at), now)
        case FromWorker(event=Returned() as event):
            if event.epoch != after.epoch or not _took_back(before, after):
                return None
            returned = _run(after, record, RETURNED, (None, event.at), now)
            returned.reason = event.reason
            return returned
        case LeaseOver():
            return None if before is None or after is before else _crashed(before, record, now)
        case RequeueJob() | RescheduleJob():
            return None if before is None or after is before else _before_it_runs_again(before)
        case _:
            return None


def _simply_succeeded(row: Row) -> bool:
    """Whether a job that succeeded was run once and nothing else became of it: most jobs, so it asks little."""
    if row.state is not SUCCEEDED or row.epoch > 1 or row.crashes or row.returns or row.interruptions:
        return False
    return len(row.history) <= 3 or sum(state == PROCESSING.value for _, state, _ in row.history) == 1


def _run(row: Row, record: FromWorker, ended: str, ran: tuple[Instant | None, Instant], now: Instant) -> AttemptRow:
    started_at, ended_at = ran
    return AttemptRow(
        job_id=row.id, epoch=row.epoch, attempt=row.attempt, ended=ended, at=now, started_at=started_at,
        ended_at=ended_at, worker=record.worker, host=record.host,
    )  # fmt: skip


def _failed(before: Row | None, record: FromWorker, event: Failed, after: Row, now: Instant) -> AttemptRow:
    error = event.error
    asked = before is not None and before.reason_code == Reason.CANCEL
    ended = CANCELLED if asked else event.ended
    attempt = _run(after, record, ended, (event.started_at, event.ended_at), now)
    attempt.error = error.model_dump_json()
    if ended == TIMED_OUT:  # where it stood is chance
        error = error.model_copy(update={"traceback": ""})
    attempt.fingerprint = None if ended == CANCELLED else fingerprint(error, after.job)
    return attempt


def _took_back(before: Row | None, after: Row) -> bool:
    """Whether a job was waiting for a worker and its delivery came back; not that of a run that has ended already."""
    if before is None:
        return True
    if before.reason_code in (Reason.INTERRUPTED, Reason.VANISHED):
        return False
    return after.state is not before.state


def _crashed(row: Row, record: LeaseOver, now: Instant) -> AttemptRow:
    return AttemptRow(
        job_id=row.id, epoch=row.epoch, attempt=row.attempt, ended=CRASHED, at=now, started_at=row.started_at,
        ended_at=now, worker=record.worker, host=row.ran_host or "", release=record.release, reason=record.reason,
    )  # fmt: skip


def _before_it_runs_again(row: Row) -> AttemptRow | None:
    """The run of a job that had succeeded: no row tells of it yet, if it was the first."""
    if row.state is not SUCCEEDED:
        return None
    ended_at = row.changed_at if row.ended_at is None else row.ended_at
    return AttemptRow(
        job_id=row.id, epoch=row.epoch, attempt=row.attempt, ended=SUCCEEDED.value, at=row.changed_at,
        started_at=row.started_at, ended_at=ended_at, worker=row.ran_on or "", host=row.ran_host or "",
    )  # fmt: skip

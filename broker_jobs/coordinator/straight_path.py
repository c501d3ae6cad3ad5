"""Decides plain jobs without their rows: their copies, their releases when their time has come, and their success.

Most records are these, and most of what the general path asks of them has one answer: they have no conditions, and end
at once. A batch counts its members, and what a job has in lines goes back when it succeeds. Here they are decided
together and written narrowly (see store/plain_jobs.py), which costs a third. What is decided is the same: a test
applies generated inputs on both paths and compares the stores. Any record that is not alone with its job, any job that
is not plain, and any end that a caller waits for goes the general path.
"""

from __future__ import annotations

from collections.abc import Sequence

from broker_jobs.clock import Instant, LogTime
from broker_jobs.coordinator.cascade import Cascade
from broker_jobs.coordinator.conditions.batch_rows import OPEN, BatchRows
from broker_jobs.coordinator.conditions.lines import Lines
from broker_jobs.coordinator.effects import HORIZON_SECONDS, Effects
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.liveness import Leases
from broker_jobs.coordinator.named_jobs import named
from broker_jobs.coordinator.queries import Waiters
from broker_jobs.coordinator.records import FromWorker, ReadyCopy, TimerDue, WaitingCopy
from broker_jobs.coordinator.release import release
from broker_jobs.coordinator.state_machine.context import Context
from broker_jobs.coordinator.state_machine.envelopes import INCOMPLETE
from broker_jobs.coordinator.state_machine.steps import COME, late_by
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import Succeeded
from broker_jobs.messages.priority import NORMAL
from broker_jobs.messages.state import State
from broker_jobs.store.due import LINE_PREFIX
from broker_jobs.store.plain_jobs import SUCCEEDED, Copy, Known, Success
from broker_jobs.store.row import Conditions, Publication, Row, WaitReason
from broker_jobs.store.write import Transaction

LEAST_INPUTS = 2
"""With fewer, what is asked of the store beforehand is not worth it."""

MOST_HISTORY_CHARS = 4_000
"""A longer history may have to be shortened, which the general path does."""


class StraightPath:
    """The plain jobs of one transaction.

    Args:
        tx, at, cascade, effects, batch_rows, lines: of the transaction.
        waiters: callers that wait for an end.
        leases: hear of the workers.
    """

    def __init__(
        self,
        tx: Transaction,
        at: Context,
        cascade: Cascade,
        effects: Effects,
        *,
        batch_rows: BatchRows,
        lines: Lines,
        waiters: Waiters,
        leases: Leases,
    ) -> None:
        self._tx = tx
        self._at = at
        self._cascade = cascade
        self._effects = effects
        self._batch_rows = batch_rows
        self._lines = lines
        self._waiters = waiters
        self._leases = leases
        self.succeeded: set[str] = set()
        """Jobs that have ended here: that their releases are confirmed changes nothing any more."""
        self.has_added_members = False
        """Whether jobs were added that wait for the rest of their batch submission."""

    def take(self, inputs: list[Input], *, may_release: bool) -> list[Input]:
        """Decide and write what is plain; the inputs that are left for the general path, in their order."""
        if len(inputs) < LEAST_INPUTS:
            return inputs
        copies: dict[str, ReadyCopy] = {}
        delayed: dict[str, WaitingCopy] = {}
        due: dict[str, None] = {}
        ends: dict[str, FromWorker] = {}
        others: set[str] = set()
        for one in inputs:
            id = _job_of(one)
            if id is None or id in others or id in ends or id in delayed or id in due:
                others.update(named(one))
            elif type(one) is FromWorker:
                if one.event.epoch == 1 and not self._waiters.waits_for(id):
                    ends[id] = one
                else:
                    others.add(id)
            elif id in copies:
                others.add(id)
            elif type(one) is ReadyCopy and _is_plain(one.envelope, 1):
                copies[id] = one
            elif type(one) is WaitingCopy and self._is_delayed(one):
                delayed[id] = one
            elif type(one) is TimerDue and may_release:
                due[id] = None
            else:
                others.add(id)
        for id in others:
            for group in (copies, delayed, due, ends):
                group.pop(id, None)
        taken = self._write(copies, ends) | self._add_delayed(delayed) | self.release(list(due), WaitReason.NOTHING)
        self._effects.kinds["timerdue"] += sum(id in taken for id in due)
        if not taken:
            return inputs
        return [one for one in inputs if _job_of(one) not in taken]

    def _write(self, copies: dict[str, ReadyCopy], ends: dict[str, FromWorker]) -> set[str]:
        """Write what is plain of these; the jobs."""
        now = self._at.now
        plain_jobs = self._tx.plain_jobs
        known = plain_jobs.known([*copies, *(id for id in ends if id not in copies)])
        added = [_copy(one, now) for id, one in copies.items() if id not in ends and id not in known]
        both = [
            (_copy(copies[id], now), _success(one, now)) for id, one in ends.items() if id in copies and id not in known
        ]
        ended: list[tuple[Known, Success]] = []
        for id, one in ends.items():
            job = known.get(id)
            if job is None or not job.is_plain or id in copies or len(job.history or "") >= MOST_HISTORY_CHARS:
                continue
            if job.batch is None or self._batch_rows.count(job.batch, OPEN, SUCCEEDED):
                ended.append((job, _success(one, now)))
        plain_jobs.add(added)
        plain_jobs.add_succeeded(both)
        plain_jobs.succeed(ended)
        self._give_back([job.id for job, _ in ended if job.in_lines])
        succeeded = [copy.id for copy, _ in both] + [job.id for job, _ in ended]
        self.succeeded.update(succeeded)
        for id in succeeded:
            self._cascade.tell(id)
        for worker in {ends[id].worker for id in succeeded}:
            self._leases.heard(worker, LogTime(self._at.log_now))
        effects = self._effects
        effects.kinds["readycopy"] += len(added) + len(both)
        effects.kinds["succeeded"] += len(succeeded)
        effects.rows += len(added) + len(succeeded)
        return {copy.id for copy in added}.union(succeeded)

    def _give_back(self, ids: list[str]) -> None:
        """Jobs are over: what they have in lines goes back, and those that wait there are called."""
        self._lines.learn(ids)
        for id in ids:
            for entry in list(self._lines.of(id).values()):
                self._lines.move(entry, None)

    # ---- what is released later

    def _is_delayed(self, one: WaitingCopy) -> bool:
        """Whether a job waits for its time alone, and has a copy in the delay queues where it needs one."""
        envelope = one.envelope
        if one.member or envelope.due_at is None or not _is_plain(envelope, 0):
            return False
        due_at = envelope.due_at.timestamp()
        return due_at > self._at.until and (one.copied_for is not None or due_at <= self._at.now + HORIZON_SECONDS)

    def _add_delayed(self, delayed: dict[str, WaitingCopy]) -> set[str]:
        """Add jobs that wait for their time; those that were added."""
        now = self._at.now
        known = self._tx.plain_jobs.known(list(delayed))
        added = [
            (_copy(one, None), None if one.copied_for is None else now + one.copied_for)
            for id, one in delayed.items()
            if id not in known
        ]
        self._tx.plain_jobs.add_delayed(added, now)
        for job, _ in added:
            if job.due_at is not None and job.due_at <= now + HORIZON_SECONDS:
                self._effects.timers.append((job.id, job.due_at))
        self._effects.kinds["waitingcopy"] += len(added)
        self._effects.rows += len(added)
        return {job.id for job, _ in added}

    def add_members(self, batch: str, members: Sequence[WaitingCopy]) -> set[str]:
        """Add those of these members of a batch submission that ask for nothing but their batch; those that were.

        Args:
            batch: is known.
            members: are not known, and nothing else in this transaction is about them.
        """
        if len(members) < LEAST_INPUTS:
            return set()
        added = [_copy(one, None) for one in members if _is_plain_member(one, batch)]
        self._tx.plain_jobs.add_members(added, batch, self._at.now, INCOMPLETE)
        for job in added:
            self._batch_rows.count(batch, None, OPEN)
            self._lines.is_new(job.id)
        self.has_added_members = self.has_added_members or bool(added)
        self._effects.rows += len(added)
        return {job.id for job in added}

    def release(self, ids: Sequence[str], waits: int) -> set[str]:
        """Release those of these jobs that wait for nothing else; those that were.

        The caller has the right to release, and has read none of the rows.

        Args:
            ids: in their order.
            waits: `WaitReason.NOTHING`: for their time. `COMMIT`: for the submission that is accepted now.
                `DEPENDENCY`: for others, whose ends have come.
        """
        if len(ids) < LEAST_INPUTS:
            return set()
        waiting = self._tx.plain_jobs.waiting(ids, waits, self._at.until)
        released: list[Row] = []
        for row in (waiting[id] for id in ids if id in waiting):
            envelope = codec.decode(row.envelope)
            if not _asks_nothing(envelope, waits):
                continue
            after = _released(row, self._at)
            released.append(after)
            self._effects.release_messages.append(release(after, envelope))
            self._effects.late.append(late_by(after, self._at.now))
        self._tx.plain_jobs.release(released, State.AWAITING if waits else State.SCHEDULED)
        self._effects.releases += released
        self._effects.rows += len(released)
        return {row.id for row in released}


def _job_of(one: Input) -> str | None:
    """The job that an input is about, if it is of a kind that may be decided here."""
    if type(one) is FromWorker:
        return one.event.id if type(one.event) is Succeeded else None
    if type(one) is ReadyCopy or type(one) is WaitingCopy:
        return one.envelope.id
    return one.id if type(one) is TimerDue and not one.id.startswith(LINE_PREFIX) else None


def _is_plain_member(one: WaitingCopy, batch: str) -> bool:
    """Whether a job of a chunk asks for nothing but its batch."""
    envelope = one.envelope
    return (
        envelope.batch == batch
        and envelope.after is None
        and envelope.due_at is None
        and one.copied_for is None
        and (envelope.epoch, envelope.attempt) == (0, 1)
        and not (envelope.unique or envelope.limits or envelope.result_args or envelope.recurring)
        and not envelope.policy.has_own_retention
    )


def _is_plain(envelope: Envelope, epoch: int) -> bool:
    is_new = envelope.epoch == epoch and envelope.attempt == 1 and envelope.recurring is None
    return is_new and not (envelope.has_conditions or envelope.policy.has_own_retention)


def _asks_nothing(envelope: Envelope, waits: int) -> bool:
    """Whether a job has no condition but its batch and what it waits for."""
    if envelope.unique or envelope.limits or envelope.result_args:
        return False
    return envelope.after is None or (waits == WaitReason.DEPENDENCY and envelope.after.delay is None)


def _copy(one: ReadyCopy | WaitingCopy, released_at: Instant | None) -> Copy:
    envelope = one.envelope
    return Copy(
        envelope.id,
        envelope.job,
        envelope.queue,
        None if envelope.due_at is None else envelope.due_at.timestamp(),
        envelope.created_at.timestamp(),
        released_at,
        envelope.policy.retries,
        one.body,
        envelope.parent,
        " ".join(envelope.tags) or None,
        None if envelope.priority == NORMAL else envelope.priority,
    )


def _success(one: FromWorker, now: Instant) -> Success:
    event = one.event
    assert isinstance(event, Succeeded)
    return Success(now, event.started_at, event.ended_at, event.result, event.result_lost, one.worker, one.host)


def _released(row: Row, at: Context) -> Row:
    """A row of our own (see `PlainJobStore.waiting`) as it is when its release is on the way."""
    if row.waits == WaitReason.DEPENDENCY:
        row.history.append((at.now, State.SCHEDULED.value, COME))
        row.due_at = max(at.now, row.due_at or 0.0)
    elif row.waits == WaitReason.COMMIT:
        row.history.append((at.now, State.SCHEDULED.value, row.reason))
        row.due_at = at.now if row.due_at is None else row.due_at
    row.history.append((at.now, State.ENQUEUED.value, ""))
    row.state, row.publication, row.epoch, row.sender = State.ENQUEUED, Publication.PUBLISHING, 1, at.coordinator
    row.released_at = max(at.now, row.due_at or 0.0)
    row.changed_at, row.reason, row.waits, row.conditions = at.now, "", WaitReason.NOTHING, Conditions.RELEASED
    return row

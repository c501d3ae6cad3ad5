"""Decides plain jobs without their rows: the copy of a job that its producer released, and its success.

Most records are these two, and most of what the general path asks of them has one answer: they have no conditions, and
end at once; a batch counts its members, and what one has in lines goes back. Here they are decided together and written narrowly (see store/plain_jobs.py), which costs a
third. What is decided is the same: a test applies generated inputs on both paths and compares the stores. Any record
that is not alone with its job, any job that is not plain, and any end that a caller waits for goes the general path.
"""

from __future__ import annotations

from broker_jobs.clock import Instant, LogTime
from broker_jobs.coordinator.cascade import Cascade
from broker_jobs.coordinator.conditions.batch_rows import OPEN, BatchRows
from broker_jobs.coordinator.conditions.lines import Lines
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.liveness import Leases
from broker_jobs.coordinator.named_jobs import named
from broker_jobs.coordinator.queries import Waiters
from broker_jobs.coordinator.records import FromWorker, ReadyCopy
from broker_jobs.coordinator.state_machine.context import Context
from broker_jobs.messages.events import Succeeded
from broker_jobs.store.plain_jobs import SUCCEEDED, Copy, Known, Success
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

    def take(self, inputs: list[Input]) -> list[Input]:
        """Decide and write what is plain; the inputs that are left for the general path, in their order."""
        if len(inputs) < LEAST_INPUTS:
            return inputs
        copies: dict[str, ReadyCopy] = {}
        ends: dict[str, FromWorker] = {}
        others: set[str] = set()
        for one in inputs:
            if type(one) is ReadyCopy:
                id = one.envelope.id
                if id in copies or id in ends or not _is_plain(one):
                    others.add(id)
                else:
                    copies[id] = one
            elif type(one) is FromWorker and type(one.event) is Succeeded:
                id = one.event.id
                if id in ends or one.event.epoch != 1 or self._waiters.waits_for(id):
                    others.add(id)
                else:
                    ends[id] = one
            else:
                others.update(named(one))
        for id in others:
            copies.pop(id, None)
            ends.pop(id, None)
        taken = self._write(copies, ends)
        if not taken:
            return inputs
        return [one for one in inputs if not _is_of(one, taken)]

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


def _is_plain(one: ReadyCopy) -> bool:
    envelope = one.envelope
    return not envelope.has_conditions and envelope.epoch == 1 and envelope.attempt == 1 and envelope.recurring is None


def _is_of(one: Input, taken: set[str]) -> bool:
    """Whether an input is about one of these jobs; each has no other input."""
    if type(one) is ReadyCopy:
        return one.envelope.id in taken
    return type(one) is FromWorker and type(one.event) is Succeeded and one.event.id in taken


def _copy(one: ReadyCopy, now: Instant) -> Copy:
    envelope = one.envelope
    return Copy(
        envelope.id,
        envelope.job,
        envelope.queue,
        None if envelope.due_at is None else envelope.due_at.timestamp(),
        envelope.created_at.timestamp(),
        now,
        envelope.policy.retries,
        one.body,
        envelope.parent,
        " ".join(envelope.tags) or None,
    )


def _success(one: FromWorker, now: Instant) -> Success:
    event = one.event
    assert isinstance(event, Succeeded)
    return Success(now, event.started_at, event.ended_at, event.result, event.result_lost, one.worker, one.host)

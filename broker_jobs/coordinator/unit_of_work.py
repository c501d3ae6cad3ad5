"""Applies one batch of inputs in one transaction: load, decide, cascade, write.

It publishes nothing: the caller acknowledges the log at the commit and then carries out the `Effects`. Any crash
repeats a batch, and repeating changes nothing.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import partial

from broker_jobs.broker.delay import level_seconds
from broker_jobs.clock import Instant
from broker_jobs.coordinator.admission import Admission
from broker_jobs.coordinator.broadcasts import Broadcasts
from broker_jobs.coordinator.cascade import Cascade
from broker_jobs.coordinator.command_handler import CommandHandler
from broker_jobs.coordinator.conditions.batch_rows import BatchRows
from broker_jobs.coordinator.conditions.batches import BatchRules
from broker_jobs.coordinator.conditions.dependencies import DependencyRules
from broker_jobs.coordinator.conditions.known import KnownJobRules
from broker_jobs.coordinator.conditions.limits import LimitRules
from broker_jobs.coordinator.conditions.line_calls import LineCalls
from broker_jobs.coordinator.conditions.lines import Lines
from broker_jobs.coordinator.conditions.unique import UniqueKeyRules
from broker_jobs.coordinator.consequences import Consequences
from broker_jobs.coordinator.dependents import Dependents
from broker_jobs.coordinator.dispatch import Dispatch
from broker_jobs.coordinator.effects import HORIZON_SECONDS, Effects
from broker_jobs.coordinator.inputs import COPY_SLACK_SECONDS, CheckpointRead, Input
from broker_jobs.coordinator.job_decisions import JobDecisions
from broker_jobs.coordinator.leadership import OwnTicks
from broker_jobs.coordinator.liveness import Liveness
from broker_jobs.coordinator.log_time import LogClock
from broker_jobs.coordinator.queries import Waiters
from broker_jobs.coordinator.release import delay_copy, release
from broker_jobs.coordinator.replies import Replies
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.context import Context
from broker_jobs.coordinator.state_machine.steps import late_by
from broker_jobs.coordinator.straight_path import StraightPath
from broker_jobs.coordinator.worker_watch import WorkerWatch
from broker_jobs.messages.control import Fence
from broker_jobs.messages.events import Tick
from broker_jobs.messages.state import State
from broker_jobs.store.due import LINE_PREFIX
from broker_jobs.store.records import WorkItemRow
from broker_jobs.store.row import Publication, Row
from broker_jobs.store.write import Transaction

ALL_BROADCASTS_SECONDS = 5.0
"""Everything is broadcast at most once in so long: a heartbeat is often behind by what is just under way."""


@dataclass(slots=True)
class Memory:
    """What a coordinator knows beside the store, from one transaction to the next."""

    coordinator: str
    since: Instant
    """When it started."""
    ticks: OwnTicks
    liveness: Liveness
    waiters: Waiters = field(default_factory=Waiters)
    broadcast_all_at: Instant = float("-inf")
    jobs_wait: bool = True
    """Whether a job may wait for something that the end of another one brings; looked up once a tick."""
    broadcast_failed: bool = False
    """A broadcast could not be published: everything is broadcast again."""


class UnitOfWork:
    """One transaction."""

    def __init__(
        self,
        tx: Transaction,
        at: Context,
        memory: Memory,
        *,
        may_release: bool,
        skipped: frozenset[WorkItemRow],
        tells_together: bool,
    ) -> None:
        self._tx = tx
        self._memory = memory
        self._now = at.now
        self._effects = effects = Effects(tx.meta)
        self._rows = rows = Rows(tx, at)
        self._cascade = cascade = Cascade()
        self._broadcasts = broadcasts = Broadcasts(tx)
        self._lines = lines = Lines(tx.lines, cascade, now=at.now, until=at.until, loaded=rows.loaded_in_lines)
        line_calls = LineCalls(rows, cascade, lines)
        limits = LimitRules(rows, cascade, lines, line_calls)
        self._batch_rows = batch_rows = BatchRows(tx, cascade, at.now)
        dependencies = DependencyRules(rows, batch_rows)
        batches = BatchRules(rows, cascade, batch_rows, dependencies)
        unique = UniqueKeyRules(rows, cascade, waits_for=dependencies.waits_for, asks_for=dependencies.would_wait_for)
        dependents = Dependents(rows, cascade, batch_rows)
        known_jobs = KnownJobRules(rows, cascade)
        self._admission = admission = Admission(
            rows, cascade, dependents, unique=unique, dependencies=dependencies, batches=batches, limits=limits,
            known_jobs=known_jobs, queues_runs=partial(_queues_runs, tx), may_release=may_release,
        )  # fmt: skip
        jobs = JobDecisions(
            rows, cascade, effects, admission=admission, limits=limits, lines=lines, broadcasts=broadcasts
        )
        self._jobs = jobs
        self._straight_path = straight_path = StraightPath(
            tx, at, cascade, effects, batch_rows=batch_rows, lines=lines, waiters=memory.waiters,
            leases=memory.liveness.leases,
        )  # fmt: skip
        self._consequences = consequences = Consequences(
            rows, cascade, admission=admission, dependents=dependents, dependencies=dependencies,
            batch_rows=batch_rows, batches=batches, line_calls=line_calls, straight_path=straight_path,
            decide=jobs.decide, skipped=skipped, tells_together=tells_together,
        )  # fmt: skip
        self._replies = replies = Replies(tx, memory.waiters, rows, batch_rows)
        self._workers = workers = WorkerWatch(memory.liveness, rows, effects, broadcasts, known_jobs)
        command_handler = CommandHandler(
            rows, cascade, effects, jobs=jobs, batches=batches, line_calls=line_calls, lines=lines,
            broadcasts=broadcasts, workers=workers, replies=replies, replay=partial(_replay, weakref.ref(self)),
        )  # fmt: skip
        self._log_clock = log_clock = LogClock(
            rows, effects, own=memory.coordinator, since=memory.since, ticks=memory.ticks,
            coordinators=memory.liveness.coordinators,
        )  # fmt: skip
        self._dispatch = Dispatch(
            rows, cascade, effects, jobs=jobs, admission=admission, dependencies=dependencies, batches=batches,
            consequences=consequences, command_handler=command_handler, log_clock=log_clock, workers=workers,
            straight_path=straight_path,
        )  # fmt: skip

    def replay(self, dead_letter_id: str) -> str | None:
        """Decide a dead letter now; why that cannot be, or None."""
        return self._dispatch.replay(dead_letter_id)

    # ---- the steps

    def run(self, inputs: list[Input]) -> Effects:
        """Apply the inputs in their order, then what follows from them."""
        ticks = [one.tick if isinstance(one, CheckpointRead) else one for one in inputs]
        if any(isinstance(tick, Tick) and self._log_clock.is_ahead(tick) for tick in ticks):
            self._admission.may_release = False  # the store went back: not even what comes before the tick is released
        inputs = self._straight_path.take(inputs, may_release=self._admission.may_release)
        self._dispatch.load(inputs)
        for one in inputs:
            self._dispatch.apply(one)
        self._consequences.run()
        self._write()
        self._effects.jobs_wait = self._jobs_wait()
        self._workers.finish()
        if self._jobs.attempts:  # after the heartbeats, which tell the releases of workers
            self._tx.attempts.save(self._jobs.attempts.values())
        self._replies.answer()
        self._effects.more = self._consequences.more
        self._effects.messages += self._replies.messages
        self._effects.told = self._replies.told
        self._broadcast()
        return self._effects

    def _write(self) -> None:
        changed = self._rows.changed()
        rows = [self._with_delay_copy(old, row) for old, row in changed]
        for (old, _), row in zip(changed, rows, strict=True):
            self._follow(old, row)
        ended = self._straight_path.succeeded
        self._tx.jobs.confirm([(id, epoch) for id, epoch in self._dispatch.confirmed if id not in ended])
        self._rows.write(rows)
        self._batch_rows.write()
        self._tx.schedules.add_open_runs(self._rows.new_runs)
        for key, at in self._lines.write():
            if at <= self._now + HORIZON_SECONDS:
                self._effects.timers.append((LINE_PREFIX + key, at))
        if self._jobs.log_lines:
            self._tx.log_lines.add(self._jobs.log_lines)
        self._effects.rows += len(rows)

    def _jobs_wait(self) -> bool:
        if self._effects.tick_at is not None:
            return self._tx.jobs.any_awaiting()
        changed = self._rows.changed()
        return self._straight_path.has_added_members or any(row.state is State.AWAITING for _, row in changed)

    def _with_delay_copy(self, old: Row | None, row: Row) -> Row:
        """A long wait gets a copy in the delay queues, so that a lost store loses no delayed job."""
        due_later = row.state is State.SCHEDULED and row.publication is Publication.NONE and row.due_at is not None
        if not due_later or row.copy_until is not None or (row.due_at or 0.0) <= self._now + HORIZON_SECONDS:
            return row
        if old is not None and old.state is State.SCHEDULED and old.due_at == row.due_at and old.copy_until is None:
            return row
        copy = delay_copy(row, self._now)
        if copy is None:
            return row
        message, level = copy
        self._effects.messages.append(message)
        return row.evolve(copy_until=self._now + level_seconds(level) + COPY_SLACK_SECONDS)

    def _follow(self, old: Row | None, row: Row) -> None:
        """What a row's change means for workers, timers and callers."""
        if row.publication is Publication.PUBLISHING and (old is None or old.epoch != row.epoch):
            self._effects.releases.append(row)
            self._effects.release_messages.append(release(row, self._rows.envelope(row)))
            if row.due_at is not None:
                self._effects.late.append(late_by(row, self._now))
        elif row.state is State.SCHEDULED and row.publication is Publication.NONE:
            if row.due_at is not None and row.due_at <= self._now + HORIZON_SECONDS:
                self._effects.timers.append((row.id, row.due_at))
        if row.fence > (old.fence if old is not None else 0):
            self._broadcasts.fences.append(Fence(id=row.id, epoch=row.fence))
        if row.state.is_final:
            self._replies.ended(row)

    def _broadcast(self) -> None:
        memory = self._memory
        wanted = self._broadcasts.missed or memory.broadcast_failed
        all_of_it = wanted and abs(self._now - memory.broadcast_all_at) >= ALL_BROADCASTS_SECONDS
        controls = self._broadcasts.controls(all_of_it=all_of_it)
        if controls:
            *self._effects.control_before, self._effects.control = controls
        if all_of_it:
            memory.broadcast_all_at, memory.broadcast_failed = self._now, False


def _queues_runs(tx: Transaction, recurring: str) -> bool:
    schedule = tx.schedules.get(recurring) if recurring else None
    return schedule is not None and schedule.overlap == "queue"


def _replay(work: weakref.ref[UnitOfWork], dead_letter_id: str) -> str | None:
    """A weak reference: its rows, which may be large, would live until the garbage is collected."""
    its = work()
    return None if its is None else its.replay(dead_letter_id)

"""Admits jobs, lets them go and lets them leave: the one place where all conditions of a job are asked.

Every way by which a job becomes known or comes back ends in `admit`. A job is released in `walk` alone. Whatever ends
its waiting goes through `leave`. The law is in docs/internals/conditions.md.

Over 300 lines: to enter, to go and to leave ask the same conditions in one order, which is read best in one place.
"""

from __future__ import annotations

from collections.abc import Callable

from broker_jobs.coordinator.cascade import Cascade
from broker_jobs.coordinator.conditions.batches import BatchRules
from broker_jobs.coordinator.conditions.dependencies import DependencyRules, Verdict
from broker_jobs.coordinator.conditions.known import KnownJobRules
from broker_jobs.coordinator.conditions.limits import LimitRules
from broker_jobs.coordinator.conditions.unique import Answer, UniqueKeyRules
from broker_jobs.coordinator.dependents import Dependents
from broker_jobs.coordinator.records import TimerDue
from broker_jobs.coordinator.result_arguments import MissingResultError, parents_of, with_results
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.decide import decide
from broker_jobs.coordinator.state_machine.steps import COME, NOT_PUBLISHED, entered, grace_ended, waiting
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.state import State
from broker_jobs.store.row import Conditions, Publication, Reason, Row, WaitReason

UNCOMMITTED = (
    "its batch is not complete: the jobs of a batch begin together when its block has ended; "
    "delete it if it must not run"
)


class Admission:
    """All conditions together, in one transaction.

    Args:
        rows: the jobs.
        cascade: takes what follows.
        dependents: what is told that a job has changed.
        unique, dependencies, batches, limits, known_jobs: the conditions.
        queues_runs: whether the runs of a recurring job wait for each other.
        may_release: whether this coordinator has the right to release.
    """

    def __init__(
        self,
        rows: Rows,
        cascade: Cascade,
        dependents: Dependents,
        *,
        unique: UniqueKeyRules,
        dependencies: DependencyRules,
        batches: BatchRules,
        limits: LimitRules,
        known_jobs: KnownJobRules,
        queues_runs: Callable[[str], bool],
        may_release: bool,
    ) -> None:
        self._rows = rows
        self._cascade = cascade
        self._dependents = dependents
        self._unique = unique
        self._dependencies = dependencies
        self._batches = batches
        self._limits = limits
        self.known_jobs = known_jobs
        self._queues_runs = queues_runs
        self.may_release = may_release

    # ---- admission

    def admit(self, row: Row) -> None:
        """A job is accepted: its conditions are asked, and it goes or waits."""
        envelope = self._rows.envelope(row)
        if envelope is None:
            return
        answer = self._ask_unique(row, envelope)
        row = self._rows[row.id]
        if answer is Answer.ALIAS:
            if row.batch is not None:
                self._rows.tx.dependencies.forget([row.id])
            self._dependents.count(row)
            return
        if answer is Answer.CIRCLE:
            holder = self._unique.taken_by_another(row, envelope)
            self.fail(row, f"it has the unique key of {holder}, which waits for it: give one of them another key")
            return
        verdict = self._dependencies.admit(row, envelope)
        if envelope.after is not None and (verdict.open or verdict.unsatisfied is not None):
            row = self._put(row.evolve(conditions=row.conditions | Conditions.DEPENDENCIES))
        row = self._limits.admit(self._rows[row.id], envelope, overlap=self._queues_runs(row.recurring or ""))
        self._dependents.count(row)
        row = self._rows[row.id]  # it may be counted now
        if verdict.failed is not None:
            self.fail(row, verdict.failed)
            return
        self._judge(row, verdict)
        _walk_soon(self._cascade, self._rows[row.id])

    def _ask_unique(self, row: Row, envelope: Envelope) -> Answer:
        if envelope.unique is not None:
            row = self._put(row.evolve(conditions=row.conditions | Conditions.UNIQUE))
        answer = self._unique.admit(row, envelope)
        for id in self._unique.replaced:
            self.leave(self._rows[id])
            self._dependents.count(self._rows[id])
        self._unique.replaced.clear()
        return answer

    def accept_member(self, row: Row, *, begins: bool) -> None:
        """The submission of a member is accepted: so is the member. `begins`: its batch waits for nothing."""
        if row.is_waiting and row.waits & WaitReason.COMMIT:
            waits_on = not begins or _has_dependencies(self._rows.envelope(row))
            waits = WaitReason.DEPENDENCY if waits_on else WaitReason.NOTHING
            self.admit(self._put(waiting(row, waits, self._rows.at, row.reason)))

    def member(self, row: Row, abandoned: str | None) -> None:
        """A member of a batch submission is known: it takes nothing before the commit."""
        self._dependents.count(row)
        if abandoned is not None:
            self.unsatisfied(self._rows[row.id], abandoned)

    def comes_back(self, row: Row) -> None:
        """A job left a final state by a command: it is admitted as one that waits for no parent."""
        envelope = self._rows.envelope(row)
        if envelope is None:
            return
        self._rows.tx.dependencies.forget([row.id])
        self._ask_unique(row, envelope)
        self._limits.admit(self._rows[row.id], envelope, overlap=self._queues_runs(row.recurring or ""))
        self._dependents.tell(self._rows[row.id])
        _walk_soon(self._cascade, self._rows[row.id])

    def why_not_again(self, row: Row) -> str | None:
        """Why a job may not be run or scheduled by a person now."""
        if self._batches.is_uncommitted(row):
            return UNCOMMITTED
        envelope = self._rows.envelope(row) if row.state.is_final else None
        holder = None if envelope is None else self._unique.taken_by_another(row, envelope)
        if holder is not None:
            return f"job {holder} has its unique key: requeue it when that has ended, or delete that"
        return None

    # ---- dependencies

    def judged(self, id: str, verdict: Verdict) -> None:
        """What a job depends on has changed."""
        row = self._rows.get(id)
        if row is not None:
            self._judge(row, verdict)

    def _judge(self, row: Row, verdict: Verdict) -> None:
        at = self._rows.at
        if row.state is State.DELETED and row.reason_code == Reason.UNSATISFIED:
            if verdict.unsatisfied is None:
                self._revive(row, verdict)
        elif not row.is_waiting or row.waits & WaitReason.COMMIT:
            return
        elif verdict.unsatisfied is not None:
            self.unsatisfied(row, verdict.unsatisfied)
        elif verdict.open:
            self._put(waiting(row, row.waits | WaitReason.DEPENDENCY, at, row.reason))
        elif row.waits & WaitReason.DEPENDENCY:
            due_at = max(at.now + _delay_after(self._rows.envelope(row)), row.due_at or 0.0)
            met = row.evolve(
                due_at=due_at, reason_code=row.reason_code or Reason.NOW,
                conditions=row.conditions & ~Conditions.DEPENDENCIES,
            )  # fmt: skip
            self._put(waiting(met, row.waits & ~WaitReason.DEPENDENCY, at, COME))
            self._cascade.walk(row.id)

    def _revive(self, row: Row, verdict: Verdict) -> None:
        """Nothing stands against a job any more that was deleted as unsatisfied: it is admitted, but as no alias."""
        envelope = self._rows.envelope(row)
        if envelope is None or self._unique.taken_by_another(row, envelope) is not None:
            return
        reason = "what it waits for may come again"
        self._put(entered(row, State.AWAITING, self._rows.at.now, reason, waits=WaitReason.DEPENDENCY))
        self._ask_unique(self._rows[row.id], envelope)
        self._limits.admit(self._rows[row.id], envelope, overlap=self._queues_runs(row.recurring or ""))
        self._dependents.tell(self._rows[row.id])
        self._judge(self._rows[row.id], verdict)

    def unsatisfied(self, row: Row, reason: str) -> None:
        """What a job waits for can not come any more, as things stand."""
        if row.is_waiting:
            at = self._rows.at.now
            row = self._put(entered(row, State.DELETED, at, reason, reason_code=Reason.UNSATISFIED))
            self.ended(row, keeps_dependencies=True)

    # ---- going

    def grace_over(self, row: Row) -> None:
        """Ask whether the grace of a job is over: then nothing of it may be running any more."""
        changed = grace_ended(row, self._rows.at)
        if changed is not row:
            self._put(changed)
            self.cleared(changed, keeps_place=True)

    def walk(self, id: str) -> None:
        """Let a job go if it waits for nothing any more."""
        row = self._rows.get(id)
        if row is None:
            return
        self.grace_over(row)
        row = self._rows[id]
        at = self._rows.at
        held = row.waits & ~WaitReason.LINE
        if not row.is_waiting or held or not self._rows.is_clear(row) or (row.due_at or 0.0) > at.until:
            return
        envelope = self._rows.envelope(row)
        if envelope is None:  # an outcome was all that was ever seen of it
            self._release(row)
            return
        moment = self._limits.walk(row, envelope) if self.may_release else None
        if moment is None and (self.may_release or self._limits.stand_by(row, envelope)):
            return
        row = self._put(waiting(self._rows[id], WaitReason.NOTHING, at, "a slot is free"))
        if moment is None:
            return
        if moment > max(at.now, row.due_at or 0.0):
            row = self._put(row.evolve(due_at=moment))
        if envelope.result_args:
            taken = self._with_results(row, envelope)
            if taken is None:
                return
            row = taken
        released = self._release(row)
        if released is not None:
            self._limits.release(released, envelope, moment)

    def _release(self, row: Row) -> Row | None:
        if not self.may_release:
            return None
        after = decide(row, TimerDue(row.id), self._rows.at).row
        if after is None or after is row:
            return None
        self._put(after)
        if after.state.is_final:
            self.ended(after)
            return None
        return after

    def _with_results(self, row: Row, envelope: Envelope) -> Row | None:
        """Put parents' results into a job's arguments; without them it cannot run."""
        parents = parents_of(envelope)
        self._rows.see(parents)
        known = {id: self._rows.root(self._rows[id]) for id in parents if id in self._rows}
        try:
            return self._put(with_results(row, envelope, known))
        except MissingResultError as missing:
            self.fail(row, str(missing))
            return None

    # ---- leaving

    def fail(self, row: Row, reason: str) -> None:
        """A job that waits can never run."""
        if row.is_waiting:
            clear = NOT_PUBLISHED if row.publication is Publication.NONE else {}
            self.ended(self._put(entered(row, State.FAILED, self._rows.at.now, reason, **clear)))

    def ended(self, row: Row, *, keeps_dependencies: bool = False) -> None:
        """A job has ended: it gives back what it has because it waits, and what depends on it is told."""
        self.leave(row, keeps_dependencies=keeps_dependencies)
        self._dependents.tell(row)

    def leave(self, row: Row, *, keeps_dependencies: bool = False) -> None:
        """A job does not wait any more: what it took goes back, but for slots while it may be running."""
        if not keeps_dependencies and row.conditions & Conditions.DEPENDENCIES:
            self._rows.tx.dependencies.forget_parents(row.id)
        self._limits.leave(row)
        self._unique.leave(row)

    def cleared(self, row: Row, *, keeps_place: bool) -> None:
        """Nothing of a job may be running any more."""
        self._limits.cleared(row, keeps_place=keeps_place)
        row = self._rows[row.id]
        if row.gives_back:
            row = self._put(row.evolve(gives_back=False))
        if row.state.is_final:
            self.leave(row, keeps_dependencies=row.reason_code == Reason.UNSATISFIED)
        self._unique.cleared(row)
        if row.is_waiting:
            self._cascade.walk(row.id)

    def follow(self, before: Row | None, row: Row) -> None:
        """Draw the consequences of a decision about one job, whatever it was about."""
        if row.unknowns > (0 if before is None else before.unknowns):
            row = self._put(self.known_jobs.returned(row))
        was_final = before is not None and before.state.is_final
        was_waiting = before is not None and before.is_waiting
        if row.state.is_final and not was_final:
            self.ended(row)
        elif was_final and not row.state.is_final:
            self.comes_back(row)
        elif before is not None and was_final and (row.state is not before.state or row.is_alias != before.is_alias):
            self._unique.leave(row)  # the window of a job that had succeeded ends with its deletion
            self._dependents.tell(row)
        if was_waiting and row.state is State.PROCESSING:
            self._limits.runs_after_all(row)
        if row.started_at is not None and (before is None or row.started_at != before.started_at):
            self._unique.started(row)
        if before is not None and not self._rows.is_clear(before) and self._rows.is_clear(row):
            keeps_place = row.reason_code not in (Reason.RETRY, Reason.CRASH)
            self.cleared(row, keeps_place=keeps_place)
        elif row.is_waiting:
            _walk_soon(self._cascade, self._rows[row.id])

    def _put(self, row: Row) -> Row:
        self._rows.put(row)
        return row


def _walk_soon(cascade: Cascade, row: Row) -> None:
    """Ask soon whether a job may go, unless its message is out: it is asked when that has come back.

    Walks are done in the order in which they were asked for. One that is asked for too early would let the job go
    before others of its line, whose messages came back before its own.
    """
    if row.publication is Publication.NONE:
        cascade.walk(row.id)


def _has_dependencies(envelope: Envelope | None) -> bool:
    return envelope is None or envelope.after is not None


def _delay_after(envelope: Envelope | None) -> float:
    after = None if envelope is None else envelope.after
    return 0.0 if after is None or after.delay is None else after.delay

"""Decides what a job or batch waits for: parents, batches, and the beginning of its own batch.

A dependency is a row: a holder, a target, and how the target must end. A row that is met is removed, so it stays met.
One that ended otherwise stays as unsatisfied: it is open again when its target is. An alias ends with its root, so no
row is ever changed to name another target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from broker_jobs.coordinator.cascade import Kind
from broker_jobs.coordinator.conditions.batch_rows import BatchRows
from broker_jobs.coordinator.queries import batch_holder
from broker_jobs.coordinator.rows import Rows
from broker_jobs.messages.envelope import BATCH_PREFIX, Envelope, Parent, is_generated_id
from broker_jobs.store.records import DependencyRow
from broker_jobs.store.row import Row, WaitReason

WAITS_FOR_ITSELF = "it waits for itself, by way of its parents: enqueue it without one of them"


class Verdict(NamedTuple):
    """What the dependencies of a holder say."""

    open: bool
    """It waits for at least one."""
    unsatisfied: str | None
    """Why it cannot go on as things stand; None: nothing stands against it."""
    failed: str | None = None
    """Why it never can."""


class DependencyRules:
    """Dependencies, in one transaction.

    Args:
        rows: the jobs.
        batches: the batches.
    """

    def __init__(self, rows: Rows, batches: BatchRows) -> None:
        self._rows = rows
        self._tx = rows.tx
        self._batches = batches

    # ---- acceptance

    def admit(self, row: Row, envelope: Envelope) -> Verdict:
        """A job is accepted: what it waits for, of which some may have ended already."""
        if row.batch is not None and self._waits_for_its_batch(row):
            return Verdict(False, None, WAITS_FOR_ITSELF)
        if envelope.after is None:
            return Verdict(bool(row.waits & WaitReason.DEPENDENCY), None)  # whether its batch has begun is known
        parents = envelope.after.parents
        if self._closes_a_circle(row, parents):
            return Verdict(False, None, WAITS_FOR_ITSELF)
        left = self.wait_for(row.id, parents)
        if row.batch is not None or row.id in self._rows.old:
            return self.judge(row.id)
        against = next((unsatisfied_reason(dependency) for dependency in left if dependency.unsatisfied), None)
        return Verdict(any(not dependency.unsatisfied for dependency in left), against)

    def wait_for(self, holder: str, parents: Iterable[Parent]) -> list[DependencyRow]:
        """Keep what is left of these parents, and return it: those that ended as wanted hold nothing."""
        wanted = list(parents)
        self._rows.see([parent.id for parent in wanted if not parent.batch])
        named = [(batch_holder(parent.id) if parent.batch else parent.id, parent.on) for parent in wanted]
        self._tx.dependencies.relate(holder, named)
        left: list[DependencyRow] = []
        for parent in wanted:
            kind = "batch" if parent.batch else "job"
            outcome = self._outcome(kind, parent.id)
            if outcome is None or parent.on not in (outcome, "finished"):
                unsatisfied = outcome is not None
                left.append(DependencyRow(holder, kind, parent.id, parent.on, unsatisfied, self._rows.at.log_now))
        self._tx.dependencies.add(left)
        return left

    def judge(self, holder: str) -> Verdict:
        """What the dependencies of a holder say now."""
        return self.judge_all([holder])[holder]

    def judge_all(self, holders: Sequence[str]) -> dict[str, Verdict]:
        """What the dependencies of these holders say now."""
        states = self._tx.dependencies.states(holders)
        against = [holder for holder, (_, unsatisfied) in states.items() if unsatisfied]
        reasons: dict[str, str] = {}
        for dependency in self._tx.dependencies.of(against):
            if dependency.unsatisfied:
                reasons.setdefault(dependency.holder, unsatisfied_reason(dependency))
        return {holder: Verdict(is_open, reasons.get(holder)) for holder, (is_open, _) in states.items()}

    # ---- what ends

    def changed(self, kind: Kind, target: str, limit: int) -> tuple[list[str], bool]:
        """A job or batch has ended, or is open again: (a page of the holders that this concerns, whether the last)."""
        outcome = self._outcome(kind.value, target)
        dependencies = self._tx.dependencies.on(kind.value, target, outcome, limit)
        return self._decide(dependencies, {target: outcome}), len(dependencies) < limit

    def changed_jobs(self, targets: Sequence[str], limit: int) -> list[str] | None:
        """Jobs have ended, or are open again, each with a few holders: the holders that this concerns.

        None: more than a limit wait for them. Then nothing has changed, and each is asked for page by page.
        """
        dependencies = self._tx.dependencies.on_any("job", targets, limit + 1)
        if len(dependencies) > limit:
            return None
        self._rows.see(targets)
        return self._decide(dependencies, {target: self._rows.end_of(target) for target in targets})

    def _decide(self, dependencies: Sequence[DependencyRow], outcomes: Mapping[str, str | None]) -> list[str]:
        """Meet, mark or open these as their targets have ended (None: not); the holders of those that have changed."""
        again: list[DependencyRow] = []
        met: list[DependencyRow] = []
        against: list[DependencyRow] = []
        for dependency in dependencies:
            outcome = outcomes[dependency.target]
            if outcome is None:
                if dependency.unsatisfied:
                    again.append(dependency)
            elif dependency.on_end in (outcome, "finished"):
                met.append(dependency)
            elif not dependency.unsatisfied:
                against.append(dependency)
        self._tx.dependencies.open_again(again)
        self._tx.dependencies.drop(met)
        self._tx.dependencies.mark_unsatisfied(against)
        changed = sorted([*again, *met, *against], key=lambda dependency: dependency.holder)
        return list(dict.fromkeys(dependency.holder for dependency in changed))

    def is_waited_for(self, kind: Kind, target: str) -> bool:
        """Whether anything depends on a job or batch."""
        return bool(self._tx.dependencies.waited_for(kind.value, [target]))

    def _outcome(self, kind: str, target: str) -> str | None:
        """How a target ended, as it is shown; None: it has not, or it is not known."""
        if kind == "batch":
            batch = self._batches.get(target)
            return batch.state if batch is not None and batch.ended_at is not None else None
        self._rows.see([target])
        return self._rows.end_of(target)

    # ---- parents that never came

    def unknown(self, dependencies: Iterable[DependencyRow]) -> list[DependencyRow]:
        """Of these, the dependencies whose target is not known still."""
        asked = list(dependencies)
        holders = sorted({dependency.holder for dependency in asked})
        there = set(self._tx.dependencies.of(holders))
        self._rows.see([dependency.target for dependency in asked if dependency.kind == "job"])
        self._rows.see([holder for holder in holders if not holder.startswith(BATCH_PREFIX)])
        return [dependency for dependency in asked if dependency in there and not self._is_known(dependency)]

    def _is_known(self, dependency: DependencyRow) -> bool:
        if dependency.kind == "job":
            return dependency.target in self._rows
        return self._batches.get(dependency.target) is not None

    # ---- circles

    def _closes_a_circle(self, row: Row, parents: Sequence[Parent]) -> bool:
        """Whether a job waits for itself or for a batch it is part of. Asked only if something can wait for it yet."""
        inside = [] if row.batch is None else self._batches.around(row.batch)
        own = [] if is_generated_id(row.id) else [("job", row.id)]
        if row.batch is not None:  # members of one batch were asked when they came: a chain is not walked for each
            self._rows.see([parent.id for parent in parents if not parent.batch])
            beside = {
                p.id for p in parents if not p.batch and (other := self._rows.get(p.id)) and other.batch == row.batch
            }
            asked = [p for p in parents if p.batch or p.id not in beside] if is_generated_id(row.id) else list(parents)
            return self.leads_up([*inside, *own], named(asked))
        if own or any(parent.batch for parent in parents):
            return self.leads_up([("job", row.id)], named(parents))
        return False

    def _waits_for_its_batch(self, row: Row) -> bool:
        """Whether a batch waits, before it begins, for a job that is a member of it: its commit was read first.

        Not whether the batch ends after the job: it does, and so may any other member that waits for the job.
        """
        return not is_generated_id(row.id) and self.leads_up([("job", row.id)], self._opens_after(row))

    def _opens_after(self, row: Row) -> list[tuple[str, str]]:
        """The submission of a member, while it has not begun."""
        return [(one.kind, one.target) for one in self._tx.dependencies.of([row.id]) if one.kind == "open"]

    def waits_for(self, row: Row, other: Row) -> bool:
        """Whether one job waits for another or for a batch that has it, by way of its parents and aliases."""
        inside = [] if other.batch is None else self._batches.around(other.batch)
        return self.leads_up([("job", other.id), *inside], [("job", row.id)])

    def would_wait_for(self, row: Row, envelope: Envelope, other: Row) -> bool:
        """Whether a job that is being admitted would wait for another one: by its parents, or as its batch does."""
        above = [] if envelope.after is None else named(envelope.after.parents)
        if row.batch is not None:
            above += self._opens_after(row)
        inside = [] if other.batch is None else self._batches.around(other.batch)
        return self.leads_up([("job", other.id), *inside], above)

    def waits_for_its_inside(self, batch: str, parents: Sequence[Parent], around: str | None) -> bool:
        """Whether a batch would wait for what begins with it: its members, and the batches inside it with theirs.

        Args:
            batch: that is committed.
            parents: what it waits for.
            around: the submission that it was made in.
        """
        opens = [] if around is None else [("open", around)]
        if not parents and not self._tx.graph.begins_after(opens):
            return False  # most batches inside others: what is inside them is not looked at
        self._rows.see([parent.id for parent in parents if not parent.batch])
        known = [row for parent in parents if not parent.batch and (row := self._rows.get(parent.id)) is not None]
        self._rows.write()  # members are found by queries
        self._batches.write()
        inside = self._batches.all_inside(batch)
        named_batches = {parent.id for parent in parents if parent.batch}
        is_inside = not named_batches.union(self._rows.root(row).batch for row in known).isdisjoint(inside)
        is_waited_for = bool(self._tx.dependencies.waited_for("batch", inside))
        if not (is_inside or is_waited_for or self._tx.graph.is_member_waited_for(inside)):
            return False  # a walk up is long where many batches wait for each other
        return self._tx.graph.waits_above(self._tx.graph.begin_with(batch), [*named(parents), *opens])

    def leads_up(self, wanted: list[tuple[str, str]], parents: list[tuple[str, str]]) -> bool:
        """Whether parents, or what these wait for, and so on up, come to one of these (kind, id)."""
        if not set(wanted).isdisjoint(parents):
            return True
        if not parents or not wanted:
            return False
        aliased = any(self._rows[id].alias_group for kind, id in wanted if kind == "job" and id in self._rows)
        if not aliased and not any(self._tx.dependencies.waited_for(kind, [id]) for kind, id in wanted):
            return False
        self._rows.write()  # the way up is found by queries
        self._batches.write()
        return self._tx.graph.waits_above(wanted, parents)


def named(parents: Iterable[Parent]) -> list[tuple[str, str]]:
    """Parents as dependencies name them."""
    return [("batch" if parent.batch else "job", parent.id) for parent in parents]


def not_known(dependency: DependencyRow) -> str:
    """Why a job fails that waited for a parent which never came."""
    kind = "batch " if dependency.kind == "batch" else ""
    return (
        f"parent not known: {kind}{dependency.target} never came, or ended so long ago that it is forgotten; "
        "to run it all the same requeue it"
    )


def unsatisfied_reason(dependency: DependencyRow) -> str:
    """Why a job does not run whose parent ended otherwise."""
    if dependency.kind == "open":
        return "its batch was never completed, or was deleted"
    kind = "batch " if dependency.kind == "batch" else ""
    return f"unsatisfied: {kind}{dependency.target} did not end as {dependency.on_end}"

"""Does the tasks of a cascade: tells dependents, calls lines, opens submissions, works off bulk commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from broker_jobs.coordinator import bulk
from broker_jobs.coordinator.admission import Admission
from broker_jobs.coordinator.cascade import PAGE, Cascade, Kind, Task, task_of
from broker_jobs.coordinator.conditions.batch_rows import BatchRows
from broker_jobs.coordinator.conditions.batches import OPENED, BatchRules
from broker_jobs.coordinator.conditions.dependencies import DependencyRules, Verdict
from broker_jobs.coordinator.conditions.line_calls import LineCalls
from broker_jobs.coordinator.dependents import Dependents
from broker_jobs.coordinator.failures import ToldTogetherError, WorkItemError
from broker_jobs.coordinator.records import JobRecord
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.context import Decision
from broker_jobs.coordinator.straight_path import StraightPath
from broker_jobs.messages.commands import DeleteJob
from broker_jobs.messages.envelope import BATCH_PREFIX
from broker_jobs.store.records import WorkItemRow
from broker_jobs.store.row import WaitReason

WORK_ITEMS = 50
"""Kept tasks that one transaction takes up."""
_MET = Verdict(False, None)
"""A job waits for nothing that has not come."""


class Consequences:
    """The tasks of one transaction, done.

    Args:
        rows, cascade: of the transaction.
        admission, dependencies, batch_rows, batches, limits: what the tasks are about.
        straight_path: releases members that wait for nothing but their batch.
        decide: decides one record.
        skipped: work items that are dropped.
        tells_together: whether the jobs that wait for a few ends are told of them together.
    """

    def __init__(
        self,
        rows: Rows,
        cascade: Cascade,
        *,
        admission: Admission,
        dependents: Dependents,
        dependencies: DependencyRules,
        batch_rows: BatchRows,
        batches: BatchRules,
        line_calls: LineCalls,
        straight_path: StraightPath,
        decide: Callable[[JobRecord], Decision],
        skipped: frozenset[WorkItemRow],
        tells_together: bool,
    ) -> None:
        self._rows = rows
        self._tx = rows.tx
        self._cascade = cascade
        self._admission = admission
        self._dependents = dependents
        self._dependencies = dependencies
        self._batch_rows = batch_rows
        self._batches = batches
        self._line_calls = line_calls
        self._straight_path = straight_path
        self._decide = decide
        self._skipped = skipped
        self._tells_together = tells_together
        self.more = False
        """Tasks are kept for the next transactions."""

    def take_up(self) -> None:
        """Take up tasks that were kept."""
        kept = self._tx.work_items.oldest(limit=WORK_ITEMS)
        self.more = self.more or len(kept) == WORK_ITEMS
        for row in kept:
            self._cascade.take_up(task_of(row))

    def do_again(self, item: WorkItemRow) -> bool:
        """Do a task that was set aside as a dead letter; False: it has just raised again."""
        if item in self._skipped:
            return False
        task = task_of(item)
        self._cascade.add(task.kind, task.target, task.state)
        return True

    def run(self) -> None:
        """Do the tasks and what follows from them, up to the bound; keep the rest."""
        while True:
            while (task := self._cascade.next()) is not None:
                self._do_or_skip(task)
            self._ask_who_waits()
            self._batch_rows.finish()
            self._line_calls.call_overlaps()
            if self._cascade.is_idle:
                break
        left = self._cascade.left()
        kept = {(task.kind, task.target) for task in left}
        for key, task in self._cascade.done.items():
            if key not in kept:
                self._tx.work_items.drop(task.item)
        self._tx.work_items.add(task.item for task in left)
        self.more = self.more or bool(left)

    def _do_or_skip(self, task: Task) -> None:
        """Do a task. One that raises is named, so that it is set aside alone: the record that led to it is applied."""
        item = self._cascade.done.get((task.kind, task.target), task).item
        if item in self._skipped:
            return
        try:
            self._do(task)
        except Exception as error:
            raise WorkItemError(item) from error

    def _ask_who_waits(self) -> None:
        """Of the jobs that have ended, those that something depends on are told of: asked of all of them at once."""
        ended = self._cascade.told()
        if ended and self._tx.dependencies.exist():
            waited_for = self._tx.dependencies.waited_for(Kind.JOB.value, ended)
            if waited_for and not self._tell_at_once(waited_for):
                for id in waited_for:
                    self._cascade.add(Kind.JOB, id)

    def _tell_at_once(self, targets: list[str]) -> bool:
        """Tell all that depend on these jobs, if they are few; most jobs have one child, or none."""
        if not self._tells_together or self._cascade.budget <= 0:
            return False
        try:
            holders = self._dependencies.changed_jobs(targets, self._page)
            if holders is None:
                return False
            self._spend(len(holders))
            self._judge(holders)
        except Exception as error:
            raise ToldTogetherError from error
        return True

    def _do(self, task: Task) -> None:
        match task.kind:
            case Kind.WALK:
                self._rows.see([task.target])
                self._admission.walk(task.target)
            case Kind.CALL:
                self._call(task.target)
            case Kind.CLOSE:
                self._close(task)
            case Kind.JOB | Kind.BATCH:
                self._tell(task)
            case Kind.GROUP:
                self._group(task)
            case Kind.OPEN:
                self._open(task)
            case Kind.DELETE_MEMBERS:
                self._delete_members(task)
            case Kind.KNOWN:
                self._known(task)
            case Kind.BULK_DELETE | Kind.BULK_REQUEUE | Kind.BULK_FAIL:
                self._bulk(task)
            case _:
                assert_never(task.kind)

    def _spend(self, jobs: int) -> None:
        self._cascade.budget -= max(1, jobs)

    @property
    def _page(self) -> int:
        return min(PAGE, max(1, self._cascade.budget))

    def _call(self, key: str) -> None:
        """Ask the first jobs of a line, one behind the other, while there is capacity for them."""
        if not self._admission.may_release:
            self._line_calls.call_later(key)
            return
        self._line_calls.called(key)
        self._rows.see(self._line_calls.first_to_go(key)[: self._page])
        while (id := self._line_calls.first_to_ask(key)) is not None:
            if self._cascade.budget <= 0:
                self._cascade.add(Kind.CALL, key)
                return
            self._spend(1)
            self._rows.see([id])
            self._admission.walk(id)
            self._line_calls.step_aside(id, key)

    def _close(self, task: Task) -> None:
        after = int(task.state or 0)
        ids, last = self._line_calls.close_page(task.target, after, self._page)
        self._spend(len(ids))
        if last is not None:
            self._cascade.add(Kind.CLOSE, task.target, str(last))

    def _tell(self, task: Task) -> None:
        """Tell a page of those that depend on a job or batch how it has ended, or that it is open again."""
        if not self._dependencies.is_waited_for(task.kind, task.target):
            self._spend(0)
            return
        holders, is_last = self._dependencies.changed(task.kind, task.target, self._page)
        self._spend(len(holders))
        self._judge(holders)
        if not is_last:
            self._cascade.add(task.kind, task.target)

    def _judge(self, holders: list[str]) -> None:
        verdicts = self._dependencies.judge_all(holders)
        going = [id for id in holders if verdicts.get(id, _MET) == _MET and not id.startswith(BATCH_PREFIX)]
        released = self._release_plain(going, WaitReason.DEPENDENCY)
        holders = [holder for holder in holders if holder not in released]
        self._rows.see([holder for holder in holders if not holder.startswith(BATCH_PREFIX)])
        for holder in holders:
            verdict = verdicts.get(holder, _MET)
            if holder.startswith(BATCH_PREFIX):
                self._batches.judged(holder.removeprefix(BATCH_PREFIX), verdict)
            else:
                self._admission.judged(holder, verdict)

    def _release_plain(self, ids: list[str], waits: int) -> set[str]:
        """Release the plain ones of jobs that wait for this no more; which these were."""
        if not self._admission.may_release:
            return set()
        return self._straight_path.release([id for id in ids if id not in self._rows], waits)

    def _group(self, task: Task) -> None:
        """Count a page of aliases as their root is shown, and tell what depends on them."""
        self._rows.write()
        page = self._page
        ids = self._tx.unique_keys.in_group(task.target, task.state, page)
        self._spend(len(ids))
        self._rows.see(ids)
        for id in ids:
            self._dependents.count_again(id)
        if len(ids) == page:
            self._cascade.add(Kind.GROUP, task.target, ids[-1])

    def _open(self, task: Task) -> None:
        """Admit, begin or end a page of the members of a batch submission."""
        members = self._batches.members(task.target, task.state, self._page)
        self._spend(len(members.accepted) + len(members.begun) + len(members.abandoned))
        accepted = members.accepted
        if task.state == OPENED:
            released = self._release_plain(accepted, WaitReason.COMMIT)
            accepted = [id for id in accepted if id not in released]
        self._rows.see([*accepted, *members.begun, *members.abandoned])
        for id in accepted:
            row = self._rows.get(id)
            if row is not None:
                self._admission.accept_member(row, begins=task.state == OPENED)
        self._judge(members.begun)
        for id in members.abandoned:
            row = self._rows.get(id)
            if row is not None:
                self._admission.unsatisfied(row, task.state)
        if not members.is_last:
            self._cascade.add(task.kind, task.target, task.state)

    def _delete_members(self, task: Task) -> None:
        self._rows.write()
        page = self._page
        ids = self._tx.batches.unended_members(task.target, page)
        self._spend(len(ids))
        self._rows.see(ids)
        for id in ids:
            if not self._rows[id].state.is_final:
                self._decide(DeleteJob(id=f"{task.target}:{id}"[:100], at=self._rows.at.now, job_id=id))
        if len(ids) == page:
            self._cascade.add(task.kind, task.target)

    def _known(self, task: Task) -> None:
        """Let a page of the jobs go that were held as no living worker knew them."""
        self._rows.write()
        page = self._page
        ids = self._admission.known_jobs.page(task.target, task.state, page)
        self._spend(len(ids))
        self._rows.see(ids)
        for id in ids:
            going = self._admission.known_jobs.comes_back(self._rows[id])
            if going is not None:
                self._rows.put(going)
                self._cascade.walk(id)
        if len(ids) == page:
            self._cascade.add(task.kind, task.target, ids[-1])

    def _bulk(self, task: Task) -> None:
        self._rows.write()
        left, decided = bulk.work(
            self._tx, task.item, self._page, rows=self._rows, decide=self._decide, now=self._rows.at.now
        )
        self._spend(decided)
        if left is not None:  # a page may look at many jobs and find few
            self._cascade.keep(task_of(left))

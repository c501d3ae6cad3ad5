"""Works out what the end of a job or batch sets free, and what it makes impossible. One transaction's part of that.

One mechanism for all that waits: a dependency names a holder and a target; when the target ends, the dependencies that
its outcome decides are met or unsatisfied; a holder without dependencies goes on. Whatever may touch an unbounded
number of rows is a work item, done a page a transaction, between the batches of the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from broker_jobs.clock import Instant
from broker_jobs.coordinator import bulk
from broker_jobs.coordinator.failures import WorkItemError
from broker_jobs.coordinator.inputs import ChunkReceived
from broker_jobs.coordinator.queries import batch_holder
from broker_jobs.coordinator.records import (
    DependencyFailed,
    DependencyMet,
    JobRecord,
    Unsatisfied,
    WaitingCopy,
    WaitsAgain,
)
from broker_jobs.coordinator.state_machine import Decision
from broker_jobs.messages.batch import BatchCommit
from broker_jobs.messages.commands import BulkDelete, BulkRequeue, DeleteJob
from broker_jobs.messages.envelope import Parent, id_created_at, is_generated_id
from broker_jobs.messages.state import State
from broker_jobs.store.records import BatchRow, DependencyRow, SubmissionRow, WorkItemRow
from broker_jobs.store.row import Reason, Row
from broker_jobs.store.write import Transaction

PAGE = 1_000
"""Holders one transaction works off."""
WORK_ITEMS = 50
"""Marks one transaction takes up again."""
MOST_DEEP = 100
"""Batches inside batches; more are no tree."""
NEVER_COMMITTED = "its batch was never completed"
CANCELLED = "its batch was deleted"
ABANDONED = "its batch had been given up"
OPENED = "opened"
WAITS_FOR_ITSELF = "it waits for itself, by way of its parents: enqueue it without one of them"


class DependencyRules:
    """What waits, in one transaction.

    Args:
        tx: the transaction.
        rows: jobs as they have become in it, by id; changed only through `decide`.
        see: loads jobs into `rows`.
        decide: has a record decided and its row put into `rows`.
        now: wall time.
        arrived: told of each new member of a batch, for what else may hold it.
        flush: writes the jobs as they are now.
        forgotten: what ended before this instant is not known any more.
        skipped: work items that are dropped.
    """

    def __init__(
        self,
        tx: Transaction,
        rows: dict[str, Row],
        see: Callable[[Iterable[str]], None],
        decide: Callable[[JobRecord], Decision],
        now: Instant,
        *,
        arrived: Callable[[WaitingCopy], None],
        flush: Callable[[], None],
        forgotten: Instant = 0.0,
        skipped: frozenset[WorkItemRow] = frozenset(),
    ) -> None:
        self._skipped = skipped
        self._arrived = arrived
        self._flush = flush
        self._forgotten = forgotten
        self._tx = tx
        self._rows = rows
        self._see = see
        self._decide = decide
        self._now = now
        self._batches: dict[str, BatchRow] = {}
        self._batches_before: dict[str, BatchRow] = {}
        self._work_items: list[WorkItemRow] = []
        self._budget = PAGE
        self._born: set[str] = set()
        """Members counted when their chunk came."""
        self.more = False
        """Marks are left for the next transaction."""
        self.ended_batches: list[BatchRow] = []

    # ---- what arrives

    def held(self, record: WaitingCopy) -> None:
        """A job that waits for its parents has arrived: some may have ended already."""
        row = self._rows[record.envelope.id]
        if record.envelope.after is None or row.state is not State.AWAITING:
            return
        parents = record.envelope.after.parents
        if not is_generated_id(row.id) or any(parent.batch for parent in parents):  # no other job can have a child yet
            if self._leads_up([("job", row.id)], _named(parents)):
                self._decide(DependencyFailed(row.id, WAITS_FOR_ITSELF))
                return
        dependencies = self._wait_for(row.id, record.envelope.after.parents)
        past = next((dependency for dependency in dependencies if self._is_past(dependency)), None)
        if past is not None:
            self._fail_dependents(row.id, past)
            return
        self._judge(row.id, dependencies)

    def chunk(self, chunked: ChunkReceived) -> None:
        """Some members of a batch have arrived; a chunk counts once, however often it comes."""
        chunk = chunked.chunk
        submission = self._submission(chunk.submission, chunk.batch)
        abandoned = _is_abandoned(submission)
        if (submission.opened and not abandoned) or not self._tx.take_chunk(chunk.submission, chunk.number):
            return
        dependencies: list[DependencyRow] = []
        born = 0
        for member in chunked.members:
            if member.envelope.id in self._rows:
                continue
            self._decide(member)
            self._arrived(member)
            born += 1
            self._born.add(member.envelope.id)
            if self._rows[member.envelope.id].state.is_final:
                continue  # a duplicate
            if self._waits_for_its_batch(member):
                self._decide(DependencyFailed(member.envelope.id, WAITS_FOR_ITSELF))
                continue
            dependencies.append(
                self._add_dependencies(member.envelope.id, "open", chunk.submission, OPENED, unsatisfied=abandoned)
            )
            if abandoned:
                self._decide(Unsatisfied(member.envelope.id, ABANDONED))
            if member.envelope.after is not None:
                left = self._wait_for(member.envelope.id, member.envelope.after.parents)
                unsatisfied = [dependency for dependency in left if dependency.unsatisfied]
                if unsatisfied:
                    self._decide(Unsatisfied(member.envelope.id, unsatisfied_reason(unsatisfied[0])))
        self._tx.add_dependencies(dependencies)
        batch = self._batch(chunk.batch, chunk.created_at)
        batch.total += born
        batch.open += born
        if abandoned and batch.state == State.AWAITING.value:
            batch.state = State.PROCESSING.value  # was not known when it was given up: it ends with these
        submission.seen += 1
        self._tx.save_submission(submission)
        self._try_to_open(submission)

    def commit(self, commit: BatchCommit) -> None:
        """A submission is complete when the chunks its commit counts are there."""
        submission = self._submission(commit.submission, commit.batch)
        if submission.chunks is not None:
            return
        if commit.abandoned:
            if not submission.opened:
                self._give_up(submission)
            return
        batch = self._batch(commit.batch, commit.created_at)
        batch.title = commit.title or batch.title
        if commit.parent is not None:
            self._part(batch, commit.parent, commit.created_at)
        for part in commit.batches:  # their commits come before this one, but who knows
            self._part(self._batch(part, commit.created_at), commit.batch, commit.created_at)
        submission.chunks, submission.parent_submission = commit.chunks, commit.parent_submission
        self._tx.save_submission(submission)
        inside = [] if batch.parent is None else self._with_around(batch.parent)
        if self._leads_up(self._with_around(batch.id), _named(commit.parents)) or (
            inside and self._leads_up(inside, [("batch", batch.id)])
        ):
            self._abandon(commit.batch, "dropped", WAITS_FOR_ITSELF)
            return
        self._wait_for(batch_holder(commit.batch), commit.parents)
        unsatisfied = [
            dependency
            for dependency in self._tx.dependencies_of([batch_holder(commit.batch)])
            if dependency.unsatisfied
        ]
        above = self._around(commit)
        if unsatisfied or (above is not None and _is_abandoned(above)):
            self._abandon(commit.batch, "dropped", unsatisfied_reason(unsatisfied[0]) if unsatisfied else ABANDONED)
            return
        self._try_to_open(submission)

    def _part(self, batch: BatchRow, parent: str, created_at: Instant) -> None:
        """A batch is part of another: counted there once, by whichever commit comes first."""
        if batch.parent is not None or self._is_inside(parent, batch.id):
            return
        batch.parent = parent
        around = self._batch(parent, created_at)
        around.total, around.open = around.total + 1, around.open + 1
        if batch.ended_at is not None:
            self._count(parent, State(batch.state), back=False)

    def _is_inside(self, id: str, other: str) -> bool:
        """Whether a batch is another or, as far as is known, part of it."""
        for _ in range(MOST_DEEP):
            if id == other:
                return True
            batch = self._known_batch(id)
            if batch is None or batch.parent is None:
                return False
            id = batch.parent
        return True

    def _around(self, commit: BatchCommit) -> SubmissionRow | None:
        """The submission a batch was made in; kept from now on, so that it is given up if it is never committed."""
        if commit.parent_submission is None:
            return None
        known = self._tx.submission(commit.parent_submission)
        if known is None and commit.parent is not None and commit.parent_submission != commit.submission:
            known = SubmissionRow(commit.parent_submission, commit.parent, since=self._tx.meta.log_time)
            self._tx.save_submission(known)
        return known

    def _waits_for_its_batch(self, member: WaitingCopy) -> bool:
        """Whether a member waits for itself or for a batch it is part of, by way of its parents."""
        after, batch = member.envelope.after, member.envelope.batch
        if after is None or batch is None:
            return False
        id = member.envelope.id
        above = self._with_around(batch) + ([] if is_generated_id(id) else [("job", id)])
        self._see([parent.id for parent in after.parents if not parent.batch])
        # Members of the same batch were looked at when they came: else a chain of them would be walked for each.
        beside = {parent.id for parent in after.parents if (row := self._rows.get(parent.id)) and row.batch == batch}
        outside = [parent for parent in after.parents if parent.batch or parent.id not in beside]
        return self._leads_up(above, _named(outside if is_generated_id(id) else after.parents))

    def _leads_up(self, wanted: list[tuple[str, str]], parents: list[tuple[str, str]]) -> bool:
        """Whether parents, or what these wait for, and so on up, come to one of these (kind, id)."""
        if not set(wanted).isdisjoint(parents):
            return True
        if not parents or not any(self._tx.waited_for(kind, [id]) for kind, id in wanted):
            return False
        self._flush()  # the way up is found by queries
        self._save_batches()
        return self._tx.waits_above(wanted, parents)

    def _with_around(self, batch: str) -> list[tuple[str, str]]:
        """A batch and those it is part of, as holds name them: who waits for one of these waits for all in it."""
        found: list[tuple[str, str]] = []
        around: str | None = batch
        while around is not None and len(found) < MOST_DEEP:
            found.append(("batch", around))
            known = self._known_batch(around)
            around = None if known is None else known.parent
        return found

    def unknown_parents(self, dependencies: Iterable[DependencyRow]) -> None:
        """These wait for what is not known and hardly comes any more: jobs fail, batches end."""
        asked = list(dependencies)
        holders = sorted({dependency.holder for dependency in asked})
        there = set(self._tx.dependencies_of(holders))
        self._see([dependency.target for dependency in asked if dependency.kind == "job"])
        self._see([holder for holder in holders if not holder.startswith("batch:")])
        for dependency in asked:
            if dependency not in there or self._is_known(dependency):
                continue
            row = self._rows.get(dependency.holder)
            if row is not None and row.state is State.AWAITING:
                self._fail_dependents(row.id, dependency)
                continue
            self._tx.mark_unsatisfied([dependency])
            if dependency.holder.startswith("batch:"):
                self._abandon(dependency.holder.removeprefix("batch:"), "dropped", not_known(dependency))

    def _fail_dependents(self, id: str, dependency: DependencyRow) -> None:
        self._decide(DependencyFailed(id, not_known(dependency)))
        self._tx.forget_dependencies([id])

    def _is_known(self, dependency: DependencyRow) -> bool:
        return (
            dependency.target in self._rows
            if dependency.kind == "job"
            else self._known_batch(dependency.target) is not None
        )

    def _is_past(self, dependency: DependencyRow) -> bool:
        """Whether what is waited for is not known and so old that it would be forgotten, had it been there."""
        if dependency.unsatisfied or self._is_known(dependency):
            return False
        made = id_created_at(dependency.target)
        return made is not None and made < self._forgotten

    # ---- what ends

    def ended(self, rows: Iterable[tuple[Row, State | None]]) -> None:
        """Jobs came to an end, or left one: (row, its state before; None: there was none)."""
        ends: list[tuple[str, State]] = []
        for row, before in rows:
            if row.state.is_final and before is not row.state:
                ends.append((row.id, row.state))
            if row.batch:
                self._count_member(row, row.batch, before)
        if ends and self._tx.any_dependencies():
            waited_for = set(self._tx.waited_for("job", [id for id, _ in ends]))
            self._work_items += [WorkItemRow("job", id, state.value) for id, state in ends if id in waited_for]

    def ended_before(self, row: Row) -> None:
        """What waits for this job waits since after its end."""
        if self._tx.waited_for("job", [row.id]):
            self._work_items.append(WorkItemRow("job", row.id, row.state.value))

    def waits_for(self, id: str, other: str) -> bool:
        """Whether a job waits for another, by way of its parents."""
        return self._leads_up([("job", other)], [("job", id)])

    @property
    def has_work_items(self) -> bool:
        """Whether something is to be worked off."""
        self._finish_batches()
        return bool(self._work_items)

    def work(self, *, pending: bool) -> bool:
        """Work off marks; whether anything was decided, so that there may be new ends to look at."""
        self._finish_batches()
        if pending:
            known = {(work_item.kind, work_item.target) for work_item in self._work_items}
            kept = self._tx.work_items(limit=WORK_ITEMS)
            self.more = self.more or len(kept) == WORK_ITEMS
            self._work_items += [work_item for work_item in kept if (work_item.kind, work_item.target) not in known]
        self._work_items.sort(
            key=lambda work_item: work_item.kind in bulk.KINDS
        )  # what jobs wait for goes before what people ask
        did = False
        while self._work_items and self._budget > 0:
            work_item = self._work_items.pop(0)
            did = True
            try:
                left = None if work_item in self._skipped else self._page(work_item)
            except Exception as error:
                raise WorkItemError(work_item) from error
            if left is None:
                self._tx.drop_work_item(work_item)
            else:
                self._tx.work_item([left])
                self.more = True
        return did

    def save(self) -> None:
        """Write batches, and marks that are left."""
        self._finish_batches()
        if self._work_items:
            self._tx.work_item(self._work_items)
            self.more = True
        self._save_batches()

    def _save_batches(self) -> None:
        self._tx.save_batches(row for id, row in self._batches.items() if row != self._batches_before.get(id))

    # ---- what people ask

    def delete_batch(self, batch_id: str) -> bool | None:
        """Delete what has not ended, in sub-batches too; None: no such batch, False: it has ended."""
        batch = self._known_batch(batch_id)
        if batch is None:
            return None
        if batch.ended_at is not None:
            return False
        self._abandon(batch_id, "cancelled", "")
        return True

    def bulk(self, command: BulkDelete | BulkRequeue) -> str | None:
        """Begin with a bulk command; why it is refused, or None."""
        begun = bulk.begin(self._tx, command, self._now)
        if isinstance(begun, str):
            return begun
        self._work_items.append(begun)
        return None

    def batch(self, batch_id: str) -> BatchRow | None:
        """A batch as it has become in this transaction."""
        return self._known_batch(batch_id)

    def never_committed(self, before: float) -> None:
        """Submissions known since before a log time and not committed: nothing of them starts or stays."""
        for submission in self._tx.uncommitted_submissions(before, limit=100):
            self._give_up(submission)

    def _give_up(self, submission: SubmissionRow) -> None:
        """Nothing of a submission starts, nor of those that were made inside it and would have opened with it."""
        submission.opened = True
        self._tx.save_submission(submission)
        self._tx.forget_chunks(submission.id)
        self._work_items.append(WorkItemRow("open", submission.id, NEVER_COMMITTED))
        batch = self._known_batch(submission.batch)
        if batch is not None and batch.state == State.AWAITING.value:
            batch.state = State.PROCESSING.value
        for below in self._tx.unopened_submissions(under=submission.id):
            self._give_up(below)

    def is_uncommitted(self, row: Row) -> bool:
        """Whether a job is a member of a submission that is not complete, or was made inside one."""
        if row.batch is None or row.state not in (State.AWAITING, State.DELETED):
            return False
        opening = [
            dependency.target
            for dependency in self._tx.dependencies_of([row.id])
            if dependency.kind == "open" and not dependency.unsatisfied
        ]
        return any(self._is_incomplete(self._tx.submission(target)) for target in opening)

    def _is_incomplete(self, submission: SubmissionRow | None) -> bool:
        for _ in range(MOST_DEEP):
            if submission is None or submission.opened:
                return False
            if submission.chunks is None or submission.seen < submission.chunks:
                return True
            submission = (
                None if submission.parent_submission is None else self._tx.submission(submission.parent_submission)
            )
        return False

    # ---- holds

    def _add_dependencies(
        self, holder: str, kind: str, target: str, on_end: str, *, unsatisfied: bool = False
    ) -> DependencyRow:
        return DependencyRow(holder, kind, target, on_end, unsatisfied, self._tx.meta.log_time)

    def _wait_for(self, holder: str, parents: Iterable[Parent]) -> list[DependencyRow]:
        """The holds that are left of these parents: those that ended as wanted hold nobody, those that ended otherwise
        are kept as unsatisfied."""
        wanted = list(parents)
        self._see([parent.id for parent in wanted if not parent.batch])
        self._tx.relate(
            holder, [(batch_holder(parent.id) if parent.batch else parent.id, parent.on) for parent in wanted]
        )
        left: list[DependencyRow] = []
        for parent in wanted:
            kind = "batch" if parent.batch else "job"
            outcome = self._outcome(parent)
            if outcome is None:
                left.append(self._add_dependencies(holder, kind, self._original(parent), parent.on))
            elif parent.on not in (outcome, "finished"):
                left.append(self._add_dependencies(holder, kind, parent.id, parent.on, unsatisfied=True))
        self._tx.add_dependencies(left)
        return left

    def _outcome(self, parent: Parent) -> str | None:
        """How a parent has ended; None: it has not, or is not known."""
        if parent.batch:
            batch = self._known_batch(parent.id)
            return batch.state if batch is not None and batch.ended_at is not None else None
        row = self._rows.get(self._original(parent))
        return row.state.value if row is not None and row.state.is_final else None

    def _original(self, parent: Parent) -> str:
        """The job a parent that is a duplicate stands for."""
        row = None if parent.batch else self._rows.get(parent.id)
        while row is not None and row.reason_code == Reason.ALIAS and row.parent is not None:
            parent = parent.model_copy(update={"id": row.parent})
            self._see([row.parent])
            row = self._rows.get(row.parent)
        return parent.id

    def _judge(self, id: str, dependencies: list[DependencyRow]) -> None:
        """What a job's remaining holds make of it."""
        unsatisfied = next((dependency for dependency in dependencies if dependency.unsatisfied), None)
        if unsatisfied is not None:
            self._decide(Unsatisfied(id, unsatisfied_reason(unsatisfied)))
        elif not dependencies:
            self._decide(DependencyMet(id))
        else:
            self._decide(WaitsAgain(id))

    # ---- marks

    def _page(self, work_item: WorkItemRow) -> WorkItemRow | None:
        """Work off a page of a mark; what is left of it."""
        match work_item.kind:
            case "cancelled" | "dropped":
                return None if self._page_of_members(work_item) else work_item
            case bulk.DELETE | bulk.REQUEUE:
                return self._page_of_bulk(work_item)
            case _:
                return None if self._page_of_holders(work_item) else work_item

    def _page_of_bulk(self, work_item: WorkItemRow) -> WorkItemRow | None:
        left, decided = bulk.work(
            self._tx, work_item, self._budget, rows=self._rows, see=self._see, decide=self._decide, now=self._now
        )
        self._budget -= max(1, decided)
        return left

    def _page_of_holders(self, work_item: WorkItemRow) -> bool:
        limit = self._budget
        dependencies = self._tx.dependencies_on(work_item.kind, work_item.target, work_item.outcome, limit)
        self._budget -= max(1, len(dependencies))
        met = [dependency for dependency in dependencies if dependency.on_end in (work_item.outcome, "finished")]
        unsatisfied = [
            dependency for dependency in dependencies if dependency.on_end not in (work_item.outcome, "finished")
        ]
        self._tx.drop_dependencies(met)
        self._tx.mark_unsatisfied(unsatisfied)
        left: dict[str, list[DependencyRow]] = defaultdict(list)
        holders = sorted({dependency.holder for dependency in dependencies})
        for dependency in self._tx.dependencies_of(holders):
            left[dependency.holder].append(dependency)
        self._see([holder for holder in holders if not holder.startswith("batch:")])
        for holder in holders:
            if holder.startswith("batch:"):
                self._judge_batch(holder.removeprefix("batch:"), left[holder])
            elif work_item.kind == "open" and work_item.outcome != OPENED:
                self._decide(Unsatisfied(holder, work_item.outcome))
            else:
                self._judge(holder, left[holder])
        return len(dependencies) < limit

    def _page_of_members(self, work_item: WorkItemRow) -> bool:
        limit = self._budget
        ids = self._tx.unended_members(work_item.target, limit)
        self._budget -= max(1, len(ids))
        self._see(ids)
        for id in ids:
            if self._rows[id].state.is_final:
                continue
            if work_item.kind == "cancelled":
                self._decide(DeleteJob(id=f"{work_item.target}:{id}", at=self._now, job_id=id))
            else:
                self._decide(Unsatisfied(id, work_item.outcome))
        return len(ids) < limit

    # ---- batches

    def _known_batch(self, id: str) -> BatchRow | None:
        if id not in self._batches:
            found = self._tx.batches([id]).get(id)
            if found is None:
                return None
            self._batches_before[id] = replace(found)
            self._batches[id] = found
        return self._batches[id]

    def _batch(self, id: str, created_at: Instant) -> BatchRow:
        known = self._known_batch(id)
        if known is None:
            known = self._batches[id] = BatchRow(id, created_at=created_at)
        return known

    def _submission(self, id: str, batch: str) -> SubmissionRow:
        return self._tx.submission(id) or SubmissionRow(id, batch, since=self._tx.meta.log_time)

    def _try_to_open(self, submission: SubmissionRow) -> None:
        """Open a submission that is complete, whose batch waits for nothing and whose parent's submission is open."""
        if submission.opened or submission.chunks is None or submission.seen < submission.chunks:
            return
        if self._tx.dependencies_of([batch_holder(submission.batch)]):
            return
        if submission.parent_submission is not None:
            above = self._tx.submission(submission.parent_submission)
            if above is None or not above.opened:
                return
        submission.opened = True
        self._tx.save_submission(submission)
        self._tx.forget_chunks(submission.id)
        self._work_items.append(WorkItemRow("open", submission.id, OPENED))
        batch = self._batch(submission.batch, self._now)
        self._begin(batch)
        for below in self._tx.unopened_submissions(under=submission.id):
            self._try_to_open(below)

    def _begin(self, batch: BatchRow) -> None:
        """A batch goes on, or goes on again."""
        if batch.ended_at is not None and batch.parent:
            self._count(batch.parent, State(batch.state), back=True)
        batch.state, batch.ended_at = State.PROCESSING.value, None

    def _judge_batch(self, id: str, dependencies: list[DependencyRow]) -> None:
        unsatisfied = next((dependency for dependency in dependencies if dependency.unsatisfied), None)
        if unsatisfied is not None:
            self._abandon(id, "dropped", unsatisfied_reason(unsatisfied))
        elif not dependencies:
            for submission in self._tx.unopened_submissions(batch=id):
                self._try_to_open(submission)

    def _abandon(self, id: str, kind: str, reason: str) -> None:
        """Nothing of a batch or of its sub-batches that has not begun shall begin; it ends when its members have."""
        batch = self._known_batch(id)
        if batch is None:
            return
        for submission in self._tx.unopened_submissions(batch=id):
            submission.opened = True
            self._tx.save_submission(submission)
            self._work_items.append(
                WorkItemRow("open", submission.id, reason or CANCELLED)
            )  # a member's parents do not revive it
        if batch.ended_at is not None:
            return
        if batch.state == State.AWAITING.value:
            batch.state = State.PROCESSING.value
        if kind == "cancelled":
            self._work_items.append(WorkItemRow(kind, id, reason))
        here = [known.id for known in self._batches.values() if known.parent == id]
        for below in dict.fromkeys([*self._tx.sub_batches(id), *here]):
            self._abandon(below, kind, reason)

    def _count_member(self, row: Row, batch_id: str, before: State | None) -> None:
        if before is None and row.id not in self._born:  # a foreign producer's, added past the chunks
            batch = self._known_batch(batch_id)
            if batch is not None:
                batch.total += 1
                batch.open += 1
        was_final = before is not None and before.is_final
        if row.state.is_final and not was_final:
            self._count(batch_id, row.state, back=False)
        elif was_final and not row.state.is_final:
            self._count(batch_id, before, back=True)
        elif was_final and before is not None and before is not row.state:
            self._recount(batch_id, before, row.state)

    def _count(self, batch_id: str, end: State | None, *, back: bool) -> None:
        """A member of a batch ended (or, `back`, is open again after that end)."""
        batch = self._known_batch(batch_id)
        if batch is None or end is None:
            return
        step = -1 if back else 1
        setattr(batch, end.value, getattr(batch, end.value) + step)
        batch.open -= step
        if back and batch.ended_at is not None:
            self._begin(batch)

    def _recount(self, batch_id: str, before: State, after: State) -> None:
        """An ended member ended otherwise (deleted for display)."""
        batch = self._known_batch(batch_id)
        if batch is not None:
            setattr(batch, before.value, getattr(batch, before.value) - 1)
            setattr(batch, after.value, getattr(batch, after.value) + 1)

    def _finish_batches(self) -> None:
        """End the batches that have no open member; the end of a sub-batch may be that of its parent."""
        waiting = True
        while waiting:
            waiting = False
            for batch in list(self._batches.values()):
                if batch.state == State.PROCESSING.value and batch.open <= 0:
                    self._end(batch)
                    waiting = True

    def _end(self, batch: BatchRow) -> None:
        all_deleted = batch.deleted == batch.total and batch.total > 0
        end = State.FAILED if batch.failed else State.DELETED if all_deleted else State.SUCCEEDED
        batch.state, batch.ended_at = end.value, self._now
        self.ended_batches.append(batch)
        if batch.parent:
            self._count(batch.parent, end, back=False)
        if self._tx.waited_for("batch", [batch.id]):
            self._work_items.append(WorkItemRow("batch", batch.id, end.value))


def _is_abandoned(submission: SubmissionRow) -> bool:
    """Whether it was opened before all of it had come, so that its members shall not begin."""
    return submission.opened and (submission.chunks is None or submission.seen < submission.chunks)


def _named(parents: Iterable[Parent]) -> list[tuple[str, str]]:
    """Parents as holds name them."""
    return [("batch" if parent.batch else "job", parent.id) for parent in parents]


def not_known(dependency: DependencyRow) -> str:
    """The sentence of what waited for a parent that never came."""
    kind = "batch " if dependency.kind == "batch" else ""
    return (
        f"parent not known: {kind}{dependency.target} never came, or ended so long ago that it is forgotten; "
        "to run it all the same requeue it"
    )


def unsatisfied_reason(dependency: DependencyRow) -> str:
    """The sentence of a job that waited in vain."""
    kind = "batch " if dependency.kind == "batch" else ""
    return f"unsatisfied: {kind}{dependency.target} did not end as {dependency.on_end}"

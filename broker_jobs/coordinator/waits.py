"""Works out what the end of a job or batch sets free, and what it makes impossible. One transaction's part of that.

One mechanism for all that waits: a hold names a holder and a target; when the target ends, the holds that its outcome
decides are met or unmet; a holder without holds goes on. Whatever may touch an unbounded number of rows is a mark,
worked off a page a transaction, between the log's batches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from broker_jobs.clock import Instant
from broker_jobs.coordinator import bulk
from broker_jobs.coordinator.listen import Chunked
from broker_jobs.coordinator.questions import batch_holder
from broker_jobs.coordinator.record import Awaits, Held, HoldOver, Hopeless, JobRecord, Unmet
from broker_jobs.coordinator.transition import Said
from broker_jobs.job.envelope import Parent, looks_generated, made_at
from broker_jobs.job.state import State
from broker_jobs.outcome.batch import Seal
from broker_jobs.outcome.command import BulkDelete, BulkRequeue, DeleteJob
from broker_jobs.store.kept import AdditionRow, BatchRow, HoldRow, MarkRow
from broker_jobs.store.row import Row, Why
from broker_jobs.store.write import Transaction

PAGE = 1_000
"""Holders one transaction works off."""
MARKS = 50
"""Marks one transaction takes up again."""
MOST_DEEP = 100
"""Batches inside batches; more are no tree."""
NEVER_SEALED = "its batch was never completed"
CANCELLED = "its batch was deleted"
GIVEN_UP = "its batch had been given up"
OPENED = "opened"
WAITS_FOR_ITSELF = "it waits for itself, by way of its parents: enqueue it without one of them"


class Waits:
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
    """

    def __init__(
        self,
        tx: Transaction,
        rows: dict[str, Row],
        see: Callable[[Iterable[str]], None],
        decide: Callable[[JobRecord], Said],
        now: Instant,
        *,
        arrived: Callable[[Held], None],
        flush: Callable[[], None],
        forgotten: Instant = 0.0,
    ) -> None:
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
        self._marks: list[MarkRow] = []
        self._budget = PAGE
        self._born: set[str] = set()
        """Members counted when their chunk came."""
        self.more = False
        """Marks are left for the next transaction."""
        self.ended_batches: list[BatchRow] = []

    # ---- what arrives

    def held(self, record: Held) -> None:
        """A job that waits for its parents has arrived: some may have ended already."""
        row = self._rows[record.envelope.id]
        if record.envelope.hold is None or row.state is not State.AWAITING:
            return
        parents = record.envelope.hold.parents
        if not looks_generated(row.id) or any(parent.batch for parent in parents):  # no other job can have a child yet
            if self._leads_up([("job", row.id)], _named(parents)):
                self._decide(Hopeless(row.id, WAITS_FOR_ITSELF))
                return
        holds = self._wait_for(row.id, record.envelope.hold.parents)
        past = next((hold for hold in holds if self._is_past(hold)), None)
        if past is not None:
            self._lose_hope(row.id, past)
            return
        self._judge(row.id, holds)

    def chunk(self, chunked: Chunked) -> None:
        """Some members of a batch have arrived; a chunk counts once, however often it comes."""
        chunk = chunked.chunk
        addition = self._addition(chunk.addition, chunk.batch, chunk.created_at)
        given_up = _is_given_up(addition)
        if (addition.opened and not given_up) or not self._tx.take_chunk(chunk.addition, chunk.number):
            return
        holds: list[HoldRow] = []
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
                self._decide(Hopeless(member.envelope.id, WAITS_FOR_ITSELF))
                continue
            holds.append(self._hold(member.envelope.id, "open", chunk.addition, OPENED, unmet=given_up))
            if given_up:
                self._decide(Unmet(member.envelope.id, GIVEN_UP))
            if member.envelope.hold is not None:
                left = self._wait_for(member.envelope.id, member.envelope.hold.parents)
                unmet = [hold for hold in left if hold.unmet]
                if unmet:
                    self._decide(Unmet(member.envelope.id, unmet_reason(unmet[0])))
        self._tx.hold(holds)
        batch = self._batch(chunk.batch, chunk.created_at)
        batch.total += born
        batch.open += born
        if given_up and batch.state == State.AWAITING.value:
            batch.state = State.PROCESSING.value  # was not known when it was given up: it ends with these
        addition.seen += 1
        self._tx.save_addition(addition)
        self._try_to_open(addition)

    def seal(self, seal: Seal) -> None:
        """An addition is complete when the chunks its seal counts are there."""
        addition = self._addition(seal.addition, seal.batch, seal.created_at)
        if addition.chunks is not None:
            return
        if seal.given_up:
            if not addition.opened:
                self._give_up(addition)
            return
        batch = self._batch(seal.batch, seal.created_at)
        batch.title = seal.title or batch.title
        if seal.parent is not None:
            self._part(batch, seal.parent, seal.created_at)
        for part in seal.batches:  # their seals come before this one, but who knows
            self._part(self._batch(part, seal.created_at), seal.batch, seal.created_at)
        addition.chunks, addition.parent_addition = seal.chunks, seal.parent_addition
        self._tx.save_addition(addition)
        inside = [] if batch.parent is None else self._with_around(batch.parent)
        if self._leads_up(self._with_around(batch.id), _named(seal.parents)) or (
            inside and self._leads_up(inside, [("batch", batch.id)])
        ):
            self._abandon(seal.batch, "dropped", WAITS_FOR_ITSELF)
            return
        self._wait_for(batch_holder(seal.batch), seal.parents)
        unmet = [hold for hold in self._tx.holds_of([batch_holder(seal.batch)]) if hold.unmet]
        above = self._around(seal)
        if unmet or (above is not None and _is_given_up(above)):
            self._abandon(seal.batch, "dropped", unmet_reason(unmet[0]) if unmet else GIVEN_UP)
            return
        self._try_to_open(addition)

    def _part(self, batch: BatchRow, parent: str, created_at: Instant) -> None:
        """A batch is part of another: counted there once, by whichever seal comes first."""
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

    def _around(self, seal: Seal) -> AdditionRow | None:
        """The addition a batch was made in; kept from now on, so that it is given up if it is never sealed."""
        if seal.parent_addition is None:
            return None
        known = self._tx.addition(seal.parent_addition)
        if known is None and seal.parent is not None and seal.parent_addition != seal.addition:
            known = AdditionRow(seal.parent_addition, seal.parent, created_at=seal.created_at)
            self._tx.save_addition(known)
        return known

    def _waits_for_its_batch(self, member: Held) -> bool:
        """Whether a member waits for itself or for a batch it is part of, by way of its parents."""
        hold, batch = member.envelope.hold, member.envelope.batch
        if hold is None or batch is None:
            return False
        id = member.envelope.id
        above = self._with_around(batch) + ([] if looks_generated(id) else [("job", id)])
        self._see([parent.id for parent in hold.parents if not parent.batch])
        # Members of the same batch were looked at when they came: else a chain of them would be walked for each.
        beside = {parent.id for parent in hold.parents if (row := self._rows.get(parent.id)) and row.batch == batch}
        outside = [parent for parent in hold.parents if parent.batch or parent.id not in beside]
        return self._leads_up(above, _named(outside if looks_generated(id) else hold.parents))

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

    def orphaned(self, holds: Iterable[HoldRow]) -> None:
        """These wait for what is not known and hardly comes any more: jobs fail, batches end."""
        asked = list(holds)
        holders = sorted({hold.holder for hold in asked})
        there = set(self._tx.holds_of(holders))
        self._see([hold.target for hold in asked if hold.kind == "job"])
        self._see([holder for holder in holders if not holder.startswith("batch:")])
        for hold in asked:
            if hold not in there or self._is_known(hold):
                continue
            row = self._rows.get(hold.holder)
            if row is not None and row.state is State.AWAITING:
                self._lose_hope(row.id, hold)
                continue
            self._tx.mark_unmet([hold])
            if hold.holder.startswith("batch:"):
                self._abandon(hold.holder.removeprefix("batch:"), "dropped", not_known(hold))

    def _lose_hope(self, id: str, hold: HoldRow) -> None:
        self._decide(Hopeless(id, not_known(hold)))
        self._tx.forget_holds([id])

    def _is_known(self, hold: HoldRow) -> bool:
        return hold.target in self._rows if hold.kind == "job" else self._known_batch(hold.target) is not None

    def _is_past(self, hold: HoldRow) -> bool:
        """Whether what is waited for is not known and so old that it would be forgotten, had it been there."""
        if hold.unmet or self._is_known(hold):
            return False
        made = made_at(hold.target)
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
        if ends and self._tx.any_holds():
            waited_for = set(self._tx.waited_for("job", [id for id, _ in ends]))
            self._marks += [MarkRow("job", id, state.value) for id, state in ends if id in waited_for]

    @property
    def has_marks(self) -> bool:
        """Whether something is to be worked off."""
        self._finish_batches()
        return bool(self._marks)

    def work(self, *, pending: bool) -> bool:
        """Work off marks; whether anything was decided, so that there may be new ends to look at."""
        self._finish_batches()
        if pending:
            known = {(mark.kind, mark.target) for mark in self._marks}
            kept = self._tx.marks(limit=MARKS)
            self.more = self.more or len(kept) == MARKS
            self._marks += [mark for mark in kept if (mark.kind, mark.target) not in known]
        self._marks.sort(key=lambda mark: mark.kind in bulk.KINDS)  # what jobs wait for goes before what people ask
        did = False
        while self._marks and self._budget > 0:
            mark = self._marks.pop(0)
            did = True
            left = self._page(mark)
            if left is None:
                self._tx.unmark(mark)
            else:
                self._tx.mark([left])
                self.more = True
        return did

    def save(self) -> None:
        """Write batches, and marks that are left."""
        self._finish_batches()
        if self._marks:
            self._tx.mark(self._marks)
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
        self._marks.append(begun)
        return None

    def batch(self, batch_id: str) -> BatchRow | None:
        """A batch as it has become in this transaction."""
        return self._known_batch(batch_id)

    def never_sealed(self, before: Instant) -> None:
        """Additions whose producer died inside its block: nothing of them starts, and nothing of them stays."""
        for addition in self._tx.unsealed_additions(before, limit=100):
            self._give_up(addition)

    def _give_up(self, addition: AdditionRow) -> None:
        """Nothing of an addition starts, nor of those that were made inside it and would have opened with it."""
        addition.opened = True
        self._tx.save_addition(addition)
        self._tx.forget_chunks(addition.id)
        self._marks.append(MarkRow("open", addition.id, NEVER_SEALED))
        batch = self._known_batch(addition.batch)
        if batch is not None and batch.state == State.AWAITING.value:
            batch.state = State.PROCESSING.value
        for below in self._tx.unopened_additions(under=addition.id):
            self._give_up(below)

    def is_uncommitted(self, row: Row) -> bool:
        """Whether a job is a member of an addition that is not complete, or was made inside one."""
        if row.batch is None or row.state not in (State.AWAITING, State.DELETED):
            return False
        opening = [hold.target for hold in self._tx.holds_of([row.id]) if hold.kind == "open" and not hold.unmet]
        return any(self._is_incomplete(self._tx.addition(target)) for target in opening)

    def _is_incomplete(self, addition: AdditionRow | None) -> bool:
        for _ in range(MOST_DEEP):
            if addition is None or addition.opened:
                return False
            if addition.chunks is None or addition.seen < addition.chunks:
                return True
            addition = None if addition.parent_addition is None else self._tx.addition(addition.parent_addition)
        return False

    # ---- holds

    def _hold(self, holder: str, kind: str, target: str, on_end: str, *, unmet: bool = False) -> HoldRow:
        return HoldRow(holder, kind, target, on_end, unmet, self._now)

    def _wait_for(self, holder: str, parents: Iterable[Parent]) -> list[HoldRow]:
        """The holds that are left of these parents: those that ended as wanted hold nobody, those that ended otherwise
        are kept as unmet."""
        wanted = list(parents)
        self._see([parent.id for parent in wanted if not parent.batch])
        self._tx.bond(
            holder, [(batch_holder(parent.id) if parent.batch else parent.id, parent.on) for parent in wanted]
        )
        left: list[HoldRow] = []
        for parent in wanted:
            kind = "batch" if parent.batch else "job"
            outcome = self._outcome(parent)
            if outcome is None:
                left.append(self._hold(holder, kind, self._original(parent), parent.on))
            elif parent.on not in (outcome, "finished"):
                left.append(self._hold(holder, kind, parent.id, parent.on, unmet=True))
        self._tx.hold(left)
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
        while row is not None and row.why == Why.ALIAS and row.parent is not None:
            parent = parent.model_copy(update={"id": row.parent})
            self._see([row.parent])
            row = self._rows.get(row.parent)
        return parent.id

    def _judge(self, id: str, holds: list[HoldRow]) -> None:
        """What a job's remaining holds make of it."""
        unmet = next((hold for hold in holds if hold.unmet), None)
        if unmet is not None:
            self._decide(Unmet(id, unmet_reason(unmet)))
        elif not holds:
            self._decide(HoldOver(id))
        else:
            self._decide(Awaits(id))

    # ---- marks

    def _page(self, mark: MarkRow) -> MarkRow | None:
        """Work off a page of a mark; what is left of it."""
        match mark.kind:
            case "cancelled" | "dropped":
                return None if self._page_of_members(mark) else mark
            case bulk.DELETE | bulk.REQUEUE:
                return self._page_of_bulk(mark)
            case _:
                return None if self._page_of_holders(mark) else mark

    def _page_of_bulk(self, mark: MarkRow) -> MarkRow | None:
        left, decided = bulk.work(
            self._tx, mark, self._budget, rows=self._rows, see=self._see, decide=self._decide, now=self._now
        )
        self._budget -= max(1, decided)
        return left

    def _page_of_holders(self, mark: MarkRow) -> bool:
        limit = self._budget
        holds = self._tx.holds_on(mark.kind, mark.target, mark.outcome, limit)
        self._budget -= max(1, len(holds))
        met = [hold for hold in holds if hold.on_end in (mark.outcome, "finished")]
        unmet = [hold for hold in holds if hold.on_end not in (mark.outcome, "finished")]
        self._tx.drop_holds(met)
        self._tx.mark_unmet(unmet)
        left: dict[str, list[HoldRow]] = defaultdict(list)
        holders = sorted({hold.holder for hold in holds})
        for hold in self._tx.holds_of(holders):
            left[hold.holder].append(hold)
        self._see([holder for holder in holders if not holder.startswith("batch:")])
        for holder in holders:
            if holder.startswith("batch:"):
                self._judge_batch(holder.removeprefix("batch:"), left[holder])
            elif mark.kind == "open" and mark.outcome != OPENED:
                self._decide(Unmet(holder, mark.outcome))
            else:
                self._judge(holder, left[holder])
        return len(holds) < limit

    def _page_of_members(self, mark: MarkRow) -> bool:
        limit = self._budget
        ids = self._tx.unended_members(mark.target, limit)
        self._budget -= max(1, len(ids))
        self._see(ids)
        for id in ids:
            if self._rows[id].state.is_final:
                continue
            if mark.kind == "cancelled":
                self._decide(DeleteJob(id=f"{mark.target}:{id}", at=self._now, job_id=id))
            else:
                self._decide(Unmet(id, mark.outcome))
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

    def _addition(self, id: str, batch: str, created_at: Instant) -> AdditionRow:
        return self._tx.addition(id) or AdditionRow(id, batch, created_at=created_at)

    def _try_to_open(self, addition: AdditionRow) -> None:
        """Open an addition that is complete, whose batch waits for nothing and whose parent's addition is open."""
        if addition.opened or addition.chunks is None or addition.seen < addition.chunks:
            return
        if self._tx.holds_of([batch_holder(addition.batch)]):
            return
        if addition.parent_addition is not None:
            above = self._tx.addition(addition.parent_addition)
            if above is None or not above.opened:
                return
        addition.opened = True
        self._tx.save_addition(addition)
        self._tx.forget_chunks(addition.id)
        self._marks.append(MarkRow("open", addition.id, OPENED))
        batch = self._batch(addition.batch, addition.created_at)
        self._begin(batch)
        for below in self._tx.unopened_additions(under=addition.id):
            self._try_to_open(below)

    def _begin(self, batch: BatchRow) -> None:
        """A batch goes on, or goes on again."""
        if batch.ended_at is not None and batch.parent:
            self._count(batch.parent, State(batch.state), back=True)
        batch.state, batch.ended_at = State.PROCESSING.value, None

    def _judge_batch(self, id: str, holds: list[HoldRow]) -> None:
        unmet = next((hold for hold in holds if hold.unmet), None)
        if unmet is not None:
            self._abandon(id, "dropped", unmet_reason(unmet))
        elif not holds:
            for addition in self._tx.unopened_additions(batch=id):
                self._try_to_open(addition)

    def _abandon(self, id: str, kind: str, reason: str) -> None:
        """Nothing of a batch or of its sub-batches that has not begun shall begin; it ends when its members have."""
        batch = self._known_batch(id)
        if batch is None:
            return
        for addition in self._tx.unopened_additions(batch=id):
            addition.opened = True
            self._tx.save_addition(addition)
            self._marks.append(MarkRow("open", addition.id, reason or CANCELLED))  # a member's parents do not revive it
        if batch.ended_at is not None:
            return
        if batch.state == State.AWAITING.value:
            batch.state = State.PROCESSING.value
        if kind == "cancelled":
            self._marks.append(MarkRow(kind, id, reason))
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
            self._marks.append(MarkRow("batch", batch.id, end.value))


def _is_given_up(addition: AdditionRow) -> bool:
    """Whether it was opened before all of it had come, so that its members shall not begin."""
    return addition.opened and (addition.chunks is None or addition.seen < addition.chunks)


def _named(parents: Iterable[Parent]) -> list[tuple[str, str]]:
    """Parents as holds name them."""
    return [("batch" if parent.batch else "job", parent.id) for parent in parents]


def not_known(hold: HoldRow) -> str:
    """The sentence of what waited for a parent that never came."""
    kind = "batch " if hold.kind == "batch" else ""
    return (
        f"parent not known: {kind}{hold.target} never came, or ended so long ago that it is forgotten; "
        "to run it all the same requeue it"
    )


def unmet_reason(hold: HoldRow) -> str:
    """The sentence of a job that waited in vain."""
    kind = "batch " if hold.kind == "batch" else ""
    return f"unmet: {kind}{hold.target} did not end as {hold.on_end}"

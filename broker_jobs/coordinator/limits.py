"""Decides who may go under limits and unique keys. One transaction's part of that.

A limit is looked at when a job's time has come. Concurrency: a slot is taken or the job stands in line, first come,
first served in a key; it is free again when nothing of its job is out and no grace runs, so a crashed worker's comes
back. Ordered: one slot, kept through retries until the end, the place in line taken at the job's acceptance. Rate:
a moment is reserved, so nobody polls and nobody overtakes. Limits of one job are taken in the order of their keys, so
two jobs never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from broker_jobs.clock import Instant
from broker_jobs.coordinator.record import Duplicate, Fired, Held, InLine, JobRecord, Postponed, Replaced, SlotFree
from broker_jobs.job import codec
from broker_jobs.job.envelope import LimitKey, UniqueKey
from broker_jobs.job.state import State
from broker_jobs.store.limited import Holder
from broker_jobs.store.row import Row, Wire
from broker_jobs.store.write import Transaction


def is_limited(row: Row) -> bool:
    """Whether a job has limits (a look at the text: decoding every job would cost too much)."""
    return '"limits":[{' in row.envelope


class Limits:
    """Limits and unique keys, in one transaction.

    Args:
        tx: the transaction.
        rows: jobs as they have become in it, by id; changed only through `decide`.
        see: loads jobs into `rows`.
        decide: has a record decided and its row put into `rows`.
        now: wall time.
    """

    def __init__(
        self,
        tx: Transaction,
        rows: dict[str, Row],
        see: Callable[[Iterable[str]], None],
        decide: Callable[[JobRecord], object],
        now: Instant,
    ) -> None:
        self._tx = tx
        self._rows = rows
        self._see = see
        self._decide = decide
        self._now = now

    # ---- what arrives

    def held(self, record: Held | Fired) -> None:
        """A new job: who has its unique key, and its place in ordered lines."""
        envelope = record.envelope
        if envelope.unique is not None and not self._is_the_one(envelope.id, envelope.unique):
            return
        for limit in envelope.limits:
            if limit.kind == "ordered":
                self._tx.stand_in_line(_name(limit), envelope.id, 1)

    def _is_the_one(self, id: str, unique: UniqueKey) -> bool:
        holder = self._tx.unique(unique.key)
        if holder is not None and holder.job_id != id and self._lives(holder):
            self._see([holder.job_id])
            other = self._rows.get(holder.job_id)
            waits = other is not None and other.state in (State.AWAITING, State.SCHEDULED) and other.wire is Wire.NONE
            if not (unique.replace and waits):
                self._decide(Duplicate(id, holder.job_id))
                self._tx.retarget(id, holder.job_id)
                return False
            self._decide(Replaced(holder.job_id, id))
        until = None if unique.seconds is None else self._now + unique.seconds
        self._tx.save_unique(unique.key, id, unique.scope, until)
        return True

    def _lives(self, holder: Holder) -> bool:
        """Whether a job still has its key."""
        if holder.scope == "window":
            return holder.until is not None and self._now < holder.until
        self._see([holder.job_id])
        row = self._rows.get(holder.job_id)
        if row is None or row.state.is_final:
            return False
        return holder.scope == "running" or row.state is not State.PROCESSING

    # ---- whose time has come

    def may_go(self, row: Row) -> bool:
        """Whether a due job may be released; if not, what it waits for is decided."""
        for limit in sorted(codec.decode(row.envelope).limits, key=_name):
            if not (self._has_moment(row, limit) if limit.kind == "rate" else self._has_slot(row, limit)):
                return False
        return True

    def _has_slot(self, row: Row, limit: LimitKey) -> bool:
        key = _name(limit)
        has = self._tx.has_slot(key, row.id)
        if has:
            return True
        most = self._most(key, limit.limit)
        first = self._tx.first_in_line(key)
        if self._tx.slots_taken(key) < most and (first is None or first[0] == row.id):
            self._tx.take_slot(key, row.id, limit.limit)
            return True
        if has is None:
            self._tx.stand_in_line(key, row.id, limit.limit)
        what = "its turn" if limit.kind == "ordered" else f"one of {most} slots"
        self._decide(InLine(row.id, f"waits for {what} of {limit.key!r}"))
        return False

    def _has_moment(self, row: Row, limit: LimitKey) -> bool:
        key = _name(limit)
        at = self._tx.reserved(key, row.id)
        if at is None:
            at = self._next_moment(key, limit)
            self._tx.reserve(key, row.id, at, forget_before=self._now - 2 * (limit.per or 1.0))
        if at > self._now:
            self._decide(Postponed(row.id, at, f"waits for the rate of {limit.key!r}"))
            return False
        self._tx.use_reserved(key, row.id)
        return True

    def _next_moment(self, key: str, limit: LimitKey) -> Instant:
        """The first moment at which one more start keeps the rate; never before one that is reserved already."""
        most, per = self._most(key, limit.limit), limit.per or 1.0
        if limit.window == "sliding":
            before = self._tx.nth_latest(key, most)
            return self._now if before is None else max(self._now, before + per)
        latest = self._tx.latest(key)
        start = max(self._now, latest or 0.0) // per * per
        if self._tx.in_window(key, start, start + per) >= most:
            start += per
        return max(self._now, start)

    # ---- who gives back

    def changed(self, changes: Iterable[tuple[Row, Row | None]]) -> None:
        """Jobs changed: (row, as it was before). Slots that are given back go to who is first in line."""
        for changed, before in changes:
            if not is_limited(changed):
                continue
            row = self._rows[changed.id]  # handed back and released again in one go it keeps its slot
            if row.state.is_final:
                self._give_back(row, all_of_them=True)
            elif before is not None and _is_out(before) and not _is_out(row):
                self._give_back(row, all_of_them=False)

    def _give_back(self, row: Row, *, all_of_them: bool) -> None:
        if all_of_them:
            self._tx.unreserve(row.id)
        for key in self._tx.keys_of(row.id):
            # A place in line that it took just now, coming back without a slot, is kept.
            if all_of_them or (not key.startswith("ordered:") and self._tx.has_slot(key, row.id)):
                self._tx.free_slot(key, row.id)
                self.admit(key)

    def admit(self, key: str) -> None:
        """Give free slots to who is first in line."""
        while (first := self._tx.first_in_line(key)) is not None:
            id, most = first
            if self._tx.slots_taken(key) >= self._most(key, most):
                return
            self._tx.take_slot(key, id, most)
            self._see([id])
            self._decide(SlotFree(id))

    def set_most(self, key: str, most: int | None) -> None:
        """A person changes a concurrency or rate limit at run time."""
        for kind in ("concurrency", "rate"):
            self._tx.set_most(f"{kind}:{key}", most)
        self.admit(f"concurrency:{key}")

    def _most(self, key: str, enqueued_with: int) -> int:
        return self._tx.most(key) or enqueued_with


def _name(limit: LimitKey) -> str:
    """A limit's key; kinds do not share slots."""
    return f"{limit.kind}:{limit.key}"


def _is_out(row: Row) -> bool:
    """Whether something of a job may be running: a message is out, or a grace runs."""
    return row.wire is not Wire.NONE or row.grace_until is not None

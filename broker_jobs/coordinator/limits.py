"""Decides who may go under limits and unique keys. One transaction's part of that.

A limit is looked at when a job's time has come and it waits for nothing else. Concurrency: a slot is taken or the job
stands in line, first come, first served in a key; it is free again when nothing of its job is out and no grace runs,
so a crashed worker's comes back. Ordered: one slot, kept through retries until the end; the place is taken at the job's
acceptance, and whoever still waits for a parent, a batch or a time keeps it and lets the others go. Rate: the first in
line knows the moment of the next start, so nobody polls and nobody overtakes; the others stand behind it. A start is
written when every limit of the job agrees. Limits of one job are asked in one order, so two jobs never wait for each
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from broker_jobs.clock import Instant
from broker_jobs.coordinator.records import (
    DependencyFailed,
    DueNotice,
    Duplicate,
    Fired,
    JobRecord,
    LimitReached,
    Postponed,
    Replaced,
    SlotFreed,
    WaitingCopy,
)
from broker_jobs.messages import codec
from broker_jobs.messages.envelope import Envelope, LimitKey, UniqueKey
from broker_jobs.messages.state import State
from broker_jobs.store.limits import Entry, KeyHolder, Stage
from broker_jobs.store.row import Publication, Reason, Row
from broker_jobs.store.write import Transaction


class LimitRules:
    """Limits and unique keys, in one transaction.

    Args:
        tx: the transaction.
        rows: jobs as they have become in it, by id; changed only through `decide`.
        see: loads jobs into `rows`.
        decide: has a record decided and its row put into `rows`.
        now: wall time.
        until: what is due by then is due now (`Context.until`).
        waits_for: whether one job waits for another, by way of its parents.
        ended_before: has what waits for a job that has ended looked at again.
    """

    def __init__(
        self,
        tx: Transaction,
        rows: dict[str, Row],
        see: Callable[[Iterable[str]], None],
        decide: Callable[[JobRecord], object],
        now: Instant,
        *,
        until: Instant,
        waits_for: Callable[[str, str], bool],
        ended_before: Callable[[Row], None],
    ) -> None:
        self._tx = tx
        self._rows = rows
        self._see = see
        self._decide = decide
        self._now = now
        self._until = until
        self._waits_for = waits_for
        self._ended_before = ended_before

    # ---- what arrives

    def held(self, record: WaitingCopy | Fired | DueNotice) -> None:
        """A new job: who has its unique key, and its place in ordered lines."""
        envelope = record.envelope
        if envelope.unique is not None and not self._is_the_one(envelope.id, envelope.unique):
            return
        self._take_places(envelope)

    def _take_places(self, envelope: Envelope) -> None:
        for limit in envelope.limits:
            if limit.kind == "ordered":
                self._tx.keep_place(_name(limit), envelope.id)

    def _is_the_one(self, id: str, unique: UniqueKey) -> bool:
        holder = self._tx.unique(unique.key)
        if holder is not None and holder.job_id != id and self._lives(holder):
            self._see([holder.job_id])
            other = self._rows.get(holder.job_id)
            waits = (
                other is not None
                and other.state in (State.AWAITING, State.SCHEDULED)
                and other.publication is Publication.NONE
            )
            if not (unique.replace and waits):
                self._become_alias(id, holder.job_id)
                return False
            self._decide(Replaced(holder.job_id, id))
        until = None if unique.seconds is None else self._now + unique.seconds
        self._tx.save_unique(unique.key, id, unique.scope, until)
        return True

    def _become_alias(self, id: str, of: str) -> None:
        if self._waits_for(of, id):
            reason = f"it has the unique key of {of}, which waits for it: give one of them another key"
            self._decide(DependencyFailed(id, reason))
            return
        self._decide(Duplicate(id, of))
        self._tx.retarget(id, of)
        original = self._rows.get(of)
        if original is not None and original.state.is_final:  # of a window
            self._ended_before(original)

    def _lives(self, holder: KeyHolder) -> bool:
        """Whether a job still has its key."""
        if holder.scope == "window":
            return holder.until is not None and self._now < holder.until
        self._see([holder.job_id])
        row = self._rows.get(holder.job_id)
        if row is None or row.state.is_final:
            return False
        return holder.scope == "running" or row.state is not State.PROCESSING

    # ---- whose time has come

    def may_go(self, row: Row, limits: Iterable[LimitKey]) -> bool:
        """Whether a due job may be released under its limits; if not, what it waits for is decided."""
        asked = sorted(limits, key=_order)
        at = max(self._now, row.due_at or 0.0)
        for place, limit in enumerate(asked):
            if limit.kind != "rate":
                if not self._has_slot(row, limit):
                    self._keep_starts(row.id, asked[:place])
                    return False
                continue
            if not self._is_next(row, limit):
                self._keep_starts(row.id, asked[:place])
                self._fall_back(row.id, asked[place + 1 :])
                return False
            at = self._next_moment(limit, at)
            if at > self._until:
                self._keep_starts(row.id, asked[: place + 1])
                self._fall_back(row.id, asked[place + 1 :])
                self._decide(Postponed(row.id, at, f"waits for the rate of {limit.key!r}"))
                return False
        for limit in asked:
            if limit.kind == "rate":
                self._start(row, limit, at)
        return True

    def _has_slot(self, row: Row, limit: LimitKey) -> bool:
        key = _name(limit)
        entry = self._tx.entry(key, row.id)
        if entry is not None and entry.stage is Stage.TAKEN:
            return True
        most = self._most(key, limit.limit)
        if self._tx.slots_taken(key) < most and not self._others_before(key, entry):
            self._tx.take_slot(key, row.id, limit.limit)
            return True
        self._tx.stand_in_line(key, row.id, limit.limit)
        what = "its turn" if limit.kind == "ordered" else f"one of {most} slots"
        self._decide(LimitReached(row.id, f"waits for {what} of {limit.key!r}"))
        return False

    def _is_next(self, row: Row, limit: LimitKey) -> bool:
        """Whether one of the next starts of a rate is this job's."""
        key = _name(limit)
        entry = self._tx.entry(key, row.id)
        if entry is not None and entry.stage is Stage.TAKEN:
            return True
        if not self._others_before(key, entry) and self._has_start(limit):
            return True
        self._tx.stand_in_line(key, row.id, limit.limit)
        self._decide(LimitReached(row.id, f"waits for the rate of {limit.key!r}"))
        return False

    def _others_before(self, key: str, entry: Entry | None) -> bool:
        """Whether somebody waits in a line at an earlier place than this one's, or than its end."""
        first = self._tx.first_in_line(key)
        return first is not None and (entry is None or first.n < entry.n)

    def _has_start(self, limit: LimitKey) -> bool:
        """Whether a rate has a start to keep for one more job: always one, so that somebody knows the next moment."""
        key = _name(limit)
        kept = self._tx.slots_taken(key)
        if kept == 0:
            return True
        per = limit.per or 1.0
        since = self._now - per if limit.window == "sliding" else self._now // per * per
        return kept + self._tx.in_window(key, since, self._until + per) < self._most(key, limit.limit)

    def _keep_starts(self, id: str, passed: Iterable[LimitKey]) -> None:
        """A start of each of these rates is kept for a job that waits for another limit, or for the moment."""
        for limit in passed:
            if limit.kind == "rate":
                self._tx.take_slot(_name(limit), id, limit.limit)

    def _fall_back(self, id: str, behind: Iterable[LimitKey]) -> None:
        """A job that waits in a line keeps nothing of those that are asked after it."""
        freed = [key for key in map(_name, behind) if self._tx.has_slot(key, id)]
        for key in freed:
            self._tx.free_slot(key, id)
        for key in freed:
            self.admit(key)

    def _next_moment(self, limit: LimitKey, not_before: Instant) -> Instant:
        """The first moment, from `not_before` on, at which one more start keeps the rate."""
        key, per = _name(limit), limit.per or 1.0
        most = self._most(key, limit.limit)
        latest = self._tx.nth_latest(key, 1)
        if latest is None:
            return not_before
        if latest > self._until:
            self._tx.bring_back(key, self._until, self._now)
        if limit.window == "sliding":
            before = self._tx.nth_latest(key, most)
            return not_before if before is None else max(not_before, before + per)
        start = not_before // per * per
        while self._tx.in_window(key, start, start + per) >= most:
            start += per
        return max(not_before, start)

    def _start(self, row: Row, limit: LimitKey, at: Instant) -> None:
        key = _name(limit)
        self._tx.add_start(key, row.id, at, forget_before=self._now - 2 * (limit.per or 1.0))
        stood_in_line = self._tx.free_slot(key, row.id)
        if stood_in_line or at > max(self._now, row.due_at or 0.0):
            self._decide(Postponed(row.id, at, row.reason))  # it is due at its moment, which may be a little ahead
        self.admit(key)

    # ---- who gives back

    def changed(self, changes: Iterable[tuple[Row, Row | None]]) -> None:
        """Jobs changed: (row, as it was before). Slots that are given back go to who is first in line.

        Who has what is read from the lines, for all of them at once; most jobs stand in none.
        """
        ended: list[str] = []
        started: list[str] = []
        cleared: dict[str, bool] = {}
        for changed, before in changes:
            row = self._rows[changed.id]  # returned and released again in one go it keeps its slot
            if row.state.is_final:
                ended.append(row.id)
            elif before is not None and before.state.is_final:
                if row.envelope:  # it was ended and goes on: as one that was just accepted
                    self._take_places(codec.decode(row.envelope))
            elif before is not None and _is_out(before) and not _is_out(row):
                cleared[row.id] = row.reason_code == Reason.RESCHEDULED and self._is_later(row)
            elif before is not None and before.publication is Publication.NONE and row.state is State.PROCESSING:
                started.append(row.id)  # its last run goes on: it asks for no other start
        if not (ended or started or cleared) or not self._tx.any_slots():
            return
        entries = self._tx.entries_of([*ended, *cleared])
        entries += [entry for entry in self._tx.entries_of(started) if entry[1].startswith("rate:")]
        freed = [self._give_back(entry, cleared.get(entry[0])) for entry in entries]
        for key in dict.fromkeys(key for key in freed if key is not None):
            self.admit(key)

    def put_off(self, row: Row) -> None:
        """A person gave a job that is clear another time: until then it keeps its place in ordered lines alone."""
        if row.state is not State.SCHEDULED or not self._is_later(row) or not self._tx.any_slots():
            return
        freed = [self._give_back(entry, True) for entry in self._tx.entries_of([row.id])]
        for key in freed:
            if key is not None:
                self.admit(key)

    def grace_ended(self, row: Row) -> None:
        """The grace of a job is over and its time has not come: a person gave it another one, or a rate did.

        A rate keeps a start for it, and then the job keeps what it has.
        """
        if not any(key.startswith("rate:") and stage is Stage.TAKEN for _, key, stage in self._tx.entries_of([row.id])):
            self.put_off(row)

    def _give_back(self, entry: tuple[str, str, Stage], rescheduled: bool | None) -> str | None:
        """Give back what a job has or waits for in a line; the key whose line is to be looked at, if any.

        `rescheduled`: None of a job that has ended; else nothing of it is out any more, for a later time or not.
        """
        id, key, stage = entry
        if rescheduled is not None and key.startswith("ordered:"):
            if not rescheduled or stage is Stage.PLACE:
                return None
            self._tx.move(key, id, Stage.PLACE)
            return key
        if rescheduled is False and stage is not Stage.TAKEN:
            return None  # a place in line that it took just now, coming back without a slot, is kept
        self._tx.free_slot(key, id)
        return key

    def _is_later(self, row: Row) -> bool:
        return row.due_at is not None and row.due_at > self._until

    def admit(self, key: str) -> None:
        """Give what is free to who is first in line."""
        while (first := self._tx.first_in_line(key)) is not None:
            if not self._only_waits(key, first.job_id):
                continue
            if not self._is_free(key, first):
                return
            self._tx.take_slot(key, first.job_id, first.most)
            self._decide(SlotFreed(first.job_id))

    def _only_waits(self, key: str, id: str) -> bool:
        """Whether who is first in line waits for nothing else; who does keeps only its place."""
        self._see([id])
        row = self._rows.get(id)
        if row is None or row.state.is_final:
            self._tx.free_slot(key, id)
            return False
        waits = row.state is State.AWAITING and bool(self._tx.dependencies_of([id]))
        if waits or (row.state is State.SCHEDULED and self._is_later(row)):
            self._tx.move(key, id, Stage.PLACE)
            return False
        return True

    def _is_free(self, key: str, first: Entry) -> bool:
        if not key.startswith("rate:"):
            return self._tx.slots_taken(key) < self._most(key, first.most)
        limits = codec.decode(self._rows[first.job_id].envelope).limits
        limit = next((limit for limit in limits if _name(limit) == key), None)
        return limit is None or self._has_start(limit)

    def set_most(self, key: str, most: int | None) -> None:
        """A person changes a concurrency or rate limit at run time."""
        for kind in ("concurrency", "rate"):
            self._tx.set_most(f"{kind}:{key}", most)
        self.admit(f"concurrency:{key}")
        rate = f"rate:{key}"
        kept = self._tx.holders_of(rate)
        self._see(kept)
        for id in kept:  # their moment was reckoned with the old number: they ask again
            if (row := self._rows.get(id)) is not None and self._is_later(row):
                self._decide(Postponed(id, self._now, row.reason))
        self.admit(rate)

    def _most(self, key: str, enqueued_with: int) -> int:
        return self._tx.most(key) or enqueued_with


def _name(limit: LimitKey) -> str:
    """A limit's key; kinds do not share slots."""
    return f"{limit.kind}:{limit.key}"


_KINDS = ("ordered", "rate", "concurrency")
"""The order in which limits are asked: the order of acceptance first, and slots last, so that nobody who waits for a
moment keeps a slot from others."""


def _order(limit: LimitKey) -> tuple[int, str]:
    return _KINDS.index(limit.kind), limit.key


def _is_out(row: Row) -> bool:
    """Whether something of a job may be running: a message is out, or a grace runs."""
    return row.publication is not Publication.NONE or row.grace_until is not None

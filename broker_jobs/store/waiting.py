"""Keeps what waits for something other than time: holds, batches, their additions, and marks to be worked off.

A hold is a row (holder, kind, target): kind `job` or `batch` waits for the target's end, kind `open` for an addition. A
holder is a job's id, or a batch's with a prefix. An effect on an unbounded number of rows is one mark, worked off a
page a transaction: every page removes what it has done from what the next one finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, bindparam, text

from broker_jobs.clock import Instant
from broker_jobs.store import tables
from broker_jobs.store.kept import AdditionRow, BatchRow, HoldRow, MarkRow
from broker_jobs.store.ledger import upsert

_HOLD = upsert(tables.holds, replace=False)
_BOND = upsert(tables.bonds, replace=False)
_SAVE_BATCH = upsert(tables.batches, replace=True)
_SAVE_ADDITION = upsert(tables.additions, replace=True)
_CHUNK = upsert(tables.chunks, replace=False)
_MARK = upsert(tables.marks, replace=True)
_ANY_HOLD = text("SELECT 1 FROM holds LIMIT 1")
_WAITED_FOR = text("SELECT DISTINCT target FROM holds WHERE kind = :kind AND target IN :targets").bindparams(
    bindparam("targets", expanding=True)
)
_HOLDS_ON = text(
    "SELECT holder, kind, target, on_end, unmet, since FROM holds WHERE kind = :kind AND target = :target"
    " AND (unmet = 0 OR on_end = :outcome OR on_end = 'finished') LIMIT :limit"
)
_HOLDS_OF = text("SELECT holder, kind, target, on_end, unmet, since FROM holds WHERE holder IN :holders").bindparams(
    bindparam("holders", expanding=True)
)
_DROP_HOLD = text("DELETE FROM holds WHERE holder = :holder AND kind = :kind AND target = :target")
_DROP_HOLDS = text("DELETE FROM holds WHERE holder = :holder")
_UNMET = text("UPDATE holds SET unmet = 1 WHERE holder = :holder AND kind = :kind AND target = :target")
_BATCHES = text(f"SELECT {', '.join(c.name for c in tables.batches.columns)} FROM batches WHERE id IN :ids").bindparams(  # noqa: S608
    bindparam("ids", expanding=True)
)
_ADDITION = f"SELECT {', '.join(c.name for c in tables.additions.columns)} FROM additions"  # noqa: S608
_ADDITION_BY_ID = text(f"{_ADDITION} WHERE id = :id")
_ADDITIONS_OF = text(f"{_ADDITION} WHERE batch = :batch AND opened = 0")
_ADDITIONS_UNDER = text(f"{_ADDITION} WHERE parent_addition = :addition AND opened = 0")
_UNSEALED = text(f"{_ADDITION} WHERE opened = 0 AND created_at < :before AND chunks IS NULL LIMIT :limit")
_SUB_BATCHES = text("SELECT id FROM batches WHERE parent = :batch")
_DROP_CHUNKS = text("DELETE FROM chunks WHERE addition = :addition")
_MARKS = text("SELECT kind, target, outcome FROM marks ORDER BY target LIMIT :limit")
_UNMARK = text("DELETE FROM marks WHERE kind = :kind AND target = :target")
_MEMBERS = text(
    "SELECT id FROM jobs WHERE batch = :batch AND batch IS NOT NULL AND state IN ('awaiting', 'scheduled', 'enqueued')"
    " UNION ALL SELECT id FROM jobs WHERE batch = :batch AND batch IS NOT NULL AND state = 'processing'"
    " AND (why IS NULL OR why <> 'cancel') LIMIT :limit"
)
_FAILED = text(
    "SELECT id FROM jobs WHERE batch = :batch AND batch IS NOT NULL AND state = 'failed' AND id > :after"
    " ORDER BY id LIMIT :limit"
)
_ORPHANS = (
    "SELECT holder, kind, target, on_end, unmet, since FROM holds WHERE unmet = 0"
    " AND (since < :since OR (target < :made AND target LIKE '________-____-7___-____-____________'))"
)
ORPHANS = text(
    f"{_ORPHANS} AND kind = 'job' AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = holds.target) UNION ALL "  # noqa: S608
    f"{_ORPHANS} AND kind = 'batch' AND NOT EXISTS (SELECT 1 FROM batches WHERE batches.id = holds.target) LIMIT :limit"
)
"""What waits for a target that is not there: since long, or for one whose id (a UUIDv7, which sorts by time) is old."""
_HOLDS_IN = text(
    "SELECT DISTINCT holds.kind, holds.target FROM jobs JOIN holds ON holds.holder = jobs.id"
    " WHERE jobs.batch IN :batches AND jobs.batch IS NOT NULL AND jobs.state = 'awaiting' AND holds.kind <> 'open'"
    " UNION SELECT 'batch', id FROM batches WHERE parent IN :batches"
).bindparams(bindparam("batches", expanding=True))
MOST_STEPS = 1_000
"""How far up is looked for a job that waits for itself."""
CHUNK = 500
"""Values of one IN list."""


class Waiting:
    """The half of a transaction that keeps holds and batches."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wrote = False

    # ---- holds

    def hold(self, holds: Iterable[HoldRow]) -> None:
        """Keep holds; one that is kept already stays as it is."""
        values = [asdict(hold) | {"unmet": int(hold.unmet)} for hold in holds]
        if values:
            self._connection.execute(_HOLD, values)
            self._wrote = True

    def bond(self, child: str, parents: Iterable[tuple[str, str]]) -> None:
        """Keep that a job or batch comes after others, (id, on what end) each, also when nothing holds it any more."""
        values = [{"child": child, "parent": parent, "on_end": on} for parent, on in parents]
        if values:
            self._connection.execute(_BOND, values)
            self._wrote = True

    def any_holds(self) -> bool:
        """Whether anything waits for anything."""
        return self._connection.execute(_ANY_HOLD).first() is not None

    def waited_for(self, kind: str, targets: Sequence[str]) -> list[str]:
        """Which of these something waits for."""
        found: list[str] = []
        for start in range(0, len(targets), CHUNK):
            values = {"kind": kind, "targets": list(targets[start : start + CHUNK])}
            found += self._connection.execute(_WAITED_FOR, values).scalars()
        return found

    def holds_on(self, kind: str, target: str, outcome: str, limit: int) -> list[HoldRow]:
        """Holds that this outcome of a target decides and has not decided yet, a page."""
        values = {"kind": kind, "target": target, "outcome": outcome, "limit": limit}
        return [hold_of(row) for row in self._connection.execute(_HOLDS_ON, values)]

    def holds_of(self, holders: Sequence[str]) -> list[HoldRow]:
        """All that these holders wait for."""
        found: list[HoldRow] = []
        for start in range(0, len(holders), CHUNK):
            values = {"holders": list(holders[start : start + CHUNK])}
            found += [hold_of(row) for row in self._connection.execute(_HOLDS_OF, values)]
        return found

    def waits_above(self, wanted: Sequence[tuple[str, str]], parents: Sequence[tuple[str, str]]) -> bool:
        """Whether one of these (kind, id) is among some parents, or is waited for by them, and so on up.

        A job waits for what its holds name; a batch for what its own do, for its members and the batches inside it.
        """
        searched, level, seen = set(wanted), set(parents), set(parents)
        if not searched.isdisjoint(level):
            return True
        for _ in range(MOST_STEPS):
            jobs = [id for kind, id in level if kind == "job"]
            batches = [id for kind, id in level if kind == "batch"]
            holds = self.holds_of([*jobs, *(f"batch:{id}" for id in batches)])
            above = {(hold.kind, hold.target) for hold in holds if hold.kind != "open"}
            for start in range(0, len(batches), CHUNK):
                rows = self._connection.execute(_HOLDS_IN, {"batches": batches[start : start + CHUNK]})
                above |= {(row.kind, row.target) for row in rows}
            level = above - seen
            if not searched.isdisjoint(level):
                return True
            if not level:
                return False
            seen |= level
        return False

    def drop_holds(self, holds: Sequence[HoldRow]) -> None:
        """These have been met."""
        self._change(_DROP_HOLD, holds)

    def mark_unmet(self, holds: Sequence[HoldRow]) -> None:
        """These can not be met as their targets ended; they are kept, as a person may requeue the target."""
        self._change(_UNMET, holds)

    def forget_holds(self, holders: Sequence[str]) -> None:
        """These wait for nothing any more."""
        if holders:
            self._connection.execute(_DROP_HOLDS, [{"holder": holder} for holder in holders])
            self._wrote = True

    def _change(self, statement: Any, holds: Sequence[HoldRow]) -> None:
        if holds:
            values = [{"holder": hold.holder, "kind": hold.kind, "target": hold.target} for hold in holds]
            self._connection.execute(statement, values)
            self._wrote = True

    # ---- batches

    def batches(self, ids: Sequence[str]) -> dict[str, BatchRow]:
        """The batches of these ids, by id."""
        found: dict[str, BatchRow] = {}
        for start in range(0, len(ids), CHUNK):
            for row in self._connection.execute(_BATCHES, {"ids": list(ids[start : start + CHUNK])}):
                found[row.id] = BatchRow(**row._asdict())
        return found

    def save_batches(self, rows: Iterable[BatchRow]) -> None:
        """Insert or replace batches."""
        values = [asdict(row) for row in rows]
        if values:
            self._connection.execute(_SAVE_BATCH, values)
            self._wrote = True

    def sub_batches(self, batch: str) -> list[str]:
        """The batches made inside a batch."""
        return list(self._connection.execute(_SUB_BATCHES, {"batch": batch}).scalars())

    def unended_members(self, batch: str, limit: int) -> list[str]:
        """Jobs of a batch that have not ended and are not asked to stop."""
        return list(self._connection.execute(_MEMBERS, {"batch": batch, "limit": limit}).scalars())

    def failed_members(self, batch: str, after: str, limit: int) -> list[str]:
        """Failed jobs of a batch by id, a page."""
        return list(self._connection.execute(_FAILED, {"batch": batch, "after": after, "limit": limit}).scalars())

    def addition(self, id: str) -> AdditionRow | None:
        """One addition."""
        row = self._connection.execute(_ADDITION_BY_ID, {"id": id}).first()
        return None if row is None else _addition(row)

    def unopened_additions(self, *, batch: str = "", under: str = "") -> list[AdditionRow]:
        """Additions that are not open yet: of a batch, or made inside another addition."""
        statement, values = (_ADDITIONS_OF, {"batch": batch}) if batch else (_ADDITIONS_UNDER, {"addition": under})
        return [_addition(row) for row in self._connection.execute(statement, values)]

    def unsealed_additions(self, before: Instant, limit: int) -> list[AdditionRow]:
        """Additions that were never sealed, made before an instant."""
        found = self._connection.execute(_UNSEALED, {"before": before, "limit": limit})
        return [_addition(row) for row in found]

    def save_addition(self, row: AdditionRow) -> None:
        """Insert or replace an addition."""
        self._connection.execute(_SAVE_ADDITION, asdict(row) | {"opened": int(row.opened)})
        self._wrote = True

    def take_chunk(self, addition: str, number: int) -> bool:
        """Note that a chunk is here; False: it was before."""
        taken = self._connection.execute(_CHUNK, {"addition": addition, "number": number}).rowcount > 0
        self._wrote = self._wrote or taken
        return taken

    def forget_chunks(self, addition: str) -> None:
        """An addition is complete: its chunks' numbers are not needed any more."""
        self._connection.execute(_DROP_CHUNKS, {"addition": addition})

    # ---- marks

    def mark(self, marks: Iterable[MarkRow]) -> None:
        """Set effects to be worked off; a newer outcome of the same target replaces an older one."""
        values = [asdict(mark) for mark in marks]
        if values:
            self._connection.execute(_MARK, values)
            self._wrote = True

    def marks(self, limit: int) -> list[MarkRow]:
        """What is to be worked off, the oldest targets first."""
        return [MarkRow(*row) for row in self._connection.execute(_MARKS, {"limit": limit})]

    def unmark(self, mark: MarkRow) -> None:
        """This is worked off."""
        self._connection.execute(_UNMARK, {"kind": mark.kind, "target": mark.target})
        self._wrote = True


def hold_of(row: Any) -> HoldRow:
    """The value of a row of the holds table."""
    return HoldRow(row.holder, row.kind, row.target, row.on_end, bool(row.unmet), row.since)


def _addition(row: Any) -> AdditionRow:
    return AdditionRow(**row._asdict() | {"opened": bool(row.opened)})

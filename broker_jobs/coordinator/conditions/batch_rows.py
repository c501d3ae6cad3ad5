"""Holds the batches of one transaction, and counts their members as they are shown."""

from __future__ import annotations

from dataclasses import replace

from broker_jobs.clock import Instant
from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.messages.state import State
from broker_jobs.store.records import BatchRow
from broker_jobs.store.write import Transaction

OPEN = "open"
MOST_DEEP = 100
"""Batches inside batches; more are no tree."""


class BatchRows:
    """The batches of one transaction."""

    def __init__(self, tx: Transaction, cascade: Cascade, now: Instant) -> None:
        self._tx = tx
        self._cascade = cascade
        self._now = now
        self._batches: dict[str, BatchRow] = {}
        self._before: dict[str, BatchRow] = {}
        self._put_inside: dict[str, list[str]] = {}
        """Batches that became part of another one in this transaction, by that."""
        self.ended: list[BatchRow] = []
        """Those that ended in this transaction."""

    def get(self, id: str) -> BatchRow | None:
        """A batch as it is now, or None: it is not known."""
        if id not in self._batches:
            found = self._tx.batches.load([id]).get(id)
            if found is None:
                return None
            self._before[id] = replace(found)
            self._batches[id] = found
        return self._batches[id]

    def made(self, id: str, created_at: Instant) -> BatchRow:
        """A batch, made where it is not known."""
        known = self.get(id)
        if known is None:
            known = self._batches[id] = BatchRow(id, created_at=created_at)
        return known

    def write(self) -> None:
        """Write what has changed since it was last written."""
        changed = [row for id, row in self._batches.items() if row != self._before.get(id)]
        self._tx.batches.save(changed)
        self._before.update((row.id, replace(row)) for row in changed)

    # ---- batches inside batches

    def around(self, batch: str) -> list[tuple[str, str]]:
        """A batch and those it is part of, as dependencies name them: what waits for one waits for all in it."""
        found: list[tuple[str, str]] = []
        above: str | None = batch
        while above is not None and len(found) < MOST_DEEP:
            found.append(("batch", above))
            known = self.get(above)
            above = None if known is None else known.parent
        return found

    def put_inside(self, batch: BatchRow, parent: str, created_at: Instant) -> None:
        """A batch is part of another: it is counted there once, by whichever commit comes first."""
        if batch.parent is not None or ("batch", batch.id) in self.around(parent):
            return
        batch.parent = parent
        self._put_inside.setdefault(parent, []).append(batch.id)
        around = self.made(parent, created_at)
        self.count(parent, None, batch.state if batch.ended_at is not None else OPEN)
        if around.ended_at is not None and batch.ended_at is None:
            self.begin(around)

    def inside(self, batch: str) -> list[str]:
        """The batches that are part of a batch."""
        return list(dict.fromkeys([*self._tx.batches.inside(batch), *self._put_inside.get(batch, ())]))

    def all_inside(self, batch: str) -> list[str]:
        """A batch, those that are part of it, those that are part of these, and so on."""
        found = {batch: None}
        level = [batch]
        while level:
            level = [below for one in level for below in self.inside(one) if below not in found]
            found.update(dict.fromkeys(level))
        return list(found)

    # ---- counting

    def count(self, id: str, before: str | None, now: str) -> bool:
        """A member is counted otherwise (None: it was not counted). Whether the batch is known."""
        batch = self.get(id)
        if batch is None:
            return False
        _count(batch, before, now)
        if now == OPEN and batch.ended_at is not None:
            self.begin(batch)
        return True

    def begin(self, batch: BatchRow) -> None:
        """A batch goes on, or goes on again: then so do the ended ones around it."""
        going: BatchRow | None = batch
        while going is not None:
            ended = going.state if going.ended_at is not None else None
            going.state, going.ended_at = State.PROCESSING.value, None
            if ended is None:
                return
            self._cascade.add(Kind.BATCH, going.id)
            around = None if going.parent is None else self.get(going.parent)
            if around is None:
                return
            _count(around, ended, OPEN)
            going = around if around.ended_at is not None else None

    def finish(self) -> None:
        """End the batches that have no open member; the end of one may be that of the batch around it."""
        over = [batch for batch in self._batches.values() if _is_over(batch)]
        while over:
            batch = over.pop()
            if not _is_over(batch):
                continue
            self._end(batch)
            around = None if batch.parent is None else self.get(batch.parent)
            if around is not None and _is_over(around):
                over.append(around)

    def _end(self, batch: BatchRow) -> None:
        all_deleted = batch.deleted == batch.total and batch.total > 0
        end = State.FAILED if batch.failed else State.DELETED if all_deleted else State.SUCCEEDED
        batch.state, batch.ended_at = end.value, self._now
        self.ended.append(batch)
        self._cascade.add(Kind.BATCH, batch.id)
        if batch.parent:
            self.count(batch.parent, OPEN, end.value)


def _is_over(batch: BatchRow) -> bool:
    return batch.state == State.PROCESSING.value and batch.open <= 0


def _count(batch: BatchRow, before: str | None, now: str) -> None:
    if before is None:
        batch.total += 1
    else:
        setattr(batch, before, getattr(batch, before) - 1)
    setattr(batch, now, getattr(batch, now) + 1)

"""Tells what depends on a job that it has changed: its batch counts it otherwise, and what waits for it looks again."""

from __future__ import annotations

from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.coordinator.conditions.batch_rows import OPEN, BatchRows
from broker_jobs.coordinator.rows import Rows
from broker_jobs.store.row import Row


class Dependents:
    """What depends on jobs, in one transaction."""

    def __init__(self, rows: Rows, cascade: Cascade, batch_rows: BatchRows) -> None:
        self._rows = rows
        self._cascade = cascade
        self._batch_rows = batch_rows

    def tell(self, row: Row) -> None:
        """What depends on a job is to look at it, and its batch counts it otherwise."""
        self.count(row)
        self._cascade.tell(row.id)
        if row.alias_group is not None and not row.is_alias:
            self._cascade.add(Kind.GROUP, row.alias_group)

    def count(self, row: Row) -> None:
        """A batch counts a member as it is shown: an alias as its root."""
        if row.batch is None:
            return
        row = self._rows[row.id]
        now = self._rows.end_of(row.id) or OPEN
        if now != row.counted_as and self._batch_rows.count(row.batch or "", row.counted_as, now):
            self._rows.put(row.evolve(counted_as=now))

    def count_again(self, id: str) -> None:
        """The root of an alias has changed: what depends on the alias looks again."""
        row = self._rows.get(id)
        if row is not None and row.is_alias:
            self.count(row)
            self._cascade.tell(id)

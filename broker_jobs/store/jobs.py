"""Keeps the rows of jobs: loads and saves them by thousands, and counts what changes.

This is the hot path: every job comes by here at least twice. The counters are written once, at the commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from broker_jobs.messages.state import State
from broker_jobs.store import columns
from broker_jobs.store.connections import WriteConnection, in_chunks
from broker_jobs.store.counters import FINAL_TEXT, Counters, ended_job, part_of
from broker_jobs.store.row import Row

CHUNK = 2_000
"""Rows of one statement."""
_CONFIRM_SQLITE = "UPDATE jobs SET publication = 2, sender = NULL WHERE id = ? AND epoch = ? AND publication = 1"
_CONFIRM_POSTGRESQL = (
    "UPDATE jobs SET publication = 2, sender = NULL WHERE id = ANY(%s) AND epoch = %s AND publication + 0 = 1"
)
"""Of one epoch, by its jobs: joined with an array, all that are being published are looked at."""
_ANY_AWAITING = f"SELECT 1 FROM jobs WHERE state = '{State.AWAITING.value}' LIMIT 1"  # noqa: S608  # a constant of ours


class JobStore:
    """The rows of jobs, in a transaction."""

    __slots__ = ("_connection", "_known", "counters")

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection
        self.counters = Counters()
        """What has changed of them, of whichever part."""
        self._known: dict[str, tuple[str, str, str | None] | None] = {}

    def load(self, ids: Iterable[str]) -> dict[str, Row]:
        """The rows of these ids, by id; an unknown id is left out."""
        rows: dict[str, Row] = {}
        for chunk in in_chunks(list(dict.fromkeys(ids)), CHUNK):
            for values in self._select(columns.LOAD_POSTGRESQL, columns.LOAD_SQLITE, chunk):
                row = columns.row_of(values)
                rows[row.id] = row
            for job_id in chunk:
                if self._known.get(job_id) is None:  # or it was unknown, and added without its row (PlainJobStore)
                    known = rows.get(job_id)
                    self._known[job_id] = None if known is None else _counted(known)
        return rows

    def save(self, rows: Iterable[Row], stored: Mapping[str, Row | None] | None = None) -> None:
        """Insert or replace rows; of the same id the last one counts. The counters follow at the commit.

        Args:
            rows: as they are now.
            stored: as the store has them, by id, where that is known: then only the columns that have changed are
                written, so that the indexes of all others stay as they are.
        """
        stored = stored or {}
        for chunk in in_chunks(list({row.id: row for row in rows}.values()), CHUNK):
            self._learn([row.id for row in chunk if row.id not in self._known])
            whole: list[list[Any]] = []
            changes: dict[tuple[int, ...], list[list[Any]]] = {}
            for row in chunk:
                self._count(row)
                before = stored.get(row.id)
                if before is None:
                    whole.append(columns.values_of(row))
                elif places := columns.changed(before, row):
                    values = columns.values_of(row)
                    changes.setdefault(places, []).append([*(values[place] for place in places), row.id])
            self._connection.write_rows(columns.SAVE_SQLITE, columns.SAVE_POSTGRESQL, whole)
            for places, narrow in changes.items():
                self._connection.write_rows(*columns.updates(places), narrow)

    def confirm(self, releases: Sequence[tuple[str, int]]) -> None:
        """Releases (id, epoch) that RabbitMQ has confirmed: `publishing` becomes `published`, whatever the state.

        One narrow statement, as every delayed job and every retry comes by here.
        """
        if not releases:
            return
        self._connection.wrote = True
        if not self._connection.is_postgresql:
            self._connection.exec_driver_sql(_CONFIRM_SQLITE, list(releases))
            return
        of_epoch: dict[int, list[str]] = {}
        for id, epoch in releases:
            of_epoch.setdefault(epoch, []).append(id)
        for epoch, ids in of_epoch.items():
            self._connection.exec_driver_sql(_CONFIRM_POSTGRESQL, (ids, epoch))

    def forgotten(self, jobs: Iterable[tuple[str, str, str]]) -> None:
        """These (id, queue, state) were removed."""
        for job_id, queue, state in jobs:
            self.counters.leave(queue, state)
            self._known[job_id] = None

    def any_awaiting(self) -> bool:
        """Whether a job waits for another one, or in a line."""
        return self._connection.exec_driver_sql(_ANY_AWAITING).first() is not None

    def write_counters(self) -> None:
        """Write what has changed of the counters."""
        self.counters.write(self._connection)

    def _learn(self, ids: list[str]) -> None:
        """Ask for what the counters say of rows that were not loaded."""
        if not ids:
            return
        self._known.update(dict.fromkeys(ids))
        known = self._select(columns.KNOWN_POSTGRESQL, columns.KNOWN_SQLITE, ids)
        for job_id, state, queue, reason_code, priority in known:
            self._known[job_id] = queue, state, part_of(state, reason_code, priority)

    def _count(self, row: Row) -> None:
        before, after = self._known[row.id], _counted(row)
        if before == after:
            return
        if before is not None:
            self.counters.leave(*before)
        self.counters.enter(*after)
        if after[1] in FINAL_TEXT and (before is None or before[1] != after[1]):
            self.counters.ended(ended_job(row))
        self._known[row.id] = after

    def _select(self, postgresql: str, sqlite: str, ids: Sequence[str]) -> Sequence[Any]:
        if self._connection.is_postgresql:
            return self._connection.exec_driver_sql(postgresql, (list(ids),)).all()
        return self._connection.exec_driver_sql(sqlite, (to_json(ids).decode(),)).all()


def _counted(row: Row) -> tuple[str, str, str | None]:
    """Where the counters count a row."""
    state = row.state.value
    return row.queue, state, part_of(state, row.reason_code, row.priority)

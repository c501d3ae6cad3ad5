"""Keeps the rows of jobs: loads and saves them by thousands, and counts what changes.

This is the hot path: every job comes by here at least twice. The counters are written once, at the commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import to_json
from sqlalchemy import text

from broker_jobs.messages.state import State
from broker_jobs.store import columns
from broker_jobs.store.connections import WriteConnection, in_chunks
from broker_jobs.store.counters import FINAL_TEXT, Counters
from broker_jobs.store.row import Reason, Row

CHUNK = 2_000
"""Rows of one statement."""
_CONFIRM = text("UPDATE jobs SET publication = 2, sender = NULL WHERE id = :id AND epoch = :epoch AND publication = 1")
AGAIN = frozenset({Reason.RETRY, Reason.CRASH})
"""Why a scheduled job runs again after a failure."""
SCHEDULED = State.SCHEDULED.value


class JobStore:
    """The rows of jobs, in a transaction."""

    __slots__ = ("_connection", "_counters", "_known")

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection
        self._counters = Counters()
        self._known: dict[str, tuple[str, str, bool] | None] = {}

    def load(self, ids: Iterable[str]) -> dict[str, Row]:
        """The rows of these ids, by id; an unknown id is left out."""
        rows: dict[str, Row] = {}
        for chunk in in_chunks(list(dict.fromkeys(ids)), CHUNK):
            for values in self._select(columns.LOAD_POSTGRESQL, columns.LOAD_SQLITE, chunk):
                row = columns.row_of(values)
                rows[row.id] = row
            for job_id in chunk:
                known = rows.get(job_id)
                self._known.setdefault(job_id, None if known is None else _counted(known))
        return rows

    def save(self, rows: Iterable[Row]) -> None:
        """Insert or replace whole rows; of the same id the last one counts. The counters follow at the commit."""
        for chunk in in_chunks(list({row.id: row for row in rows}.values()), CHUNK):
            self._learn([row.id for row in chunk if row.id not in self._known])
            for row in chunk:
                self._count(row)
            self._upsert([columns.values_of(row) for row in chunk])

    def confirm(self, releases: Sequence[tuple[str, int]]) -> None:
        """Releases (id, epoch) that RabbitMQ has confirmed: `publishing` becomes `published`, whatever the state.

        One narrow statement, as every delayed job and every retry comes by here.
        """
        self._connection.write_many(_CONFIRM, [{"id": id, "epoch": epoch} for id, epoch in releases])

    def forgotten(self, jobs: Iterable[tuple[str, str, str]]) -> None:
        """These (id, queue, state) were removed."""
        for job_id, queue, state in jobs:
            self._counters.leave(queue, state)
            self._known[job_id] = None

    def write_counters(self) -> None:
        """Write what has changed of the counters."""
        self._counters.write(self._connection)

    def _learn(self, ids: list[str]) -> None:
        """Ask for what the counters say of rows that were not loaded."""
        if not ids:
            return
        self._known.update(dict.fromkeys(ids))
        for job_id, state, queue, reason_code in self._select(columns.KNOWN_POSTGRESQL, columns.KNOWN_SQLITE, ids):
            self._known[job_id] = (queue, state, state == SCHEDULED and reason_code in AGAIN)

    def _count(self, row: Row) -> None:
        before, after = self._known[row.id], _counted(row)
        if before == after:
            return
        if before is not None:
            self._counters.leave(*before)
        self._counters.enter(*after)
        if after[1] in FINAL_TEXT and (before is None or before[1] != after[1]):
            self._counters.ended(row)
        self._known[row.id] = after

    def _select(self, postgresql: str, sqlite: str, ids: Sequence[str]) -> Sequence[Any]:
        if self._connection.is_postgresql:
            return self._connection.exec_driver_sql(postgresql, (list(ids),)).all()
        return self._connection.exec_driver_sql(sqlite, (to_json(ids).decode(),)).all()

    def _upsert(self, rows: list[list[Any]]) -> None:
        self._connection.wrote = True
        try:
            self._execute_upsert(rows)
        except (
            UnicodeEncodeError
        ):  # half a surrogate: seen before anything is sent (PostgreSQL), or repeatable (SQLite)
            columns.clean(rows)
            self._execute_upsert(rows)

    def _execute_upsert(self, rows: list[list[Any]]) -> None:
        if not self._connection.is_postgresql:
            self._connection.exec_driver_sql(columns.SAVE_SQLITE, [tuple(values) for values in rows])
            return
        arrays = columns.arrays_of(rows)
        if any("\x00" in array for array in arrays):  # PostgreSQL's text cannot hold it
            columns.clean(rows)
            arrays = columns.arrays_of(rows)
        self._connection.exec_driver_sql(columns.SAVE_POSTGRESQL, arrays)


def _counted(row: Row) -> tuple[str, str, bool]:
    """Where the counters count a row."""
    state = row.state.value
    return row.queue, state, state == SCHEDULED and row.reason_code in AGAIN

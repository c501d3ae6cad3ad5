"""Writes the truth: one transaction at a time under the one lock, its counters and serial with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, text

from broker_jobs.clock import Instant
from broker_jobs.messages.state import State
from broker_jobs.store import columns
from broker_jobs.store.administration import Administration
from broker_jobs.store.attempts import AttemptStore
from broker_jobs.store.counters import FINAL_TEXT, Counters
from broker_jobs.store.dependencies import DependencyStore
from broker_jobs.store.due import DueJobs
from broker_jobs.store.lines import LineStore
from broker_jobs.store.records import Meta
from broker_jobs.store.retention import PurgeProgress, Retention
from broker_jobs.store.row import Reason, Row
from broker_jobs.store.selection import JobSelector
from broker_jobs.store.unique_keys import UniqueKeyStore

CHUNK = 2_000
"""Rows of one statement."""

_META = (
    "SELECT store_id, schema, serial, log_time, last_tick_at, control_version, schedules_version, accepted_serial"
    " FROM meta WHERE id = 1"
)
META = text(_META)
META_LOCKED = text(f"{_META} FOR UPDATE")
_SAVE_META = text(
    "UPDATE meta SET serial = :serial, log_time = :log_time, last_tick_at = :last_tick_at,"
    " control_version = :control_version, schedules_version = :schedules_version, accepted_serial = :accepted_serial"
    " WHERE id = 1"
)
_CONFIRM = text("UPDATE jobs SET publication = 2, sender = NULL WHERE id = :id AND epoch = :epoch AND publication = 1")
_LEAP = text("UPDATE jobs SET epoch = epoch + :epochs WHERE state IN ('scheduled', 'awaiting')")
_INSTALLATION = text("SELECT name FROM installation WHERE id = 1")
_SAVE_INSTALLATION = text(
    "INSERT INTO installation (id, name) VALUES (1, :name) ON CONFLICT (id) DO UPDATE SET name = excluded.name"
)
AGAIN = frozenset({Reason.RETRY, Reason.CRASH})
"""Why a scheduled job runs again after a failure."""
SCHEDULED = State.SCHEDULED.value
EPOCH_LEAP = 1_000
SERIAL_LEAP = 1_000_000_000


def read_meta(connection: Connection, *, lock: bool = False) -> Meta:
    """The row of meta; with `lock` nobody else gets it so until the transaction ends (PostgreSQL)."""
    return Meta(*connection.execute(META_LOCKED if lock else META).one())


def read_installation(connection: Connection) -> str:
    """The installation that the store belongs to; empty before its first coordinator. See `installation.py`."""
    return str(connection.execute(_INSTALLATION).scalar_one_or_none() or "")


class Transaction(DueJobs, Administration, DependencyStore, JobSelector):
    """What may be done under the lock. `meta` was read under it; fields changed there are written at the commit."""

    def __init__(self, connection: Connection, meta: Meta) -> None:
        DueJobs.__init__(self, connection)
        Administration.__init__(self, connection)
        DependencyStore.__init__(self, connection)
        JobSelector.__init__(self, connection)
        self.meta = meta
        self._parts_wrote = [False]
        self.lines = LineStore(connection, self._parts_wrote)
        self.unique_keys = UniqueKeyStore(connection, self._parts_wrote)
        self.attempts = AttemptStore(connection, self._parts_wrote)
        self._meta_before = astuple(meta)
        self._counters = Counters()
        self._known: dict[str, tuple[str, str, bool] | None] = {}
        self._postgresql = connection.dialect.name == "postgresql"

    def load(self, ids: Iterable[str]) -> dict[str, Row]:
        """The rows of these ids, by id; an unknown id is left out."""
        rows: dict[str, Row] = {}
        for chunk in _chunks(list(dict.fromkeys(ids))):
            for values in self._select(columns.LOAD_POSTGRESQL, columns.LOAD_SQLITE, chunk):
                row = columns.row_of(values)
                rows[row.id] = row
            for job_id in chunk:
                known = rows.get(job_id)
                self._known.setdefault(job_id, None if known is None else _counted(known))
        return rows

    def save(self, rows: Iterable[Row]) -> None:
        """Insert or replace whole rows; of the same id the last one counts. The counters follow at the commit."""
        for chunk in _chunks(list({row.id: row for row in rows}.values())):
            self._learn([row.id for row in chunk if row.id not in self._known])
            for row in chunk:
                self._count(row)
            self._upsert([columns.values_of(row) for row in chunk])

    def confirm(self, releases: Sequence[tuple[str, int]]) -> None:
        """Releases (id, epoch) that RabbitMQ has confirmed: `publishing` becomes `published`, whatever the state.

        One narrow statement, as every delayed job and every retry comes by here.
        """
        if releases:
            values = [{"id": id, "epoch": epoch} for id, epoch in releases]
            self._connection.execute(_CONFIRM, values)
            self._wrote = True

    def purge(
        self,
        *,
        now: Instant,
        keep_succeeded: float,
        keep_deleted: float,
        keep_failed: float,
        limit: int,
        progress: PurgeProgress | None = None,
    ) -> int:
        """Remove jobs that ended longer ago than is kept (seconds, by state); returns how many.

        Never one with something on the wire, in a grace, or with a copy still in the delay queues, and none that
        something needs which has not ended.

        Args:
            now: wall time.
            keep_succeeded, keep_deleted, keep_failed: seconds that jobs are kept, by the state they ended in.
            limit: rows to look at.
            progress: how far earlier pages came. Without it the oldest rows are looked at.
        """  # fmt: skip
        keep = {"succeeded": keep_succeeded, "deleted": keep_deleted, "failed": keep_failed}
        page = Retention(self._connection, progress or PurgeProgress(), limit)
        forgotten = page.forget_old(keep, now=now, log_time=self.meta.log_time)
        for job_id, queue, state in forgotten:
            self._counters.leave(queue, state)
            self._known[job_id] = None
        self._wrote = self._wrote or page.wrote
        return len(forgotten)

    def installation(self) -> str:
        """As `read_installation`."""
        return read_installation(self._connection)

    def save_installation(self, name: str) -> None:
        """Let the store belong to this installation."""
        self._connection.execute(_SAVE_INSTALLATION, {"name": name})

    def accept_restored(self) -> int:
        """A person accepts that this store was restored from a backup; the number of waiting jobs.

        Its serial leaps over all that the log may have seen of it, and waiting jobs leap over the epochs they may have
        been released with since the backup: an old message and a new release must not share an epoch.
        """
        self.meta.accepted_serial = self.meta.serial
        self.meta.serial += SERIAL_LEAP
        self.meta.control_version += EPOCH_LEAP * EPOCH_LEAP  # workers have heard of later ones than the store knows
        self.meta.schedules_version += EPOCH_LEAP * EPOCH_LEAP
        return self._connection.execute(_LEAP, {"epochs": EPOCH_LEAP}).rowcount

    def finish(self) -> None:
        """Write what is collected; the store calls it right before the commit."""
        self._counters.write(self._connection)
        self.write_schedules()
        if not self._wrote and not self._parts_wrote[0] and astuple(self.meta) == self._meta_before:
            return
        self.meta.serial += 1
        values = {name: getattr(self.meta, name) for name in self.meta.__slots__}
        self._connection.execute(_SAVE_META, values)

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
        if self._postgresql:
            return self._connection.exec_driver_sql(postgresql, (list(ids),)).all()
        return self._connection.exec_driver_sql(sqlite, (to_json(ids).decode(),)).all()

    def _upsert(self, rows: list[list[Any]]) -> None:
        self._wrote = True
        try:
            self._execute_upsert(rows)
        except (
            UnicodeEncodeError
        ):  # half a surrogate: seen before anything is sent (PostgreSQL), or repeatable (SQLite)
            columns.clean(rows)
            self._execute_upsert(rows)

    def _execute_upsert(self, rows: list[list[Any]]) -> None:
        if not self._postgresql:
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


def _chunks(items: list[Any]) -> Iterable[list[Any]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]

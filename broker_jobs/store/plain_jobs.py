"""Writes plain jobs: those without conditions, as they are accepted and released, and all that simply succeed.

Most jobs are plain, so they are written narrowly: a statement for each step, with the columns that the step changes.
A row of all columns, replaced twice, costs four times as much: every index is written again though its columns are the
same. Of a plain job the history is not stored either, as its other columns say it (see `columns.usual_history`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from pydantic_core import from_json, to_json

from broker_jobs.clock import Instant
from broker_jobs.messages.state import State
from broker_jobs.store import columns
from broker_jobs.store.connections import WriteConnection
from broker_jobs.store.counters import WAITING, Counters, EndedJob
from broker_jobs.store.row import Conditions, Row, WaitReason

AWAITING, SCHEDULED, ENQUEUED, SUCCEEDED = "awaiting", "scheduled", "enqueued", "succeeded"
_PLAIN_CONDITIONS = (
    Conditions.NONE,
    Conditions.RELEASED,
    Conditions.RELEASED | Conditions.LINES,
    Conditions.LINES,
)
_IS_PLAIN = (
    "state = 'enqueued' AND publication > 0 AND epoch = 1 AND attempt = 1 AND waits = 0"
    f" AND conditions IN ({', '.join(map(str, _PLAIN_CONDITIONS))})"
    " AND fence = 0 AND crashes = 0 AND returns = 0 AND interruptions = 0 AND unknowns = 0 AND gives_back = 0"
    " AND owned = 0 AND envelope IS NOT NULL AND reason_code IS NULL AND reason IS NULL"
    " AND error IS NULL AND owner IS NULL AND recurring IS NULL AND alias_group IS NULL"
    " AND (counted_as IS NULL AND batch IS NULL OR counted_as = 'open') AND grace_until IS NULL"
)
"""Nothing has become of it but that it was released, by its producer or (`Conditions.RELEASED`) by the coordinator."""
_IN_LINES = f"conditions & {Conditions.LINES} > 0"
_KNOWN = f"SELECT id, queue, job, created_at, due_at, history, batch, priority, {_IN_LINES}, {_IS_PLAIN} FROM jobs"  # noqa: S608  # a constant of ours
_KNOWN_SQLITE = f"{_KNOWN} WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608  # as above
_KNOWN_POSTGRESQL = f"{_KNOWN} WHERE id = ANY(%s)"

_ALWAYS = {
    "epoch": "1", "attempt": "1", "crashes": "0", "returns": "0", "fence": "0", "owned": "0", "unknowns": "0",
    "interruptions": "0", "lost_since": "0", "waits": "0", "conditions": "0", "gives_back": "0",
}  # fmt: skip
"""What every plain row has when it is made; what it does not name is NULL."""
_COPY = (
    "id",
    "job",
    "queue",
    "due_at",
    "created_at",
    "released_at",
    "retries",
    "envelope",
    "parent",
    "tags",
    "priority",
)
_END = ("changed_at", "started_at", "ended_at", "result", "result_lost", "ran_on", "ran_host")
_IS_WAITING = (
    "state = CASE WHEN waits = 0 THEN 'scheduled' ELSE 'awaiting' END AND publication = 0 AND epoch = 0"
    f" AND attempt = 1 AND conditions = CASE WHEN waits = {WaitReason.DEPENDENCY} THEN {Conditions.DEPENDENCIES}"
    f" ELSE {Conditions.NONE} END AND fence = 0 AND crashes = 0 AND returns = 0"
    " AND interruptions = 0 AND unknowns = 0 AND gives_back = 0 AND owned = 0 AND envelope IS NOT NULL"
    " AND reason_code IS NULL AND error IS NULL AND owner IS NULL AND recurring IS NULL AND alias_group IS NULL"
    " AND (counted_as IS NULL AND batch IS NULL OR counted_as = 'open') AND grace_until IS NULL"
)
"""Nothing has become of it but that it was accepted."""
_WAITING_COLUMNS = (
    "id, job, queue, due_at, created_at, copy_until, retries, envelope, reason, parent, batch, tags, counted_as"
    ", history, priority"
)
_WAITING = f"SELECT {_WAITING_COLUMNS} FROM jobs WHERE {_IS_WAITING} AND (due_at IS NULL OR due_at <= "  # noqa: S608  # as above
_WAITING_SQLITE = f"{_WAITING}?) AND waits = ? AND id IN (SELECT value FROM json_each(?))"  # noqa: S608  # as above
_WAITING_POSTGRESQL = f"{_WAITING}%s) AND waits = %s AND id = ANY(%s)"


class Copy(NamedTuple):
    """A job as its producer released it, or (`released_at` is None) as the coordinator is to release it."""

    id: str
    job: str
    queue: str
    due_at: Instant | None
    created_at: Instant
    released_at: Instant | None
    retries: int
    envelope: str
    parent: str | None
    tags: str | None
    priority: str | None


class Success(NamedTuple):
    """How a job ended. `changed_at` is the coordinator's clock, `started_at` and `ended_at` are the worker's."""

    changed_at: Instant
    started_at: Instant
    ended_at: Instant
    result: str | None
    result_lost: str | None
    ran_on: str
    ran_host: str


class Known(NamedTuple):
    """What is known of a job that has a row. Not plain: something has become of it that needs all of its row."""

    id: str
    queue: str
    job: str | None
    created_at: Instant
    due_at: Instant | None
    history: str | None
    batch: str | None
    priority: str | None
    in_lines: bool
    """It may have something in lines."""
    is_plain: bool


class PlainJobStore:
    """The plain jobs of one transaction.

    Args:
        connection: of the transaction.
        counters: that the transaction writes.
    """

    __slots__ = ("_connection", "_counters")

    def __init__(self, connection: WriteConnection, counters: Counters) -> None:
        self._connection = connection
        self._counters = counters

    def known(self, ids: Sequence[str]) -> dict[str, Known]:
        """What is known of these jobs, by id; an unknown id is left out."""
        if not ids:
            return {}
        if self._connection.is_postgresql:
            found = self._connection.exec_driver_sql(_KNOWN_POSTGRESQL, (list(ids),))
        else:
            found = self._connection.exec_driver_sql(_KNOWN_SQLITE, (to_json(ids).decode(),))
        return {values[0]: Known(*values) for values in found.all()}

    def add(self, copies: Sequence[Copy]) -> None:
        """Jobs that have no row yet: they are enqueued."""
        self._connection.write_rows(*_ADD, [[*copy, copy.released_at] for copy in copies])
        for copy in copies:
            self._counters.enter(copy.queue, ENQUEUED, _part(copy.priority))

    def add_delayed(self, jobs: Sequence[tuple[Copy, Instant | None]], now: Instant) -> None:
        """Jobs that have no row yet and wait for their time; with each, until when a copy may be in the delay
        queues."""
        history = to_json([(now, SCHEDULED, "")]).decode()
        self._connection.write_rows(*_ADD_DELAYED, [[*copy, now, copied_until, history] for copy, copied_until in jobs])
        for copy, _ in jobs:
            self._counters.enter(copy.queue, SCHEDULED)

    def add_members(self, jobs: Sequence[Copy], batch: str, now: Instant, reason: str) -> None:
        """Jobs that have no row yet and wait for the rest of their batch submission."""
        history = to_json([(now, AWAITING, reason)]).decode()
        self._connection.write_rows(*_ADD_MEMBERS, [[*job, now, batch, reason, history] for job in jobs])
        for job in jobs:
            self._counters.enter(job.queue, AWAITING)

    def waiting(self, ids: Sequence[str], waits: int, until: Instant) -> dict[str, Row]:
        """Those of these jobs that wait for nothing but their time, which comes by then, and what `waits` says.

        Nothing else has become of them. The rows are new objects.
        """
        if self._connection.is_postgresql:
            found = self._connection.exec_driver_sql(_WAITING_POSTGRESQL, (until, waits, list(ids)))
        else:
            found = self._connection.exec_driver_sql(_WAITING_SQLITE, (until, waits, to_json(ids).decode()))
        state = State.AWAITING if waits else State.SCHEDULED
        rows: dict[str, Row] = {}
        for id, job, queue, due_at, created_at, copy_until, retries, envelope, reason, *more in found.all():
            parent, batch, tags, counted_as, stored, priority = more
            history = [(at, entered, why) for at, entered, why in from_json(stored or "[]")]
            rows[id] = Row(
                id, job or "", queue, state, due_at=due_at, created_at=created_at, copy_until=copy_until,
                retries=retries, envelope=envelope, reason=reason or "", parent=parent, batch=batch, tags=tags or "",
                counted_as=counted_as, waits=waits, history=history, priority=priority,
            )  # fmt: skip
        return rows

    def release(self, rows: Sequence[Row], before: State) -> None:
        """Jobs of `waiting`, which were in that state, are as these rows say: their releases are on the way."""
        values = [
            [row.sender, row.due_at, row.changed_at, row.released_at, columns.history_text(row.history), row.id]
            for row in rows
        ]
        self._connection.write_rows(*_RELEASE, values)
        for row in rows:
            self._counters.leave(row.queue, before.value)
            self._counters.enter(row.queue, ENQUEUED, _part(row.priority))

    def add_succeeded(self, jobs: Sequence[tuple[Copy, Success]]) -> None:
        """Jobs that have no row yet and have succeeded."""
        self._connection.write_rows(*_ADD_SUCCEEDED, [[*copy, *end] for copy, end in jobs])
        for copy, end in jobs:
            self._counters.enter(copy.queue, SUCCEEDED)
            self._ended(copy, end)

    def succeed(self, jobs: Sequence[tuple[Known, Success]]) -> None:
        """Jobs that are plain, and have succeeded."""
        values: dict[tuple[str, ...], list[list[object]]] = {}
        for known, end in jobs:
            more: dict[str, object] = {}
            if known.history is not None:
                more["history"] = columns.with_run(known.history, end.started_at, end.ended_at)
            if known.batch is not None:
                more["counted_as"] = SUCCEEDED
            values.setdefault(tuple(more), []).append([*end, *more.values(), known.id])
        for names, rows in values.items():
            self._connection.write_rows(*_succeeds(*names), rows)
        for known, end in jobs:
            self._counters.leave(known.queue, ENQUEUED, _part(known.priority))
            self._counters.enter(known.queue, SUCCEEDED)
            self._ended(known, end)

    def _ended(self, job: Copy | Known, end: Success) -> None:
        began_at = job.created_at if job.due_at is None else job.due_at
        self._counters.ended(
            EndedJob(SUCCEEDED, job.queue, job.job or "", end.changed_at, began_at, end.started_at, end.ended_at)
        )


def _part(priority: str | None) -> str | None:
    return None if priority is None else WAITING[priority]


def _insert(given: tuple[str, ...], always: dict[str, str]) -> tuple[str, str]:
    """(for SQLite, for PostgreSQL)."""
    names = ", ".join((*given, *always))
    constants = ", ".join(always.values())
    head = f"INSERT INTO jobs ({names})"
    arrays = ", ".join(f"%s::{columns.type_of(name)}[]" for name in given)
    sqlite = f"{head} VALUES ({', '.join('?' * len(given))}, {constants})"
    postgresql = f"{head} SELECT given.*, {constants} FROM unnest({arrays}) AS given"  # noqa: S608  # as above
    return sqlite, postgresql


@cache
def _succeeds(*more: str) -> tuple[str, str]:
    """(for SQLite, for PostgreSQL). `more`: columns beside those of every success."""
    return _update("state = 'succeeded', publication = 0, sender = NULL", (*_END, *more))


def _update(always: str, assigns: tuple[str, ...]) -> tuple[str, str]:
    """(for SQLite, for PostgreSQL). The id comes last."""
    head = f"UPDATE jobs SET {always}, "  # noqa: S608  # constants of ours
    given = (*assigns, "id")
    arrays = ", ".join(f"%s::{columns.type_of(name)}[]" for name in given)
    sqlite = f"{head}{', '.join(f'{name} = ?' for name in assigns)} WHERE id = ?"
    assigned = ", ".join(f"{name} = given.{name}" for name in assigns)
    postgresql = f"{head}{assigned} FROM unnest({arrays}) AS given ({', '.join(given)}) WHERE jobs.id = given.id"
    return sqlite, postgresql


_ADD = _insert((*_COPY, "changed_at"), {"state": "'enqueued'", "publication": "2"} | _ALWAYS)
_ADD_DELAYED = _insert(
    (*_COPY, "changed_at", "copy_until", "history"),
    {"state": "'scheduled'", "publication": "0"} | _ALWAYS | {"epoch": "0"},
)
_ADD_MEMBERS = _insert(
    (*_COPY, "changed_at", "batch", "reason", "history"),
    {"state": "'awaiting'", "publication": "0", "counted_as": "'open'"}
    | _ALWAYS
    | {"epoch": "0", "waits": str(int(WaitReason.COMMIT))},
)
_RELEASE = _update(
    f"state = 'enqueued', publication = 1, epoch = 1, reason = NULL, waits = 0, conditions = {Conditions.RELEASED}",
    ("sender", "due_at", "changed_at", "released_at", "history"),
)
_ADD_SUCCEEDED = _insert((*_COPY, *_END), {"state": "'succeeded'", "publication": "0"} | _ALWAYS)
"""Statements that differ between the databases: for SQLite, for PostgreSQL."""

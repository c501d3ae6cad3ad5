"""Keeps which processes there are: workers, and the coordinators and beats that were heard of."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, select, text

from broker_jobs.clock import Instant
from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, cleaned, upsert
from broker_jobs.store.records import WorkerRow
from broker_jobs.store.views import ComponentRow

WORKERS = select(schema.workers).order_by(schema.workers.c.host, schema.workers.c.slot, schema.workers.c.id)
_SAVE_WORKER = upsert(schema.workers, replace=True)
_ADD_WORKER = upsert(schema.workers, replace=False)
_CHANGES = select(schema.worker_changes).order_by(schema.worker_changes.c.worker)
_SAVE_CHANGE = upsert(schema.worker_changes, replace=True)
_SAVE_SUPERVISED = text(
    "UPDATE workers SET seen_at = :seen_at, silent_since = :silent_since, running = :running WHERE id = :id"
)
_SAVE_PROGRAM = text("UPDATE workers SET service = :service, code = :code, queues = :queues WHERE id = :id")
_SAVE_COMPONENT = text(
    "INSERT INTO components (id, kind, host, pid, version, active, seen_at)"
    " VALUES (:id, :kind, :host, :pid, :version, :active, :seen_at)"
    " ON CONFLICT (id, kind) DO UPDATE SET host = excluded.host, pid = excluded.pid, version = excluded.version,"
    " active = excluded.active, seen_at = excluded.seen_at WHERE components.seen_at <= excluded.seen_at"
)
_STAND_BY = text("UPDATE components SET active = 0 WHERE kind = 'coordinator' AND id <> :id AND active = 1")
_COMPONENTS = text(
    "SELECT id, kind, host, pid, version, active, seen_at FROM components ORDER BY kind, host, seen_at DESC, id"
)


class ProcessStore:
    """Workers, coordinators and beats, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def workers(self) -> list[WorkerRow]:
        """All workers known, by host and slot."""
        return [worker_of(row) for row in self._connection.execute(WORKERS)]

    def save_worker(self, row: WorkerRow) -> None:
        """Add a worker, or replace what is known of it."""
        self._connection.write(_SAVE_WORKER, _worker_values(row))

    def add_worker(self, row: WorkerRow) -> None:
        """Add a worker; what is known of it already stays."""
        self._connection.write(_ADD_WORKER, _worker_values(row))

    def save_supervised(self, id: str, *, seen_at: Instant, silent_since: Instant | None, running: int) -> None:
        """Keep what a supervisor says of a known worker: since when it has not answered, how many jobs it runs."""
        values = {"id": id, "seen_at": seen_at, "silent_since": silent_since, "running": running}
        self._connection.write(_SAVE_SUPERVISED, cleaned(values))

    def save_program(self, id: str, *, service: str, code: str, queues: tuple[str, ...]) -> None:
        """Keep which program a known worker runs, and which queues it serves."""
        values = {"id": id, "service": service, "code": code, "queues": ",".join(queues)}
        self._connection.write(_SAVE_PROGRAM, cleaned(values))

    def remove_worker(self, id: str) -> bool:
        """Forget a worker; False: there was none."""
        self._connection.write(delete(schema.worker_changes).where(schema.worker_changes.c.worker == id))
        return self._connection.write(delete(schema.workers).where(schema.workers.c.id == id))

    def changes(self) -> dict[str, str]:
        """Worker -> how it was changed since its start, as JSON; of those that were."""
        return {row.worker: row.change for row in self._connection.execute(_CHANGES)}

    def save_change(self, worker: str, change: str) -> None:
        """Keep how a worker was changed."""
        self._connection.write(_SAVE_CHANGE, cleaned({"worker": worker, "change": change}))

    def release_of(self, worker: str) -> str:
        """The version that a worker has reported; empty: it is not known."""
        query = select(schema.workers.c.version).where(schema.workers.c.id == worker)
        return self._connection.execute(query).scalar_one_or_none() or ""

    def save_component(self, row: ComponentRow) -> None:
        """A coordinator or beat lives, which have one id in one program; of coordinators one at most is active."""
        self._connection.write(_SAVE_COMPONENT, cleaned(asdict(row) | {"active": int(row.active)}))
        if row.kind == "coordinator" and row.active:
            self._connection.write(_STAND_BY, cleaned({"id": row.id}))


class ProcessReader:
    """Workers, coordinators and beats, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def workers(self) -> list[WorkerRow]:
        """All workers known, by host and slot."""
        with self._reading() as connection:
            return [worker_of(row) for row in connection.execute(WORKERS)]

    def components(self) -> list[ComponentRow]:
        """Coordinators and beats that have been heard of in the last hour."""
        with self._reading() as connection:
            rows: list[dict[str, Any]] = [row._asdict() for row in connection.execute(_COMPONENTS)]
        return [ComponentRow(**row | dict[str, Any](active=bool(row["active"]))) for row in rows]


def worker_of(row: Row[Any]) -> WorkerRow:
    """The value of a row of the workers table."""
    values: dict[str, Any] = row._asdict()
    for name in ("queues", "served"):
        values[name] = tuple(part for part in values[name].split(",") if part)
    values |= {"queue_limits": json.loads(values["queue_limits"]), "lost": bool(values["lost"])}
    return WorkerRow(**values)


def _worker_values(row: WorkerRow) -> dict[str, Any]:
    texts = {
        "queues": ",".join(row.queues),
        "served": ",".join(row.served),
        "queue_limits": json.dumps(row.queue_limits),
    }
    return cleaned(asdict(row) | texts | {"lost": int(row.lost)})

"""Keeps unique keys, and the groups of jobs that one of them stands for."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select, text

from broker_jobs.clock import Instant
from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, upsert
from broker_jobs.store.views import UniqueRow


@dataclass(slots=True)
class UniqueKeyRow:
    """The job that has a unique key."""

    key: str
    job_id: str
    scope: str
    """queued: until it starts; running: until it is gone; window: until a time."""
    until: Instant | None = None
    after: str | None = None
    """The job that had the key before and may still be running: the holder waits until it is clear."""


_BY_KEY = text("SELECT key, job_id, scope, until, after FROM unique_keys WHERE key = :key")
_WAITING_FOR = text(
    "SELECT key, job_id, scope, until, after FROM unique_keys WHERE after = :job_id AND after IS NOT NULL"
)
_SAVE = upsert(schema.unique_keys, replace=True)
_DROP = text("DELETE FROM unique_keys WHERE key = :key")
_ROOT = text("SELECT root FROM alias_groups WHERE id = :id")
_SAVE_GROUP = upsert(schema.alias_groups, replace=True)
_ALIASES = text(
    "SELECT id FROM jobs WHERE alias_group = :group AND alias_group IS NOT NULL AND id > :after"
    " ORDER BY id LIMIT :limit"
)


class UniqueKeyStore:
    """Unique keys and alias groups, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def of(self, key: str) -> UniqueKeyRow | None:
        """The row of a key."""
        row = self._connection.execute(_BY_KEY, {"key": key}).first()
        return None if row is None else UniqueKeyRow(*row)

    def waiting_for(self, job_id: str) -> list[UniqueKeyRow]:
        """Keys whose holder waits until this job is clear."""
        return [UniqueKeyRow(*row) for row in self._connection.execute(_WAITING_FOR, {"job_id": job_id})]

    def save(self, row: UniqueKeyRow) -> None:
        """Insert or replace a key."""
        values = {"key": row.key, "job_id": row.job_id, "scope": row.scope, "until": row.until, "after": row.after}
        self._connection.write(_SAVE, values)

    def drop(self, key: str) -> None:
        """A key is free."""
        self._connection.write(_DROP, {"key": key})

    # ---- groups

    def root_of(self, group: str) -> str | None:
        """The job that stands for the aliases of a group."""
        found: str | None = self._connection.execute(_ROOT, {"id": group}).scalar_one_or_none()
        return found

    def save_group(self, group: str, root: str) -> None:
        """This job stands for a group."""
        self._connection.write(_SAVE_GROUP, {"id": group, "root": root})

    def in_group(self, group: str, after: str, limit: int) -> list[str]:
        """The jobs of a group by id, a page: aliases, and the root."""
        values = {"group": group, "after": after, "limit": limit}
        return list(self._connection.execute(_ALIASES, values).scalars())


class UniqueKeyReader:
    """Unique keys, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def all(self, *, job_id: str | None = None, limit: int = 1_000) -> list[UniqueRow]:
        """Unique keys by key, or those a job has."""
        keys = schema.unique_keys.c
        query = select(keys.key, keys.job_id, keys.scope, keys.until).order_by(keys.key).limit(limit)
        if job_id is not None:
            query = query.where(keys.job_id == job_id)
        with self._reading() as connection:
            return [UniqueRow(*row) for row in connection.execute(query)]

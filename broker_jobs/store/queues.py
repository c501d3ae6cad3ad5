"""Keeps the names of queues, and which of them are paused."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select, text

from broker_jobs.store import schema
from broker_jobs.store.connections import WriteConnection, cleaned

QUEUES = select(schema.queues.c.name).order_by(schema.queues.c.name)
_PAUSE = text(
    "INSERT INTO queues (name, paused) VALUES (:name, :paused)"
    " ON CONFLICT (name) DO UPDATE SET paused = excluded.paused WHERE queues.paused <> excluded.paused"
)
_DECLARE = text("INSERT INTO queues (name, paused) VALUES (:name, 0) ON CONFLICT (name) DO NOTHING")


class QueueStore:
    """Queues, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def names(self) -> list[str]:
        """Every queue a saved job had, or that was declared or paused."""
        return list(self._connection.execute(QUEUES).scalars())

    def declare(self, queues: Iterable[str]) -> None:
        """Keep the names of queues that may have had no job yet."""
        for queue in set(queues) - set(self.names()):
            self._connection.write(_DECLARE, cleaned({"name": queue}))

    def paused(self) -> list[str]:
        """The queues that are paused."""
        query = select(schema.queues.c.name).where(schema.queues.c.paused == 1).order_by(schema.queues.c.name)
        return list(self._connection.execute(query).scalars())

    def pause(self, queue: str, paused: bool) -> bool:
        """Pause a queue or let it go on; False: it is so already."""
        if not paused and queue not in self.paused():
            return False
        return self._connection.write(_PAUSE, cleaned({"name": queue, "paused": int(paused)}))

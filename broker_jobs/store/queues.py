"""Keeps the names of queues and which of them are paused, and reads how each stands: counts, rate, oldest job."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select, text

from broker_jobs.clock import Instant
from broker_jobs.messages.state import State
from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, cleaned
from broker_jobs.store.counters import MINUTE_SECONDS, STATES, WAITING
from broker_jobs.store.views import QueueRow

QUEUES = select(schema.queues.c.name).order_by(schema.queues.c.name)
_PAUSE = text(
    "INSERT INTO queues (name, paused) VALUES (:name, :paused)"
    " ON CONFLICT (name) DO UPDATE SET paused = excluded.paused WHERE queues.paused <> excluded.paused"
)
_DECLARE = text("INSERT INTO queues (name, paused) VALUES (:name, 0) ON CONFLICT (name) DO NOTHING")
RATE_MINUTES = 5
"""A queue's rate is that of so many whole minutes."""
_RATES = text("SELECT queue, sum(n) FROM queue_outcomes WHERE minute >= :since AND minute < :until GROUP BY queue")
_QUEUES = text("SELECT name, paused FROM queues ORDER BY name")
_COUNTS = text("SELECT queue, state, n FROM counts")
_OLDEST = text(
    "SELECT coalesce(released_at, created_at) FROM jobs WHERE publication = 2 AND queue = :queue"
    " AND coalesce(state, '') = 'enqueued' ORDER BY coalesce(released_at, created_at) LIMIT 1"
)
"""Written so that SQLite takes the index of what is out, not that of the states."""


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


class QueueReader:
    """Queues with what is in them, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def all(self) -> dict[str, bool]:
        """Every known queue, and whether it is paused."""
        query = select(schema.queues.c.name, schema.queues.c.paused).order_by(schema.queues.c.name)
        with self._reading() as connection:
            return {name: bool(paused) for name, paused in connection.execute(query)}

    def counts(self) -> dict[str, dict[State, int]]:
        """How many jobs are in each state of each known queue: the kept counters."""
        with self._reading() as connection:
            found = {name: dict.fromkeys(State, 0) for name in connection.execute(QUEUES).scalars()}
            query = select(schema.counts).where(schema.counts.c.state.in_(STATES))
            for queue, state, n in connection.execute(query):
                found.setdefault(queue, dict.fromkeys(State, 0))[State(state)] = int(n)
        return found

    def oldest(self, queue: str) -> Instant | None:
        """When the job of a queue that has waited longest for a worker was released; None: none waits."""
        with self._reading() as connection:
            return connection.execute(_OLDEST, {"queue": queue}).scalar_one_or_none()

    def rows(self, now: Instant) -> list[QueueRow]:
        """Every known queue as it stands, by name."""
        until = int(now // MINUTE_SECONDS) * MINUTE_SECONDS
        values = {"since": until - RATE_MINUTES * MINUTE_SECONDS, "until": until}
        with self._reading() as connection:
            paused = {name: bool(flag) for name, flag in connection.execute(_QUEUES)}
            counts = {name: dict.fromkeys(State, 0) for name in paused}
            parts: dict[tuple[str, str], int] = {}
            for queue, state, n in connection.execute(_COUNTS):
                if state in STATES:
                    counts.setdefault(queue, dict.fromkeys(State, 0))[State(state)] = int(n)
                else:
                    parts[queue, state] = int(n)
            rates = {queue: int(n) / RATE_MINUTES for queue, n in connection.execute(_RATES, values)}
            oldest = {
                queue: connection.execute(_OLDEST, {"queue": queue}).scalar_one_or_none()
                for queue, states in counts.items()
                if states[State.ENQUEUED]
            }
        return [
            QueueRow(
                name,
                paused.get(name, False),
                counts[name],
                oldest.get(name),
                rates.get(name, 0.0),
                {priority: parts.get((name, part), 0) for priority, part in WAITING.items()},
            )
            for name in sorted(counts)
        ]

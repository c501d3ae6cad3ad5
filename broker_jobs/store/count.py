"""Keeps the counters the dashboard shows: collects what a transaction changes, and writes the differences once.

A counter changes in the transaction that changes the rows, so it always equals its count.
"""

from __future__ import annotations

from collections import Counter

from sqlalchemy import Connection, text

from broker_jobs.clock import Instant
from broker_jobs.job.state import FINAL

MINUTE_SECONDS = 60
FINAL_TEXT = frozenset(state.value for state in FINAL)

_ADD_COUNT = text(
    "INSERT INTO counts (queue, state, n) VALUES (:queue, :state, :n)"
    " ON CONFLICT (queue, state) DO UPDATE SET n = counts.n + excluded.n"
)
_ADD_OUTCOME = text(
    "INSERT INTO outcomes (minute, state, n) VALUES (:minute, :state, :n)"
    " ON CONFLICT (minute, state) DO UPDATE SET n = outcomes.n + excluded.n"
)
_ADD_QUEUE = text("INSERT INTO queues (name, paused) VALUES (:name, 0) ON CONFLICT (name) DO NOTHING")


class Counters:
    """The differences of one transaction."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._outcomes: Counter[tuple[int, str]] = Counter()

    def enter(self, queue: str, state: str) -> None:
        """A row is now in this state of this queue."""
        self._counts[queue, state] += 1

    def leave(self, queue: str, state: str) -> None:
        """A row is no longer in this state of this queue."""
        self._counts[queue, state] -= 1

    def ended(self, at: Instant, state: str) -> None:
        """A job has come to a final state at an instant."""
        self._outcomes[int(at // MINUTE_SECONDS) * MINUTE_SECONDS, state] += 1

    def write(self, connection: Connection) -> None:
        """Write the differences and forget them."""
        counts = [{"queue": queue, "state": state, "n": n} for (queue, state), n in self._counts.items() if n]
        if counts:
            connection.execute(_ADD_COUNT, counts)
            connection.execute(_ADD_QUEUE, [{"name": name} for name in sorted({queue for queue, _ in self._counts})])
        outcomes = [{"minute": minute, "state": state, "n": n} for (minute, state), n in self._outcomes.items()]
        if outcomes:
            connection.execute(_ADD_OUTCOME, outcomes)
        self._counts.clear()
        self._outcomes.clear()

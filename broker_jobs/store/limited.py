"""Keeps unique keys, the slots of limits with the lines before them, and the reserved moments of rates.

A slot is a row (key, job): taken, or waiting in a line whose order is `n`. It is changed in the transaction that
changes the job, so there is nothing to leak.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, text

from broker_jobs.clock import Instant

_UNIQUE = text("SELECT job_id, scope, until FROM uniques WHERE key = :key")
_SAVE_UNIQUE = text(
    "INSERT INTO uniques (key, job_id, scope, until) VALUES (:key, :job_id, :scope, :until)"
    " ON CONFLICT (key) DO UPDATE SET job_id = excluded.job_id, scope = excluded.scope, until = excluded.until"
)
_RETARGET = text("UPDATE holds SET target = :to WHERE kind = 'job' AND target = :id")
_SLOT = text("SELECT taken FROM slots WHERE key = :key AND job_id = :job_id")
_TAKEN = text("SELECT count(*) FROM slots WHERE key = :key AND taken = 1")
_FIRST = text("SELECT job_id, most FROM slots WHERE key = :key AND taken = 0 ORDER BY n LIMIT 1")
_LAST = text("SELECT coalesce(max(n), 0) FROM slots WHERE key = :key")
_STAND = text(
    "INSERT INTO slots (key, job_id, n, taken, most) VALUES (:key, :job_id, :n, 0, :most)"
    " ON CONFLICT (key, job_id) DO NOTHING"
)
_TAKE = text(
    "INSERT INTO slots (key, job_id, n, taken, most) VALUES (:key, :job_id, 0, 1, :most)"
    " ON CONFLICT (key, job_id) DO UPDATE SET taken = 1"
)
_FREE = text("DELETE FROM slots WHERE key = :key AND job_id = :job_id")
_KEYS_OF = text("SELECT key FROM slots WHERE job_id = :job_id")
_MOST = text("SELECT most FROM limits WHERE key = :key")
_SET_MOST = text(
    "INSERT INTO limits (key, most) VALUES (:key, :most) ON CONFLICT (key) DO UPDATE SET most = excluded.most"
)
_FORGET_MOST = text("DELETE FROM limits WHERE key = :key")
_RESERVED = text("SELECT at FROM rates WHERE job_id = :job_id AND key = :key AND used = 0 ORDER BY at LIMIT 1")
_USE = text("UPDATE rates SET used = 1 WHERE job_id = :job_id AND key = :key AND used = 0")
_RESERVE = text("INSERT INTO rates (key, at, job_id, used) VALUES (:key, :at, :job_id, 0)")
_NTH_LATEST = text("SELECT at FROM rates WHERE key = :key ORDER BY at DESC LIMIT 1 OFFSET :n")
_IN_WINDOW = text("SELECT count(*) FROM rates WHERE key = :key AND at >= :start AND at < :end")
_LATEST = text("SELECT max(at) FROM rates WHERE key = :key")
_FORGET_RATES = text("DELETE FROM rates WHERE key = :key AND at < :before AND used = 1")
_UNRESERVE = text("DELETE FROM rates WHERE job_id = :job_id AND used = 0")


class Holder(NamedTuple):
    """The job that has a unique key."""

    job_id: str
    scope: str
    until: Instant | None


class Limited:
    """The half of a transaction that keeps unique keys and limits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wrote = False

    # ---- unique keys

    def unique(self, key: str) -> Holder | None:
        """Who took a unique key last."""
        row = self._connection.execute(_UNIQUE, {"key": key}).first()
        return None if row is None else Holder(*row)

    def save_unique(self, key: str, job_id: str, scope: str, until: Instant | None) -> None:
        """This job has the key now."""
        self._run(_SAVE_UNIQUE, key=key, job_id=job_id, scope=scope, until=until)

    def retarget(self, id: str, to: str) -> None:
        """What waits for one job waits for another."""
        self._run(_RETARGET, id=id, to=to)

    # ---- slots

    def has_slot(self, key: str, job_id: str) -> bool | None:
        """Whether a job has a slot (True), stands in line for one (False), or neither (None)."""
        taken = self._connection.execute(_SLOT, {"key": key, "job_id": job_id}).scalar_one_or_none()
        return None if taken is None else bool(taken)

    def slots_taken(self, key: str) -> int:
        """How many slots of a key are taken."""
        return int(self._connection.execute(_TAKEN, {"key": key}).scalar_one())

    def first_in_line(self, key: str) -> tuple[str, int] | None:
        """(job, the limit it was enqueued with) of who waits longest."""
        row = self._connection.execute(_FIRST, {"key": key}).first()
        return None if row is None else (row.job_id, int(row.most))

    def stand_in_line(self, key: str, job_id: str, most: int) -> None:
        """Wait at the end of a line; who stands there keeps the place."""
        n = int(self._connection.execute(_LAST, {"key": key}).scalar_one()) + 1
        self._run(_STAND, key=key, job_id=job_id, n=n, most=most)

    def take_slot(self, key: str, job_id: str, most: int) -> None:
        """Take a slot."""
        self._run(_TAKE, key=key, job_id=job_id, most=most)

    def free_slot(self, key: str, job_id: str) -> None:
        """Give a slot back, or leave the line."""
        self._run(_FREE, key=key, job_id=job_id)

    def keys_of(self, job_id: str) -> list[str]:
        """The keys a job has slots of or stands in line for."""
        return list(self._connection.execute(_KEYS_OF, {"job_id": job_id}).scalars())

    def most(self, key: str) -> int | None:
        """The limit a person has set for a key, if any; it wins over what jobs were enqueued with."""
        most = self._connection.execute(_MOST, {"key": key}).scalar_one_or_none()
        return None if most is None else int(most)

    def set_most(self, key: str, most: int | None) -> None:
        """Set a key's limit at run time; None: what jobs were enqueued with counts again."""
        if most is None:
            self._run(_FORGET_MOST, key=key)
        else:
            self._run(_SET_MOST, key=key, most=most)

    # ---- rates

    def reserved(self, key: str, job_id: str) -> Instant | None:
        """The moment reserved for a job's next start under a rate."""
        return self._connection.execute(_RESERVED, {"key": key, "job_id": job_id}).scalar_one_or_none()

    def use_reserved(self, key: str, job_id: str) -> None:
        """The reserved moment is taken."""
        self._run(_USE, key=key, job_id=job_id)

    def reserve(self, key: str, job_id: str, at: Instant, forget_before: Instant) -> None:
        """Reserve a moment, and forget those that no longer count."""
        self._run(_FORGET_RATES, key=key, before=forget_before)
        self._run(_RESERVE, key=key, job_id=job_id, at=at)

    def unreserve(self, job_id: str) -> None:
        """A job that will not start needs no moment."""
        self._run(_UNRESERVE, job_id=job_id)

    def nth_latest(self, key: str, n: int) -> Instant | None:
        """The n-th latest (1 is the latest) moment reserved under a key."""
        return self._connection.execute(_NTH_LATEST, {"key": key, "n": n - 1}).scalar_one_or_none()

    def latest(self, key: str) -> Instant | None:
        """The latest moment reserved under a key."""
        return self._connection.execute(_LATEST, {"key": key}).scalar_one_or_none()

    def in_window(self, key: str, start: Instant, end: Instant) -> int:
        """How many moments of a key are reserved from `start` up to `end`."""
        return int(self._connection.execute(_IN_WINDOW, {"key": key, "start": start, "end": end}).scalar_one())

    def _run(self, statement: object, **values: object) -> None:
        self._connection.execute(statement, values)  # type: ignore[call-overload]
        self._wrote = True

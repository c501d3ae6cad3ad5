"""Keeps unique keys, the slots of limits with the lines before them, and the starts of rates.

A row (key, job) stands in the line of a limit: its order is `n`, its stage says whether the job has a slot, waits for
one, or only keeps its place. It is changed in the transaction that changes the job, so there is nothing to leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

from sqlalchemy import Connection, TextClause, bindparam, text

from broker_jobs.clock import Instant

_UNIQUE = text("SELECT job_id, scope, until FROM unique_keys WHERE key = :key")
_SAVE_UNIQUE = text(
    "INSERT INTO unique_keys (key, job_id, scope, until) VALUES (:key, :job_id, :scope, :until)"
    " ON CONFLICT (key) DO UPDATE SET job_id = excluded.job_id, scope = excluded.scope, until = excluded.until"
)
_RETARGET = text(
    "UPDATE dependencies SET target = :to WHERE kind = 'job' AND target = :id AND NOT EXISTS"
    " (SELECT 1 FROM dependencies AS other"
    " WHERE other.holder = dependencies.holder AND other.kind = 'job' AND other.target = :to)"
)
_MERGE = text(
    "UPDATE dependencies SET on_end = (SELECT other.on_end FROM dependencies AS other"
    " WHERE other.holder = dependencies.holder AND other.kind = 'job' AND other.target = :id)"
    " WHERE kind = 'job' AND target = :to AND on_end = 'finished' AND EXISTS"
    " (SELECT 1 FROM dependencies AS other"
    " WHERE other.holder = dependencies.holder AND other.kind = 'job' AND other.target = :id)"
)
_DROP_TARGET = text("DELETE FROM dependencies WHERE kind = 'job' AND target = :id")
_ENTRY = text("SELECT job_id, taken, n, most FROM slots WHERE key = :key AND job_id = :job_id")
_TAKEN = text("SELECT count(*) FROM slots WHERE key = :key AND taken = 1")
_HOLDERS = text("SELECT job_id FROM slots WHERE key = :key AND taken = 1 ORDER BY n")
_FIRST = text("SELECT job_id, taken, n, most FROM slots WHERE key = :key AND taken = 0 ORDER BY n LIMIT 1")
_LAST = text("SELECT coalesce(max(n), 0) FROM slots WHERE key = :key")
_INSERT = "INSERT INTO slots (key, job_id, n, taken, most) VALUES (:key, :job_id, :n, :stage, :most)"
_PLACE = text(f"{_INSERT} ON CONFLICT (key, job_id) DO NOTHING")
_STAND = text(f"{_INSERT} ON CONFLICT (key, job_id) DO UPDATE SET taken = excluded.taken")
_MOVE = text("UPDATE slots SET taken = :stage WHERE key = :key AND job_id = :job_id")
_FREE = text("DELETE FROM slots WHERE key = :key AND job_id = :job_id")
_ANY = text("SELECT 1 FROM slots LIMIT 1")
_ENTRIES_OF = text("SELECT job_id, key, taken FROM slots WHERE job_id IN :ids ORDER BY key, n").bindparams(
    bindparam("ids", expanding=True)
)
_MOST = text("SELECT most FROM limits WHERE key = :key")
_SET_MOST = text(
    "INSERT INTO limits (key, most) VALUES (:key, :most) ON CONFLICT (key) DO UPDATE SET most = excluded.most"
)
_FORGET_MOST = text("DELETE FROM limits WHERE key = :key")
_START = text("INSERT INTO rates (key, at, job_id, used) VALUES (:key, :at, :job_id, 1)")
_NTH_LATEST = text("SELECT at FROM rates WHERE key = :key AND used = 1 ORDER BY at DESC LIMIT 1 OFFSET :n")
_IN_WINDOW = text("SELECT count(*) FROM rates WHERE key = :key AND used = 1 AND at >= :start AND at < :end")
_AHEAD = text("UPDATE rates SET at = :now WHERE key = :key AND at > :until")
_FORGET_RATES = text("DELETE FROM rates WHERE key = :key AND at < :before")
CHUNK = 500
"""Values of one IN list."""


class Stage(IntEnum):
    """How a job stands in the line of a limit (column `taken`)."""

    WAITS = 0
    """It has asked for a slot, and waits for nothing else."""
    TAKEN = 1
    """It has a slot; of a rate, the next start is kept for it."""
    PLACE = 2
    """It keeps its place and asks for nothing: it waits for something else first."""


class Entry(NamedTuple):
    """One job in the line of a limit."""

    job_id: str
    stage: Stage
    n: int
    most: int
    """The limit the job was enqueued with."""


class KeyHolder(NamedTuple):
    """The job that has a unique key."""

    job_id: str
    scope: str
    until: Instant | None


class LimitStore:
    """The half of a transaction that keeps unique keys and limits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wrote = False

    # ---- unique keys

    def unique(self, key: str) -> KeyHolder | None:
        """Who took a unique key last."""
        row = self._connection.execute(_UNIQUE, {"key": key}).first()
        return None if row is None else KeyHolder(*row)

    def save_unique(self, key: str, job_id: str, scope: str, until: Instant | None) -> None:
        """This job has the key now."""
        self._run(_SAVE_UNIQUE, key=key, job_id=job_id, scope=scope, until=until)

    def retarget(self, id: str, to: str) -> None:
        """What waits for one job waits for another; what waits for both waits for the one, as the stricter says."""
        self._run(_RETARGET, id=id, to=to)
        self._run(_MERGE, id=id, to=to)
        self._run(_DROP_TARGET, id=id)

    # ---- slots

    def entry(self, key: str, job_id: str) -> Entry | None:
        """How a job stands in a line, if it does."""
        row = self._connection.execute(_ENTRY, {"key": key, "job_id": job_id}).first()
        return None if row is None else Entry(row.job_id, Stage(row.taken), int(row.n), int(row.most))

    def has_slot(self, key: str, job_id: str) -> bool | None:
        """Whether a job has a slot (True), stands in line without one (False), or neither (None)."""
        found = self.entry(key, job_id)
        return None if found is None else found.stage is Stage.TAKEN

    def slots_taken(self, key: str) -> int:
        """How many slots of a key are taken."""
        return int(self._connection.execute(_TAKEN, {"key": key}).scalar_one())

    def holders_of(self, key: str) -> list[str]:
        """The jobs that have a slot of a key."""
        return list(self._connection.execute(_HOLDERS, {"key": key}).scalars())

    def first_in_line(self, key: str) -> Entry | None:
        """The first of those who wait for a slot of a key."""
        row = self._connection.execute(_FIRST, {"key": key}).first()
        return None if row is None else Entry(row.job_id, Stage(row.taken), int(row.n), int(row.most))

    def keep_place(self, key: str, job_id: str) -> None:
        """Take a place at the end of a line of one slot, asking for nothing; who stands there already is left alone."""
        self._stand(_PLACE, key, job_id, 1, Stage.PLACE)

    def stand_in_line(self, key: str, job_id: str, most: int) -> None:
        """Wait for a slot: at the place the job has in the line, or at its end."""
        self._stand(_STAND, key, job_id, most, Stage.WAITS)

    def take_slot(self, key: str, job_id: str, most: int) -> None:
        """Take a slot."""
        self._stand(_STAND, key, job_id, most, Stage.TAKEN)

    def _stand(self, statement: TextClause, key: str, job_id: str, most: int, stage: Stage) -> None:
        n = int(self._connection.execute(_LAST, {"key": key}).scalar_one()) + 1
        self._run(statement, key=key, job_id=job_id, n=n, stage=int(stage), most=most)

    def move(self, key: str, job_id: str, stage: Stage) -> None:
        """Another stage at the same place."""
        self._run(_MOVE, key=key, job_id=job_id, stage=int(stage))

    def free_slot(self, key: str, job_id: str) -> bool:
        """Give a slot back, or leave the line; whether the job stood in it."""
        self._wrote = True
        return self._connection.execute(_FREE, {"key": key, "job_id": job_id}).rowcount > 0

    def any_slots(self) -> bool:
        """Whether anybody stands in any line."""
        return self._connection.execute(_ANY).first() is not None

    def entries_of(self, job_ids: Sequence[str]) -> list[tuple[str, str, Stage]]:
        """(job, key, stage) of the lines these jobs stand in."""
        found: list[tuple[str, str, Stage]] = []
        for start in range(0, len(job_ids), CHUNK):
            rows = self._connection.execute(_ENTRIES_OF, {"ids": list(job_ids[start : start + CHUNK])})
            found += [(row.job_id, row.key, Stage(row.taken)) for row in rows]
        return found

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

    def add_start(self, key: str, job_id: str, at: Instant, forget_before: Instant) -> None:
        """A job starts under a rate; starts that no longer count are forgotten."""
        self._run(_FORGET_RATES, key=key, before=forget_before)
        self._run(_START, key=key, job_id=job_id, at=at)

    def nth_latest(self, key: str, n: int) -> Instant | None:
        """The n-th latest (1 is the latest) start under a key."""
        return self._connection.execute(_NTH_LATEST, {"key": key, "n": n - 1}).scalar_one_or_none()

    def in_window(self, key: str, start: Instant, end: Instant) -> int:
        """How many starts of a key there are from `start` up to `end`."""
        return int(self._connection.execute(_IN_WINDOW, {"key": key, "start": start, "end": end}).scalar_one())

    def bring_back(self, key: str, until: Instant, now: Instant) -> None:
        """Starts beyond `until` were written by a clock that was ahead: they count as starts of now."""
        self._run(_AHEAD, key=key, until=until, now=now)

    def _run(self, statement: object, **values: object) -> None:
        self._connection.execute(statement, values)  # type: ignore[call-overload]
        self._wrote = True

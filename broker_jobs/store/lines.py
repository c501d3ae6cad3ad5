"""Keeps the lines of limits: one row a limit key, the jobs that stand in it, and the starts that a rate counts.

A line's row holds what is asked of it often: how many slots are taken, how many turns are kept, the last place. Its
entries are found by job, so that nothing is left behind, and by place, so that the first is one seek.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

from sqlalchemy import bindparam, select, text

from broker_jobs.clock import Instant
from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, in_chunks, upsert
from broker_jobs.store.records import LimitRow


class Stage(IntEnum):
    """How a job stands in a line."""

    PLACE = 0
    """It has a place and asks for nothing: it waits for something else first."""
    WAITS = 1
    """It asks for its turn now."""
    TURN = 2
    """Capacity is kept for it while it waits in a later line."""
    SLOT = 3
    """It was released and has a slot."""


@dataclass(slots=True)
class LimitLineRow:
    """One line: a limit key of one kind."""

    key: str
    """The kind and the key: concurrency:smtp, ordered:account-7, rate:api."""
    kind: str
    limit_code: int = 0
    """The limit that the newest accepted job carries; 0: no job was accepted yet."""
    limit_set: int | None = None
    """The limit that a person has set; 0 closes the line."""
    rank: int = 0
    """The limit with which the line began. It orders the lines of a job, the narrow ones first, and does not change."""
    span: float | None = None
    """Seconds of a rate."""
    fixed: bool = False
    """The windows of a rate are fixed, not sliding."""
    taken: int = 0
    turns: int = 0
    tail: int = 0
    """The last place that was given."""
    next_at: Instant | None = None
    """When a rate has its next start, if somebody waits for it."""

    @property
    def capacity(self) -> int:
        """The limit that counts now."""
        return self.limit_code if self.limit_set is None else self.limit_set


@dataclass(slots=True)
class LineEntry:
    """A job in a line."""

    key: str
    job_id: str
    place: int
    stage: Stage


_LINES = text(f"SELECT {', '.join(c.name for c in schema.lines.columns)} FROM lines WHERE key IN :keys").bindparams(  # noqa: S608
    bindparam("keys", expanding=True)
)
_ENTRY_COLUMNS = "SELECT key, job_id, place, stage FROM line_entries"
_ENTRIES_OF = text(f"{_ENTRY_COLUMNS} WHERE job_id IN :ids").bindparams(bindparam("ids", expanding=True))
_WAITING = text(
    f"{_ENTRY_COLUMNS} WHERE key = :key AND stage = {int(Stage.WAITS)} AND place > :after ORDER BY place LIMIT :limit"
)
_ANY_ENTRY = text("SELECT 1 FROM line_entries WHERE key = :key LIMIT 1")
_COUNT = text("SELECT count(*) FROM (SELECT 1 FROM line_entries WHERE key = :key LIMIT :limit) AS found")
_SAVE_LINE = upsert(schema.lines, replace=True)
_DROP_LINE = text("DELETE FROM lines WHERE key = :key")
_SAVE_ENTRY = upsert(schema.line_entries, replace=True)
# By the job, who has few: PostgreSQL may have planned this when few stood in the line (see store/dependencies.py).
_DROP_ENTRY = text("DELETE FROM line_entries WHERE job_id = :job_id AND key || '' = :key")
_START = text("INSERT INTO rate_starts (key, at, job_id, epoch) VALUES (:key, :at, :job_id, :epoch)")
_LATEST = text("SELECT at FROM rate_starts WHERE key = :key ORDER BY at DESC LIMIT :limit OFFSET :offset")
_SINCE = text("SELECT count(*) FROM rate_starts WHERE key = :key AND at >= :since")
_STARTS_OF = text("SELECT DISTINCT key FROM rate_starts WHERE job_id = :job_id AND epoch = :epoch")
_GIVE_BACK = text("DELETE FROM rate_starts WHERE job_id = :job_id AND epoch = :epoch")
_AHEAD = text("UPDATE rate_starts SET at = :now WHERE key = :key AND at > :until")
_FORGET_STARTS = text(
    "DELETE FROM rate_starts WHERE key = :key AND at < :before AND at <="
    " (SELECT max(at) FROM (SELECT at FROM rate_starts WHERE key = :key ORDER BY at LIMIT :limit) AS oldest)"
)
_WAITING_IN = text(
    "SELECT key, count(*) FROM line_entries WHERE key IN :keys AND stage IN :stages GROUP BY key"
).bindparams(bindparam("keys", expanding=True), bindparam("stages", expanding=True))
SHOWN_LIMITS = ("concurrency", "ordered", "rate")
_WAITED_FOR = text("SELECT key FROM line_entries WHERE job_id = :id AND stage = :stage")


def _values_of(entry: LineEntry) -> dict[str, Any]:
    return {"key": entry.key, "job_id": entry.job_id, "place": entry.place, "stage": int(entry.stage)}


class LineStore:
    """The lines of limits, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    # ---- lines and entries

    def lines(self, keys: Sequence[str]) -> list[LimitLineRow]:
        """The lines of these keys that exist."""
        found: list[LimitLineRow] = []
        for chunk in in_chunks(keys):
            rows = self._connection.execute(_LINES, {"keys": chunk})
            found += [LimitLineRow(**row._asdict() | dict[str, Any](fixed=bool(row.fixed))) for row in rows]
        return found

    def entries_of(self, job_ids: Sequence[str]) -> list[LineEntry]:
        """All that these jobs have in lines."""
        found: list[LineEntry] = []
        for chunk in in_chunks(job_ids):
            rows = self._connection.execute(_ENTRIES_OF, {"ids": chunk})
            found += [LineEntry(row.key, row.job_id, int(row.place), Stage(row.stage)) for row in rows]
        return found

    def waiting(self, key: str, after: int, limit: int) -> list[LineEntry]:
        """The first that wait in a line behind a place, in their order."""
        rows = self._connection.execute(_WAITING, {"key": key, "after": after, "limit": limit})
        return [LineEntry(row.key, row.job_id, int(row.place), Stage.WAITS) for row in rows]

    def has_entries(self, key: str) -> bool:
        """Whether any job stands in a line."""
        return self._connection.execute(_ANY_ENTRY, {"key": key}).first() is not None

    def count(self, key: str, limit: int) -> int:
        """How many jobs stand in a line, counted up to a limit."""
        return int(self._connection.execute(_COUNT, {"key": key, "limit": limit}).scalar_one())

    def save(
        self,
        lines: Iterable[LimitLineRow],
        dropped_lines: Iterable[str],
        entries: Iterable[LineEntry],
        dropped_entries: Iterable[tuple[str, str]],
    ) -> None:
        """Write what has changed: a statement for each kind of change."""
        changes = (
            (_SAVE_LINE, [asdict(line) | {"fixed": int(line.fixed)} for line in lines]),
            (_DROP_LINE, [{"key": key} for key in dropped_lines]),
            (_SAVE_ENTRY, [_values_of(entry) for entry in entries]),
            (_DROP_ENTRY, [{"key": key, "job_id": job_id} for key, job_id in dropped_entries]),
        )
        for statement, values in changes:
            self._connection.write_many(statement, values)

    # ---- the starts of rates

    def latest_starts(self, key: str, offset: int, limit: int) -> list[Instant]:
        """Starts of a rate, the latest first, from the one at `offset` on."""
        return list(self._connection.execute(_LATEST, {"key": key, "offset": offset, "limit": limit}).scalars())

    def starts_since(self, key: str, since: Instant) -> int:
        """How many starts of a rate there are from a moment on."""
        return int(self._connection.execute(_SINCE, {"key": key, "since": since}).scalar_one())

    def add_starts(self, starts: Sequence[tuple[str, Instant, str, int]]) -> None:
        """Keep the starts (key, moment, job, epoch) of jobs."""
        values = [{"key": key, "at": at, "job_id": job, "epoch": epoch} for key, at, job, epoch in starts]
        self._connection.write_many(_START, values)

    def give_back_start(self, job_id: str, epoch: int) -> list[str]:
        """A release was certainly not published: it was no start. The keys whose rates have one more now."""
        values = {"job_id": job_id, "epoch": epoch}
        keys = list(self._connection.execute(_STARTS_OF, values).scalars())
        if keys:
            self._connection.write(_GIVE_BACK, values)
        return keys

    def forget_starts(self, key: str, before: Instant, limit: int) -> None:
        """Remove starts that count no more, some of the oldest."""
        self._connection.write(_FORGET_STARTS, {"key": key, "before": before, "limit": limit})

    def bring_back_starts(self, key: str, until: Instant, now: Instant) -> None:
        """Starts beyond `until` were written by a clock that was ahead: they count as starts of now."""
        self._connection.write(_AHEAD, {"key": key, "until": until, "now": now})


class LimitReader:
    """Limits and who waits for them, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def all(self, limit: int = 1_000) -> list[LimitRow]:
        """Limits that jobs use or wait for, and those a person has set; by key, at most so many."""
        query = select(schema.lines).where(schema.lines.c.kind.in_(SHOWN_LIMITS)).order_by("key").limit(limit)
        stages = [int(Stage.WAITS), int(Stage.TURN)]
        waiting: dict[str, int] = {}
        with self._reading() as connection:
            lines = connection.execute(query).all()
            keys = [line.key for line in lines]
            for chunk in in_chunks(keys):
                values = {"keys": chunk, "stages": stages}
                waiting.update((key, int(n)) for key, n in connection.execute(_WAITING_IN, values))
        used = {line.key for line in lines if line.limit_code}
        return [
            LimitRow(
                line.key,
                line.limit_set if line.limit_set is not None else line.limit_code or None,
                line.taken,
                waiting.get(line.key, 0),
                is_set=line.limit_set is not None,
                per=line.span,
            )
            for line in lines
            if line.limit_code or line.key in waiting or not _is_used_otherwise(line.key, used)
        ]

    def waited_for(self, job_id: str) -> list[str]:
        """The limits a job stands in line for: concurrency:smtp, rate:api, …"""
        with self._reading() as connection:
            return sorted(connection.execute(_WAITED_FOR, {"id": job_id, "stage": int(Stage.WAITS)}).scalars())


def _is_used_otherwise(key: str, used: set[str]) -> bool:
    """Whether a number that a person has set is of another kind: it is set for both kinds, as a key tells neither."""
    kind, _, name = key.partition(":")
    if kind == "rate" and f"concurrency:{name}" not in used:
        return f"rate:{name}" not in used  # of a key that no job has used, one row is enough
    return f"{'rate' if kind == 'concurrency' else 'concurrency'}:{name}" in used

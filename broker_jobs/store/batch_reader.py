"""Reads batches for whoever shows them: one, lists of them, those inside one, and the common errors of its jobs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, select, text

from broker_jobs.store import schema
from broker_jobs.store.batches import FAILED_ELSEWHERE
from broker_jobs.store.connections import Reading
from broker_jobs.store.cursor import CursorPosition, cursor_of, fingerprint, place_of
from broker_jobs.store.records import BatchRow
from broker_jobs.store.views import BatchesFound, FailureRow

UNKNOWN = "unknown"
LOOK_AT = 5_000
"""Batches one page looks at for a text."""
LINE_CHARS = 300
_BATCH_NAMES = ", ".join(column.name for column in schema.batches.columns)
_TREE = text(
    "WITH RECURSIVE tree (tree_id, depth) AS (SELECT id, 0 FROM batches WHERE id = :id UNION"  # noqa: S608  # columns of ours
    " SELECT batches.id, depth + 1 FROM batches JOIN tree ON batches.parent = tree_id WHERE depth < :deep)"
    f" SELECT {_BATCH_NAMES} FROM tree JOIN batches ON id = tree_id ORDER BY depth, created_at, id LIMIT :limit"
)
DEEP = 100
_FAILED = text(
    "SELECT id, error, reason FROM jobs WHERE batch = :batch AND batch IS NOT NULL AND state = 'failed'"
    " ORDER BY id LIMIT :limit"
)
_FAILED_ELSEWHERE = text(
    f"SELECT jobs.id, root.error, root.reason {FAILED_ELSEWHERE} ORDER BY jobs.id LIMIT :limit"  # as above
)


class BatchReader:
    """Batches, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def get(self, id: str) -> BatchRow | None:
        """One batch, or None."""
        with self._reading() as connection:
            row = connection.execute(select(schema.batches).where(schema.batches.c.id == id)).first()
        return None if row is None else BatchRow(**row._asdict())

    def newest(self, *, state: str | None = None, limit: int = 50, before: str | None = None) -> list[BatchRow]:
        """Batches, the newest id first.

        Args:
            state: awaiting, processing, or how they ended; None: all.
            limit: at most so many.
            before: the last id of the page before.
        """
        batches = schema.batches.c
        query = select(schema.batches).order_by(batches.id.desc()).limit(limit)
        if state is not None:
            query = query.where(batches.state == state)
        if before is not None:
            query = query.where(batches.id < before)
        with self._reading() as connection:
            return [BatchRow(**row._asdict()) for row in connection.execute(query)]

    def page(
        self, *, state: str | None = None, text: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> BatchesFound:
        """Batches, the newest first; with `text`, of the next 5,000 those whose title or id contains it.

        Raises:
            UsageError: the cursor is bad.
        """
        of = fingerprint("batches", state, text)
        place = place_of(of, cursor)
        with self._reading() as connection:
            postgresql = connection.dialect.name == "postgresql"
            rows = connection.execute(*_batches_query(state, text, place, limit + 1, postgresql)).all()
            found = [BatchRow(**row._asdict()) for row in rows]
            shown = found[:limit]
            last = CursorPosition(shown[-1].created_at, shown[-1].id) if len(found) > limit else None
            if last is None and text is not None:
                last = _last_looked_at(connection, state, place)
        return BatchesFound(shown, cursor_of(of, last))

    def inside(self, id: str) -> list[BatchRow]:
        """The batches made inside a batch, in the order of their ids."""
        batches = schema.batches.c
        query = select(schema.batches).where(batches.parent == id).order_by(batches.id)
        with self._reading() as connection:
            return [BatchRow(**row._asdict()) for row in connection.execute(query)]

    def tree(self, id: str, limit: int = 1_000) -> list[BatchRow]:
        """A batch and all inside it, each behind the one it is in; empty: there is none."""
        with self._reading() as connection:
            rows = connection.execute(_TREE, {"id": id, "limit": limit, "deep": DEEP}).all()
        found: dict[str, BatchRow] = {}
        for row in rows:
            found.setdefault(row.id, BatchRow(**row._asdict()))
        return list(found.values())

    def failures(self, id: str, limit: int = 1_000) -> tuple[list[FailureRow], int]:
        """(failed jobs of a batch and of those inside it by their error, the most common first; how many were read)."""
        errors: Counter[str] = Counter()
        examples: dict[str, str] = {}
        read = 0
        batches = [batch.id for batch in self.tree(id) if batch.failed or batch.open] or [id]
        with self._reading() as connection:
            for batch in batches:
                if read >= limit:
                    break
                for query in (_FAILED, _FAILED_ELSEWHERE):
                    for job_id, error, reason in connection.execute(query, {"batch": batch, "limit": limit - read}):
                        line = error_line(error, reason)
                        errors[line] += 1
                        examples.setdefault(line, job_id)
                        read += 1
        return [FailureRow(line, n, examples[line]) for line, n in errors.most_common()], read


def error_line(error: str | None, reason: str | None) -> str:
    """What an error says on one line: its type and the first line of its message; else the reason."""
    if error:
        try:
            told = from_json(error)
            message = str(told.get("message") or "").strip().splitlines()
            return f"{told.get('type') or 'Error'}: {message[0] if message else ''}".rstrip(": ")[:LINE_CHARS]
        except (ValueError, AttributeError):
            pass
    return (reason or "").strip()[:LINE_CHARS] or UNKNOWN


def _batches_query(
    state: str | None, wanted: str | None, place: CursorPosition | None, limit: int, postgresql: bool
) -> tuple[Any, dict[str, Any]]:
    where, values = _batches_behind(state, place)
    source = f"SELECT {_BATCH_NAMES} FROM batches{where} ORDER BY created_at DESC, id DESC"  # noqa: S608  # ours
    values |= {"limit": limit, "look_at": LOOK_AT}
    if wanted is None:
        return text(f"{source} LIMIT :limit"), values
    escaped = wanted.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    values["text"] = f"%{escaped}%"
    like = "ILIKE" if postgresql else "LIKE"
    return text(
        f"SELECT {_BATCH_NAMES} FROM ({source} LIMIT :look_at) AS last WHERE title {like} :text ESCAPE '\\'"  # noqa: S608
        f" OR id {like} :text ESCAPE '\\' ORDER BY created_at DESC, id DESC LIMIT :limit"
    ), values


def _batches_behind(state: str | None, place: CursorPosition | None) -> tuple[str, dict[str, Any]]:
    conditions: list[str] = []
    values: dict[str, Any] = {}
    if state is not None:
        conditions.append("state = :state")
        values["state"] = state
    if place is not None:
        conditions.append("(created_at, id) < (:key, :id)")
        values |= {"key": place.key, "id": place.id}
    return f" WHERE {' AND '.join(conditions)}" if conditions else "", values


def _last_looked_at(connection: Connection, state: str | None, place: CursorPosition | None) -> CursorPosition | None:
    """Where the next page goes on though this one is not full; None: all were looked at."""
    where, values = _batches_behind(state, place)
    query = f"SELECT created_at, id FROM batches{where} ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET :n"  # noqa: S608
    row = connection.execute(text(query), values | {"n": LOOK_AT - 1}).first()
    return None if row is None else CursorPosition(row.created_at, row.id)

"""Reads how jobs and batches belong together: continuations, also of what has ended, members, trees, common errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, bindparam, text

from broker_jobs.store import schema
from broker_jobs.store.batches import FAILED_ELSEWHERE
from broker_jobs.store.cursor import CursorPosition, cursor_of, fingerprint, place_of
from broker_jobs.store.records import BatchRow
from broker_jobs.store.row import Row
from broker_jobs.store.search import rows_of
from broker_jobs.store.views import BatchesFound, FailureRow, RelationRow

BATCH = "batch:"
"""Stands before a batch's id where a job's may stand too."""
UNKNOWN = "unknown"
LOOK_AT = 5_000
"""Batches one page looks at for a text."""
LINE_CHARS = 300
_BATCH_NAMES = ", ".join(column.name for column in schema.batches.columns)
_PARENTS = text("SELECT parent, on_end FROM relations WHERE child = :id ORDER BY parent LIMIT :limit")
_CHILDREN = text("SELECT child, on_end FROM relations WHERE parent = :id ORDER BY child LIMIT :limit")
_UNSATISFIED_OF = text("SELECT kind, target FROM dependencies WHERE holder = :id AND unsatisfied = 1")
_UNSATISFIED_ON = text("SELECT holder FROM dependencies WHERE kind = :kind AND target = :id AND unsatisfied = 1")
_JOBS = text("SELECT id, job, state FROM jobs WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))
_BATCHES = text("SELECT id, title, state FROM batches WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))
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
_RUNNING = text(
    "SELECT id FROM jobs WHERE state = 'processing' AND owner = :worker ORDER BY started_at, id LIMIT :limit"
)
_RUNNING_EACH = text(
    "SELECT owner, id FROM (SELECT owner, id, row_number() OVER (PARTITION BY owner ORDER BY started_at, id) AS place"
    " FROM jobs WHERE state = 'processing' AND owner IS NOT NULL) AS running WHERE place <= :limit"
    " ORDER BY owner, place LIMIT :most"
)
MOST_RUNNING = 2_000


class Relations:
    """The part of a reader that tells what belongs together."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._reading = reading

    # ---- continuations

    def parents(self, id: str, *, is_batch: bool = False, limit: int = 200) -> list[RelationRow]:
        """What a job or batch waits for or has waited for, ended or not."""
        with self._reading() as connection:
            bonds = connection.execute(_PARENTS, {"id": _end(id, is_batch), "limit": limit}).all()
            unsatisfied = {
                _end(target, kind == "batch")
                for kind, target in connection.execute(_UNSATISFIED_OF, {"id": _end(id, is_batch)})
            }
            return _named(connection, [(end, on, end in unsatisfied) for end, on in bonds])

    def children(self, id: str, *, is_batch: bool = False, limit: int = 200) -> list[RelationRow]:
        """What waits or has waited for the end of a job or batch."""
        with self._reading() as connection:
            bonds = connection.execute(_CHILDREN, {"id": _end(id, is_batch), "limit": limit}).all()
            values = {"id": id, "kind": "batch" if is_batch else "job"}
            unsatisfied = set(connection.execute(_UNSATISFIED_ON, values).scalars()) if bonds else set()
            return _named(connection, [(end, on, end in unsatisfied) for end, on in bonds])

    # ---- batches

    def batches_page(
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

    def batch_tree(self, id: str, limit: int = 1_000) -> list[BatchRow]:
        """A batch and all inside it, each behind the one it is in; empty: there is none."""
        with self._reading() as connection:
            rows = connection.execute(_TREE, {"id": id, "limit": limit, "deep": DEEP}).all()
        found: dict[str, BatchRow] = {}
        for row in rows:
            found.setdefault(row.id, BatchRow(**row._asdict()))
        return list(found.values())

    def batch_failures(self, id: str, limit: int = 1_000) -> tuple[list[FailureRow], int]:
        """(failed jobs of a batch and of those inside it by their error, the most common first; how many were read)."""
        errors: Counter[str] = Counter()
        examples: dict[str, str] = {}
        read = 0
        batches = [batch.id for batch in self.batch_tree(id) if batch.failed or batch.open] or [id]
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

    # ---- workers

    def running(self, worker: str, limit: int = 100) -> list[Row]:
        """Jobs that run on a worker now, the longest first, without `result` and `history`."""
        with self._reading() as connection:
            return _running(connection, worker, limit)

    def running_by_worker(self, limit: int = 10) -> dict[str, list[Row]]:
        """Of every worker that runs something its first jobs, as `running`."""
        with self._reading() as connection:
            of = connection.execute(_RUNNING_EACH, {"limit": limit, "most": MOST_RUNNING}).all()
            rows = {row.id: row for row in rows_of(connection, [id for _, id in of])}
        found: dict[str, list[Row]] = {}
        for owner, id in of:
            if id in rows:
                found.setdefault(owner, []).append(rows[id])
        return found


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


def _running(connection: Connection, worker: str, limit: int) -> list[Row]:
    ids = connection.execute(_RUNNING, {"worker": worker, "limit": limit}).scalars().all()
    return rows_of(connection, ids)


def _end(id: str, is_batch: bool) -> str:
    return BATCH + id if is_batch else id


def _named(connection: Connection, ends: Iterable[tuple[str, str, bool]]) -> list[RelationRow]:
    """The ends of bonds with their titles and states."""
    ends = list(ends)
    jobs = [end for end, _, _ in ends if not end.startswith(BATCH)]
    batches = [end.removeprefix(BATCH) for end, _, _ in ends if end.startswith(BATCH)]
    known: dict[tuple[bool, str], tuple[str, str]] = {}
    for is_batch, ids, query in ((False, jobs, _JOBS), (True, batches, _BATCHES)):
        for start in range(0, len(ids), 500):
            for id, title, state in connection.execute(query, {"ids": ids[start : start + 500]}):
                known[is_batch, id] = (title or "", state)
    found = []
    for end, on, unsatisfied in ends:
        is_batch, id = end.startswith(BATCH), end.removeprefix(BATCH)
        title, state = known.get((is_batch, id), ("", UNKNOWN))
        found.append(RelationRow(id, is_batch, title, state, on, unsatisfied))
    return found


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

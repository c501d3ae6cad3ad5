"""Keeps what jobs and batches wait for: their parents, and the batch submissions that are not complete.

A dependency is a row (holder, kind, target): kind `job` or `batch` waits for the target's end, kind `open` for a
submission. A holder is a job's id, or a batch's with a prefix. Pages follow one index: a page reads what it returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import to_json
from sqlalchemy import TextClause, bindparam, select, text

from broker_jobs.clock import LogTime
from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, in_chunks, upsert
from broker_jobs.store.records import DependencyRow

_DEPENDENCY = upsert(schema.dependencies, replace=False)
_RELATION = upsert(schema.relations, replace=False)
_ANY_DEPENDENCY = text("SELECT 1 FROM dependencies LIMIT 1")
_WAITED_FOR = text("SELECT DISTINCT target FROM dependencies WHERE kind = :kind AND target IN :targets").bindparams(
    bindparam("targets", expanding=True)
)
_ON = (
    "SELECT holder, kind, target, on_end, unsatisfied, since FROM dependencies WHERE kind = :kind AND target = :target"
)
_ON_ANY = text(
    "SELECT holder, kind, target, on_end, unsatisfied, since FROM dependencies"
    " WHERE kind = :kind AND target IN :targets LIMIT :limit"
).bindparams(bindparam("targets", expanding=True))
_OPEN_ON = text(f"{_ON} AND unsatisfied = 0 ORDER BY on_end, holder LIMIT :limit")
_UNSATISFIED_ON = text(f"{_ON} AND unsatisfied = 1 ORDER BY on_end, holder LIMIT :limit")
_UNSATISFIED_BY = text(f"{_ON} AND unsatisfied = 1 AND on_end = :outcome ORDER BY holder LIMIT :limit")
_OPEN_IN = text(f"{_ON} AND unsatisfied = 0 AND on_end = :phase ORDER BY holder LIMIT :limit")
"""Pages in the order of one index: a page reads what it returns, however much else waits for the target."""
_STATES = (
    "SELECT {id}, EXISTS (SELECT 1 FROM dependencies WHERE holder = {id} AND unsatisfied = 0),"
    " EXISTS (SELECT 1 FROM dependencies WHERE holder = {id} AND unsatisfied = 1) FROM {ids}"
)
_STATES_SQLITE = _STATES.format(id="value", ids="json_each(?)")
_STATES_POSTGRESQL = _STATES.format(id="wanted.id", ids="unnest(%s::text[]) AS wanted (id)")
_ONE = "holder = :holder AND kind || '' = :kind AND target || '' = :target"
"""One dependency, found by its holder, who has few. Of what many wait for, a batch of 100,000, PostgreSQL would look at
all, as it plans by what it knew of the table a minute ago."""
_PHASE = text(f"UPDATE dependencies SET on_end = :phase WHERE {_ONE}")  # noqa: S608  # constants of ours
_OPEN_AGAIN = text(f"UPDATE dependencies SET unsatisfied = 0 WHERE {_ONE}")  # noqa: S608  # as above
_DROP_PARENTS = text("DELETE FROM dependencies WHERE holder = :holder AND kind <> 'open'")
_DEPENDENCIES_OF = text(
    "SELECT holder, kind, target, on_end, unsatisfied, since FROM dependencies WHERE holder IN :holders"
).bindparams(bindparam("holders", expanding=True))
_DROP_DEPENDENCY = text(f"DELETE FROM dependencies WHERE {_ONE}")  # noqa: S608  # as above
_DROP_DEPENDENCIES = text("DELETE FROM dependencies WHERE holder = :holder")
_UNSATISFIED = text(f"UPDATE dependencies SET unsatisfied = 1 WHERE {_ONE}")  # noqa: S608  # as above
UNKNOWN_PARENTS = text(
    "SELECT page.*, unsatisfied = 0 AND since < :since AND CASE kind"
    " WHEN 'job' THEN NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.id = page.target)"
    " WHEN 'batch' THEN NOT EXISTS (SELECT 1 FROM batches WHERE batches.id = page.target)"
    " ELSE FALSE END AS is_unknown"
    " FROM (SELECT holder, kind, target, on_end, unsatisfied, since FROM dependencies"
    " WHERE (holder, kind, target) > (:holder, :kind, :target) ORDER BY holder, kind, target LIMIT :limit) AS page"
    " ORDER BY holder, kind, target"
)
"""A page of all dependencies, in the order of their key, and of each whether its target never came."""
DependencyPlace = tuple[str, str, str]
"""The holder, kind and target of a dependency."""


def _values_of(dependency: DependencyRow) -> dict[str, Any]:
    return {
        "holder": dependency.holder,
        "kind": dependency.kind,
        "target": dependency.target,
        "on_end": dependency.on_end,
        "unsatisfied": int(dependency.unsatisfied),
        "since": dependency.since,
    }


class DependencyStore:
    """What waits for what, in a transaction."""

    __slots__ = ("_added", "_connection", "_related")

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection
        self._added: list[dict[str, Any]] = []
        self._related: list[dict[str, Any]] = []

    # ---- what waits

    def add(self, dependencies: Iterable[DependencyRow]) -> None:
        """Keep dependencies; one that is kept already stays as it is."""
        self._write_soon()
        self._added += map(_values_of, dependencies)

    def relate(self, child: str, parents: Iterable[tuple[str, str]]) -> None:
        """Keep that a job or batch comes after others, (id, on what end) each, also when it waits for none of them."""
        self._write_soon()
        self._related += [{"child": child, "parent": parent, "on_end": on} for parent, on in parents]

    def _write_soon(self) -> None:
        if not self._added and not self._related:
            self._connection.late(self._write_added)

    def _write_added(self) -> None:
        added, related, self._added, self._related = self._added, self._related, [], []
        self._connection.write_many(_DEPENDENCY, added)
        self._connection.write_many(_RELATION, related)

    def exist(self) -> bool:
        """Whether anything waits for anything."""
        return self._connection.execute(_ANY_DEPENDENCY).first() is not None

    def waited_for(self, kind: str, targets: Sequence[str]) -> list[str]:
        """Which of these something waits for."""
        found: list[str] = []
        for chunk in in_chunks(targets):
            found += self._connection.execute(_WAITED_FOR, {"kind": kind, "targets": chunk}).scalars()
        return found

    def on(self, kind: str, target: str, outcome: str | None, limit: int) -> list[DependencyRow]:
        """Dependencies that this outcome of a target decides and has not decided yet, a page.

        Of a target that is open again (None) those that were unsatisfied.
        """
        on = {"kind": kind, "target": target}
        if outcome is None:
            return self._page([(_UNSATISFIED_ON, on)], limit)
        decided_otherwise = [(_UNSATISFIED_BY, on | {"outcome": end}) for end in dict.fromkeys((outcome, "finished"))]
        return self._page([(_OPEN_ON, on), *decided_otherwise], limit)

    def on_any(self, kind: str, targets: Sequence[str], limit: int) -> list[DependencyRow]:
        """All that wait, or have waited in vain, for any of these, in the order of the holders; up to a limit."""
        found: list[DependencyRow] = []
        for chunk in in_chunks(targets):
            values = {"kind": kind, "targets": chunk, "limit": limit - len(found)}
            found += map(dependency_of, self._connection.execute(_ON_ANY, values))
        return sorted(found, key=lambda dependency: dependency.holder)

    def of(self, holders: Sequence[str]) -> list[DependencyRow]:
        """All that these holders wait for."""
        found: list[DependencyRow] = []
        for chunk in in_chunks(holders):
            found += map(dependency_of, self._connection.execute(_DEPENDENCIES_OF, {"holders": chunk}))
        return found

    def states(self, holders: Sequence[str]) -> dict[str, tuple[bool, bool]]:
        """Of each holder whether a dependency is open, and whether one is unsatisfied."""
        found: dict[str, tuple[bool, bool]] = {}
        for chunk in in_chunks(holders):
            rows = (
                self._connection.exec_driver_sql(_STATES_POSTGRESQL, (chunk,))
                if self._connection.is_postgresql
                else self._connection.exec_driver_sql(_STATES_SQLITE, (to_json(chunk).decode(),))
            )
            found.update((holder, (bool(is_open), bool(unsatisfied))) for holder, is_open, unsatisfied in rows)
        return found

    # ---- how it ends

    def drop(self, dependencies: Sequence[DependencyRow]) -> None:
        """These have been met."""
        self._change(_DROP_DEPENDENCY, dependencies)

    def mark_unsatisfied(self, dependencies: Sequence[DependencyRow]) -> None:
        """These can not be met as their targets ended; they are kept, as a person may requeue the target."""
        self._change(_UNSATISFIED, dependencies)

    def open_again(self, dependencies: Sequence[DependencyRow]) -> None:
        """The targets of these have not ended any more."""
        self._change(_OPEN_AGAIN, dependencies)

    def forget_parents(self, holder: str) -> None:
        """A job waits for no parent any more; that its batch submission is not complete is kept."""
        self._connection.write(_DROP_PARENTS, {"holder": holder})

    def forget(self, holders: Sequence[str]) -> None:
        """These wait for nothing any more."""
        self._connection.write_many(_DROP_DEPENDENCIES, [{"holder": holder} for holder in holders])

    # ---- members of a batch submission

    def members_of(self, submission: str, phases: Sequence[str], limit: int) -> list[DependencyRow]:
        """Members of a batch submission in one of these phases, in the order of their ids, a page."""
        of = {"kind": "open", "target": submission}
        return self._page([(_OPEN_IN, of | {"phase": phase}) for phase in phases], limit)

    def set_phase(self, members: Sequence[DependencyRow], phase: str) -> None:
        """Members of a batch submission are in another phase."""
        values = [{"holder": d.holder, "kind": d.kind, "target": d.target, "phase": phase} for d in members]
        self._connection.write_many(_PHASE, values)

    def _page(self, queries: Iterable[tuple[TextClause, dict[str, str]]], limit: int) -> list[DependencyRow]:
        """What these queries find, up to a limit, in the order of the holders."""
        found: list[DependencyRow] = []
        for statement, values in queries:
            if len(found) < limit:
                rows = self._connection.execute(statement, values | {"limit": limit - len(found)})
                found += map(dependency_of, rows.all())
        return sorted(found, key=lambda dependency: dependency.holder)

    def _change(self, statement: TextClause, dependencies: Sequence[DependencyRow]) -> None:
        values = [{"holder": d.holder, "kind": d.kind, "target": d.target} for d in dependencies]
        self._connection.write_many(statement, values)


class DependencyReader:
    """What waits for what, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def of(self, job_id: str) -> list[DependencyRow]:
        """What a job waits for, or has waited for in vain."""
        query = select(schema.dependencies).where(schema.dependencies.c.holder == job_id).order_by("kind", "target")
        with self._reading() as connection:
            rows: list[dict[str, Any]] = [row._asdict() for row in connection.execute(query)]
        return [DependencyRow(**row | dict[str, Any](unsatisfied=bool(row["unsatisfied"]))) for row in rows]

    def unknown_parents(
        self, *, since: LogTime, after: DependencyPlace, limit: int
    ) -> tuple[list[DependencyRow], DependencyPlace | None]:
        """(dependencies on a job or batch that is not known, the last one that was looked at if there may be more).

        Args:
            since: they have waited since before this. It is the coordinator's own log time: an id tells only what the
                clock of its producer showed.
            after: look behind this one.
            limit: look at so many.
        """
        values = {"since": since, "limit": limit} | dict(zip(("holder", "kind", "target"), after, strict=True))
        with self._reading() as connection:
            page = connection.execute(UNKNOWN_PARENTS, values).all()
        last = (page[-1].holder, page[-1].kind, page[-1].target) if len(page) == limit else None
        return [dependency_of(row) for row in page if row.is_unknown], last


def dependency_of(row: Any) -> DependencyRow:
    """The value of a row of the dependencies table."""
    return DependencyRow(row.holder, row.kind, row.target, row.on_end, bool(row.unsatisfied), row.since)

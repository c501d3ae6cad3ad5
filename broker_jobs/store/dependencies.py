"""Keeps what waits for something other than time: dependencies, batches, their submissions, and work items.

A dependency is a row (holder, kind, target): kind `job` or `batch` waits for the target's end, kind `open` for a
submission. A holder is a job's id, or a batch's with a prefix. An effect on an unbounded number of rows is one work
item, done a page a transaction: every page removes what it has done from what the next one finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Connection, TextClause, bindparam, text

from broker_jobs.store import schema
from broker_jobs.store.administration import upsert
from broker_jobs.store.columns import clean_text
from broker_jobs.store.records import BatchRow, DependencyRow, SubmissionRow, WorkItemRow

_DEPENDENCY = upsert(schema.dependencies, replace=False)
_RELATION = upsert(schema.relations, replace=False)
_SAVE_BATCH = upsert(schema.batches, replace=True)
_SAVE_SUBMISSION = upsert(schema.batch_submissions, replace=True)
_CHUNK = upsert(schema.chunks, replace=False)
_WORK_ITEM = upsert(schema.work_items, replace=True)
_ANY_DEPENDENCY = text("SELECT 1 FROM dependencies LIMIT 1")
_WAITED_FOR = text("SELECT DISTINCT target FROM dependencies WHERE kind = :kind AND target IN :targets").bindparams(
    bindparam("targets", expanding=True)
)
_ON = (
    "SELECT holder, kind, target, on_end, unsatisfied, since FROM dependencies WHERE kind = :kind AND target = :target"
)
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
_PHASE = text("UPDATE dependencies SET on_end = :phase WHERE holder = :holder AND kind = :kind AND target = :target")
_OPEN_AGAIN = text(
    "UPDATE dependencies SET unsatisfied = 0 WHERE holder = :holder AND kind = :kind AND target = :target"
)
_DROP_PARENTS = text("DELETE FROM dependencies WHERE holder = :holder AND kind <> 'open'")
_DEPENDENCIES_OF = text(
    "SELECT holder, kind, target, on_end, unsatisfied, since FROM dependencies WHERE holder IN :holders"
).bindparams(bindparam("holders", expanding=True))
_DROP_DEPENDENCY = text("DELETE FROM dependencies WHERE holder = :holder AND kind = :kind AND target = :target")
_DROP_DEPENDENCIES = text("DELETE FROM dependencies WHERE holder = :holder")
_UNSATISFIED = text(
    "UPDATE dependencies SET unsatisfied = 1 WHERE holder = :holder AND kind = :kind AND target = :target"
)
_BATCHES = text(f"SELECT {', '.join(c.name for c in schema.batches.columns)} FROM batches WHERE id IN :ids").bindparams(  # noqa: S608
    bindparam("ids", expanding=True)
)
_SUBMISSION = f"SELECT {', '.join(c.name for c in schema.batch_submissions.columns)} FROM batch_submissions"  # noqa: S608
_SUBMISSION_BY_ID = text(f"{_SUBMISSION} WHERE id = :id")
_SUBMISSIONS_OF = text(f"{_SUBMISSION} WHERE batch = :batch AND opened = 0 ORDER BY since, id")
_SUBMISSIONS_UNDER = text(f"{_SUBMISSION} WHERE parent_submission = :submission AND opened = 0")
_UNCOMMITTED = text(f"{_SUBMISSION} WHERE opened = 0 AND since < :before AND chunks IS NULL LIMIT :limit")
_SUB_BATCHES = text("SELECT id FROM batches WHERE parent = :batch")
_DROP_CHUNKS = text("DELETE FROM chunks WHERE submission = :submission")
_WORK_ITEMS = text("SELECT kind, target, outcome FROM work_items ORDER BY target, kind LIMIT :limit")
_DROP_WORK_ITEM = text("DELETE FROM work_items WHERE kind = :kind AND target = :target")
_MEMBERS = text(
    "SELECT id FROM jobs WHERE batch = :batch AND batch IS NOT NULL AND state IN ('awaiting', 'scheduled', 'enqueued')"
    " UNION ALL SELECT id FROM jobs WHERE batch = :batch AND batch IS NOT NULL AND state = 'processing'"
    " AND (reason_code IS NULL OR reason_code <> 'cancel') LIMIT :limit"
)
_FAILED = text(
    "SELECT id FROM jobs WHERE batch = :batch AND batch IS NOT NULL AND state = 'failed' AND id > :after"
    " ORDER BY id LIMIT :limit"
)
FAILED_ELSEWHERE = (
    " FROM jobs JOIN alias_groups ON alias_groups.id = jobs.alias_group"
    " JOIN jobs AS root ON root.id = alias_groups.root"
    " WHERE jobs.batch = :batch AND jobs.counted_as = 'failed' AND jobs.state = 'deleted'"
    " AND (root.batch IS NULL OR root.batch <> jobs.batch)"
    " AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.alias_group = jobs.alias_group AND other.id < jobs.id"
    " AND other.batch = jobs.batch AND other.counted_as = 'failed')"
)
"""Duplicates in a batch whose original failed outside of it: one of each original, which is requeued by it."""
_FAILED_ELSEWHERE = text(
    f"SELECT jobs.id {FAILED_ELSEWHERE} AND jobs.id > :after ORDER BY jobs.id LIMIT :limit"  # constants
)
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
_DEPENDENCIES_IN = text(
    "SELECT DISTINCT d.kind, d.target FROM jobs JOIN dependencies AS d ON d.holder = jobs.id"
    " WHERE jobs.batch IN :batches AND jobs.batch IS NOT NULL AND jobs.state = 'awaiting' AND d.kind <> 'open'"
    " UNION SELECT 'batch', id FROM batches WHERE parent IN :batches"
    " UNION SELECT 'job', g.root FROM jobs JOIN alias_groups AS g ON g.id = jobs.alias_group"
    " WHERE jobs.batch IN :batches AND jobs.batch IS NOT NULL AND jobs.state = 'deleted'"
    " AND jobs.reason_code = 'alias'"
).bindparams(bindparam("batches", expanding=True))
_ROOTS = text(
    "SELECT g.root FROM jobs JOIN alias_groups AS g ON g.id = jobs.alias_group"
    " WHERE jobs.id IN :ids AND jobs.reason_code = 'alias'"
).bindparams(bindparam("ids", expanding=True))
_MEMBER_WAITED_FOR = text(
    "SELECT 1 FROM jobs JOIN dependencies AS d ON d.kind = 'job' AND d.target = jobs.id"
    " LEFT JOIN jobs AS holder ON holder.id = d.holder"
    " WHERE jobs.batch = :batch AND jobs.batch IS NOT NULL AND (holder.batch IS NULL OR holder.batch <> jobs.batch)"
    " LIMIT 1"
)
MOST_STEPS = 1_000
"""How far up is looked for a job that waits for itself."""
CHUNK = 500
"""Values of one IN list."""


class DependencyStore:
    """The half of a transaction that keeps holds and batches."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._wrote = False

    # ---- holds

    def add_dependencies(self, dependencies: Iterable[DependencyRow]) -> None:
        """Keep holds; one that is kept already stays as it is."""
        values = [asdict(dependency) | {"unsatisfied": int(dependency.unsatisfied)} for dependency in dependencies]
        if values:
            self._connection.execute(_DEPENDENCY, values)
            self._wrote = True

    def relate(self, child: str, parents: Iterable[tuple[str, str]]) -> None:
        """Keep that a job or batch comes after others, (id, on what end) each, also when nothing holds it any more."""
        values = [{"child": child, "parent": parent, "on_end": on} for parent, on in parents]
        if values:
            self._connection.execute(_RELATION, values)
            self._wrote = True

    def any_dependencies(self) -> bool:
        """Whether anything waits for anything."""
        return self._connection.execute(_ANY_DEPENDENCY).first() is not None

    def waited_for(self, kind: str, targets: Sequence[str]) -> list[str]:
        """Which of these something waits for."""
        found: list[str] = []
        for start in range(0, len(targets), CHUNK):
            values = {"kind": kind, "targets": list(targets[start : start + CHUNK])}
            found += self._connection.execute(_WAITED_FOR, values).scalars()
        return found

    def dependencies_on(self, kind: str, target: str, outcome: str | None, limit: int) -> list[DependencyRow]:
        """Dependencies that this outcome of a target decides and has not decided yet, a page.

        Of a target that is open again (None) those that were unsatisfied.
        """
        on = {"kind": kind, "target": target}
        if outcome is None:
            return self._page([(_UNSATISFIED_ON, on)], limit)
        decided_otherwise = [(_UNSATISFIED_BY, on | {"outcome": end}) for end in dict.fromkeys((outcome, "finished"))]
        return self._page([(_OPEN_ON, on), *decided_otherwise], limit)

    def members_of(self, submission: str, phases: Sequence[str], limit: int) -> list[DependencyRow]:
        """Members of a batch submission in one of these phases, in the order of their ids, a page."""
        of = {"kind": "open", "target": submission}
        return self._page([(_OPEN_IN, of | {"phase": phase}) for phase in phases], limit)

    def _page(self, queries: Iterable[tuple[TextClause, dict[str, str]]], limit: int) -> list[DependencyRow]:
        """What these queries find, up to a limit, in the order of the holders."""
        found: list[DependencyRow] = []
        for statement, values in queries:
            if len(found) < limit:
                rows = self._connection.execute(statement, values | {"limit": limit - len(found)})
                found += [dependency_of(row) for row in rows]
        return sorted(found, key=lambda dependency: dependency.holder)

    def set_phase(self, dependencies: Sequence[DependencyRow], phase: str) -> None:
        """Members of a batch submission are in another phase."""
        values = [{"holder": d.holder, "kind": d.kind, "target": d.target, "phase": phase} for d in dependencies]
        if values:
            self._connection.execute(_PHASE, values)
            self._wrote = True

    def dependency_states(self, holders: Sequence[str]) -> dict[str, tuple[bool, bool]]:
        """Of each holder whether a dependency is open, and whether one is unsatisfied."""
        found: dict[str, tuple[bool, bool]] = {}
        postgresql = self._connection.dialect.name == "postgresql"
        for start in range(0, len(holders), CHUNK):
            chunk = list(holders[start : start + CHUNK])
            rows = (
                self._connection.exec_driver_sql(_STATES_POSTGRESQL, (chunk,))
                if postgresql
                else self._connection.exec_driver_sql(_STATES_SQLITE, (to_json(chunk).decode(),))
            )
            found.update((holder, (bool(is_open), bool(unsatisfied))) for holder, is_open, unsatisfied in rows)
        return found

    def dependencies_of(self, holders: Sequence[str]) -> list[DependencyRow]:
        """All that these holders wait for."""
        found: list[DependencyRow] = []
        for start in range(0, len(holders), CHUNK):
            values = {"holders": list(holders[start : start + CHUNK])}
            found += [dependency_of(row) for row in self._connection.execute(_DEPENDENCIES_OF, values)]
        return found

    def waits_above(self, wanted: Sequence[tuple[str, str]], parents: Sequence[tuple[str, str]]) -> bool:
        """Whether one of these (kind, id) is among some parents, or is waited for by them, and so on up.

        A job waits for what its holds name; a batch for what its own do, for its members and the batches inside it; and
        a member for its submission to open, which waits for what its batch does, and for the submission around it.
        """
        searched, level, seen = set(wanted), set(parents), set(parents)
        if not searched.isdisjoint(level):
            return True
        for _ in range(MOST_STEPS):
            jobs = [id for kind, id in level if kind == "job"]
            batches = [id for kind, id in level if kind == "batch"]
            dependencies = self.dependencies_of([*jobs, *(f"batch:{id}" for id in batches)])
            above = {(dependency.kind, dependency.target) for dependency in dependencies}
            above |= self._opened_after([id for kind, id in level if kind == "open"], batches)
            for start in range(0, len(jobs), CHUNK):
                roots = self._connection.execute(_ROOTS, {"ids": jobs[start : start + CHUNK]}).scalars()
                above |= {("job", root) for root in roots}
            for start in range(0, len(batches), CHUNK):
                rows = self._connection.execute(_DEPENDENCIES_IN, {"batches": batches[start : start + CHUNK]})
                above |= {(row.kind, row.target) for row in rows}
            level = above - seen
            if not searched.isdisjoint(level):
                return True
            if not level:
                return False
            seen |= level
        return False

    def is_member_waited_for(self, batch: str) -> bool:
        """Whether anything outside a batch waits for one of its members."""
        return self._connection.execute(_MEMBER_WAITED_FOR, {"batch": batch}).first() is not None

    def _opened_after(self, submissions: Sequence[str], batches: Sequence[str]) -> set[tuple[str, str]]:
        """What these submissions, and those of these batches, wait for before they open."""
        unopened = [one for batch in batches for one in self.unopened_submissions(batch=batch)]
        unopened += [one for id in submissions if (one := self.submission(id)) is not None and not one.opened]
        found = {("open", one.parent_submission) for one in unopened if one.parent_submission is not None}
        waiting = self.dependencies_of(list({f"batch:{one.batch}" for one in unopened}))
        return found | {(dependency.kind, dependency.target) for dependency in waiting}

    def drop_dependencies(self, dependencies: Sequence[DependencyRow]) -> None:
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
        result = self._connection.execute(_DROP_PARENTS, {"holder": holder})
        self._wrote = self._wrote or result.rowcount > 0

    def forget_dependencies(self, holders: Sequence[str]) -> None:
        """These wait for nothing any more."""
        if holders:
            self._connection.execute(_DROP_DEPENDENCIES, [{"holder": holder} for holder in holders])
            self._wrote = True

    def _change(self, statement: Any, dependencies: Sequence[DependencyRow]) -> None:
        if dependencies:
            values = [
                {"holder": dependency.holder, "kind": dependency.kind, "target": dependency.target}
                for dependency in dependencies
            ]
            self._connection.execute(statement, values)
            self._wrote = True

    # ---- batches

    def batches(self, ids: Sequence[str]) -> dict[str, BatchRow]:
        """The batches of these ids, by id."""
        found: dict[str, BatchRow] = {}
        for start in range(0, len(ids), CHUNK):
            for row in self._connection.execute(_BATCHES, {"ids": list(ids[start : start + CHUNK])}):
                found[row.id] = BatchRow(**row._asdict())
        return found

    def save_batches(self, rows: Iterable[BatchRow]) -> None:
        """Insert or replace batches."""
        values = [asdict(row) | {"title": clean_text(row.title)} for row in rows]
        if values:
            self._connection.execute(_SAVE_BATCH, values)
            self._wrote = True

    def sub_batches(self, batch: str) -> list[str]:
        """The batches made inside a batch."""
        return list(self._connection.execute(_SUB_BATCHES, {"batch": batch}).scalars())

    def unended_members(self, batch: str, limit: int) -> list[str]:
        """Jobs of a batch that have not ended and are not asked to stop."""
        return list(self._connection.execute(_MEMBERS, {"batch": batch, "limit": limit}).scalars())

    def failed_members(self, batch: str, after: str, limit: int) -> list[str]:
        """Failed jobs of a batch by id, a page; duplicates among them whose original failed outside of it."""
        values = {"batch": batch, "after": after, "limit": limit}
        found = [
            id for query in (_FAILED, _FAILED_ELSEWHERE) for id in self._connection.execute(query, values).scalars()
        ]
        return sorted(found)[:limit]

    def submission(self, id: str) -> SubmissionRow | None:
        """One submission."""
        row = self._connection.execute(_SUBMISSION_BY_ID, {"id": id}).first()
        return None if row is None else _submission(row)

    def unopened_submissions(self, *, batch: str = "", under: str = "") -> list[SubmissionRow]:
        """Additions that are not open yet: of a batch, or made inside another submission."""
        statement, values = (
            (_SUBMISSIONS_OF, {"batch": batch}) if batch else (_SUBMISSIONS_UNDER, {"submission": under})
        )
        return [_submission(row) for row in self._connection.execute(statement, values)]

    def uncommitted_submissions(self, before: float, limit: int) -> list[SubmissionRow]:
        """Submissions that were never committed, known since before a log time."""
        found = self._connection.execute(_UNCOMMITTED, {"before": before, "limit": limit})
        return [_submission(row) for row in found]

    def save_submission(self, row: SubmissionRow) -> None:
        """Insert or replace a submission."""
        self._connection.execute(
            _SAVE_SUBMISSION, asdict(row) | {"opened": int(row.opened), "accepted": int(row.accepted)}
        )
        self._wrote = True

    def take_chunk(self, submission: str, number: int) -> bool:
        """Note that a chunk is here; False: it was before."""
        taken = self._connection.execute(_CHUNK, {"submission": submission, "number": number}).rowcount > 0
        self._wrote = self._wrote or taken
        return taken

    def forget_chunks(self, submission: str) -> None:
        """A submission is complete: its chunks' numbers are not needed any more."""
        self._connection.execute(_DROP_CHUNKS, {"submission": submission})

    # ---- marks

    def work_item(self, work_items: Iterable[WorkItemRow]) -> None:
        """Set effects to be worked off; a newer outcome of the same target replaces an older one."""
        values = [asdict(work_item) for work_item in work_items]
        if values:
            self._connection.execute(_WORK_ITEM, values)
            self._wrote = True

    def work_items(self, limit: int) -> list[WorkItemRow]:
        """What is to be worked off, the oldest targets first."""
        return [WorkItemRow(*row) for row in self._connection.execute(_WORK_ITEMS, {"limit": limit})]

    def drop_work_item(self, work_item: WorkItemRow) -> None:
        """This is worked off."""
        self._connection.execute(_DROP_WORK_ITEM, {"kind": work_item.kind, "target": work_item.target})
        self._wrote = True


def dependency_of(row: Any) -> DependencyRow:
    """The value of a row of the holds table."""
    return DependencyRow(row.holder, row.kind, row.target, row.on_end, bool(row.unsatisfied), row.since)


def _submission(row: Any) -> SubmissionRow:
    return SubmissionRow(**row._asdict() | {"opened": bool(row.opened), "accepted": bool(row.accepted)})

"""Finds out whether a job would wait for itself, through its parents, batches and batch submissions."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import bindparam, text

from broker_jobs.store.batches import SubmissionStore
from broker_jobs.store.connections import WriteConnection, in_chunks
from broker_jobs.store.dependencies import DependencyStore

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


class DependencyGraph:
    """What lies above a job, in a transaction."""

    __slots__ = ("_connection", "_dependencies", "_submissions")

    def __init__(
        self, connection: WriteConnection, dependencies: DependencyStore, submissions: SubmissionStore
    ) -> None:
        self._connection = connection
        self._dependencies = dependencies
        self._submissions = submissions

    def waits_above(self, wanted: Sequence[tuple[str, str]], parents: Sequence[tuple[str, str]]) -> bool:
        """Whether one of these (kind, id) is among some parents, or is waited for by them, and so on up.

        A job waits for what its dependencies name; a batch for what its own do, for its members and the batches inside
        it; and a member for its submission to open, which waits for what its batch does, and for the submission around
        it.
        """
        searched, level, seen = set(wanted), set(parents), set(parents)
        if not searched.isdisjoint(level):
            return True
        for _ in range(MOST_STEPS):
            jobs = [id for kind, id in level if kind == "job"]
            batches = [id for kind, id in level if kind == "batch"]
            dependencies = self._dependencies.of([*jobs, *(f"batch:{id}" for id in batches)])
            above = {(dependency.kind, dependency.target) for dependency in dependencies}
            above |= self._opened_after([id for kind, id in level if kind == "open"], batches)
            for chunk in in_chunks(jobs):
                above |= {("job", root) for root in self._connection.execute(_ROOTS, {"ids": chunk}).scalars()}
            for chunk in in_chunks(batches):
                rows = self._connection.execute(_DEPENDENCIES_IN, {"batches": chunk})
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
        unopened = [one for batch in batches for one in self._submissions.unopened(batch=batch)]
        unopened += [one for id in submissions if (one := self._submissions.get(id)) is not None and not one.opened]
        found = {("open", one.parent_submission) for one in unopened if one.parent_submission is not None}
        waiting = self._dependencies.of(list({f"batch:{one.batch}" for one in unopened}))
        return found | {(dependency.kind, dependency.target) for dependency in waiting}

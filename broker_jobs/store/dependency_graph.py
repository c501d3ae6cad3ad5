"""Finds out whether a job would wait for itself, through its parents, batches and batch submissions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import TextClause, bindparam, text

from broker_jobs.store.batches import SubmissionStore
from broker_jobs.store.connections import WriteConnection, in_chunks
from broker_jobs.store.dependencies import DependencyStore

_WAITING_IN = text(
    "SELECT id FROM jobs WHERE batch = :batch AND batch IS NOT NULL AND state = 'awaiting' AND id > :after"
    " ORDER BY id LIMIT :limit"
)
_DELETED_IN = text(
    "SELECT id FROM jobs WHERE batch = :batch AND batch IS NOT NULL AND state = 'deleted' AND id > :after"
    " ORDER BY id LIMIT :limit"
)
_BATCHES_IN = text("SELECT id FROM batches WHERE parent = :batch LIMIT :limit")
_ROOTS = text(
    "SELECT g.root FROM jobs JOIN alias_groups AS g ON g.id = jobs.alias_group"
    " WHERE jobs.id IN :ids AND jobs.reason_code = 'alias'"
).bindparams(bindparam("ids", expanding=True))
_MEMBER_WAITED_FOR = text(
    "SELECT 1 FROM jobs JOIN dependencies AS d ON d.kind = 'job' AND d.target = jobs.id"
    " LEFT JOIN jobs AS holder ON holder.id = d.holder"
    " WHERE jobs.batch IN :batches AND jobs.batch IS NOT NULL AND (holder.batch IS NULL OR holder.batch <> jobs.batch)"
    " LIMIT 1"
).bindparams(bindparam("batches", expanding=True))
MOST_STEPS = 1_000
"""How far up is looked for a job that waits for itself."""
MOST_FOUND = 20_000
"""So many jobs and batches are looked at on the way up, as a transaction must not grow with what is stored."""
PAGE = 500
"""Members of a batch that are read at once."""


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
        it. The way up is followed as far as `MOST_STEPS` and `MOST_FOUND` say.
        """
        searched, level, seen = set(wanted), set(parents), set(parents)
        if not searched.isdisjoint(level):
            return True
        looked_at = 0
        for _ in range(MOST_STEPS):
            jobs = [id for kind, id in level if kind == "job"]
            batches = [id for kind, id in level if kind == "batch"]
            dependencies = self._dependencies.of([*jobs, *(f"batch:{id}" for id in batches)])
            above = {(dependency.kind, dependency.target) for dependency in dependencies}
            above |= self._opened_after([id for kind, id in level if kind == "open"], batches)
            for chunk in in_chunks(jobs):
                above |= {("job", root) for root in self._connection.execute(_ROOTS, {"ids": chunk}).scalars()}
            for batch in batches:
                for count, found in self._inside(batch):
                    above |= found
                    if not searched.isdisjoint(above):
                        return True
                    looked_at += count
                    if looked_at >= MOST_FOUND:
                        return False
            level = above - seen
            if not searched.isdisjoint(level):
                return True
            looked_at += len(level)
            if not level or looked_at >= MOST_FOUND:
                return False
            seen |= level
        return False

    def _inside(self, batch: str) -> Iterator[tuple[int, set[tuple[str, str]]]]:
        """Pages: (members looked at, what they wait for, the originals of duplicates, and the batches inside)."""
        for ids in self._pages(_WAITING_IN, batch):
            yield len(ids), {(each.kind, each.target) for each in self._dependencies.of(ids) if each.kind != "open"}
        ids = list(self._connection.execute(_BATCHES_IN, {"batch": batch, "limit": MOST_FOUND}).scalars())
        yield len(ids), {("batch", id) for id in ids}
        for ids in self._pages(_DELETED_IN, batch):
            yield len(ids), {("job", root) for root in self._connection.execute(_ROOTS, {"ids": ids}).scalars()}

    def _pages(self, query: TextClause, batch: str) -> Iterator[list[str]]:
        """The ids that a query finds in a batch."""
        after = ""
        while True:
            values = {"batch": batch, "after": after, "limit": PAGE}
            ids = list(self._connection.execute(query, values).scalars())
            if ids:
                yield ids
            if len(ids) < PAGE:
                return
            after = ids[-1]

    def is_member_waited_for(self, batches: Sequence[str]) -> bool:
        """Whether anything outside one of these batches waits for one of its members."""
        return any(
            self._connection.execute(_MEMBER_WAITED_FOR, {"batches": chunk}).first() is not None
            for chunk in in_chunks(batches)
        )

    def begins_after(self, opens: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """What these submissions, and those around them, wait for before they begin; not the submissions themselves."""
        found: set[tuple[str, str]] = set()
        level = [id for _, id in opens]
        for _ in range(MOST_STEPS):
            if not level:
                break
            above = self._opened_after(level, [])
            found |= {one for one in above if one[0] != "open"}
            level = [id for kind, id in above if kind == "open"]
        return found

    def begin_with(self, batch: str) -> list[tuple[str, str]]:
        """The submissions of a batch that have not begun, those made inside them, and their batches."""
        submissions = {one.id: one for one in self._submissions.unopened(batch=batch)}
        level = list(submissions.values())
        while level:
            below = [one for above in level for one in self._submissions.unopened(under=above.id)]
            level = [one for one in below if one.id not in submissions]
            submissions.update((one.id, one) for one in level)
        opens = [("open", id) for id in submissions]
        return [*opens, *(("batch", id) for id in dict.fromkeys(one.batch for one in submissions.values()))]

    def _opened_after(self, submissions: Sequence[str], batches: Sequence[str]) -> set[tuple[str, str]]:
        """What these submissions, and those of these batches, wait for before they open."""
        unopened = [one for batch in batches for one in self._submissions.unopened(batch=batch)]
        unopened += [one for id in submissions if (one := self._submissions.get(id)) is not None and not one.opened]
        found = {("open", one.parent_submission) for one in unopened if one.parent_submission is not None}
        waiting = self._dependencies.of(list({f"batch:{one.batch}" for one in unopened}))
        return found | {(dependency.kind, dependency.target) for dependency in waiting}

"""Reads how jobs and batches follow each other: what one waits for or has waited for, and what waits for it."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, text

from broker_jobs.store.batch_reader import UNKNOWN
from broker_jobs.store.connections import Reading
from broker_jobs.store.views import RelationRow

BATCH = "batch:"
"""Stands before a batch's id where a job's may stand too."""
_PARENTS = text("SELECT parent, on_end FROM relations WHERE child = :id ORDER BY parent LIMIT :limit")
_CHILDREN = text("SELECT child, on_end FROM relations WHERE parent = :id ORDER BY child LIMIT :limit")
_UNSATISFIED_OF = text("SELECT kind, target FROM dependencies WHERE holder = :id AND unsatisfied = 1")
_UNSATISFIED_ON = text("SELECT holder FROM dependencies WHERE kind = :kind AND target = :id AND unsatisfied = 1")
_JOBS = text("SELECT id, job, state FROM jobs WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))
_BATCHES = text("SELECT id, title, state FROM batches WHERE id IN :ids").bindparams(bindparam("ids", expanding=True))


class RelationReader:
    """What comes after what, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

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

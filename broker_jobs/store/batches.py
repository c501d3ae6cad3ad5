"""Keeps batches, the submissions by which they grow, and the work items of what one transaction cannot finish.

An effect on an unbounded number of rows is one work item, done a page a transaction: every page removes what it has
done from what the next one finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import bindparam, text

from broker_jobs.store import schema
from broker_jobs.store.columns import clean_text
from broker_jobs.store.connections import WriteConnection, in_chunks, upsert
from broker_jobs.store.records import BatchRow, SubmissionRow, WorkItemRow

_SAVE_BATCH = upsert(schema.batches, replace=True)
_BATCHES = text(f"SELECT {', '.join(c.name for c in schema.batches.columns)} FROM batches WHERE id IN :ids").bindparams(  # noqa: S608
    bindparam("ids", expanding=True)
)
_SUB_BATCHES = text("SELECT id FROM batches WHERE parent = :batch")
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
_SAVE_SUBMISSION = upsert(schema.batch_submissions, replace=True)
_SUBMISSION = f"SELECT {', '.join(c.name for c in schema.batch_submissions.columns)} FROM batch_submissions"  # noqa: S608
_SUBMISSION_BY_ID = text(f"{_SUBMISSION} WHERE id = :id")
_SUBMISSIONS_OF = text(f"{_SUBMISSION} WHERE batch = :batch AND opened = 0 ORDER BY since, id")
_SUBMISSIONS_UNDER = text(f"{_SUBMISSION} WHERE parent_submission = :submission AND opened = 0")
_UNCOMMITTED = text(f"{_SUBMISSION} WHERE opened = 0 AND since < :before AND chunks IS NULL LIMIT :limit")
_CHUNK = upsert(schema.chunks, replace=False)
_DROP_CHUNKS = text("DELETE FROM chunks WHERE submission = :submission")
_WORK_ITEM = upsert(schema.work_items, replace=True)
_WORK_ITEMS = text("SELECT kind, target, outcome FROM work_items ORDER BY target, kind LIMIT :limit")
_DROP_WORK_ITEM = text("DELETE FROM work_items WHERE kind = :kind AND target = :target")


class BatchStore:
    """Batches and their members, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def load(self, ids: Sequence[str]) -> dict[str, BatchRow]:
        """The batches of these ids, by id."""
        found: dict[str, BatchRow] = {}
        for chunk in in_chunks(ids):
            for row in self._connection.execute(_BATCHES, {"ids": chunk}):
                found[row.id] = BatchRow(**row._asdict())
        return found

    def save(self, rows: Iterable[BatchRow]) -> None:
        """Insert or replace batches."""
        self._connection.write_many(_SAVE_BATCH, [asdict(row) | {"title": clean_text(row.title)} for row in rows])

    def inside(self, batch: str) -> list[str]:
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


class SubmissionStore:
    """Submissions of batches, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def get(self, id: str) -> SubmissionRow | None:
        """One submission."""
        row = self._connection.execute(_SUBMISSION_BY_ID, {"id": id}).first()
        return None if row is None else _submission(row)

    def unopened(self, *, batch: str = "", under: str = "") -> list[SubmissionRow]:
        """Submissions that are not open yet: of a batch, or made inside another submission."""
        statement, values = (
            (_SUBMISSIONS_OF, {"batch": batch}) if batch else (_SUBMISSIONS_UNDER, {"submission": under})
        )
        return [_submission(row) for row in self._connection.execute(statement, values)]

    def uncommitted(self, before: float, limit: int) -> list[SubmissionRow]:
        """Submissions that were never committed, known since before a log time."""
        found = self._connection.execute(_UNCOMMITTED, {"before": before, "limit": limit})
        return [_submission(row) for row in found]

    def save(self, row: SubmissionRow) -> None:
        """Insert or replace a submission."""
        values = asdict(row) | {"opened": int(row.opened), "accepted": int(row.accepted)}
        self._connection.write(_SAVE_SUBMISSION, values)

    def take_chunk(self, submission: str, number: int) -> bool:
        """Note that a chunk is here; False: it was before."""
        return self._connection.write(_CHUNK, {"submission": submission, "number": number})

    def forget_chunks(self, submission: str) -> None:
        """A submission is complete: its chunks' numbers are not needed any more."""
        self._connection.write(_DROP_CHUNKS, {"submission": submission})


class WorkItemStore:
    """What is left to do in the next transactions, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def add(self, work_items: Iterable[WorkItemRow]) -> None:
        """Set effects to be worked off; a newer outcome of the same target replaces an older one."""
        self._connection.write_many(_WORK_ITEM, [asdict(work_item) for work_item in work_items])

    def oldest(self, limit: int) -> list[WorkItemRow]:
        """What is to be worked off, the oldest targets first."""
        return [WorkItemRow(*row) for row in self._connection.execute(_WORK_ITEMS, {"limit": limit})]

    def drop(self, work_item: WorkItemRow) -> None:
        """This is worked off."""
        self._connection.write(_DROP_WORK_ITEM, {"kind": work_item.kind, "target": work_item.target})


def _submission(row: Any) -> SubmissionRow:
    return SubmissionRow(**row._asdict() | {"opened": bool(row.opened), "accepted": bool(row.accepted)})

"""Looks batches up: a page of them, and one with the batches inside it, its failures by their errors, and its jobs."""

from __future__ import annotations

from typing import Any

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.queries.base import moment
from broker_jobs.dashboard.queries.jobs import MOST_RELATIVES, JobQueries, relative
from broker_jobs.dashboard.views import BatchesPage, BatchLine, BatchTree, BatchView, FailureGroup
from broker_jobs.store import SearchQuery
from broker_jobs.store.records import BatchRow

MOST_INSIDE = 200
"""Batches that are shown inside one."""
MOST_FAILURES = 1_000
"""Failed jobs that are looked at for the groups."""
MOST_JOBS = 50


class BatchQueries(JobQueries):
    """What is asked about batches."""

    def batches(
        self, *, state: str | None = None, text: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> BatchesPage:
        """A page of batches, the newest first.

        Args:
            state: awaiting, processing, or how they ended.
            text: part of a title or id.
            cursor: of the page before.
            limit: at most so many.

        Raises:
            UsageError: the cursor is of another query.
        """
        found = self._reader.batches_page(state=state, text=text or None, cursor=cursor, limit=limit)
        return BatchesPage(batches=[batch_line(row) for row in found.batches], next=found.next)

    def knows_batch(self, id: str) -> bool:
        """Whether a batch of this id is known."""
        return self._reader.batch(id) is not None

    def batch(self, id: str) -> BatchView | None:
        """All that is known of one batch; None: it is not known."""
        rows = self._reader.batch_tree(id, MOST_INSIDE)
        if not rows:
            return None
        failures, counted = self._reader.batch_failures(id, MOST_FAILURES)
        found = self._reader.search(SearchQuery(batch=id, limit=MOST_JOBS))
        return BatchView(
            **_fields(rows[0]),
            tree=_tree(rows),
            failures=[FailureGroup(error=row.error, count=row.count, example=row.example) for row in failures],
            failures_counted=counted,
            jobs=self._lines(found.rows),
            parents=[relative(each) for each in self._reader.parents(id, is_batch=True, limit=MOST_RELATIVES)],
            children=[relative(each) for each in self._reader.children(id, is_batch=True, limit=MOST_RELATIVES)],
        )


def _tree(rows: list[BatchRow]) -> BatchTree:
    """The first of the rows with those inside it; each comes after the one it is in."""
    inside: dict[str, list[BatchTree]] = {row.id: [] for row in rows}
    for row in reversed(rows[1:]):
        tree = BatchTree(batch=batch_line(row), inside=inside[row.id][::-1])
        if row.parent in inside:
            inside[row.parent].append(tree)
    return BatchTree(batch=batch_line(rows[0]), inside=inside[rows[0].id][::-1])


def batch_line(row: BatchRow) -> BatchLine:
    """A batch in a list."""
    return BatchLine(**_fields(row))


def _fields(row: BatchRow) -> dict[str, Any]:
    ended = row.total - row.open
    return {
        "id": row.id,
        "title": row.title,
        "state": row.state,
        "total": row.total,
        "open": row.open,
        "succeeded": row.succeeded,
        "failed": row.failed,
        "deleted": row.deleted,
        "percent": min(100.0, max(0.0, 100.0 * ended / row.total)) if row.total else 100.0 if row.ended_at else 0.0,
        "created_at": as_datetime(row.created_at),
        "ended_at": moment(row.ended_at),
        "parent": row.parent,
    }

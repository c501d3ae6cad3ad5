"""Reads batches: a page of them, and one batch with its inner batches, its failures grouped by error, and its jobs."""

from __future__ import annotations

from typing import Any

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.queries.jobs import MAX_RELATIONS, JobQueries, relation_view
from broker_jobs.dashboard.queries.query_context import QueryContext, optional_datetime
from broker_jobs.dashboard.views import BatchesPage, BatchSummary, BatchTree, BatchView, FailureGroup
from broker_jobs.store import SearchQuery
from broker_jobs.store.records import BatchRow

MAX_INNER_BATCHES = 200
MAX_FAILURES = 1_000
"""Failed jobs that are read to form the groups."""
MAX_JOBS = 50


class BatchQueries:
    """Queries about batches."""

    def __init__(self, context: QueryContext, jobs: JobQueries) -> None:
        self._reader = context.reader
        self._jobs = jobs

    def page(
        self, *, state: str | None = None, text: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> BatchesPage:
        """A page of batches, newest first.

        Args:
            state: awaiting, processing, or a final state.
            text: part of a title or id.
            cursor: from the previous page.
            limit: at most this many.

        Raises:
            UsageError: the cursor belongs to another query.
        """
        found = self._reader.batches.page(state=state, text=text or None, cursor=cursor, limit=limit)
        return BatchesPage(batches=[BatchSummary(**_fields(row)) for row in found.batches], next=found.next)

    def exists(self, id: str) -> bool:
        """Whether the store has a batch of this id."""
        return self._reader.batches.get(id) is not None

    def get(self, id: str) -> BatchView | None:
        """Everything about one batch, or None."""
        rows = self._reader.batches.tree(id, MAX_INNER_BATCHES)
        if not rows:
            return None
        failures, counted = self._reader.batches.failures(id, MAX_FAILURES)
        found = self._reader.jobs.search(SearchQuery(batch=id, limit=MAX_JOBS))
        return BatchView(
            **_fields(rows[0]),
            tree=_tree(rows),
            failures=[FailureGroup(error=row.error, count=row.count, example=row.example) for row in failures],
            failures_counted=counted,
            jobs=self._jobs.summaries(found.rows),
            parents=[
                relation_view(each) for each in self._reader.relations.parents(id, is_batch=True, limit=MAX_RELATIONS)
            ],
            children=[
                relation_view(each) for each in self._reader.relations.children(id, is_batch=True, limit=MAX_RELATIONS)
            ],
        )


def _tree(rows: list[BatchRow]) -> BatchTree:
    """The first row with its inner batches; each row comes after its parent."""
    inside: dict[str, list[BatchTree]] = {row.id: [] for row in rows}
    for row in reversed(rows[1:]):
        tree = BatchTree(batch=BatchSummary(**_fields(row)), inside=inside[row.id][::-1])
        if row.parent in inside:
            inside[row.parent].append(tree)
    return BatchTree(batch=BatchSummary(**_fields(rows[0])), inside=inside[rows[0].id][::-1])


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
        "ended_at": optional_datetime(row.ended_at),
        "parent": row.parent,
    }

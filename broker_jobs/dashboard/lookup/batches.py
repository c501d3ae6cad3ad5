"""Looks batches up: a page of them, and one with the batches inside it, its failures by their errors, and its jobs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.lookup.job_line import read_error
from broker_jobs.dashboard.lookup.jobs import JobLookup
from broker_jobs.dashboard.lookup.known import moment
from broker_jobs.dashboard.views import BatchesPage, BatchLine, BatchTree, BatchView, FailureGroup
from broker_jobs.job.state import State
from broker_jobs.store.kept import BatchRow

MOST_INSIDE = 200
"""Batches that are shown inside one."""
MOST_FAILURES = 1_000
"""Failed jobs that are looked at for the groups."""
MOST_JOBS = 50
MOST_GROUPS = 50


class BatchLookup(JobLookup):
    """What is asked about batches."""

    def batches(
        self, *, state: str | None = None, text: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> BatchesPage:
        """A page of batches, the newest first."""
        del text
        rows = self._reader.batches(state=state, limit=limit + 1, before=cursor)
        shown = rows[:limit]
        return BatchesPage(batches=[batch_line(row) for row in shown], next=shown[-1].id if len(rows) > limit else None)

    def batch(self, id: str) -> BatchView | None:
        """All that is known of one batch; None: it is not known."""
        row = self._reader.batch(id)
        if row is None:
            return None
        failed = self._reader.jobs(state=State.FAILED, batch=id, limit=MOST_FAILURES)
        groups: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for job in failed:
            error = read_error(job.error)
            said = job.reason if error is None else f"{error[0]}: {next(iter(error[1].splitlines()), '')}"
            groups[said] += 1
            examples.setdefault(said, job.id)
        return BatchView(
            **_fields(row),
            tree=self._tree(row, [MOST_INSIDE]),
            failures=[
                FailureGroup(error=error, count=count, example=examples[error])
                for error, count in groups.most_common(MOST_GROUPS)
            ],
            failures_counted=len(failed),
            jobs=self._lines(self._reader.jobs(batch=id, limit=MOST_JOBS)),
            parents=[],
            children=[],
        )

    def _tree(self, row: BatchRow, left: list[int]) -> BatchTree:
        inside = []
        for below in self._reader.sub_batches(row.id):
            if left[0] <= 0:
                break
            left[0] -= 1
            inside.append(self._tree(below, left))
        return BatchTree(batch=batch_line(row), inside=inside)


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

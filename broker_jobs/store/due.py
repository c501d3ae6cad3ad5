"""Finds the jobs the coordinator must look at: due, sending, owned, fenced, asked to stop, long out.

Every query here is served by a partial index whose condition it repeats word for word, so its cost is that of what it
finds, not of what the store keeps.
"""

from __future__ import annotations

from sqlalchemy import TextClause, text

from broker_jobs.clock import Instant
from broker_jobs.store.connections import WriteConnection

LINE_PREFIX = "#"
"""Begins what stands for a line where ids of jobs are listed. No id of a job has this character."""
_DUE = text(
    "SELECT due_at, id FROM (SELECT due_at, id FROM jobs WHERE state = 'scheduled' AND publication = 0"
    " AND due_at <= :before ORDER BY due_at, id LIMIT :limit) AS due_jobs"
    " UNION ALL SELECT next_at, '#' || key FROM (SELECT next_at, key FROM lines"
    " WHERE next_at IS NOT NULL AND next_at <= :before ORDER BY next_at LIMIT :limit) AS due_lines"
    " UNION ALL SELECT at, '#' || key FROM (SELECT CAST(:before AS DOUBLE PRECISION) AS at, key FROM lines"
    " WHERE next_at IS NOT NULL AND next_at > :before AND (kind <> 'rate' OR next_at > :before + span)"
    " LIMIT :limit) AS late_lines"
    " ORDER BY 1, 2 LIMIT :limit"
)
_GRACE_OVER = text(
    "SELECT id FROM jobs WHERE grace_until IS NOT NULL AND grace_until <= :log_time ORDER BY grace_until LIMIT :limit"
)
_PUBLISHING = text("SELECT id, sender FROM jobs WHERE publication = 1 ORDER BY id LIMIT :limit")
_OWNED_BY = text("SELECT id FROM jobs WHERE state = 'processing' AND owner = :worker ORDER BY id LIMIT :limit")
_OWNERS = text("SELECT DISTINCT owner FROM jobs WHERE state = 'processing' AND owner IS NOT NULL ORDER BY owner")
_FENCES = text("SELECT id, fence FROM jobs WHERE fence > 0 ORDER BY id")
_CANCELS = text("SELECT id FROM jobs WHERE state = 'processing' AND reason_code = 'cancel' ORDER BY id")
_OUT_SINCE = text(
    "SELECT id FROM jobs WHERE publication = 2 AND queue = :queue AND coalesce(released_at, created_at) <= :before"
    " AND state IN ('enqueued', 'scheduled', 'succeeded', 'failed', 'deleted')"
    " ORDER BY coalesce(released_at, created_at) LIMIT :limit"
)
_OUT_AFTER = text(
    "SELECT id FROM jobs WHERE publication = 2 AND queue = :queue AND coalesce(released_at, created_at) > :after"
    " AND state IN ('enqueued', 'scheduled', 'succeeded', 'failed', 'deleted') LIMIT :limit"
)


class DueJobs:
    """What is to be done at a time, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def jobs(self, before: Instant, limit: int) -> list[tuple[Instant, str]]:
        """(due_at, id) of what is due at or before an instant, the earliest first.

        These are scheduled jobs of which no message is out, though a grace may still stand in their way; and lines that
        are to be called then, as their key behind LINE_PREFIX: those of rates at their next start, others as nothing
        could be released when they were called. A line whose moment is further away than its span got it from a clock
        that was set back since: it is due too.
        """
        return [(at, job_id) for at, job_id in self._connection.execute(_DUE, {"before": before, "limit": limit})]

    def graces(self, log_time: float, limit: int) -> list[str]:
        """Jobs whose grace has ended by this log time."""
        return _ids(self._connection, _GRACE_OVER, log_time=log_time, limit=limit)


class JobsInFlight:
    """Jobs that are published, or run, or may do so, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def publishing(self, limit: int = 1000) -> list[tuple[str, str]]:
        """(id, sender) of the releases that are committed and not known to be published."""
        return [(job_id, sender or "") for job_id, sender in self._connection.execute(_PUBLISHING, {"limit": limit})]

    def owned_by(self, worker: str, limit: int = 10_000) -> list[str]:
        """Jobs a worker runs."""
        return _ids(self._connection, _OWNED_BY, worker=worker, limit=limit)

    def owners(self) -> list[str]:
        """Workers that run something, each once."""
        return _ids(self._connection, _OWNERS)

    def fences(self) -> list[tuple[str, int]]:
        """(id, epoch): this epoch and older must not be run; a message of the job may be out."""
        return [(job_id, fence) for job_id, fence in self._connection.execute(_FENCES)]

    def cancels(self) -> list[str]:
        """Running jobs that were asked to stop."""
        return _ids(self._connection, _CANCELS)

    def out_since(self, queue: str, released_before: Instant, limit: int) -> list[str]:
        """Jobs of a queue with a message out since before an instant and no known runner, the oldest first."""
        return _ids(self._connection, _OUT_SINCE, queue=queue, before=released_before, limit=limit)

    def out_after(self, queue: str, released_after: Instant, limit: int) -> list[str]:
        """As `out_since`, released after an instant."""
        return _ids(self._connection, _OUT_AFTER, queue=queue, after=released_after, limit=limit)


def _ids(connection: WriteConnection, query: TextClause, **parameters: object) -> list[str]:
    return list(connection.execute(query, parameters).scalars())

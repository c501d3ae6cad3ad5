"""Finds the jobs the coordinator must look at: due, sending, owned, fenced, asked to stop, long out.

Every query here is served by a partial index whose condition it repeats word for word, so its cost is that of what it
finds, not of what the store keeps.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from broker_jobs.clock import Instant

_DUE = text(
    "SELECT due_at, id FROM jobs WHERE state = 'scheduled' AND publication = 0 AND due_at <= :before"
    " ORDER BY due_at, id LIMIT :limit"
)
_GRACE_OVER = text(
    "SELECT id FROM jobs WHERE state = 'scheduled' AND grace_until IS NOT NULL AND grace_until <= :log_time"
    " AND due_at <= :due_before ORDER BY grace_until LIMIT :limit"
)
_GRACE_OVER_WITH_SLOT = text(
    "SELECT id FROM jobs WHERE state = 'scheduled' AND grace_until IS NOT NULL AND grace_until <= :log_time"
    " AND due_at > :due_before AND EXISTS (SELECT 1 FROM slots WHERE slots.job_id = jobs.id AND slots.taken = 1)"
    " ORDER BY grace_until LIMIT :limit"
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
_RUNNING_OF = text(
    "SELECT count(*) FROM jobs WHERE recurring = :recurring AND recurring IS NOT NULL"
    " AND state IN ('awaiting', 'scheduled', 'enqueued', 'processing')"
)
_GOING_OF = text(
    "SELECT id FROM jobs WHERE recurring = :recurring AND recurring IS NOT NULL"
    " AND state IN ('scheduled', 'enqueued', 'processing') LIMIT :limit"
)
_WAITING_OF = text(
    "SELECT id FROM jobs WHERE recurring = :recurring AND recurring IS NOT NULL AND state = 'awaiting'"
    " ORDER BY created_at, id LIMIT :limit"
)
_FRAGILE_OUT = text(
    "SELECT 1 FROM jobs WHERE queue = :queue AND crashes >= 2 AND publication <> 0 AND crashes >= :crashes LIMIT 1"
)


class DueJobs:
    """The finding half of a transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def due(self, before: Instant, limit: int) -> list[tuple[Instant, str]]:
        """(due_at, id) of the scheduled jobs due at or before an instant with nothing on the wire, earliest first.

        A grace may still stand in their way; the row says so.
        """
        return [(at, job_id) for at, job_id in self._connection.execute(_DUE, {"before": before, "limit": limit})]

    def grace_over(self, log_time: float, limit: int, due_before: Instant = float("inf")) -> list[str]:
        """Scheduled jobs whose grace has ended by this log time: those whose time has come by `due_before`, and those
        of a later time that have a slot still."""
        values = {"log_time": log_time, "limit": limit, "due_before": due_before}
        return self._ids(_GRACE_OVER, **values) + self._ids(_GRACE_OVER_WITH_SLOT, **values)

    def publishing(self, limit: int = 1000) -> list[tuple[str, str]]:
        """(id, sender) of the releases that are committed and not known to be published."""
        return [(job_id, sender or "") for job_id, sender in self._connection.execute(_PUBLISHING, {"limit": limit})]

    def owned_by(self, worker: str, limit: int = 10_000) -> list[str]:
        """Jobs a worker runs."""
        return self._ids(_OWNED_BY, worker=worker, limit=limit)

    def owners(self) -> list[str]:
        """Workers that run something, each once."""
        return self._ids(_OWNERS)

    def fences(self) -> list[tuple[str, int]]:
        """(id, epoch): this epoch and older must not be run; a message of the job may be out."""
        return [(job_id, fence) for job_id, fence in self._connection.execute(_FENCES)]

    def cancels(self) -> list[str]:
        """Running jobs that were asked to stop."""
        return self._ids(_CANCELS)

    def out_since(self, queue: str, released_before: Instant, limit: int) -> list[str]:
        """Jobs of a queue with a message out since before an instant and no known runner, the oldest first."""
        return self._ids(_OUT_SINCE, queue=queue, before=released_before, limit=limit)

    def out_after(self, queue: str, released_after: Instant, limit: int) -> list[str]:
        """As `out_since`, released after an instant."""
        return self._ids(_OUT_AFTER, queue=queue, after=released_after, limit=limit)

    def running_of(self, recurring: str) -> int:
        """How many jobs of a recurring name have not ended."""
        return int(self._connection.execute(_RUNNING_OF, {"recurring": recurring}).scalar_one())

    def going_of(self, recurring: str, limit: int = 1_000) -> list[str]:
        """Jobs of a recurring name that wait for no other one and have not ended."""
        return self._ids(_GOING_OF, recurring=recurring, limit=limit)

    def waiting_of(self, recurring: str, limit: int = 1_000) -> list[str]:
        """Jobs of a recurring name that wait for an earlier one (awaiting), the oldest first."""
        return self._ids(_WAITING_OF, recurring=recurring, limit=limit)

    def fragile_out(self, queue: str, crashes: int) -> bool:
        """Whether a job of this queue whose worker died at least so often (2 or more) has a message out."""
        found = self._connection.execute(_FRAGILE_OUT, {"queue": queue, "crashes": crashes}).first()
        return found is not None

    def _ids(self, query: object, **parameters: object) -> list[str]:
        return list(self._connection.execute(query, parameters).scalars())  # type: ignore[call-overload]

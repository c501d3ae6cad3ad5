"""Keeps how attempts ended, of jobs that did not simply succeed, and tells which errors they had.

A job that succeeded on its first attempt has no row here. All rows of a transaction are written by one statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from sqlalchemy import text

from broker_jobs.store.columns import clean_text
from broker_jobs.store.connections import Reading, WriteConnection
from broker_jobs.store.records import AttemptRow
from broker_jobs.store.views import ErrorRow

KEPT = 200
"""Attempts kept of one job; the oldest go first."""
NEWEST = 10_000
"""Errors are counted among so many of the newest attempts, so that the question costs the same in a large store."""

_SAVE = text(
    "INSERT INTO attempts (job_id, epoch, attempt, ended, at, started_at, ended_at, worker, host, release, reason,"
    " error, fingerprint) VALUES (:job_id, :epoch, :attempt, :ended, :at, :started_at, :ended_at, :worker, :host,"
    " coalesce(:release, (SELECT version FROM workers WHERE id = :worker)), :reason, :error, :fingerprint)"
    " ON CONFLICT (job_id, epoch) DO UPDATE SET attempt = excluded.attempt, ended = excluded.ended,"
    " started_at = coalesce(excluded.started_at, attempts.started_at), ended_at = excluded.ended_at,"
    " worker = coalesce(excluded.worker, attempts.worker), host = coalesce(excluded.host, attempts.host),"
    " release = coalesce(excluded.release, attempts.release), reason = excluded.reason, error = excluded.error,"
    " fingerprint = excluded.fingerprint"
)
"""What is reported of a run that was thought lost replaces that; when it was stored first stays."""
_FORGET_OLDEST = text(
    "DELETE FROM attempts WHERE job_id = :job_id AND epoch <= (SELECT epoch FROM attempts"
    " WHERE job_id = :job_id ORDER BY epoch DESC LIMIT 1 OFFSET :kept)"
)
_COLUMNS = (
    "job_id, epoch, attempt, ended, at, started_at, ended_at, coalesce(worker, ''), coalesce(host, ''),"
    " coalesce(release, ''), coalesce(reason, ''), error, fingerprint"
)
_OF_JOB = text(f"SELECT {_COLUMNS} FROM attempts WHERE job_id = :job_id ORDER BY epoch")  # noqa: S608  # constants
_ERRORS = text(
    "SELECT fingerprint, count(*) AS n, max(at) AS last FROM (SELECT fingerprint, at FROM attempts"
    " WHERE fingerprint IS NOT NULL ORDER BY at DESC LIMIT :newest) AS newest"
    " GROUP BY fingerprint ORDER BY n DESC, last DESC LIMIT :limit"
)
_LAST = text(
    f"SELECT {_COLUMNS} FROM attempts WHERE fingerprint = :fingerprint"  # noqa: S608  # constants
    " ORDER BY at DESC LIMIT 1"
)


class AttemptStore:
    """Attempts, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def save(self, rows: Iterable[AttemptRow]) -> None:
        """Keep how attempts ended; one of the same job and epoch is replaced. Of each job the newest stay."""
        kept = list(rows)
        if not kept:
            return
        self._connection.write_many(_SAVE, [_values(row) for row in kept])
        # A job has no more attempts than epochs.
        many = [{"job_id": id, "kept": KEPT} for id in dict.fromkeys(row.job_id for row in kept if row.epoch > KEPT)]
        self._connection.write_many(_FORGET_OLDEST, many)


def _values(row: AttemptRow) -> dict[str, object]:
    """Text that a database can hold; empty text is kept as NULL."""
    values = asdict(row).items()
    return {name: (clean_text(value) or None) if isinstance(value, str) else value for name, value in values}


class AttemptReader:
    """Attempts and their errors, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def of(self, job_id: str) -> list[AttemptRow]:
        """The attempts of a job, the oldest first; none if it succeeded on its first one, or has not ended any."""
        with self._reading() as connection:
            return [AttemptRow(*row) for row in connection.execute(_OF_JOB, {"job_id": job_id})]

    def errors(self, limit: int = 50) -> list[ErrorRow]:
        """The errors that attempts ended with, the most frequent first; counted among the newest (`NEWEST`)."""
        with self._reading() as connection:
            found = connection.execute(_ERRORS, {"newest": NEWEST, "limit": limit}).all()
            last = [connection.execute(_LAST, {"fingerprint": row.fingerprint}).first() for row in found]
        return [
            ErrorRow(row.fingerprint, int(row.n), AttemptRow(*example))
            for row, example in zip(found, last, strict=True)
            if example is not None  # forgotten in between
        ]

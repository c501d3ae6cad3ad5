"""Keeps which jobs the program of each living worker knows, and finds the jobs that are held as none knows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import text

from broker_jobs.store import schema
from broker_jobs.store.connections import Reading, WriteConnection, cleaned, upsert

_LEARN = upsert(schema.code_jobs, replace=False)
_FORGET_UNUSED = text(
    "DELETE FROM code_jobs WHERE code = :code AND NOT EXISTS (SELECT 1 FROM workers WHERE workers.code = :code)"
)
_TOLD = text("SELECT 1 FROM code_jobs WHERE code = :code AND job = ''")
_KNOWS = text("SELECT 1 FROM code_jobs WHERE code = :code AND job = :job")
_SERVES = text("SELECT queues, code FROM workers WHERE id = :id")
_WORKERS = text("SELECT service, queues, code, concurrency - running AS room, concurrency FROM workers WHERE lost = 0")
_HELD = text(
    "SELECT id FROM jobs WHERE waits >= 16 AND queue = :queue AND job = :job AND id > :after ORDER BY id LIMIT :limit"
)
_HELD_KNOWN = text(
    "SELECT job FROM code_jobs WHERE code = :code AND EXISTS"
    " (SELECT 1 FROM jobs WHERE waits >= 16 AND queue = :queue AND jobs.job = code_jobs.job) ORDER BY job"
)
_HELD_KINDS = text("SELECT DISTINCT job FROM jobs WHERE waits >= 16 AND queue = :queue ORDER BY job")
_HELD_COUNTS = text(
    "SELECT queue, job, count(*) AS n FROM (SELECT queue, job FROM jobs WHERE waits >= 16 LIMIT :most) AS held"
    " GROUP BY queue, job ORDER BY n DESC, queue, job"
)
_CODE_JOBS = text(
    "SELECT code, job FROM code_jobs WHERE code IN (SELECT code FROM workers WHERE lost = 0) AND job <> ''"
)


class KnowingWorker(NamedTuple):
    """A living worker, as far as it matters to who knows a job."""

    service: str
    queues: frozenset[str]
    code: str
    """Names the set of its jobs; empty: it does not tell, and may know any."""
    has_room: bool
    """Whether it ran fewer jobs than it may when it told of itself last."""


class HeldJobs(NamedTuple):
    """How many jobs of a queue and a name are held, as no living worker knows them."""

    queue: str
    job: str
    n: int


class KnownJobStore:
    """Who knows which jobs, in a transaction."""

    __slots__ = ("_connection",)

    def __init__(self, connection: WriteConnection) -> None:
        self._connection = connection

    def learn(self, code: str, jobs: Iterable[str]) -> None:
        """These are the jobs of a code; it never has others."""
        if code and not self.is_told(code):
            for job in ["", *jobs]:
                self._connection.write(_LEARN, cleaned({"code": code, "job": job}))

    def is_told(self, code: str) -> bool:
        """Whether the jobs of a code are known here; the empty name, which no job has, says so."""
        return self._connection.execute(_TOLD, {"code": code}).first() is not None

    def forget_unused(self, code: str) -> None:
        """Forget the jobs of a code that no worker has any more."""
        if code:
            self._connection.write(_FORGET_UNUSED, {"code": code})

    def knows(self, code: str, job: str) -> bool:
        """Whether a job is among those of a code."""
        return self._connection.execute(_KNOWS, cleaned({"code": code, "job": job})).first() is not None

    def serves(self, worker: str) -> tuple[frozenset[str], str] | None:
        """(queues, code) of a worker as it told before; None: it did not."""
        row = self._connection.execute(_SERVES, cleaned({"id": worker})).first()
        return None if row is None else (_queues(row.queues), row.code)

    def workers(self) -> list[KnowingWorker]:
        """All living workers."""
        return [_knowing(row) for row in self._connection.execute(_WORKERS)]

    def held_kinds(self, queue: str, code: str) -> list[str]:
        """The names of held jobs of a queue that a code knows; with an empty code all of them."""
        query, values = (_HELD_KNOWN, {"queue": queue, "code": code}) if code else (_HELD_KINDS, {"queue": queue})
        return list(self._connection.execute(query, values).scalars())

    def held(self, queue: str, job: str, after: str, limit: int) -> list[str]:
        """Ids of held jobs of a queue and a name above `after`, in their order, at most `limit`."""
        values = cleaned({"queue": queue, "job": job, "after": after, "limit": limit})
        return list(self._connection.execute(_HELD, values).scalars())


class KnownJobReader:
    """Who knows which jobs, for a reader."""

    __slots__ = ("_reading",)

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def held(self, most: int) -> list[HeldJobs]:
        """How many jobs are held, by queue and name, the most first; of more than `most` so many are counted."""
        with self._reading() as connection:
            return [HeldJobs(*row) for row in connection.execute(_HELD_COUNTS, {"most": most})]

    def workers(self) -> Sequence[KnowingWorker]:
        """All living workers."""
        with self._reading() as connection:
            return [_knowing(row) for row in connection.execute(_WORKERS)]

    def jobs_by_code(self) -> dict[str, frozenset[str]]:
        """Code of a living worker -> the names of its jobs."""
        found: dict[str, set[str]] = {}
        with self._reading() as connection:
            for code, job in connection.execute(_CODE_JOBS):
                found.setdefault(code, set()).add(job)
        return {code: frozenset(jobs) for code, jobs in found.items()}


def _queues(text: str) -> frozenset[str]:
    return frozenset(part for part in text.split(",") if part)


def _knowing(row: Any) -> KnowingWorker:
    return KnowingWorker(row.service, _queues(row.queues), row.code, row.room > 0 or row.concurrency == 0)

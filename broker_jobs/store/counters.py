"""Keeps the counters the dashboard shows: collects what a transaction changes, and writes the differences once.

A counter changes in the transaction that changes the rows, so it always equals its count.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from sqlalchemy import text

from broker_jobs.clock import Instant
from broker_jobs.messages.state import FINAL, State
from broker_jobs.store.buckets import bucket_of
from broker_jobs.store.columns import clean_text
from broker_jobs.store.connections import WriteConnection
from broker_jobs.store.row import Row

MINUTE_SECONDS = 60
RETRY = "retry"
"""Stands among the states of `counts` for jobs that are scheduled to run again after a failure; they count twice."""
FINAL_TEXT = frozenset(state.value for state in FINAL)

_ADD_COUNT = text(
    "INSERT INTO counts (queue, state, n) VALUES (:queue, :state, :n)"
    " ON CONFLICT (queue, state) DO UPDATE SET n = counts.n + excluded.n"
)
_ADD_OUTCOME = text(
    "INSERT INTO outcomes (minute, state, n) VALUES (:minute, :state, :n)"
    " ON CONFLICT (minute, state) DO UPDATE SET n = outcomes.n + excluded.n"
)
_ADD_ENDED = text(
    "INSERT INTO ended (state, n) VALUES (:state, :n) ON CONFLICT (state) DO UPDATE SET n = ended.n + excluded.n"
)
_ADD_QUEUE_OUTCOME = text(
    "INSERT INTO queue_outcomes (minute, queue, n) VALUES (:minute, :queue, :n)"
    " ON CONFLICT (minute, queue) DO UPDATE SET n = queue_outcomes.n + excluded.n"
)
_ADD_DURATION = text(
    "INSERT INTO durations (minute, kind, bucket, n) VALUES (:minute, :kind, :bucket, :n)"
    " ON CONFLICT (minute, kind, bucket) DO UPDATE SET n = durations.n + excluded.n"
)
_ADD_KIND_OUTCOME = text(
    "INSERT INTO kind_outcomes (minute, job, state, n) VALUES (:minute, :job, :state, :n)"
    " ON CONFLICT (minute, job, state) DO UPDATE SET n = kind_outcomes.n + excluded.n"
)
_ADD_KIND_DURATION = text(
    "INSERT INTO kind_durations (minute, job, kind, bucket, n) VALUES (:minute, :job, :kind, :bucket, :n)"
    " ON CONFLICT (minute, job, kind, bucket) DO UPDATE SET n = kind_durations.n + excluded.n"
)
_ADD_QUEUE = text("INSERT INTO queues (name, paused) VALUES (:name, 0) ON CONFLICT (name) DO NOTHING")


class EndedJob(NamedTuple):
    """What is counted of a job that has ended. `began_at` is when it might have started, at the earliest."""

    state: str
    queue: str
    job: str
    changed_at: Instant
    began_at: Instant
    started_at: Instant | None
    ended_at: Instant


def ended_job(row: Row) -> EndedJob:
    """What is counted of a row that has ended."""
    return EndedJob(
        state=row.state.value,
        queue=row.queue,
        job=row.job,
        changed_at=row.changed_at,
        began_at=row.created_at if row.due_at is None else row.due_at,
        started_at=row.started_at,
        ended_at=row.ended_at if row.ended_at is not None else row.changed_at,
    )


class Counters:
    """The differences of one transaction."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._outcomes: Counter[tuple[int, str]] = Counter()
        self._of_queues: Counter[tuple[int, str]] = Counter()
        self._of_kinds: Counter[tuple[int, str, str]] = Counter()
        self._durations: Counter[tuple[int, str, str, int]] = Counter()

    def enter(self, queue: str, state: str, retries: bool = False) -> None:
        """A row is now in this state of this queue; `retries`: as it runs again after a failure."""
        self._counts[queue, state] += 1
        if retries:
            self._counts[queue, RETRY] += 1

    def leave(self, queue: str, state: str, retries: bool = False) -> None:
        """A row is no longer in this state of this queue."""
        self._counts[queue, state] -= 1
        if retries:
            self._counts[queue, RETRY] -= 1

    def ended(self, job: EndedJob) -> None:
        """A job has come to the final state it is in."""
        minute = int(job.changed_at // MINUTE_SECONDS) * MINUTE_SECONDS  # by this coordinator's clock
        self._outcomes[minute, job.state] += 1
        self._of_queues[minute, job.queue] += 1
        self._of_kinds[minute, job.job, job.state] += 1
        if job.started_at is None or job.state == State.DELETED:
            return
        self._durations[minute, job.job, "wait", bucket_of(job.started_at - job.began_at)] += 1
        self._durations[minute, job.job, "run", bucket_of(job.ended_at - job.started_at)] += 1

    def write(self, connection: WriteConnection) -> None:
        """Write the differences and forget them."""
        counts = [{"queue": queue, "state": state, "n": n} for (queue, state), n in self._counts.items() if n]
        if counts:
            connection.execute(_ADD_COUNT, counts)
            connection.execute(_ADD_QUEUE, [{"name": name} for name in sorted({queue for queue, _ in self._counts})])
        outcomes = [{"minute": minute, "state": state, "n": n} for (minute, state), n in self._outcomes.items()]
        if outcomes:
            connection.execute(_ADD_OUTCOME, outcomes)
            connection.execute(_ADD_ENDED, _totals(self._outcomes))
            of_queues = [{"minute": minute, "queue": queue, "n": n} for (minute, queue), n in self._of_queues.items()]
            connection.execute(_ADD_QUEUE_OUTCOME, of_queues)
            self._write_kinds(connection)
        self._counts.clear()
        self._outcomes.clear()
        self._of_queues.clear()
        self._of_kinds.clear()
        self._durations.clear()

    def _write_kinds(self, connection: WriteConnection) -> None:
        """What each kind of job came to; of one whose name is not known yet only the sums over all kinds."""
        of_kinds = [
            {"minute": minute, "job": clean_text(job), "state": state, "n": n}
            for (minute, job, state), n in self._of_kinds.items()
            if job
        ]
        if of_kinds:
            connection.execute(_ADD_KIND_OUTCOME, of_kinds)
        sums: Counter[tuple[int, str, int]] = Counter()
        for (minute, _, kind, bucket), n in self._durations.items():
            sums[minute, kind, bucket] += n
        if sums:
            durations = [
                {"minute": minute, "kind": kind, "bucket": bucket, "n": n} for (minute, kind, bucket), n in sums.items()
            ]
            connection.execute(_ADD_DURATION, durations)
        durations_of_kinds = [
            {"minute": minute, "job": clean_text(job), "kind": kind, "bucket": bucket, "n": n}
            for (minute, job, kind, bucket), n in self._durations.items()
            if job
        ]
        if durations_of_kinds:
            connection.execute(_ADD_KIND_DURATION, durations_of_kinds)


def _totals(outcomes: Counter[tuple[int, str]]) -> list[dict[str, object]]:
    ended: Counter[str] = Counter()
    for (_, state), n in outcomes.items():
        ended[state] += n
    return [{"state": state, "n": n} for state, n in ended.items()]

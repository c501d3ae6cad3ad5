"""Keeps the counters the dashboard shows: collects what a transaction changes, and writes the differences once.

A counter changes in the transaction that changes the rows, so it always equals its count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Table, Text

from broker_jobs.clock import Instant
from broker_jobs.messages.state import FINAL, State
from broker_jobs.store import schema
from broker_jobs.store.buckets import bucket_of
from broker_jobs.store.columns import clean_text
from broker_jobs.store.connections import WriteConnection
from broker_jobs.store.row import Reason, Row

MINUTE_SECONDS = 60
AGAIN = frozenset({Reason.RETRY, Reason.CRASH})
"""Why a scheduled job runs again after a failure."""
RETRY = "retry"
"""Stands among the states of `counts` for jobs that are scheduled to run again after a failure; they count twice."""
WAITING = {"high": "enqueued high", "low": "enqueued low"}
"""Stand among the states of `counts` for enqueued jobs of these priorities; they count twice."""
STATES = tuple(state.value for state in State)
"""What stands among them once for each job."""
SCHEDULED, ENQUEUED = State.SCHEDULED.value, State.ENQUEUED.value
FINAL_TEXT = frozenset(state.value for state in FINAL)


def _adds(table: Table) -> tuple[str, str]:
    """The statement that adds to the sums of a table, `n`, by its key: for SQLite, for PostgreSQL."""
    names = [column.name for column in table.columns]
    key = ", ".join(names[:-1])
    arrays = ", ".join("%s::text[]" if isinstance(column.type, Text) else "%s::int8[]" for column in table.columns)
    head = f"INSERT INTO {table.name} ({', '.join(names)})"
    tail = f"ON CONFLICT ({key}) DO UPDATE SET n = {table.name}.n + excluded.n"
    sqlite = f"{head} VALUES ({', '.join('?' * len(names))}) {tail}"
    return sqlite, f"{head} SELECT * FROM unnest({arrays}) {tail}"  # noqa: S608  # names of ours


_ADD_COUNTS, _ADD_OUTCOMES, _ADD_ENDED = map(_adds, (schema.counts, schema.outcomes, schema.ended))
_ADD_QUEUE_OUTCOMES, _ADD_DURATIONS = map(_adds, (schema.queue_outcomes, schema.durations))
_ADD_KIND_OUTCOMES, _ADD_KIND_DURATIONS = map(_adds, (schema.kind_outcomes, schema.kind_durations))
_QUEUE = "INSERT INTO queues (name, paused) {} ON CONFLICT (name) DO NOTHING"
_ADD_QUEUES = _QUEUE.format("VALUES (?, 0)"), _QUEUE.format("SELECT name, 0 FROM unnest(%s::text[]) AS name")


class EndedJob(NamedTuple):
    """What is counted of a job that has ended. `began_at` is when it might have started, at the earliest."""

    state: str
    queue: str
    job: str
    changed_at: Instant
    began_at: Instant
    started_at: Instant | None
    ended_at: Instant


def part_of(state: str, reason_code: str | None, priority: str | None) -> str | None:
    """What a row counts as beside its state."""
    if state == SCHEDULED:
        return RETRY if reason_code in AGAIN else None
    return WAITING.get(priority or "") if state == ENQUEUED else None


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

    def enter(self, queue: str, state: str, part: str | None = None) -> None:
        """A row is now in this state of this queue; `part`: it counts there too (`RETRY`, or of `WAITING`)."""
        self._counts[queue, state] += 1
        if part is not None:
            self._counts[queue, part] += 1

    def leave(self, queue: str, state: str, part: str | None = None) -> None:
        """A row is no longer in this state of this queue."""
        self._counts[queue, state] -= 1
        if part is not None:
            self._counts[queue, part] -= 1

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
        counts = [[queue, state, n] for (queue, state), n in self._counts.items() if n]
        if counts:
            connection.write_rows(*_ADD_COUNTS, counts)
            connection.write_rows(*_ADD_QUEUES, [[name] for name in sorted({queue for queue, _ in self._counts})])
        if self._outcomes:
            connection.write_rows(*_ADD_OUTCOMES, _rows(self._outcomes))
            connection.write_rows(*_ADD_ENDED, _totals(self._outcomes))
            connection.write_rows(*_ADD_QUEUE_OUTCOMES, _rows(self._of_queues))
            self._write_kinds(connection)
        self._counts.clear()
        self._outcomes.clear()
        self._of_queues.clear()
        self._of_kinds.clear()
        self._durations.clear()

    def _write_kinds(self, connection: WriteConnection) -> None:
        """What each kind of job came to; of one whose name is not known yet only the sums over all kinds."""
        connection.write_rows(
            *_ADD_KIND_OUTCOMES,
            [[minute, clean_text(job), state, n] for (minute, job, state), n in self._of_kinds.items() if job],
        )
        sums: Counter[tuple[int, str, int]] = Counter()
        for (minute, _, kind, bucket), n in self._durations.items():
            sums[minute, kind, bucket] += n
        connection.write_rows(*_ADD_DURATIONS, _rows(sums))
        connection.write_rows(
            *_ADD_KIND_DURATIONS,
            [
                [minute, clean_text(job), kind, bucket, n]
                for (minute, job, kind, bucket), n in self._durations.items()
                if job
            ],
        )


def _rows(sums: Mapping[Any, int]) -> list[list[Any]]:
    return [[*key, n] for key, n in sums.items()]


def _totals(outcomes: Counter[tuple[int, str]]) -> list[list[Any]]:
    ended: Counter[str] = Counter()
    for (_, state), n in outcomes.items():
        ended[state] += n
    return [[state, n] for state, n in ended.items()]

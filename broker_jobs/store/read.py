"""Reads the store for whoever shows it: command line, dashboard, metrics. Never takes the write lock.

Every list is paged or limited, so that a read is short: a long one keeps SQLite's log from being folded back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select, text, tuple_

from broker_jobs.clock import Instant, LogTime
from broker_jobs.messages.state import State
from broker_jobs.store import columns, schema
from broker_jobs.store.attempts import AttemptReader
from broker_jobs.store.counters import RETRY
from broker_jobs.store.dead_letters import DEAD_LETTERS, NEWER_DEAD_LETTERS, dead_letter_of
from broker_jobs.store.dependencies import UNKNOWN_PARENTS, dependency_of
from broker_jobs.store.lines import Stage
from broker_jobs.store.lists import Lists
from broker_jobs.store.processes import WORKERS, worker_of
from broker_jobs.store.queues import QUEUES
from broker_jobs.store.records import (
    AuditRow,
    BatchRow,
    DeadLetterRow,
    DependencyRow,
    LimitRow,
    LogLineRow,
    Meta,
    ScheduleRow,
    SubscriptionRow,
    WorkerRow,
)
from broker_jobs.store.relations import Relations
from broker_jobs.store.row import Row
from broker_jobs.store.schedules import SCHEDULES, schedule_of
from broker_jobs.store.search import JobSearch
from broker_jobs.store.statistics import OLDEST, Statistics
from broker_jobs.store.write import read_installation, read_meta

_JOB_COLUMNS = [schema.jobs.c[name] for name in columns.COLUMNS]
_ROOT = text("SELECT root FROM alias_groups WHERE id = :id")
_WAITING_IN = text(
    "SELECT key, count(*) FROM line_entries WHERE key IN :keys AND stage IN :stages GROUP BY key"
).bindparams(bindparam("keys", expanding=True), bindparam("stages", expanding=True))
CHUNK = 500
"""Values of one IN list."""

DependencyPlace = tuple[str, str, str]
"""The holder, kind and target of a dependency."""

SHOWN_LIMITS = ("concurrency", "ordered", "rate")


def _is_used_otherwise(key: str, used: set[str]) -> bool:
    """Whether a number that a person has set is of another kind: it is set for both kinds, as a key tells neither."""
    kind, _, name = key.partition(":")
    if kind == "rate" and f"concurrency:{name}" not in used:
        return f"rate:{name}" not in used  # of a key that no job has used, one row is enough
    return f"{'rate' if kind == 'concurrency' else 'concurrency'}:{name}" in used


class Reader(JobSearch, Statistics, Relations, Lists, AttemptReader):
    """What can be asked of the store. Each method is one short read of its own."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Connection]]) -> None:
        JobSearch.__init__(self, reading)
        Statistics.__init__(self, reading)
        Relations.__init__(self, reading)
        Lists.__init__(self, reading)
        AttemptReader.__init__(self, reading)
        self._reading = reading

    def meta(self) -> Meta:
        """Whose store it is and how far it has come (`last_tick_at` tells the lag of the log)."""
        with self._reading() as connection:
            return read_meta(connection)

    def installation(self) -> str:
        """The installation that the store belongs to; empty before its first coordinator."""
        with self._reading() as connection:
            return read_installation(connection)

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state: the kept counters."""
        query = select(schema.counts.c.state, func.sum(schema.counts.c.n)).group_by(schema.counts.c.state)
        query = query.where(schema.counts.c.state != RETRY)
        with self._reading() as connection:
            kept = {State(state): int(n) for state, n in connection.execute(query)}
        return {state: kept.get(state, 0) for state in State}

    def counts_by_queue(self) -> dict[str, dict[State, int]]:
        """How many jobs are in each state of each known queue: the kept counters."""
        with self._reading() as connection:
            found = {name: dict.fromkeys(State, 0) for name in connection.execute(QUEUES).scalars()}
            query = select(schema.counts).where(schema.counts.c.state != RETRY)
            for queue, state, n in connection.execute(query):
                found.setdefault(queue, dict.fromkeys(State, 0))[State(state)] = int(n)
        return found

    def throughput(self, since: Instant, until: Instant | None = None) -> list[tuple[Instant, State, int]]:
        """(start of the minute, final state, jobs that came to it) of each minute in a span, oldest first."""
        kept = schema.outcomes.c
        query = select(kept.minute, kept.state, kept.n).where(kept.minute >= since).order_by(kept.minute, kept.state)
        if until is not None:
            query = query.where(kept.minute < until)
        with self._reading() as connection:
            return [(float(minute), State(state), int(n)) for minute, state, n in connection.execute(query)]

    def job(self, id: str) -> Row | None:
        """One job, or None."""
        with self._reading() as connection:
            values = connection.execute(select(*_JOB_COLUMNS).where(schema.jobs.c.id == id)).first()
        return None if values is None else columns.row_of(values)

    def root_of(self, row: Row) -> Row:
        """The job that an alias stands for; any other job itself."""
        if not row.is_alias or row.alias_group is None:
            return row
        with self._reading() as connection:
            id = connection.execute(_ROOT, {"id": row.alias_group}).scalar_one_or_none()
        found = None if id is None else self.job(id)
        return row if found is None else found

    def jobs(
        self,
        *,
        state: State | str | None = None,
        queue: str | None = None,
        name: str | None = None,
        search: str | None = None,
        limit: int = 50,
        before_id: str | None = None,
        recurring: str | None = None,
        parent: str | None = None,
        batch: str | None = None,
    ) -> list[Row]:
        """Jobs, the newest id first.

        Args:
            state, queue, name, recurring, parent, batch: only those equal; `name` is the job's.
            search: only those whose id begins with it, or whose name, tags or reason contain it.
            limit: at most so many.
            before_id: the last id of the page before.
        """
        jobs = schema.jobs.c
        equal = {
            jobs.state: None if state is None else State(state).value,
            jobs.queue: queue,
            jobs.job: name,
            jobs.recurring: recurring,
            jobs.parent: parent,
            jobs.batch: batch,
        }
        query = select(*_JOB_COLUMNS).where(*(column == value for column, value in equal.items() if value is not None))
        if search:
            begins = jobs.id.startswith(search, autoescape=True)
            within = [column.contains(search, autoescape=True) for column in (jobs.job, jobs.tags, jobs.reason)]
            query = query.where(or_(begins, *within))
        if before_id is not None:
            query = query.where(jobs.id < before_id)
        with self._reading() as connection:
            found = connection.execute(query.order_by(jobs.id.desc()).limit(limit)).all()
        return [columns.row_of(values) for values in found]

    def lines(self, id: str, limit: int | None = None) -> list[LogLineRow]:
        """What a job wrote while it ran, in order; with `limit` the last so many lines."""
        lines = schema.log_lines.c
        query = select(lines.at, lines.attempt, lines.text).where(lines.job_id == id)
        newest_first = query.order_by(lines.attempt.desc(), lines.at.desc(), lines.n.desc()).limit(limit)
        with self._reading() as connection:
            return [LogLineRow(*line) for line in connection.execute(newest_first)][::-1]

    def schedules(self) -> list[ScheduleRow]:
        """All recurring jobs, by name."""
        with self._reading() as connection:
            return [schedule_of(row) for row in connection.execute(SCHEDULES)]

    def workers(self) -> list[WorkerRow]:
        """All workers known, by host and slot."""
        with self._reading() as connection:
            return [worker_of(row) for row in connection.execute(WORKERS)]

    def dead_letters(self, limit: int = 100) -> list[DeadLetterRow]:
        """Dead letters, the oldest first."""
        with self._reading() as connection:
            return [dead_letter_of(row) for row in connection.execute(DEAD_LETTERS.limit(limit))]

    def newer_dead_letters(self, *, after: DeadLetterRow | None = None, limit: int) -> list[DeadLetterRow]:
        """Of dead letters those a newer version may have written, the oldest first, a page."""
        query = NEWER_DEAD_LETTERS.limit(limit)
        if after is not None:
            query = query.where(tuple_(schema.dead_letters.c.at, schema.dead_letters.c.id) > (after.at, after.id))
        with self._reading() as connection:
            return [dead_letter_of(row) for row in connection.execute(query)]

    def dead_letter_count(self) -> int:
        """How many dead letters there are."""
        with self._reading() as connection:
            return int(connection.execute(select(func.count()).select_from(schema.dead_letters)).scalar_one())

    def audit(self, limit: int = 100) -> list[AuditRow]:
        """The commands last applied, the newest first."""
        query = select(schema.audit).order_by(schema.audit.c.at.desc(), schema.audit.c.id.desc()).limit(limit)
        with self._reading() as connection:
            return [AuditRow(*row) for row in connection.execute(query)]

    def oldest(self, queue: str) -> Instant | None:
        """When the job of a queue that has waited longest for a worker was released; None: none waits."""
        with self._reading() as connection:
            return connection.execute(OLDEST, {"queue": queue}).scalar_one_or_none()

    def queues(self) -> dict[str, bool]:
        """Every known queue, and whether it is paused."""
        query = select(schema.queues.c.name, schema.queues.c.paused).order_by(schema.queues.c.name)
        with self._reading() as connection:
            return {name: bool(paused) for name, paused in connection.execute(query)}

    def batches(self, *, state: str | None = None, limit: int = 50, before: str | None = None) -> list[BatchRow]:
        """Batches, the newest id first.

        Args:
            state: awaiting, processing, or how they ended; None: all.
            limit: at most so many.
            before: the last id of the page before.
        """
        batches = schema.batches.c
        query = select(schema.batches).order_by(batches.id.desc()).limit(limit)
        if state is not None:
            query = query.where(batches.state == state)
        if before is not None:
            query = query.where(batches.id < before)
        with self._reading() as connection:
            return [BatchRow(**row._asdict()) for row in connection.execute(query)]

    def batch(self, id: str) -> BatchRow | None:
        """One batch, or None."""
        with self._reading() as connection:
            row = connection.execute(select(schema.batches).where(schema.batches.c.id == id)).first()
        return None if row is None else BatchRow(**row._asdict())

    def sub_batches(self, id: str) -> list[BatchRow]:
        """The batches made inside a batch, in the order of their ids."""
        batches = schema.batches.c
        query = select(schema.batches).where(batches.parent == id).order_by(batches.id)
        with self._reading() as connection:
            return [BatchRow(**row._asdict()) for row in connection.execute(query)]

    def limits(self, limit: int = 1_000) -> list[LimitRow]:
        """Limits that jobs use or wait for, and those a person has set; by key, at most so many."""
        query = select(schema.lines).where(schema.lines.c.kind.in_(SHOWN_LIMITS)).order_by("key").limit(limit)
        stages = [int(Stage.WAITS), int(Stage.TURN)]
        waiting: dict[str, int] = {}
        with self._reading() as connection:
            lines = connection.execute(query).all()
            keys = [line.key for line in lines]
            for start in range(0, len(keys), CHUNK):
                values = {"keys": keys[start : start + CHUNK], "stages": stages}
                waiting.update((key, int(n)) for key, n in connection.execute(_WAITING_IN, values))
        used = {line.key for line in lines if line.limit_code}
        return [
            LimitRow(
                line.key,
                line.limit_set if line.limit_set is not None else line.limit_code or None,
                line.taken,
                waiting.get(line.key, 0),
                is_set=line.limit_set is not None,
                per=line.span,
            )
            for line in lines
            if line.limit_code or line.key in waiting or not _is_used_otherwise(line.key, used)
        ]

    def dependencies(self, job_id: str) -> list[DependencyRow]:
        """What a job waits for, or has waited for in vain."""
        query = select(schema.dependencies).where(schema.dependencies.c.holder == job_id).order_by("kind", "target")
        with self._reading() as connection:
            rows: list[dict[str, Any]] = [row._asdict() for row in connection.execute(query)]
        return [DependencyRow(**row | dict[str, Any](unsatisfied=bool(row["unsatisfied"]))) for row in rows]

    def unknown_parents(
        self, *, since: LogTime, after: DependencyPlace, limit: int
    ) -> tuple[list[DependencyRow], DependencyPlace | None]:
        """(dependencies on a job or batch that is not known, the last one that was looked at if there may be more).

        Args:
            since: they have waited since before this. It is the coordinator's own log time: an id tells only what the
                clock of its producer showed.
            after: look behind this one.
            limit: look at so many.
        """
        values = {"since": since, "limit": limit} | dict(zip(("holder", "kind", "target"), after, strict=True))
        with self._reading() as connection:
            page = connection.execute(UNKNOWN_PARENTS, values).all()
        last = (page[-1].holder, page[-1].kind, page[-1].target) if len(page) == limit else None
        return [dependency_of(row) for row in page if row.is_unknown], last

    def subscriptions(self) -> list[SubscriptionRow]:
        """Which jobs events make, by event."""
        query = select(schema.subscriptions).order_by("event", "origin", "job")
        with self._reading() as connection:
            return [SubscriptionRow(*row) for row in connection.execute(query)]

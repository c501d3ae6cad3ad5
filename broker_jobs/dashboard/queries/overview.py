"""Reads the state of the system at one moment: counters, history, latencies and alerts."""

from __future__ import annotations

from typing import Literal, cast

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.alerts import FAILURES_SECONDS, SystemStatus, find_alerts
from broker_jobs.dashboard.programs import programs_of
from broker_jobs.dashboard.queries.query_context import QueryContext
from broker_jobs.dashboard.queries.system import SystemQueries
from broker_jobs.dashboard.views import Alert, History, HistoryPoint, Latencies, LiveCounts, Overview
from broker_jobs.errors import OptionError
from broker_jobs.messages.state import State
from broker_jobs.store import SearchQuery

SPANS = {"hour": (60, 60), "day": (3_600, 24), "week": (3_600, 168)}
"""Name -> seconds of an interval, and how many intervals."""
LATENCY_SECONDS = 3_600
ALERTS_CACHE_SECONDS = 2.0
"""Every page and every live stream reads the number of alerts."""


class OverviewQueries:
    """Queries about the whole system."""

    def __init__(self, context: QueryContext, system: SystemQueries) -> None:
        self._reader = context.reader
        self._clock = context.clock
        self._system = system
        self._cached_alerts: tuple[float, list[Alert]] | None = None

    def live_counts(self) -> LiveCounts:
        """The counters that open pages receive when something changes. Cheap."""
        return LiveCounts(
            serial=self._reader.meta().serial,
            at=as_datetime(self._clock.now()),
            counts=self._reader.statistics.counts(),
            ended={state.value: count for state, count in self._reader.statistics.ended().items()},
            alerts=len(self.alerts()),
        )

    def get(self) -> Overview:
        """The content of the overview page, without its history."""
        meta, now = self._reader.meta(), self._clock.now()
        latency = self._reader.statistics.latency(now - LATENCY_SECONDS, now)
        return Overview(
            at=as_datetime(now),
            counts=self._reader.statistics.counts(),
            retries=self._reader.statistics.retries(),
            recurring=self._reader.schedules.count(),
            workers=sum(not worker.silent for worker in self._system.workers(with_jobs=False)),
            queues=len(self._reader.queues.all()),
            dead_letters=self._reader.dead_letters.count(),
            alerts=self.alerts(),
            latencies=Latencies(
                wait_p50=latency.wait_p50,
                wait_p95=latency.wait_p95,
                run_p50=latency.run_p50,
                run_p95=latency.run_p95,
                jobs=latency.of,
            ),
            coordinator_behind_seconds=max(0.0, now - meta.last_tick_at) if meta.last_tick_at else None,
        )

    def history(self, span: str) -> History:
        """Ended jobs per interval: an hour by minutes, a day or week by hours.

        Raises:
            OptionError: there is no such span.
        """
        if span not in SPANS:
            raise OptionError(f"span must be one of {', '.join(SPANS)}, not {span!r}")
        step, count = SPANS[span]
        last = int(self._clock.now()) // step * step
        rows = self._reader.statistics.history(last - (count - 1) * step, last + step, step)
        points = [
            HistoryPoint(at=as_datetime(row.at), succeeded=row.succeeded, failed=row.failed, deleted=row.deleted)
            for row in rows
        ]
        return History(span=cast("Literal['hour', 'day', 'week']", span), step_seconds=float(step), points=points)

    def alerts(self) -> list[Alert]:
        """What is wrong now, errors first; up to two seconds old."""
        now = self._clock.monotonic()
        if self._cached_alerts is None or now - self._cached_alerts[0] > ALERTS_CACHE_SECONDS:
            self._cached_alerts = now, find_alerts(self._status())
        return self._cached_alerts[1]

    def _status(self) -> SystemStatus:
        now = self._clock.now()
        minute = int(now) // 60 * 60
        ended = self._reader.statistics.throughput(minute - FAILURES_SECONDS)
        first_due = self._reader.jobs.search(SearchQuery(states=(State.SCHEDULED,), sort="due", limit=1)).rows
        return SystemStatus(
            now=now,
            queues=self._system.queues(),
            workers=self._system.workers(with_jobs=False),  # alerts do not need the jobs, and reading them is slow
            components=self._system.components(),
            last_tick_at=self._reader.meta().last_tick_at or None,
            schedules=sum(not row.paused for row in self._reader.schedules.all()),
            dead_letters=self._reader.dead_letters.count(),
            overdue_since=first_due[0].due_at if first_due else None,
            succeeded=sum(n for _, state, n in ended if state is State.SUCCEEDED),
            failed=sum(n for _, state, n in ended if state is State.FAILED),
            programs=programs_of(self._reader, now),
        )

"""Looks up the state of the house at one moment: counters, graphs, latencies, and what is wrong."""

from __future__ import annotations

from typing import Any, Literal, cast

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.alerts import FAILURES_SECONDS, SystemStatus, alerts
from broker_jobs.dashboard.queries.system import SystemQueries
from broker_jobs.dashboard.views import Alert, ChangeView, Graph, Latencies, Overview, Point
from broker_jobs.errors import OptionError
from broker_jobs.messages.state import State
from broker_jobs.store import SearchQuery

SPANS = {"hour": (60, 60), "day": (3_600, 24), "week": (3_600, 168)}
"""Name -> seconds of a step, how many."""
LATENCY_SECONDS = 3_600
ALERTS_KEPT_SECONDS = 2.0
"""Every page asks how many there are, and so does everybody who watches."""


class OverviewQueries(SystemQueries):
    """What is asked about everything at once."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._alerts: tuple[float, list[Alert]] | None = None

    def pulse(self) -> ChangeView:
        """The little that open pages are told."""
        return ChangeView(
            serial=self._reader.meta().serial,
            at=as_datetime(self._clock.now()),
            counts=self._reader.counts(),
            ended={state.value: count for state, count in self._reader.ended().items()},
            alerts=len(self.alerts()),
        )

    def overview(self) -> Overview:
        """All of the first page but its graph."""
        meta, now = self._reader.meta(), self._clock.now()
        latency = self._reader.latency(now - LATENCY_SECONDS, now)
        return Overview(
            at=as_datetime(now),
            counts=self._reader.counts(),
            retries=self._reader.retries(),
            recurring=self._reader.schedule_count(),
            workers=sum(not worker.silent for worker in self._workers({})),
            queues=len(self._reader.queues()),
            dead_letters=self._reader.dead_letter_count(),
            alerts=self.alerts(),
            latencies=Latencies(
                wait_p50=latency.wait_p50,
                wait_p95=latency.wait_p95,
                run_p50=latency.run_p50,
                run_p95=latency.run_p95,
                of=latency.of,
            ),
            coordinator_behind_seconds=max(0.0, now - meta.last_tick_at) if meta.last_tick_at else None,
        )

    def graph(self, span: str) -> Graph:
        """Jobs that came to an end: hour (by minutes), day or week (by hours).

        Raises:
            OptionError: no such span.
        """
        if span not in SPANS:
            raise OptionError(f"span must be {', '.join(SPANS)}, not {span!r}")
        step, count = SPANS[span]
        last = int(self._clock.now()) // step * step
        rows = self._reader.history(last - (count - 1) * step, last + step, step)
        points = [
            Point(at=as_datetime(row.at), succeeded=row.succeeded, failed=row.failed, deleted=row.deleted)
            for row in rows
        ]
        return Graph(span=cast("Literal['hour', 'day', 'week']", span), step_seconds=float(step), points=points)

    def alerts(self) -> list[Alert]:
        """What is wrong now, the worst first; as it was two seconds ago at most."""
        moment = self._clock.monotonic()
        if self._alerts is None or moment - self._alerts[0] > ALERTS_KEPT_SECONDS:
            self._alerts = moment, alerts(self._store_access())
        return self._alerts[1]

    def _store_access(self) -> SystemStatus:
        now = self._clock.now()
        minute = int(now) // 60 * 60
        ended = self._reader.throughput(minute - FAILURES_SECONDS)
        first_due = self._reader.search(SearchQuery(states=(State.SCHEDULED,), sort="due", limit=1)).rows
        return SystemStatus(
            now=now,
            queues=self.queues(),
            workers=self._workers({}),  # what they run is no trouble, and dear to show
            components=self.components(),
            last_tick_at=self._reader.meta().last_tick_at or None,
            schedules=sum(not row.paused for row in self._reader.schedules()),
            dead_letters=self._reader.dead_letter_count(),
            overdue_since=first_due[0].due_at if first_due else None,
            succeeded=sum(n for _, state, n in ended if state is State.SUCCEEDED),
            failed=sum(n for _, state, n in ended if state is State.FAILED),
        )

"""Looks up the state of the house at one moment: counters, graphs, latencies, and what is wrong."""

from __future__ import annotations

from typing import Any, Literal, cast

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.lookup.house import HouseLookup
from broker_jobs.dashboard.lookup.troubles import FAILURES_SECONDS, House, troubles
from broker_jobs.dashboard.views import Graph, Latencies, Overview, Point, Pulse, Trouble
from broker_jobs.errors import OptionError
from broker_jobs.job.state import State
from broker_jobs.store import Search

SPANS = {"hour": (60, 60), "day": (3_600, 24), "week": (3_600, 168)}
"""Name -> seconds of a step, how many."""
LATENCY_SECONDS = 3_600
TROUBLES_KEPT_SECONDS = 2.0
"""Every page asks how many there are, and so does everybody who watches."""


class OverviewLookup(HouseLookup):
    """What is asked about everything at once."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._troubles: tuple[float, list[Trouble]] | None = None

    def pulse(self) -> Pulse:
        """The little that open pages are told."""
        return Pulse(
            serial=self._reader.meta().serial,
            at=as_datetime(self._clock.now()),
            counts=self._reader.counts(),
            ended={state.value: count for state, count in self._reader.ended().items()},
            troubles=len(self.troubles()),
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
            parked=self._reader.parked_count(),
            troubles=self.troubles(),
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

    def troubles(self) -> list[Trouble]:
        """What is wrong now, the worst first; as it was two seconds ago at most."""
        moment = self._clock.monotonic()
        if self._troubles is None or moment - self._troubles[0] > TROUBLES_KEPT_SECONDS:
            self._troubles = moment, troubles(self._house())
        return self._troubles[1]

    def _house(self) -> House:
        now = self._clock.now()
        minute = int(now) // 60 * 60
        ended = self._reader.throughput(minute - FAILURES_SECONDS)
        first_due = self._reader.search(Search(states=(State.SCHEDULED,), sort="due", limit=1)).rows
        return House(
            now=now,
            queues=self.queues(),
            workers=self._workers({}),  # what they run is no trouble, and dear to show
            parts=self.parts(),
            last_tick_at=self._reader.meta().last_tick_at or None,
            schedules=sum(not row.paused for row in self._reader.schedules()),
            parked=self._reader.parked_count(),
            overdue_since=first_due[0].due_at if first_due else None,
            succeeded=sum(n for _, state, n in ended if state is State.SUCCEEDED),
            failed=sum(n for _, state, n in ended if state is State.FAILED),
        )

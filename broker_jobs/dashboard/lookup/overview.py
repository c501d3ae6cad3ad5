"""Looks up the state of the house at one moment: counters, graphs, latencies, and what is wrong."""

from __future__ import annotations

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.lookup.house import HouseLookup
from broker_jobs.dashboard.views import Graph, Latencies, Overview, Point, Pulse
from broker_jobs.errors import OptionError
from broker_jobs.job.state import FINAL

SPANS = {"hour": (60, 60), "day": (3_600, 24), "week": (3_600, 168)}
"""Name -> seconds of a step, how many."""


class OverviewLookup(HouseLookup):
    """What is asked about everything at once."""

    def pulse(self) -> Pulse:
        """The little that open pages are told."""
        counts = self._reader.counts()
        return Pulse(
            serial=self._reader.meta().serial,
            at=as_datetime(self._clock.now()),
            counts=counts,
            ended={state.value: counts[state] for state in FINAL},
            troubles=0,
        )

    def overview(self) -> Overview:
        """All of the first page but its graph."""
        meta, now = self._reader.meta(), self._clock.now()
        return Overview(
            at=as_datetime(now),
            counts=self._reader.counts(),
            retries=0,
            recurring=len(self._reader.schedules()),
            workers=sum(not worker.silent for worker in self.workers()),
            queues=len(self._reader.queues()),
            parked=self._reader.parked_count(),
            troubles=[],
            latencies=Latencies(wait_p50=None, wait_p95=None, run_p50=None, run_p95=None, of=0),
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
        first = last - (count - 1) * step
        ends = {first + index * step: {state.value: 0 for state in FINAL} for index in range(count)}
        for minute, state, n in self._reader.throughput(first):
            if (start := int(minute) // step * step) in ends:
                ends[start][state.value] += n
        points = [Point(at=as_datetime(start), **of_states) for start, of_states in ends.items()]
        return Graph(span=span, step_seconds=float(step), points=points)  # type: ignore[arg-type]  # of SPANS

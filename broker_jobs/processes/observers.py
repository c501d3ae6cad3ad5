"""Maps the callbacks of worker and coordinator to metrics, so that neither of them imports metrics."""

from __future__ import annotations

from broker_jobs import metrics as m
from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker
from broker_jobs.broker.work_depth import WorkDepth
from broker_jobs.coordinator.observer import CoordinatorObserver

_BACKLOGS = {
    names.LOG: m.LOG_BACKLOG,
    names.COMMAND: m.COMMAND_BACKLOG,
    names.DUE: m.DUE_BACKLOG,
    names.DEAD_LETTERS: m.DEAD_LETTER_BACKLOG,
}
_OF_THE_ACTIVE_COORDINATOR = (
    *_BACKLOGS.values(),
    *(m.LOG_LAG, m.DELAY_BACKLOG, m.DEPTH, m.CONSUMERS, m.OLDEST, m.PAUSED, m.DEAD_LETTERS, m.OVERDUE, m.STORED),
    m.UNKNOWN_JOBS,
)


class WorkerMetrics:
    """Counts what a worker reports."""

    def __init__(self, metrics: m.Metrics) -> None:
        self._metrics = metrics
        self._ended = metrics.ended

    def received(self, queue: str, count: int) -> None:
        self._metrics.count(m.DELIVERIES, (queue,), count)

    def finished(  # noqa: PLR0917  # the signature of WorkerObserver
        self,
        outcome: str,
        job: str,
        queue: str,
        run_seconds: float,
        wait_seconds: float,
        attempt: int,
    ) -> None:
        self._ended((outcome, job, queue, run_seconds, wait_seconds, attempt))

    def returned(self, reason: str, queue: str) -> None:
        self._metrics.count(m.RETURNED, (reason, queue))

    def dead_letters(self, queue: str) -> None:
        self._metrics.count(m.DEAD_LETTERED, (queue,))

    def in_flight(self, running: int, held: int, unconfirmed: int) -> None:
        self._metrics.set(m.IN_FLIGHT, running)
        self._metrics.set(m.WAITING_DELIVERIES, held)
        self._metrics.set(m.UNCONFIRMED, unconfirmed)

    def blocked(self, seconds: float) -> None:
        self._metrics.set(m.LOOP_BLOCKED, seconds)

    def stalled(self, what: str, seconds: float) -> None:
        self._metrics.count(m.STALLS, (what,))
        self._metrics.count(m.STALL_SECONDS, (what,), seconds)


class CoordinatorMetrics(CoordinatorObserver):
    """Counts what a coordinator reports. Gauges of the active coordinator are cleared when it becomes standby."""

    def __init__(self, metrics: m.Metrics) -> None:
        self._metrics = metrics
        self._delays: dict[str, int] = {}
        metrics.set(m.ACTIVE, 0)

    def records(self, kind: str, count: int) -> None:
        self._metrics.count(m.RECORDS, (kind,), count)

    def committed(self, seconds: float, rows: int) -> None:
        self._metrics.observe(m.COMMIT, seconds)
        self._metrics.count(m.COMMITTED_ROWS, amount=rows)

    def released(self, count: int, late_seconds: list[float]) -> None:
        self._metrics.count(m.RELEASES, amount=count)
        for late in late_seconds:
            self._metrics.observe(m.RELEASE_LATENESS, late)

    def dead_letters(self, origin: str) -> None:
        self._metrics.count(m.DEAD_LETTERED, (origin,))

    def lag(self, seconds: float) -> None:
        self._metrics.set(m.LOG_LAG, seconds)

    def active(self, active: bool) -> None:
        self._metrics.set(m.ACTIVE, int(active))
        if not active:
            self._delays.clear()
            for family in _OF_THE_ACTIVE_COORDINATOR:
                self._metrics.replace(family, {})

    def depth(self, queue: str, ready: int, consumers: int) -> None:
        if (backlog := _BACKLOGS.get(queue)) is not None:
            self._metrics.set(backlog, ready)
        elif queue.startswith(f"{names.DELAY}."):
            self._delays[queue] = ready
            self._metrics.set(m.DELAY_BACKLOG, sum(self._delays.values()))

    def work_depth(self, queue: str, depth: WorkDepth) -> None:
        for priority, ready in depth.ready.items():
            self._metrics.set(m.DEPTH, ready, (queue, priority))
        self._metrics.set(m.CONSUMERS, depth.consumers, (queue,))

    def oldest(self, queue: str, seconds: float) -> None:
        self._metrics.set(m.OLDEST, seconds, (queue,))

    def paused(self, queue: str, paused: bool) -> None:
        self._metrics.set(m.PAUSED, int(paused), (queue,))

    def kept(self, dead_letters: int, overdue_seconds: float) -> None:
        self._metrics.set(m.DEAD_LETTERS, dead_letters)
        self._metrics.set(m.OVERDUE, overdue_seconds)

    def held(self, counts: dict[str, int]) -> None:
        self._metrics.replace(m.UNKNOWN_JOBS, {(queue,): float(count) for queue, count in counts.items()})

    def states(self, counts: dict[str, int]) -> None:
        self._metrics.replace(m.STORED, {(state,): float(count) for state, count in counts.items()})

    def noted(self, what: str) -> None:
        self._metrics.count(m.ANOMALIES, (what,))


def watch_broker(metrics: m.Metrics, broker: Broker, role: str) -> None:
    """Report at each scrape whether the broker is connected and blocked, and how often it has reconnected."""
    metrics.watch(m.CONNECTION_UP, lambda: {(role,): float(broker.connected)})
    metrics.watch(m.RECONNECTS, lambda: {(role,): float(broker.reconnects)})
    metrics.watch(m.BLOCKED, lambda: {(role,): float(broker.blocked)})

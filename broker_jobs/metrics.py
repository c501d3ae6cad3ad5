"""Counts what happens in a process and writes it as Prometheus reads it; the one room of prometheus_client.

The counting is ours and the writing is theirs. A job costs one append here, as five labelled prometheus_client metrics
would cost ten times as much; the appended are folded in at a scrape or when there are many. And a `Snapshot` is plain
numbers, so that the parent of several worker processes adds up what its children send: no files, and nothing to sweep
up after a kill -9.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PREFIX = "broker_jobs_"
FOLD_AT = 2_000
"""So many ended jobs are kept before they are folded in though nobody scrapes."""

Labels: TypeAlias = tuple[str, ...]
Ended: TypeAlias = tuple[str, str, str, float, float, int]
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, eq=False)
class MetricFamily:
    """One metric: its name without the prefix, what it says, and its labels. `bounds`: upper bounds of a histogram."""

    name: str
    kind: Kind
    says: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_BY_JOB = ("job_name", "queue")
"""Not `job`: Prometheus calls what it scrapes so, and would show ours as `exported_job`."""

JOBS = MetricFamily("jobs_total", "counter", "Attempts that ended, by outcome", ("job_name", "queue", "outcome"))
RUN = MetricFamily("run_seconds", "histogram", "How long the functions ran", _BY_JOB, _SECONDS)
WAIT = MetricFamily("wait_seconds", "histogram", "From due (or created) to start", _BY_JOB, _SECONDS)
ATTEMPTS = MetricFamily(
    "attempts", "histogram", "Number of the attempt that ended", _BY_JOB, (1, 2, 3, 5, 8, 11, 20, 50)
)
IN_FLIGHT = MetricFamily("in_flight", "gauge", "Functions running now")
WAITING_DELIVERIES = MetricFamily("waiting_deliveries", "gauge", "Deliveries taken and not started")
UNCONFIRMED = MetricFamily("unconfirmed", "gauge", "Events of jobs that wait for the broker's confirm")
TAKEN = MetricFamily("deliveries_total", "counter", "Deliveries taken from a queue", ("queue",))
RETURNED = MetricFamily("returned_total", "counter", "Deliveries given back without a run", ("reason", "queue"))
DEPTH = MetricFamily("queue_depth", "gauge", "Ready jobs in a queue of the broker", ("queue",))
OLDEST = MetricFamily("queue_oldest_seconds", "gauge", "How long the oldest enqueued job has waited", ("queue",))
LOG_BACKLOG = MetricFamily("log_backlog", "gauge", "Records the coordinator has not yet read")
LOG_LAG = MetricFamily("log_lag_seconds", "gauge", "How old the record was that the coordinator last read")
DELAY_BACKLOG = MetricFamily("delay_backlog", "gauge", "Messages in the delay queues of delay queues")
ACTIVE = MetricFamily("coordinator_active", "gauge", "1 in the coordinator that decides")
COMMAND_BACKLOG = MetricFamily("command_backlog", "gauge", "Commands and questions the coordinator has not yet read")
DUE_BACKLOG = MetricFamily("due_backlog", "gauge", "Due notices the coordinator has not yet heard")
DEAD_LETTER_BACKLOG = MetricFamily("dead_letter_backlog", "gauge", "Messages nobody could route, not yet looked at")
PAUSED = MetricFamily("queue_paused", "gauge", "1 for a queue that a person has paused", ("queue",))
DEAD_LETTERS = MetricFamily("dead_letters", "gauge", "Dead letters in the store, not yet replayed or deleted")
OVERDUE = MetricFamily(
    "recurring_overdue_seconds", "gauge", "For how long a recurring job has been due that no beat fired"
)
STORED = MetricFamily("stored_jobs", "gauge", "Jobs in the store", ("state",))
CONSUMERS = MetricFamily("queue_consumers", "gauge", "Workers that take from a queue", ("queue",))
RECORDS = MetricFamily("coordinator_records_total", "counter", "Records the coordinator has committed", ("kind",))
COMMIT = MetricFamily("coordinator_commit_seconds", "histogram", "How long a batch's transaction took", (), _SECONDS)
COMMITTED_ROWS = MetricFamily("coordinator_rows_total", "counter", "Rows the coordinator has written")
RELEASES = MetricFamily("releases_total", "counter", "Jobs released to their queue")
RELEASE_LATENESS = MetricFamily("release_lateness_seconds", "histogram", "From due to released", (), _SECONDS)
DEAD_LETTERED = MetricFamily(
    "dead_lettered_total", "counter", "Messages nobody could read, decide or route", ("origin",)
)
ANOMALIES = MetricFamily(
    "coordinator_anomalies_total", "counter", "Rare things: stale records, jobs started twice", ("what",)
)
BEAT_LATENESS = MetricFamily("beat_lateness_seconds", "histogram", "From a planned time to its fire", (), _SECONDS)
CONNECTION_UP = MetricFamily("connection_up", "gauge", "1 while connected to the broker")
RECONNECTS = MetricFamily("reconnects_total", "counter", "Connections lost and made again")
BLOCKED = MetricFamily("blocked", "gauge", "1 while an alarm of the broker holds back what is published")
PROCESSES = MetricFamily("worker_processes", "gauge", "Worker processes alive")
RESTARTS = MetricFamily("worker_restarts_total", "counter", "Worker processes that died and were started again")

FAMILIES = (
    *(JOBS, RUN, WAIT, ATTEMPTS, IN_FLIGHT, WAITING_DELIVERIES, UNCONFIRMED, TAKEN, RETURNED),
    *(
        DEPTH,
        CONSUMERS,
        PAUSED,
        OLDEST,
        LOG_BACKLOG,
        LOG_LAG,
        COMMAND_BACKLOG,
        DUE_BACKLOG,
        DEAD_LETTER_BACKLOG,
        DELAY_BACKLOG,
        DEAD_LETTERS,
        OVERDUE,
        STORED,
    ),
    *(ACTIVE, RECORDS, COMMIT, COMMITTED_ROWS, RELEASES, RELEASE_LATENESS, DEAD_LETTERED, ANOMALIES, BEAT_LATENESS),
    *(CONNECTION_UP, RECONNECTS, BLOCKED, PROCESSES, RESTARTS),
)
_BY_NAME = {family.name: family for family in FAMILIES}


@dataclass
class Snapshot:
    """Plain numbers of one process at one moment, by metric name and label values; it pickles, and it adds up.

    A histogram is the number of values in each bucket (the last one: above all bounds), then their sum.
    """

    values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Labels, list[float]]] = field(default_factory=dict)

    def add(self, other: Snapshot, *, gauges: bool = True) -> None:
        """Add another process's numbers to these. `gauges` False for one that is gone: what it counted stays true."""
        for name, series in other.values.items():
            if gauges or _BY_NAME[name].kind == "counter":
                mine = self.values.setdefault(name, {})
                for labels, value in series.items():
                    mine[labels] = mine.get(labels, 0.0) + value
        for name, buckets_of in other.histograms.items():
            ours = self.histograms.setdefault(name, {})
            for labels, buckets in buckets_of.items():
                ours[labels] = (
                    [a + b for a, b in zip(ours[labels], buckets, strict=True)] if labels in ours else [*buckets]
                )


class Metrics:
    """The counters of one process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted = Snapshot()
        self._ended: deque[Ended] = deque()
        self._watched: list[tuple[MetricFamily, Callable[[], Mapping[Labels, float]]]] = []

    def count(self, family: MetricFamily, labels: Labels = (), amount: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            series = self._counted.values.setdefault(family.name, {})
            series[labels] = series.get(labels, 0.0) + amount

    def set(self, family: MetricFamily, value: float, labels: Labels = ()) -> None:
        """Set a gauge."""
        with self._lock:
            self._counted.values.setdefault(family.name, {})[labels] = value

    def replace(self, family: MetricFamily, series: Mapping[Labels, float]) -> None:
        """Set a gauge with all its labels; those that are missing are gone."""
        with self._lock:
            self._counted.values[family.name] = dict(series)

    def observe(self, family: MetricFamily, value: float, labels: Labels = ()) -> None:
        """Add a value to a histogram."""
        with self._lock:
            self._put(family, value, labels)

    def watch(self, family: MetricFamily, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Read a gauge or counter at each snapshot. `read` must be quick; an error of it leaves the metric out."""
        with self._lock:
            self._watched.append((family, read))

    def ended(self, attempt: Ended) -> None:
        """An attempt ended: outcome, job, queue, seconds of run and of wait, number. The hot path: one append."""
        self._ended.append(attempt)
        if len(self._ended) >= FOLD_AT:
            self._fold()

    def snapshot(self) -> Snapshot:
        """The numbers of this moment; the caller owns them."""
        self._fold()
        taken = Snapshot()
        with self._lock:
            taken.add(self._counted)
            watched = list(self._watched)
        for family, read in watched:
            try:
                series = read()
            except Exception:  # noqa: BLE001, S112  # a gauge that cannot be read must not hide the others
                continue
            taken.values[family.name] = {**taken.values.get(family.name, {}), **series}
        return taken

    def _fold(self) -> None:
        ended = self._ended
        with self._lock:
            for _ in range(len(ended)):
                outcome, job, queue, run, wait, attempt = ended.popleft()
                counts = self._counted.values.setdefault(JOBS.name, {})
                labels = (job, queue, outcome)
                counts[labels] = counts.get(labels, 0.0) + 1
                by_job = (job, queue)
                self._put(RUN, run, by_job)
                self._put(WAIT, wait, by_job)
                self._put(ATTEMPTS, attempt, by_job)

    def _put(self, family: MetricFamily, value: float, labels: Labels) -> None:
        of_family = self._counted.histograms.setdefault(family.name, {})
        if (buckets := of_family.get(labels)) is None:
            buckets = of_family[labels] = [0.0] * (len(family.bounds) + 2)
        buckets[bisect_left(family.bounds, value)] += 1
        buckets[-1] += value


class _Written:
    """Hands a snapshot to prometheus_client's writer."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import (  # noqa: PLC0415  # see expose()
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for family in FAMILIES:
            name = PREFIX + family.name
            if family.kind == "histogram":
                histogram = HistogramMetricFamily(name, family.says, labels=family.labels)
                for labels, buckets in sorted(self._snapshot.histograms.get(family.name, {}).items()):
                    histogram.add_metric(labels, _cumulated(family.bounds, buckets[:-1]), buckets[-1])
                yield histogram
                continue
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(name, family.says, labels=family.labels)
            for labels, value in sorted(self._snapshot.values.get(family.name, {}).items()):
                metric.add_metric(labels, value)
            yield metric


def expose(snapshots: Iterable[Snapshot]) -> tuple[bytes, str]:
    """The body of /metrics for these snapshots added up, and its content type; with this process's CPU and memory."""
    # Counting needs nothing of it: only a process that is scraped pays for the writer.
    from prometheus_client import (  # noqa: PLC0415
        CONTENT_TYPE_LATEST,
        CollectorRegistry,
        ProcessCollector,
        generate_latest,
    )

    total = Snapshot()
    for snapshot in snapshots:
        total.add(snapshot)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Written(total))
    ProcessCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _cumulated(bounds: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    total = 0.0
    cumulated = []
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        cumulated.append(("+Inf" if bound == float("inf") else repr(float(bound)), total))
    return cumulated

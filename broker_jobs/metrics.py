"""Counts what happens in a process and serves it in the format of Prometheus.

Counting is done here, and only the output by prometheus_client: a job costs one append, where five labelled metrics of
prometheus_client would cost ten times as much. The appended attempts are added up at a scrape, or when there are many.
A `Snapshot` is plain numbers, so that the parent of several worker processes adds up those of its children. There are
no files, so nothing is left behind after a kill -9.

Over 300 lines: most of them are the list of all metrics.
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
ADD_UP_AT = 2_000
"""Ended attempts are added up when there are this many, even without a scrape."""

Labels: TypeAlias = tuple[str, ...]
Ended: TypeAlias = tuple[str, str, str, float, float, int]
"""Outcome, job, queue, seconds of run, seconds of wait, number of the attempt."""
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, eq=False)
class MetricFamily:
    """One metric: its name without the prefix, its help text and its labels. `bounds`: upper bounds of a histogram."""

    name: str
    kind: Kind
    help: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()
    over_processes: Callable[[Iterable[float]], float] = sum
    """How the gauges of several processes become one: of connections the worst is shown."""


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_BY_JOB = ("job_name", "queue")
"""Not `job`: Prometheus uses that label for the scraped target, and would rename ours to `exported_job`."""

JOBS = MetricFamily("jobs_total", "counter", "Ended attempts by outcome.", ("job_name", "queue", "outcome"))
RUN = MetricFamily("run_seconds", "histogram", "Run time of the functions.", _BY_JOB, _SECONDS)
WAIT = MetricFamily(
    "wait_seconds", "histogram", "Time from due (or created) to the start of the run.", _BY_JOB, _SECONDS
)
ATTEMPTS = MetricFamily(
    "attempts", "histogram", "Number of the attempt that ended.", _BY_JOB, (1, 2, 3, 5, 8, 11, 20, 50)
)
IN_FLIGHT = MetricFamily("in_flight", "gauge", "Jobs that run now.")
WAITING_DELIVERIES = MetricFamily("waiting_deliveries", "gauge", "Deliveries that are received and not started.")
LOOP_BLOCKED = MetricFamily(
    "event_loop_blocked_seconds", "gauge", "For how long a job has blocked the event loop; 0: it runs."
)
STALLS = MetricFamily(
    "stalls_total",
    "counter",
    "Stalls of more than a second: a job blocked the event loop, or held the GIL of the process.",
    ("what",),
)
STALL_SECONDS = MetricFamily("stall_seconds_total", "counter", "Time of the stalls that are over.", ("what",))
UNCONFIRMED = MetricFamily("unconfirmed", "gauge", "Events of jobs that RabbitMQ has not confirmed yet.")
DELIVERIES = MetricFamily("deliveries_total", "counter", "Deliveries received from a queue.", ("queue",))
RETURNED = MetricFamily("returned_total", "counter", "Deliveries returned without a run.", ("reason", "queue"))
DEPTH = MetricFamily("queue_depth", "gauge", "Ready jobs of a queue, by priority.", ("queue", "priority"))
OLDEST = MetricFamily("queue_oldest_seconds", "gauge", "Age of the oldest enqueued job of a queue.", ("queue",))
LOG_BACKLOG = MetricFamily("log_backlog", "gauge", "Messages in the log that the coordinator has not read.")
LOG_LAG = MetricFamily("log_lag_seconds", "gauge", "Age of the record that the coordinator read last.")
DELAY_BACKLOG = MetricFamily("delay_backlog", "gauge", "Messages in the delay queues.")
ACTIVE = MetricFamily("coordinator_active", "gauge", "1 in the active coordinator, 0 in a standby.")
COMMAND_BACKLOG = MetricFamily("command_backlog", "gauge", "Commands and queries that the coordinator has not read.")
DUE_BACKLOG = MetricFamily("due_backlog", "gauge", "Due notices that the coordinator has not read.")
DEAD_LETTER_BACKLOG = MetricFamily(
    "dead_letter_backlog", "gauge", "Unroutable messages that the coordinator has not read."
)
PAUSED = MetricFamily("queue_paused", "gauge", "1 for a paused queue.", ("queue",))
DEAD_LETTERS = MetricFamily("dead_letters", "gauge", "Dead letters in the store.")
UNKNOWN_JOBS = MetricFamily(
    "unknown_jobs", "gauge", "Jobs that are held, as no living worker of their queue knows them.", ("queue",)
)
OVERDUE = MetricFamily(
    "recurring_overdue_seconds", "gauge", "Time since the earliest due run of a recurring job that no beat has fired."
)
STORED = MetricFamily("stored_jobs", "gauge", "Jobs in the store.", ("state",))
CONSUMERS = MetricFamily("queue_consumers", "gauge", "Consumers of a queue; a worker has one or more.", ("queue",))
RECORDS = MetricFamily("coordinator_records_total", "counter", "Records that the coordinator has committed.", ("kind",))
COMMIT = MetricFamily(
    "coordinator_commit_seconds", "histogram", "Duration of the coordinator's transactions.", (), _SECONDS
)
COMMITTED_ROWS = MetricFamily("coordinator_rows_total", "counter", "Rows that the coordinator has written.")
RELEASES = MetricFamily("releases_total", "counter", "Jobs released to their work queue.")
RELEASE_LATENESS = MetricFamily(
    "release_lateness_seconds", "histogram", "Time from due to the release of a job.", (), _SECONDS
)
DEAD_LETTERED = MetricFamily(
    "dead_lettered_total", "counter", "Messages that could not be decoded, routed or applied.", ("origin",)
)
ANOMALIES = MetricFamily(
    "coordinator_anomalies_total", "counter", "Rare events, such as stale records and jobs started twice.", ("what",)
)
BEAT_LATENESS = MetricFamily(
    "beat_lateness_seconds", "histogram", "Time from a planned time to its fire command.", (), _SECONDS
)
_BY_ROLE = ("role",)
"""What a process runs: worker, coordinator, beat, dashboard, or several of them with a + between."""
CONNECTION_UP = MetricFamily(
    "connection_up", "gauge", "1 while connected to RabbitMQ; 0 if a process is not.", _BY_ROLE, over_processes=min
)
RECONNECTS = MetricFamily("reconnects_total", "counter", "Reconnects after a lost connection.", _BY_ROLE)
BLOCKED = MetricFamily(
    "blocked", "gauge", "1 while an alarm of RabbitMQ blocks publishing.", _BY_ROLE, over_processes=max
)
PROCESSES = MetricFamily("processes", "gauge", "Processes of the supervisor that are alive.", _BY_ROLE)
PROCESS_MEMORY = MetricFamily(
    "process_memory_bytes", "gauge", "Resident memory of the processes of the supervisor.", _BY_ROLE
)
PROCESS_CPU = MetricFamily(
    "process_cpu_seconds_total",
    "counter",
    "Processor time of the processes of the supervisor, also of those that have ended.",
    _BY_ROLE,
)
RECYCLED = MetricFamily(
    "process_recycled_total",
    "counter",
    "Processes that left, as by max_jobs or max_memory, and were replaced.",
    _BY_ROLE,
)
RESTARTS = MetricFamily("process_restarts_total", "counter", "Processes that died and were restarted.", _BY_ROLE)

FAMILIES = (
    *(JOBS, RUN, WAIT, ATTEMPTS, IN_FLIGHT, WAITING_DELIVERIES, UNCONFIRMED, DELIVERIES, RETURNED),
    *(LOOP_BLOCKED, STALLS, STALL_SECONDS),
    *(DEPTH, CONSUMERS, PAUSED, OLDEST, LOG_BACKLOG, LOG_LAG, COMMAND_BACKLOG, DUE_BACKLOG, DEAD_LETTER_BACKLOG),
    *(DELAY_BACKLOG, DEAD_LETTERS, UNKNOWN_JOBS, OVERDUE, STORED),
    *(ACTIVE, RECORDS, COMMIT, COMMITTED_ROWS, RELEASES, RELEASE_LATENESS, DEAD_LETTERED, ANOMALIES, BEAT_LATENESS),
    *(CONNECTION_UP, RECONNECTS, BLOCKED, PROCESSES, RESTARTS, RECYCLED, PROCESS_MEMORY, PROCESS_CPU),
)
_BY_NAME = {family.name: family for family in FAMILIES}


@dataclass
class Snapshot:
    """The numbers of one process at one moment, by metric name and label values. It can be pickled.

    A histogram is a list: the count of each bucket (the last one above all bounds), then the sum of the values.
    """

    values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Labels, list[float]]] = field(default_factory=dict)

    def add(self, other: Snapshot, *, gauges: bool = True) -> None:
        """Add the numbers of another process. `gauges` False: only its counters and histograms, as it has ended."""
        for name, series in other.values.items():
            if gauges or _BY_NAME[name].kind == "counter":
                own = self.values.setdefault(name, {})
                combine = _BY_NAME[name].over_processes
                for labels, value in series.items():
                    own[labels] = combine([own[labels], value]) if labels in own else value
        for name, buckets_of in other.histograms.items():
            totals = self.histograms.setdefault(name, {})
            for labels, buckets in buckets_of.items():
                totals[labels] = (
                    [a + b for a, b in zip(totals[labels], buckets, strict=True)] if labels in totals else [*buckets]
                )


class Metrics:
    """The metrics of one process. Thread-safe."""

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
        """Set all series of a gauge. Series that are missing from `series` are removed."""
        with self._lock:
            self._counted.values[family.name] = dict(series)

    def observe(self, family: MetricFamily, value: float, labels: Labels = ()) -> None:
        """Add a value to a histogram."""
        with self._lock:
            self._observe_locked(family, value, labels)

    def watch(self, family: MetricFamily, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Read a gauge or counter at each snapshot. `read` must be fast; if it raises, the metric is left out."""
        with self._lock:
            self._watched.append((family, read))

    def ended(self, attempt: Ended) -> None:
        """Count an ended attempt. This is the hot path: one append."""
        self._ended.append(attempt)
        if len(self._ended) >= ADD_UP_AT:
            self._add_up()

    def snapshot(self) -> Snapshot:
        """Return the current numbers. The caller owns the snapshot."""
        self._add_up()
        snapshot = Snapshot()
        with self._lock:
            snapshot.add(self._counted)
            watched = list(self._watched)
        for family, read in watched:
            try:
                series = read()
            except Exception:  # noqa: BLE001, S112  # one gauge that fails must not remove the others
                continue
            snapshot.values[family.name] = {**snapshot.values.get(family.name, {}), **series}
        return snapshot

    def _add_up(self) -> None:
        ended = self._ended
        with self._lock:
            for _ in range(len(ended)):
                outcome, job, queue, run, wait, attempt = ended.popleft()
                counts = self._counted.values.setdefault(JOBS.name, {})
                labels = (job, queue, outcome)
                counts[labels] = counts.get(labels, 0.0) + 1
                by_job = (job, queue)
                self._observe_locked(RUN, run, by_job)
                self._observe_locked(WAIT, wait, by_job)
                self._observe_locked(ATTEMPTS, attempt, by_job)

    def _observe_locked(self, family: MetricFamily, value: float, labels: Labels) -> None:
        of_family = self._counted.histograms.setdefault(family.name, {})
        if (buckets := of_family.get(labels)) is None:
            buckets = of_family[labels] = [0.0] * (len(family.bounds) + 2)
        buckets[bisect_left(family.bounds, value)] += 1
        buckets[-1] += value


class _SnapshotCollector:
    """Turns a snapshot into the metrics of prometheus_client."""

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
                histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
                for labels, buckets in sorted(self._snapshot.histograms.get(family.name, {}).items()):
                    histogram.add_metric(labels, _cumulative(family.bounds, buckets[:-1]), buckets[-1])
                yield histogram
                continue
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(name, family.help, labels=family.labels)
            for labels, value in sorted(self._snapshot.values.get(family.name, {}).items()):
                metric.add_metric(labels, value)
            yield metric


def expose(snapshots: Iterable[Snapshot]) -> tuple[bytes, str]:
    """Return the body of /metrics and its content type: the sum of the snapshots, and this process's CPU and memory."""
    # Imported here, so that only a process that is scraped pays for the import.
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
    registry.register(_SnapshotCollector(total))
    ProcessCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _cumulative(bounds: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    total = 0.0
    cumulative = []
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        total += count
        cumulative.append(("+Inf" if bound == float("inf") else repr(float(bound)), total))
    return cumulative

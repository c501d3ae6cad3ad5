"""What is counted is what Prometheus reads, over one process or several, and costs a job next to nothing."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from broker_jobs import metrics as m
from broker_jobs.broker.work_depth import WorkDepth
from broker_jobs.processes.observers import CoordinatorMetrics, WorkerMetrics


def read(*snapshots: m.Snapshot) -> dict[str, float]:
    """Series -> value, as a scraper understands what we expose."""
    body, content_type = m.expose(snapshots)
    assert content_type.startswith("text/plain")
    return {
        sample.name + "".join(f"|{label}={value}" for label, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_an_ended_attempt_is_counted_timed_and_numbered() -> None:
    metrics = m.Metrics()
    WorkerMetrics(metrics).finished("succeeded", "mail", "default", 0.02, 4.0, 3)
    seen = read(metrics.snapshot())
    of = "|job_name=mail|queue=default"
    assert seen["broker_jobs_jobs_total|job_name=mail|outcome=succeeded|queue=default"] == 1
    assert seen[f"broker_jobs_run_seconds_sum{of}"] == 0.02
    assert seen["broker_jobs_run_seconds_bucket|job_name=mail|le=0.01|queue=default"] == 0
    assert seen["broker_jobs_run_seconds_bucket|job_name=mail|le=0.025|queue=default"] == 1
    assert seen["broker_jobs_run_seconds_bucket|job_name=mail|le=+Inf|queue=default"] == 1
    assert seen[f"broker_jobs_wait_seconds_sum{of}"] == 4.0
    assert seen[f"broker_jobs_attempts_sum{of}"] == 3


def test_a_value_on_a_bound_is_in_that_bucket() -> None:
    metrics = m.Metrics()
    metrics.observe(m.COMMIT, 0.01)
    metrics.observe(m.COMMIT, 4000.0)
    seen = read(metrics.snapshot())
    assert seen["broker_jobs_coordinator_commit_seconds_bucket|le=0.01"] == 1
    assert seen["broker_jobs_coordinator_commit_seconds_bucket|le=3600.0"] == 1
    assert seen["broker_jobs_coordinator_commit_seconds_bucket|le=+Inf"] == 2


def test_processes_add_up_and_one_that_is_gone_leaves_its_counters_but_not_its_gauges() -> None:
    alive, gone = m.Metrics(), m.Metrics()
    for metrics in (alive, gone):
        counts = WorkerMetrics(metrics)
        counts.finished("raised", "mail", "default", 1.0, 1.0, 1)
        counts.in_flight(3, 0, 0)
    left = m.Snapshot()
    left.add(pickle.loads(pickle.dumps(gone.snapshot())), gauges=False)
    seen = read(alive.snapshot(), left)
    assert seen["broker_jobs_jobs_total|job_name=mail|outcome=raised|queue=default"] == 2
    assert seen["broker_jobs_run_seconds_count|job_name=mail|queue=default"] == 2
    assert seen["broker_jobs_in_flight"] == 3


def test_a_snapshot_does_not_change_afterwards() -> None:
    metrics = m.Metrics()
    metrics.observe(m.COMMIT, 1.0)
    metrics.count(m.RELEASES)
    before = metrics.snapshot()
    metrics.observe(m.COMMIT, 1.0)
    metrics.count(m.RELEASES)
    assert read(before)["broker_jobs_releases_total"] == 1
    assert read(before)["broker_jobs_coordinator_commit_seconds_count"] == 1


def test_a_gauge_that_cannot_be_read_does_not_hide_the_others() -> None:
    metrics = m.Metrics()
    metrics.watch(m.BLOCKED, lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    metrics.watch(m.CONNECTION_UP, lambda: {("worker",): 1.0})
    seen = read(metrics.snapshot())
    assert seen["broker_jobs_connection_up|role=worker"] == 1
    assert "broker_jobs_blocked" not in seen


def test_a_coordinator_that_stands_by_shows_no_depths() -> None:
    metrics = m.Metrics()
    counts = CoordinatorMetrics(metrics)
    counts.active(True)
    counts.work_depth("mail", WorkDepth({"high": 2, "normal": 7, "low": 0}, 2))
    counts.work_depth("sms", WorkDepth({"high": 0, "normal": 1, "low": 0}, 0))
    counts.depth("jobs.v1.log", 9, 1)
    counts.depth("jobs.v1.delay.01", 3, 0)
    counts.depth("jobs.v1.delay.02", 4, 0)
    seen = read(metrics.snapshot())
    assert seen["broker_jobs_queue_depth|priority=normal|queue=mail"] == 7
    assert seen["broker_jobs_queue_depth|priority=high|queue=mail"] == 2
    assert seen["broker_jobs_queue_consumers|queue=mail"] == 2
    assert seen["broker_jobs_queue_depth|priority=normal|queue=sms"] == 1
    assert seen["broker_jobs_log_backlog"] == 9
    assert seen["broker_jobs_delay_backlog"] == 7
    counts.active(False)
    seen = read(metrics.snapshot())
    assert seen["broker_jobs_coordinator_active"] == 0
    assert not [series for series in seen if "depth" in series or "backlog" in series]


def test_names_follow_the_conventions() -> None:
    for family in m.FAMILIES:
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert "job" not in family.labels, "Prometheus' own label"


def test_nothing_is_lost_between_threads() -> None:
    metrics = m.Metrics()
    counts = WorkerMetrics(metrics)

    def work() -> None:
        for _ in range(5_000):
            counts.finished("succeeded", "mail", "default", 0.1, 0.1, 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.snapshot()
    assert read(metrics.snapshot())["broker_jobs_jobs_total|job_name=mail|outcome=succeeded|queue=default"] == 20_000


def test_an_ended_attempt_costs_a_fraction_of_labelled_metrics() -> None:
    # In ratio, as tests share their machine; alone it is 1 µs with the folding in.
    registry = CollectorRegistry()
    theirs = [Histogram(name, name, ("job_name", "queue"), registry=registry) for name in ("run", "wait", "attempts")]
    counts = WorkerMetrics(m.Metrics())

    def ours_once() -> None:
        counts.finished("succeeded", "mail", "default", 0.0004, 0.02, 1)

    def theirs_once() -> None:
        for histogram in theirs:
            histogram.labels("mail", "default").observe(0.02)

    assert cpu_seconds(ours_once) < cpu_seconds(theirs_once) / 2


def cpu_seconds(call: Callable[[], None]) -> float:
    """The least of several measurements of 5,000 calls."""
    best = float("inf")
    for _ in range(5):
        started = time.thread_time()
        for _ in range(5_000):
            call()
        best = min(best, time.thread_time() - started)
    return best


@given(st.lists(st.lists(st.floats(0, 5000), max_size=20), max_size=4))
def test_added_histograms_are_the_histogram_of_all_values(processes: list[list[float]]) -> None:
    together, apart = m.Metrics(), []
    for values in processes:
        one = m.Metrics()
        for value in values:
            one.observe(m.BEAT_LATENESS, value)
            together.observe(m.BEAT_LATENESS, value)
        apart.append(one.snapshot())
    added = {series: value for series, value in read(*apart).items() if "lateness" in series and "_sum" not in series}
    whole = {
        series: value
        for series, value in read(together.snapshot()).items()
        if "lateness" in series and "_sum" not in series
    }
    assert added == whole

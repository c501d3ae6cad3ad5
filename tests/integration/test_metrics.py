"""What the processes count on a real RabbitMQ: depths, backlogs, commits, lateness, outages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs
from broker_jobs import metrics as m
from broker_jobs.broker import names
from broker_jobs.broker.factory import broker_for
from broker_jobs.processes.program import Program
from broker_jobs.settings import Settings
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


class Parts:
    """Programs on one virtual host; they end with the test."""

    def __init__(self, vhost: Vhost, folder: Path) -> None:
        self.settings = Settings(url=vhost.url, store=f"sqlite:///{folder / 'store.db'}")
        self._programs: list[Program] = []

    def start(self, jobs: BrokerJobs | None, *roles: str) -> Program:
        broker = broker_for(self.settings, "metrics test")
        program = Program(None if jobs is None else jobs.registry, self.settings, broker, roles=roles)
        self._programs.append(program)
        program.start()
        return program

    def end(self) -> None:
        for program in reversed(self._programs):
            program.stop(0)
            program.broker.stop()


@pytest.fixture
def parts(vhost: Vhost, tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(vhost, tmp_path)
    yield parts
    parts.end()


@pytest.fixture
def jobs(vhost: Vhost) -> Iterator[BrokerJobs]:
    jobs = BrokerJobs(vhost.url)
    jobs.job(name="double")(double)
    yield jobs
    jobs.stop()


def double(n: int) -> int:
    return 2 * n


def value(program: Program, family: m.MetricFamily, *labels: str) -> float | None:
    return program.metrics.snapshot().values.get(family.name, {}).get(labels)


def count(program: Program, family: m.MetricFamily, *labels: str) -> float:
    return sum(program.metrics.snapshot().histograms.get(family.name, {}).get(labels, [0.0])[:-1])


def test_a_coordinator_shows_depths_commits_and_lateness(parts: Parts, jobs: BrokerJobs) -> None:
    coordinator = parts.start(None, "coordinator")
    eventually(lambda: value(coordinator, m.ACTIVE) == 1, 20, "active")
    double_job = jobs.remote("double")
    for number in range(3):
        double_job.enqueue(number)
    eventually(lambda: value(coordinator, m.DEPTH, "default", "normal") == 3, 30, "three jobs wait in default")
    assert value(coordinator, m.CONSUMERS, "default") == 0
    eventually(lambda: (value(coordinator, m.OLDEST, "default") or 0) > 0, 20, "and the oldest is seen to wait")
    eventually(lambda: value(coordinator, m.STORED, "enqueued") == 3, 20, "they are in the store")
    assert value(coordinator, m.LOG_BACKLOG) == 0
    assert count(coordinator, m.COMMIT) > 0

    worker = parts.start(jobs, "worker")
    late = double_job.schedule(timedelta(seconds=0.3), 4)
    assert late.result(timeout=120) == 8
    eventually(lambda: value(coordinator, m.DEPTH, "default", "normal") == 0, 30, "nothing waits")
    eventually(lambda: value(worker, m.JOBS, "double", "default", "succeeded") == 4, 20, "four jobs counted")
    assert count(worker, m.RUN, "double", "default") == 4
    assert count(coordinator, m.RELEASE_LATENESS) >= 1
    assert (value(coordinator, m.RELEASES) or 0) >= 1


def test_the_second_coordinator_is_not_active(parts: Parts) -> None:
    first = parts.start(None, "coordinator")
    eventually(lambda: value(first, m.ACTIVE) == 1, 20, "active")
    second = parts.start(None, "coordinator")
    eventually(lambda: value(second, m.CONNECTION_UP, "coordinator") == 1, 20, "connected")
    assert value(second, m.ACTIVE) == 0
    first.stop()
    eventually(lambda: value(second, m.ACTIVE) == 1, 20, "it takes over")
    assert first.metrics.snapshot().values[m.ACTIVE.name][()] in {0, 1}


def test_an_outage_is_seen_and_its_end(parts: Parts, jobs: BrokerJobs, vhost: Vhost) -> None:
    worker = parts.start(jobs, "worker")
    assert value(worker, m.CONNECTION_UP, "worker") == 1
    eventually(vhost.close_connections, 20, "connections to close")
    eventually(lambda: value(worker, m.CONNECTION_UP, "worker") == 0, 20, "seen down", poll=0.001)
    assert not worker.health().ok
    eventually(lambda: value(worker, m.CONNECTION_UP, "worker") == 1, 30, "up again")
    assert value(worker, m.RECONNECTS, "worker") == 2, "one to publish, one to consume"
    assert worker.health().ok


def test_an_alarm_is_seen(parts: Parts, jobs: BrokerJobs, vhost: Vhost) -> None:
    worker = parts.start(jobs, "worker")
    assert value(worker, m.BLOCKED, "worker") == 0
    vhost.broker.alarm(True)
    try:
        # RabbitMQ tells a connection only when it publishes; heartbeats of the worker do.
        eventually(lambda: value(worker, m.BLOCKED, "worker") == 1, 30, "blocked")
    finally:
        vhost.broker.alarm(False)
    eventually(lambda: value(worker, m.BLOCKED, "worker") == 0, 30, "free again")


def test_what_a_person_has_paused_and_what_no_beat_fires_is_seen(parts: Parts, jobs: BrokerJobs, vhost: Vhost) -> None:
    coordinator = parts.start(None, "coordinator")
    jobs.remote("double").enqueue(1)
    eventually(lambda: value(coordinator, m.PAUSED, "default") == 0, 30, "the queue is seen, not paused")
    jobs.queues.pause("default")
    vhost.publish_raw(names.DEAD_LETTERS, "x", b"not an envelope")
    jobs.recurring.put("each-second", "* * * * * *", jobs.remote("double").bind(1))
    eventually(lambda: value(coordinator, m.PAUSED, "default") == 1, 30, "paused")
    eventually(lambda: value(coordinator, m.DEAD_LETTERS) == 1, 30, "dead")
    eventually(lambda: (value(coordinator, m.OVERDUE) or 0) > 1, 30, "no beat fires it")
    parts.start(jobs, "beat")
    eventually(lambda: (value(coordinator, m.OVERDUE) or 0) < 3, 30, "a beat fires it")

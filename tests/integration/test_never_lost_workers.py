"""What becomes of jobs when their workers die, are cut off, or start alone."""

import random
import time

import pytest

from broker_jobs.messages.state import State
from tests.support.system import System
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq

TOLD_SECONDS = 0.5
"""A run that ended so long before a kill has told its outcome."""


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_only_what_it_was_running_runs_twice(system: System) -> None:
    system.here("coordinator")
    victim = system.start("worker", concurrency=8, slot="1")
    ids = system.enqueue(200, 0.05)
    with system.busy(ids, backlog=400):
        eventually(lambda: len(system.ended()) > random.randrange(20, 100), 30)
        survivor = system.start("worker", concurrency=8, slot="2")
        eventually(lambda: {mark.pid for mark in system.marks("started")} >= {survivor.pid}, 60)
        time.sleep(random.random() / 2)
        killed_at = time.time()
        victim.kill9()
        assert len(system.ended()) < len(ids) - 20, "not under load"
    system.runs_settled(dead=victim.pid)
    with system.log_time_passes():
        system.succeeded(ids)
    ended_at = {mark.id: mark.at for mark in system.marks("ended") if mark.pid == victim.pid}
    running = {
        mark.id
        for mark in system.marks("started")
        if mark.pid == victim.pid and ended_at.get(mark.id, killed_at) > killed_at - TOLD_SECONDS
    }
    assert system.ended() == set(ids)
    assert {id for id, times in system.starts().items() if times > 1} <= running
    assert max(system.starts().values()) <= 2
    system.nothing_broken()


def test_a_long_run_is_started_again_once_when_its_worker_is_killed(system: System) -> None:
    system.here("coordinator")
    first = system.start("worker", concurrency=2, slot="1", handover_after=0.3)
    receipt = system.hold("long")
    eventually(lambda: system.row(receipt.id).owned and system.vhost.queue("jobs.v1.work.default")["messages"] == 0, 30)
    first.kill9()
    system.here("worker", concurrency=2, handover_after=0.3, slot="2")
    system.tick(20)
    time.sleep(0.5)
    assert system.row(receipt.id).owner is not None, "a lease is 30 s of log time"
    with system.log_time_passes():
        eventually(lambda: system.starts()[receipt.id] == 2, 20)
    system.go("long")
    row = system.is_in(receipt.id, State.SUCCEEDED)
    assert (system.starts()[receipt.id], row.crashes, row.epoch) == (2, 1, 2)
    system.nothing_broken()


def test_a_long_run_is_not_started_again_when_connections_blip(system: System) -> None:
    system.here("coordinator")
    system.here("worker", concurrency=2, handover_after=0.3)
    before = system.hold("before")
    eventually(lambda: system.row(before.id).owned, 20)
    during = system.hold("during", queue="default")
    eventually(lambda: system.starts()[during.id] == 1, 20)
    assert system.vhost.close_connections() > 0
    with system.log_time_passes():
        eventually(lambda: system.store.reader.meta().log_time > 100, 30)
    system.go("before")
    system.go("during")
    system.succeeded([before.id, during.id])
    assert system.starts() == {before.id: 1, during.id: 1}
    system.nothing_broken()


def test_a_job_that_takes_its_worker_along_three_times_is_failed_and_its_neighbours_run(system: System) -> None:
    system.here("coordinator")
    ids = system.enqueue(5, 0.02)
    poison = system.jobs.crash.enqueue()
    ids += system.enqueue(30, 0.02)
    deaths = 0
    with system.log_time_passes():
        while system.states([poison.id]) != {"failed": 1}:
            worker = system.start("worker", concurrency=4, slot="1")
            process = worker.process
            while process.poll() is None and system.states([poison.id]) != {"failed": 1}:
                time.sleep(0.05)
            deaths += process.poll() == 1
            assert deaths <= 4
        system.succeeded(ids)
    row = system.row(poison.id)
    assert "its worker died 3 times while running it" in row.reason
    assert row.crashes == 3
    assert all(row.state is State.SUCCEEDED for row in system.rows(ids).values())
    system.nothing_broken()


def test_workers_that_start_without_a_coordinator_work_after_five_seconds_and_say_so(system: System) -> None:
    worker = system.start("worker", concurrency=4)
    ids = system.enqueue(50)
    eventually(lambda: system.ended() == set(ids), 20)
    worker.said("no coordinator answered in 5 s: jobs run and are reported")
    assert system.rows(ids) == {}
    system.here("coordinator")
    system.succeeded(ids)
    assert set(system.starts().values()) == {1}
    worker.leave()
    worker.left()
    system.nothing_broken()

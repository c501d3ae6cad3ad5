"""What becomes of jobs when their workers die, are cut off, or start alone."""

import random
import time

import pytest

from broker_jobs.messages.state import State
from tests.support.system import House
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq

TOLD_SECONDS = 0.5
"""A run that ended so long before a kill has told its outcome."""


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_only_what_it_was_running_runs_twice(house: House) -> None:
    house.here("coordinator")
    victim = house.start("worker", concurrency=8, slot="1")
    ids = house.enqueue(200, 0.05)
    with house.busy(ids, backlog=400):
        eventually(lambda: len(house.ended()) > random.randrange(20, 100), 30)
        survivor = house.start("worker", concurrency=8, slot="2")
        eventually(lambda: {mark.pid for mark in house.marks("started")} >= {survivor.pid}, 60)
        time.sleep(random.random() / 2)
        killed_at = time.time()
        victim.kill9()
        assert len(house.ended()) < len(ids) - 20, "not under load"
    house.runs_settled(dead=victim.pid)
    with house.log_time_passes():
        house.succeeded(ids)
    ended_at = {mark.id: mark.at for mark in house.marks("ended") if mark.pid == victim.pid}
    running = {
        mark.id
        for mark in house.marks("started")
        if mark.pid == victim.pid and ended_at.get(mark.id, killed_at) > killed_at - TOLD_SECONDS
    }
    assert house.ended() == set(ids)
    assert {id for id, times in house.starts().items() if times > 1} <= running
    assert max(house.starts().values()) <= 2
    house.nothing_broken()


def test_a_long_run_is_started_again_once_when_its_worker_is_killed(house: House) -> None:
    house.here("coordinator")
    first = house.start("worker", concurrency=2, slot="1", handover_after=0.3)
    receipt = house.hold("long")
    eventually(lambda: house.row(receipt.id).owned and house.vhost.queue("jobs.v1.work.default")["messages"] == 0, 30)
    first.kill9()
    house.here("worker", concurrency=2, handover_after=0.3, slot="2")
    house.tick(20)
    time.sleep(0.5)
    assert house.row(receipt.id).owner is not None, "a lease is 30 s of log time"
    with house.log_time_passes():
        eventually(lambda: house.starts()[receipt.id] == 2, 20)
    house.go("long")
    row = house.is_in(receipt.id, State.SUCCEEDED)
    assert (house.starts()[receipt.id], row.crashes, row.epoch) == (2, 1, 2)
    house.nothing_broken()


def test_a_long_run_is_not_started_again_when_connections_blip(house: House) -> None:
    house.here("coordinator")
    house.here("worker", concurrency=2, handover_after=0.3)
    before = house.hold("before")
    eventually(lambda: house.row(before.id).owned, 20)
    during = house.hold("during", queue="default")
    eventually(lambda: house.starts()[during.id] == 1, 20)
    assert house.vhost.close_connections() > 0
    with house.log_time_passes():
        eventually(lambda: house.store.reader.meta().log_time > 100, 30)
    house.go("before")
    house.go("during")
    house.succeeded([before.id, during.id])
    assert house.starts() == {before.id: 1, during.id: 1}
    house.nothing_broken()


def test_a_job_that_takes_its_worker_along_three_times_is_failed_and_its_neighbours_run(house: House) -> None:
    house.here("coordinator")
    ids = house.enqueue(5, 0.02)
    poison = house.jobs.crash.enqueue()
    ids += house.enqueue(30, 0.02)
    deaths = 0
    with house.log_time_passes():
        while house.states([poison.id]) != {"failed": 1}:
            worker = house.start("worker", concurrency=4, slot="1")
            process = worker.process
            while process.poll() is None and house.states([poison.id]) != {"failed": 1}:
                time.sleep(0.05)
            deaths += process.poll() == 1
            assert deaths <= 4
        house.succeeded(ids)
    row = house.row(poison.id)
    assert "its worker died 3 times while running it" in row.reason
    assert row.crashes == 3
    assert all(row.state is State.SUCCEEDED for row in house.rows(ids).values())
    house.nothing_broken()


def test_workers_that_start_without_a_coordinator_work_after_five_seconds_and_say_so(house: House) -> None:
    worker = house.start("worker", concurrency=4)
    ids = house.enqueue(50)
    eventually(lambda: house.ended() == set(ids), 20)
    worker.said("no coordinator answered in 5 s: jobs run and are reported")
    assert house.rows(ids) == {}
    house.here("coordinator")
    house.succeeded(ids)
    assert set(house.starts().values()) == {1}
    worker.leave()
    worker.left()
    house.nothing_broken()

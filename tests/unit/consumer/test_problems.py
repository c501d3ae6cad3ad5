"""A worker says why it takes no jobs: it could not begin, a thread has died or is stuck, a queue cannot be consumed."""

from __future__ import annotations

import threading

import pytest

from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.topology import fixed_topology, work_topology
from broker_jobs.consumer.event_loop import EventLoop
from broker_jobs.consumer.maintenance import MaintenanceThread
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.worker import Worker
from broker_jobs.function.registry import Registry
from broker_jobs.settings import Settings
from tests.support.wait import eventually


def _nothing() -> None:
    pass


def test_a_maintenance_thread_that_looks_has_no_problem() -> None:
    looked = threading.Event()
    maintenance = MaintenanceThread(_nothing, looked.set)
    assert maintenance.problem() is None, "not started"
    maintenance.start()
    assert looked.wait(30)
    assert maintenance.problem() is None
    maintenance.stop(5)
    assert maintenance.problem() is None, "it was told to stop"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_maintenance_thread_that_has_died_is_a_problem() -> None:
    def end() -> None:
        raise SystemExit

    maintenance = MaintenanceThread(_nothing, end)
    maintenance.start()
    eventually(lambda: "has died" in (maintenance.problem() or ""), 30, "dead")


def test_a_look_that_is_stuck_is_a_problem_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_jobs.consumer.maintenance.SILENT_SECONDS", 0.5)
    go_on = threading.Event()

    def stand() -> None:
        go_on.wait(60)

    maintenance = MaintenanceThread(_nothing, stand)
    maintenance.start()
    eventually(lambda: "has not looked" in (maintenance.problem() or ""), 30, "stuck")
    go_on.set()
    eventually(lambda: maintenance.problem() is None, 30, "it looks again")
    maintenance.stop(5)


def test_a_worker_that_cannot_begin_says_why_until_it_can() -> None:
    failures = [OSError("no more files"), None]

    def begin() -> None:
        if (failure := failures[0]) is not None:
            raise failure

    maintenance = MaintenanceThread(begin, _nothing)
    maintenance.start()
    eventually(lambda: maintenance.problem() == "it could not begin to consume: OSError: no more files", 30, "said")
    failures.pop(0)
    eventually(lambda: maintenance.problem() is None, 30, "begun")
    maintenance.stop(5)


async def _work(received: ReceivedDelivery) -> None:
    del received


def test_an_event_loop_whose_thread_has_died_is_a_problem() -> None:
    loop = EventLoop(_work, lambda _: None)
    assert loop.problem() is None, "it has not been needed"
    loop.run([])
    assert loop.problem() is None
    assert loop.stop(10)
    assert loop.problem() is None, "it was told to stop"
    loop._stopping = loop._over = False
    assert "has died" in (loop.problem() or "")


def test_a_worker_whose_queue_is_missing_says_so_until_it_is_declared() -> None:
    broker = MemoryBroker()
    broker.start()
    broker.apply(fixed_topology())
    worker = Worker(Registry(), broker, queues=["later"], concurrency=1, settings=Settings())
    assert worker.problems() == [], "not started"
    worker._control.answered.set()
    worker.start()
    try:
        missing = "queue jobs.v1.work.later:high does not exist; declare it"
        eventually(lambda: worker.problems() == [missing], 30, "said")
        broker.apply(work_topology("later"))
        eventually(lambda: worker.problems() == [], 30, "declared")
    finally:
        worker.stop(1)
        broker.stop()

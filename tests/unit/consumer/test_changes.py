"""A person changes a running worker: at once, without a restart, and until it restarts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from broker_jobs.broker import names
from broker_jobs.consumer.worker import Worker
from broker_jobs.messages.control import Control, WorkerChange
from broker_jobs.settings import Settings
from tests.support.wait import eventually
from tests.unit.consumer.scripted import ScriptedExchange, envelope, registry_of, start_worker

gates: dict[str, threading.Event] = {}
ran: list[str] = []


def wait_for(gate: str) -> None:
    ran.append(gate)
    gates.setdefault(gate, threading.Event()).wait(60)


REGISTRY = registry_of(wait_for)


@pytest.fixture
def broker() -> Iterator[ScriptedExchange]:
    gates.clear()
    ran.clear()
    yield ScriptedExchange()
    for gate in list(gates.values()):
        gate.set()


@pytest.fixture
def worker(broker: ScriptedExchange) -> Iterator[Worker]:
    settings = Settings(worker_heartbeat=0.1, queue_limits={"default": 5})
    worker = start_worker(REGISTRY, broker, concurrency=1, settings=settings)
    yield worker
    for gate in list(gates.values()):
        gate.set()
    worker.stop_now()


def change(broker: ScriptedExchange, worker: Worker, version: int = 2, **fields: Any) -> None:
    told = WorkerChange(id=str(version), workers=[worker.ref.id, "another"], **fields)
    broker.say(Control(version=version, changes=[told]))


def said(broker: ScriptedExchange) -> tuple[list[str], int, dict[str, int]]:
    beat = broker.events("heartbeat")[-1]
    return beat["served"] or beat["queues"], beat["concurrency"], beat["queue_limits"]


def test_more_slots_are_used_at_once(broker: ScriptedExchange, worker: Worker) -> None:
    broker.deliver(*(envelope("wait_for", name) for name in "abc"))
    eventually(lambda: ran == ["a"])
    change(broker, worker, concurrency=2)
    eventually(lambda: sorted(ran) == ["a", "b"])
    eventually(lambda: said(broker) == (["default"], 2, {"default": 5}))


def test_fewer_slots_end_no_job(broker: ScriptedExchange, worker: Worker) -> None:
    change(broker, worker, concurrency=2)
    eventually(lambda: said(broker)[1] == 2)
    jobs = [envelope("wait_for", name) for name in "abc"]
    broker.deliver(*jobs)
    eventually(lambda: sorted(ran) == ["a", "b"])
    change(broker, worker, 3, concurrency=1)
    eventually(lambda: said(broker)[1] == 1)
    gates["a"].set()
    broker.event("succeeded", jobs[0].id)
    assert sorted(ran) == ["a", "b"]
    gates["b"].set()
    broker.event("succeeded", jobs[1].id)


def test_other_queues_are_served_and_what_waits_of_the_old_goes_back(broker: ScriptedExchange, worker: Worker) -> None:
    first, second = envelope("wait_for", "a"), envelope("wait_for", "b")
    broker.deliver(first, second)
    eventually(lambda: ran == ["a"])
    change(broker, worker, queues=["mail:2", "bulk:1"])
    assert broker.event("returned", second.id)["reason"] == "pause"
    gates["a"].set()
    broker.event("succeeded", first.id)
    assert names.work_queue("default") in broker.subscription.paused
    eventually(lambda: broker.subscription.prefetch.get(names.work_queue("mail"), 0) > 0)
    eventually(lambda: said(broker) == (["mail:2", "bulk:1"], 1, {}))


def test_a_change_is_applied_once_and_that_of_another_worker_never(broker: ScriptedExchange, worker: Worker) -> None:
    change(broker, worker, concurrency=3)
    eventually(lambda: said(broker)[1] == 3)
    change(broker, worker, 3, concurrency=4)
    eventually(lambda: said(broker)[1] == 4)
    again = WorkerChange(id="3", workers=[worker.ref.id], concurrency=9)
    broker.say(Control(version=4, snapshot=True, changes=[again, WorkerChange(id="9", workers=["x"], concurrency=8)]))
    eventually(lambda: broker.events("heartbeat")[-1]["control_version"] == 4)
    assert said(broker)[1] == 4


def test_a_change_that_a_worker_cannot_read_changes_nothing(
    broker: ScriptedExchange, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    change(broker, worker, concurrency=3, queues=["mail:3", "bulk"])
    eventually(lambda: "give each queue a weight" in caplog.text)
    assert said(broker)[1] == 1

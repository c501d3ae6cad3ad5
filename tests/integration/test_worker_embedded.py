"""The same worker on the embedded exchange, which loses nothing while its process lives."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery, Message
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.topology import fixed_topology, work_topology
from broker_jobs.consumer.worker import Worker
from broker_jobs.function.definition import define
from broker_jobs.function.registry import Registry
from broker_jobs.messages.codec import encode
from broker_jobs.messages.envelope import Envelope, new_id
from broker_jobs.settings import Settings
from tests.support.consume import consume
from tests.support.wait import eventually

gate = threading.Event()
entered = threading.Event()


def add(a: int, b: int) -> int:
    return a + b


async def fetch(url: str) -> str:
    await asyncio.sleep(0)
    return url


def wait_for_gate() -> None:
    entered.set()
    gate.wait(20)


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    gate.clear()
    entered.clear()
    broker = MemoryBroker()
    broker.start()
    broker.apply(fixed_topology())
    broker.apply(work_topology("default"))
    yield broker
    gate.set()
    broker.stop()


@pytest.fixture
def told(broker: MemoryBroker) -> list[dict[str, Any]]:
    """The events that reach the log."""
    events: list[dict[str, Any]] = []

    def read(consumer: Consumer, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            events.extend(json.loads(delivery.body).get("events", []))
            consumer.ack(delivery.channel, delivery.tag)

    consume(broker, [names.LOG], read, prefetch=100)
    return events


def start(broker: MemoryBroker, concurrency: int) -> Worker:
    registry = Registry()
    for function in (add, fetch, wait_for_gate):
        registry.add(define(function, {}))
    worker = Worker(registry, broker, queues=["default"], concurrency=concurrency, settings=Settings())
    worker._control.answered.set()
    worker.start()
    return worker


def submit(broker: MemoryBroker, name: str, *args: Any) -> str:
    envelope = Envelope(id=new_id(), job=name, args=list(args), created_at=datetime.now(UTC))
    message = Message(names.SUBMIT, "default", encode(envelope))
    assert broker.publish([message]).result(10) == [None]
    return envelope.id


def test_jobs_run_are_told_and_acknowledged(broker: MemoryBroker, told: list[dict[str, Any]]) -> None:
    worker = start(broker, 4)
    ids = [submit(broker, "add", n, n) for n in range(50)] + [submit(broker, "fetch", "u") for _ in range(50)]
    eventually(lambda: {e["id"] for e in told if e["kind"] == "succeeded"} == set(ids))
    assert worker.stop(10)
    assert told[-1]["leaving"]
    assert broker.depth(names.work_queue("default")) == (0, 0)


@pytest.mark.usefixtures("takes_more_than_it_runs")
def test_a_stop_returns_what_it_has_and_leaves_nothing_in_the_queue(
    broker: MemoryBroker, told: list[dict[str, Any]]
) -> None:
    worker = start(broker, 1)
    running, held = submit(broker, "wait_for_gate"), submit(broker, "add", 1, 1)
    assert entered.wait(20)
    eventually(lambda: len(worker._local_queue) == 1)
    threading.Timer(0.3, gate.set).start()
    assert worker.stop(20)
    kinds = {e["id"]: e["kind"] for e in told if e["kind"] in {"succeeded", "returned"}}
    assert kinds == {running: "succeeded", held: "returned"}
    assert broker.depth(names.work_queue("default")) == (0, 0)

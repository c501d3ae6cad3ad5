"""The same worker on the embedded exchange, which loses nothing while its process lives."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from broker_jobs.consumer.worker import Worker
from broker_jobs.exchange import names
from broker_jobs.exchange.embedded import EmbeddedExchange
from broker_jobs.exchange.port import Delivery, Message
from broker_jobs.exchange.topology import fixed_topology, work_topology
from broker_jobs.function.definition import define
from broker_jobs.function.registry import Registry
from broker_jobs.job.codec import encode
from broker_jobs.job.envelope import Envelope, new_id
from broker_jobs.settings import Settings
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
def exchange() -> Iterator[EmbeddedExchange]:
    gate.clear()
    entered.clear()
    exchange = EmbeddedExchange()
    exchange.start()
    exchange.apply(fixed_topology())
    exchange.apply(work_topology("default"))
    yield exchange
    gate.set()
    exchange.stop()


@pytest.fixture
def told(exchange: EmbeddedExchange) -> list[dict[str, Any]]:
    """The events that reach the log."""
    events: list[dict[str, Any]] = []

    def read(deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            events.extend(json.loads(delivery.body).get("events", []))
            subscription.ack(delivery.channel, delivery.tag)

    subscription = exchange.subscribe([names.LOG], read, prefetch=100)
    return events


def start(exchange: EmbeddedExchange, concurrency: int) -> Worker:
    registry = Registry()
    for function in (add, fetch, wait_for_gate):
        registry.add(define(function, {}))
    worker = Worker(registry, exchange, queues=["default"], concurrency=concurrency, settings=Settings())
    worker._control.answered.set()
    worker.start()
    return worker


def submit(exchange: EmbeddedExchange, name: str, *args: Any) -> str:
    envelope = Envelope(id=new_id(), job=name, args=list(args), created_at=datetime.now(UTC))
    message = Message(names.SUBMIT, "default", encode(envelope))
    assert exchange.publish([message]).result(10) == [None]
    return envelope.id


def test_jobs_run_are_told_and_acknowledged(exchange: EmbeddedExchange, told: list[dict[str, Any]]) -> None:
    worker = start(exchange, 4)
    ids = [submit(exchange, "add", n, n) for n in range(50)] + [submit(exchange, "fetch", "u") for _ in range(50)]
    eventually(lambda: {e["id"] for e in told if e["kind"] == "succeeded"} == set(ids))
    assert worker.stop(10)
    assert told[-1]["leaving"]
    assert exchange.depth(names.work_queue("default")) == (0, 0)


def test_a_stop_hands_back_and_leaves_nothing_in_the_queue(
    exchange: EmbeddedExchange, told: list[dict[str, Any]]
) -> None:
    worker = start(exchange, 1)
    running, held = submit(exchange, "wait_for_gate"), submit(exchange, "add", 1, 1)
    assert entered.wait(20)
    eventually(lambda: len(worker._ready) == 1)
    threading.Timer(0.3, gate.set).start()
    assert worker.stop(20)
    kinds = {e["id"]: e["kind"] for e in told if e["kind"] in {"succeeded", "handed back"}}
    assert kinds == {running: "succeeded", held: "handed back"}
    assert exchange.depth(names.work_queue("default")) == (0, 0)

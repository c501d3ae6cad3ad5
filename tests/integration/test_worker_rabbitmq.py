"""A worker on a real RabbitMQ: what it tells, acknowledges and gives back, through every interruption."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery, Message
from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.broker.topology import fixed_topology, work_topology
from broker_jobs.consumer.worker import Worker
from broker_jobs.function.definition import define
from broker_jobs.function.registry import Registry
from broker_jobs.messages.codec import encode
from broker_jobs.messages.commands import Reply
from broker_jobs.messages.control import Control, Fence
from broker_jobs.messages.envelope import Envelope, new_id
from broker_jobs.settings import Settings
from tests.support.consume import consume
from tests.support.process import Lodging
from tests.support.rabbitmq import Broker, Vhost
from tests.support.wait import eventually, while_it_moves

pytestmark = pytest.mark.rabbitmq

ran: list[object] = []
gate = threading.Event()
entered = threading.Event()


def add(a: int, b: int) -> int:
    ran.append((a, b))
    return a + b


async def fetch(url: str) -> str:
    await asyncio.sleep(0.01)
    ran.append(url)
    return url


def wait_for_gate(number: int) -> int:
    ran.append(number)
    entered.set()
    gate.wait(60)
    return number


class Stage:
    """A virtual host with our topology, workers on it, and what they told."""

    def __init__(self, vhost: Vhost) -> None:
        self.vhost = vhost
        self._ends: list[Callable[[], object]] = []
        self._events: list[dict[str, Any]] = []
        self.broker = self.connect("test")
        self.broker.apply(fixed_topology(), 60)
        self.broker.apply(work_topology("default", "mail"), 60)
        self._log = self.broker.subscribe([names.LOG], self._read_log, prefetch=100)

    def _read_log(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            for event in json.loads(delivery.body).get("events", []):
                if event not in self._events:  # a message may come again after a blip
                    self._events.append(event)
            self._log.ack(delivery.channel, delivery.tag)

    def connect(self, name: str) -> RabbitBroker:
        broker = RabbitBroker(self.vhost.url, name=name)
        broker.start(30)
        self._ends.append(broker.stop)
        return broker

    def worker(self, *, concurrency: int = 4, coordinator: bool = False, **settings: Any) -> Worker:
        registry = Registry()
        for function in (add, fetch, wait_for_gate):
            registry.add(define(function, {}))
        worker = Worker(
            registry,
            self.connect("worker"),
            queues=["default", "mail"],
            concurrency=concurrency,
            settings=Settings(**settings),
        )
        if not coordinator:
            worker._control.answered.set()
        worker.start()
        self._ends.append(worker.stop_now)
        return worker

    def submit(self, *envelopes: Envelope) -> None:
        messages = [Message(names.SUBMIT, envelope.queue, encode(envelope)) for envelope in envelopes]
        assert self.broker.publish(messages).result(30) == [None] * len(messages)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """All that was told until now."""
        return [event for event in list(self._events) if event["kind"] in kinds]

    def outcomes(self, job_id: str) -> list[dict[str, Any]]:
        return [e for e in self.events("succeeded", "failed", "returned") if e["id"] == job_id]

    def settled(self) -> bool:
        """Whether no work queue has a message ready or unacknowledged."""
        names_ = [*names.work_queues("default"), *names.work_queues("mail")]
        return all(self.vhost.queue(name).get("messages") == 0 for name in names_)

    def close(self) -> None:
        gate.set()
        for end in reversed(self._ends):
            end()


@pytest.fixture
def stage(vhost: Vhost) -> Iterator[Stage]:
    ran.clear()
    gate.clear()
    entered.clear()
    stage = Stage(vhost)
    yield stage
    stage.close()


def job(name: str, *args: Any, **fields: Any) -> Envelope:
    return Envelope(id=new_id(), job=name, args=list(args), created_at=datetime.now(UTC), **fields)


def test_sync_and_async_jobs_run_are_told_and_acknowledged(stage: Stage) -> None:
    stage.worker()
    sync = [job("add", n, 1) for n in range(100)]
    asynchronous = [job("fetch", f"u{n}", queue="mail") for n in range(100)]
    stage.submit(*sync, *asynchronous)
    while_it_moves(lambda: len(stage.events("succeeded")), lambda seen: seen == 200, what="all have succeeded")
    results = {event["id"]: event["result"] for event in stage.events("succeeded")}
    assert [results[envelope.id] for envelope in sync] == [str(n + 1) for n in range(100)]
    assert [results[envelope.id] for envelope in asynchronous] == [f'"u{n}"' for n in range(100)]
    eventually(stage.settled)


def test_garbage_is_dead_lettered_and_the_worker_goes_on(stage: Stage) -> None:
    stage.worker()
    stage.vhost.publish_raw(names.WORK, "default", b"\xff garbage")
    good = job("add", 1, 2)
    stage.submit(good)
    eventually(lambda: stage.outcomes(good.id))
    found = eventually(lambda: stage.vhost.get(names.DEAD_LETTERS))
    assert found is not None
    body, properties = found
    assert body == b"\xff garbage"
    assert str(properties.type).startswith("dead-lettered:")
    eventually(stage.settled)


def test_a_worker_that_is_killed_loses_nothing_and_nothing_is_rerun(stage: Stage, tmp_path: Path) -> None:
    running, prefetched = job("mark", str(tmp_path), "running"), job("mark", str(tmp_path), "prefetched")
    stage.submit(running, prefetched)
    lodging = Lodging("worker")
    try:
        here = Path(__file__).parent
        process = lodging.start(
            [sys.executable, here / "worker_program.py", stage.vhost.url],
            log=tmp_path / "worker.log",
            env={**os.environ, "PYTHONPATH": str(here.parents[1])},
        )
        eventually(lambda: list(tmp_path.glob("running.started.*")), 30)
        lodging.kill(process)
    finally:
        lodging.close()
    (tmp_path / "go").touch()
    stage.worker()
    for envelope in (running, prefetched):
        (outcome,) = eventually(partial(stage.outcomes, envelope.id))
        assert (outcome["kind"], outcome["reason"], outcome["redelivered"]) == ("returned", "redelivered", True)
    eventually(stage.settled)
    assert len(list(tmp_path.glob("*.started.*"))) == 1
    assert list(tmp_path.glob("*.ended")) == []


@pytest.mark.slow
@pytest.mark.usefixtures("takes_more_than_it_runs")
def test_a_broker_restart_in_mid_run_reruns_nothing(stage: Stage, broker: Broker) -> None:
    worker = stage.worker(concurrency=1)
    first, second = job("wait_for_gate", 1), job("wait_for_gate", 2)
    time.sleep(3)  # a quorum queue younger than that may not survive (RabbitMQ 3.10.8); nothing tells when it would
    stage.submit(first, second)
    assert entered.wait(20)
    broker.restart()
    gate.set()
    eventually(lambda: len(stage.outcomes(first.id)) == 2, 60)
    assert sorted(event["kind"] for event in stage.outcomes(first.id)) == ["returned", "succeeded"]
    eventually(lambda: stage.outcomes(second.id), 60)
    assert [event["kind"] for event in stage.outcomes(second.id)] == ["returned"]
    eventually(stage.settled, 60)
    assert ran == [1]
    assert worker.stop(10)


@pytest.mark.usefixtures("takes_more_than_it_runs")
def test_a_blip_of_the_connections_reruns_nothing(stage: Stage) -> None:
    worker = stage.worker(concurrency=1)
    first, second = job("wait_for_gate", 1), job("add", 2, 2)
    stage.submit(first, second)
    assert entered.wait(20)
    stage.vhost.close_connections()
    eventually(lambda: worker._broker.reconnects > 0 and worker._broker.connected, 30)
    gate.set()  # until then its slot is taken, and nothing comes in
    eventually(lambda: len(stage.outcomes(first.id)) == 2, 30)
    assert sorted(e["kind"] for e in stage.outcomes(first.id)) == ["returned", "succeeded"]
    eventually(lambda: stage.outcomes(second.id), 30)
    assert [e["kind"] for e in stage.outcomes(second.id)] == ["returned"]
    assert ran == [1]
    third = job("add", 3, 3)
    stage.submit(third)
    eventually(lambda: [e["kind"] for e in stage.outcomes(third.id)] == ["succeeded"], 30)
    eventually(stage.settled)


@pytest.mark.usefixtures("takes_more_than_it_runs")
def test_a_graceful_stop_returns_the_unstarted_and_leaves_nothing_behind(stage: Stage) -> None:
    worker = stage.worker(concurrency=1)
    first, second = job("wait_for_gate", 1), job("add", 2, 2)
    stage.submit(first, second)
    assert entered.wait(20)
    eventually(lambda: len(worker._local_queue) == 1)
    stopped: list[bool] = []
    stopping = threading.Thread(target=lambda: stopped.append(worker.stop(30)))
    stopping.start()
    eventually(lambda: [e["reason"] for e in stage.outcomes(second.id)] == ["shutdown"])
    gate.set()
    stopping.join()
    assert stopped == [True]
    assert [e["kind"] for e in stage.outcomes(first.id)] == ["succeeded"]
    assert stage.events("heartbeat")[-1]["leaving"]
    eventually(stage.settled)


def test_no_acknowledgement_while_the_broker_takes_no_outcomes(stage: Stage, broker: Broker) -> None:
    stage.worker(publish_timeout=1.0)
    first = job("wait_for_gate", 1)
    stage.submit(first)
    assert entered.wait(20)
    broker.alarm(memory=True)
    gate.set()
    queue = names.work_queue("default")
    time.sleep(2)  # that nothing happens can only be waited for: two publishes time out meanwhile
    assert stage.vhost.queue(queue)["messages_unacknowledged"] == 1
    broker.alarm(memory=False)
    eventually(lambda: stage.outcomes(first.id))
    eventually(stage.settled)
    assert {e["kind"] for e in stage.outcomes(first.id)} == {"succeeded"}


def test_hello_fences_and_pauses_travel(stage: Stage) -> None:
    fenced = job("add", 1, 1)

    def coordinate(consumer: Consumer, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            hello = json.loads(delivery.body)
            heard.append(hello)
            assert delivery.reply_to is not None
            snapshot = Control(version=1, snapshot=True, fences=[Fence(id=fenced.id, epoch=1)], paused=["mail"])
            reply = Reply(id=hello["id"], detail=snapshot.model_dump())
            body = reply.model_dump_json().encode()
            stage.broker.publish([Message("", delivery.reply_to, body, type="reply")])
            consumer.ack(delivery.channel, delivery.tag)

    heard: list[dict[str, Any]] = []
    paused = job("add", 2, 2, queue="mail")
    stage.submit(fenced, paused)
    consume(stage.broker, [names.COMMAND], coordinate, prefetch=10)
    stage.worker(coordinator=True)
    eventually(lambda: [e["reason"] for e in stage.outcomes(fenced.id)] == ["fenced"])
    assert heard[0]["kind"] == "hello"
    assert stage.outcomes(paused.id) in ([], [e for e in stage.outcomes(paused.id) if e["reason"] == "pause"])
    after = job("add", 3, 3, queue="mail")
    news = Control(version=2, paused=[]).model_dump_json().encode()
    stage.broker.publish([Message(names.CONTROL, "", news, type="control")]).result(10)
    stage.submit(after)
    eventually(lambda: [e["kind"] for e in stage.outcomes(after.id)] == ["succeeded"])
    assert (1, 1) not in ran
    eventually(stage.settled)


def test_a_long_run_is_acknowledged_and_the_consumer_timeout_does_not_touch_it(stage: Stage) -> None:
    stage.worker(handover_after=0.5)
    long = job("wait_for_gate", 1)
    stage.submit(long)
    eventually(lambda: [e["owned"] for e in stage.events("started") if e["id"] == long.id] == [True])
    eventually(stage.settled)
    assert stage.outcomes(long.id) == []
    gate.set()
    eventually(lambda: [e["kind"] for e in stage.outcomes(long.id)] == ["succeeded"])

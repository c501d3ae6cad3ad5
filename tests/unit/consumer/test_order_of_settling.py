"""Run, report, acknowledge, in that order: whatever fails, nothing is acknowledged that was not told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from broker_jobs.consumer.worker import Worker
from broker_jobs.exchange import names
from broker_jobs.exchange.port import Unsent
from broker_jobs.settings import Settings
from tests.support.wait import eventually
from tests.unit.consumer.scripted import ScriptedExchange, envelope, registry_of, start_worker

ran: list[int] = []
gate = threading.Event()
entered = threading.Event()


def note(number: int) -> int:
    ran.append(number)
    return number


async def note_async(number: int) -> None:
    ran.append(number)


def wait_for_gate(number: int) -> None:
    ran.append(number)
    entered.set()
    gate.wait(20)


REGISTRY = registry_of(note, note_async, wait_for_gate)


@pytest.fixture
def exchange() -> Iterator[ScriptedExchange]:
    ran.clear()
    gate.clear()
    entered.clear()
    yield ScriptedExchange()
    gate.set()


@pytest.fixture
def worker(exchange: ScriptedExchange) -> Iterator[Worker]:
    worker = start_worker(REGISTRY, exchange)
    yield worker
    gate.set()
    worker.stop_now()


def test_no_ack_when_the_outcome_is_not_confirmed(exchange: ScriptedExchange, worker: Worker) -> None:
    eventually(lambda: exchange.events("heartbeat"))
    exchange.hold = True
    (tag,) = exchange.deliver(envelope("note", 1))
    eventually(lambda: exchange.held)
    assert not exchange.subscription.acked(tag)
    exchange.confirm()
    assert exchange.subscription.acked(tag)


@pytest.mark.parametrize("kind", list(Unsent))
def test_an_outcome_is_told_until_it_is_confirmed_and_then_acknowledged(
    exchange: ScriptedExchange, worker: Worker, kind: Unsent
) -> None:
    eventually(lambda: exchange.events("heartbeat"))
    exchange.hold = True
    job = envelope("note", 1)
    (tag,) = exchange.deliver(job)
    for _ in range(3):
        eventually(lambda: exchange.held)
        exchange.fail(kind)
        assert not exchange.subscription.acked(tag)
    eventually(lambda: exchange.held)
    exchange.confirm()
    assert exchange.subscription.acked(tag)
    assert ran == [1]
    assert len({str(event) for event in exchange.events("succeeded")}) == 1


def test_a_redelivered_delivery_is_not_run(exchange: ScriptedExchange, worker: Worker) -> None:
    job = envelope("note", 1, epoch=3)
    (tag,) = exchange.deliver(job, redelivered=True)
    event = exchange.event("handed back", job.id)
    assert (event["reason"], event["redelivered"], event["epoch"]) == ("redelivered", True, 3)
    assert '"note"' in event["envelope"]
    eventually(lambda: exchange.subscription.acked(tag))
    assert ran == []


def test_an_unknown_job_is_handed_back(exchange: ScriptedExchange, worker: Worker) -> None:
    job = envelope("of_a_newer_deploy")
    (tag,) = exchange.deliver(job)
    assert exchange.event("handed back", job.id)["reason"] == "unknown job"
    eventually(lambda: exchange.subscription.acked(tag))


@pytest.mark.parametrize(
    "body",
    [b"", b"garbage", b"\xff\xfe", b"[]", b'{"v":99,"id":"a","job":"note"}', b'{"v":1}', b'{"a":' * 100_000],
)
def test_garbage_is_parked_as_it_is_and_acknowledged(exchange: ScriptedExchange, worker: Worker, body: bytes) -> None:
    good = envelope("note", 1)
    first, last = exchange.deliver(body, good)
    exchange.event("succeeded", good.id)
    (parked,) = [message for message in exchange.published if message.exchange == names.PARKED]
    assert parked.body == body
    assert parked.type.startswith("parked:")
    assert len(parked.type) > len("parked:")
    eventually(lambda: exchange.subscription.acked(first) and exchange.subscription.acked(last))


def test_a_body_that_no_event_could_carry_is_told_without_it(exchange: ScriptedExchange, worker: Worker) -> None:
    job = envelope("note", '"' * (7 * 1024 * 1024))
    (tag,) = exchange.deliver(job, redelivered=True)
    assert exchange.event("handed back", job.id)["envelope"] == ""
    eventually(lambda: exchange.subscription.acked(tag))


def test_a_job_in_the_middle_does_not_hold_up_the_acknowledgement_of_the_others(
    exchange: ScriptedExchange, worker: Worker
) -> None:
    first, slow, *rest = exchange.deliver(
        envelope("note", 1), envelope("wait_for_gate", 2), *(envelope("note", n) for n in range(3, 8))
    )
    eventually(lambda: all(exchange.subscription.acked(tag) for tag in [first, *rest]))
    assert not exchange.subscription.acked(slow)
    gate.set()
    eventually(lambda: exchange.subscription.acked(slow))


def test_acknowledgements_of_neighbours_go_as_one(exchange: ScriptedExchange, worker: Worker) -> None:
    eventually(lambda: exchange.events("heartbeat"))
    exchange.hold = True
    tags = exchange.deliver(*(envelope("note", n) for n in range(50)))
    eventually(lambda: len(ran) == 50)
    while not exchange.subscription.acked(tags[-1]):
        eventually(lambda: exchange.held)
        exchange.confirm()
    assert len(exchange.subscription.acks) <= 3


def test_what_runs_when_the_channel_is_lost_is_told_once_and_never_acknowledged(
    exchange: ScriptedExchange, worker: Worker
) -> None:
    job = envelope("wait_for_gate", 1)
    exchange.deliver(job)
    assert entered.wait(20)
    exchange.lose_channel()
    exchange.deliver(job, redelivered=True)
    exchange.event("handed back", job.id)
    gate.set()
    exchange.event("succeeded", job.id)
    assert ran == [1]
    eventually(lambda: exchange.subscription.acked(1, channel=2))
    assert not exchange.subscription.acked(1, channel=1)


def test_what_has_not_started_when_the_channel_is_lost_does_not_start(exchange: ScriptedExchange) -> None:
    worker = start_worker(REGISTRY, exchange, concurrency=1)
    exchange.deliver(envelope("wait_for_gate", 1), envelope("note", 2))
    assert entered.wait(20)
    exchange.lose_channel()
    after = envelope("note", 3)
    exchange.deliver(after)
    gate.set()
    exchange.event("succeeded", after.id)
    assert ran == [1, 3]
    worker.stop_now()


def test_a_careful_job_does_not_run_before_its_start_is_confirmed(exchange: ScriptedExchange, worker: Worker) -> None:
    eventually(lambda: exchange.events("heartbeat"))
    exchange.hold = True
    job = envelope("note", 1, careful=True)
    exchange.deliver(job)
    eventually(lambda: exchange.held)
    assert exchange.events("started")[0]["id"] == job.id
    assert ran == []
    exchange.hold = False
    exchange.confirm()
    exchange.event("succeeded", job.id)
    assert ran == [1]


def test_a_careful_async_job_does_not_run_before_its_start_is_confirmed(
    exchange: ScriptedExchange, worker: Worker
) -> None:
    eventually(lambda: exchange.events("heartbeat"))
    exchange.hold = True
    job = envelope("note_async", 1, careful=True)
    exchange.deliver(job)
    eventually(lambda: exchange.held)
    assert exchange.events("started")[0]["id"] == job.id
    assert ran == []
    exchange.hold = False
    exchange.confirm()
    exchange.event("succeeded", job.id)
    assert ran == [1]


def test_a_long_run_is_handed_over_confirmed_and_then_acknowledged(exchange: ScriptedExchange) -> None:
    worker = start_worker(REGISTRY, exchange, settings=Settings(handover_after=0.2, worker_heartbeat=10))
    eventually(lambda: exchange.events("heartbeat"))
    exchange.hold = True
    job = envelope("wait_for_gate", 1)
    (tag,) = exchange.deliver(job)
    eventually(lambda: exchange.held)
    assert [event["owned"] for event in exchange.events("started")] == [True]
    assert not exchange.subscription.acked(tag)
    exchange.hold = False
    exchange.confirm()
    assert exchange.subscription.acked(tag)
    assert exchange.events("succeeded") == []
    gate.set()
    exchange.event("succeeded", job.id)
    assert len(exchange.subscription.acks) == 1
    worker.stop_now()


def test_a_run_of_over_a_second_is_announced_once(exchange: ScriptedExchange, worker: Worker) -> None:
    job = envelope("wait_for_gate", 1)
    exchange.deliver(job)
    exchange.event("started", job.id)
    gate.set()
    exchange.event("succeeded", job.id)
    assert [event["owned"] for event in exchange.events("started")] == [False]


def test_the_preferred_queue_comes_first(exchange: ScriptedExchange) -> None:
    worker = start_worker(REGISTRY, exchange, concurrency=1, queues=["urgent", "default"])
    exchange.deliver(envelope("wait_for_gate", 0))
    assert entered.wait(20)
    exchange.deliver(envelope("note", 1), envelope("note", 2))
    exchange.deliver(envelope("note", 3), envelope("note", 4), queue="urgent")
    gate.set()
    eventually(lambda: len(ran) == 5)
    assert ran == [0, 3, 4, 1, 2]
    worker.stop_now()


def test_a_heartbeat_says_what_runs_and_what_is_held(exchange: ScriptedExchange) -> None:
    worker = start_worker(REGISTRY, exchange, concurrency=1, settings=Settings(worker_heartbeat=0.2))
    runs, held = envelope("wait_for_gate", 1, epoch=7), envelope("note", 2)
    exchange.deliver(runs, held)
    eventually(
        lambda: any(e["running"] == [[runs.id, 7]] and e["held"] == [held.id] for e in exchange.events("heartbeat"))
    )
    gate.set()
    eventually(lambda: any(e["done"] == 2 and not e["running"] for e in exchange.events("heartbeat")))
    worker.stop_now()

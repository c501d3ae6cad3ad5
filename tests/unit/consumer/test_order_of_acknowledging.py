"""Run, report, acknowledge, in that order: whatever fails, nothing is acknowledged that was not told."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Unconfirmed
from broker_jobs.consumer import receiver
from broker_jobs.consumer.worker import Worker
from broker_jobs.messages.envelope import UniqueKey
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
def broker() -> Iterator[ScriptedExchange]:
    ran.clear()
    gate.clear()
    entered.clear()
    yield ScriptedExchange()
    gate.set()


@pytest.fixture
def worker(broker: ScriptedExchange) -> Iterator[Worker]:
    worker = start_worker(REGISTRY, broker)
    yield worker
    gate.set()
    worker.stop_now()


def test_no_ack_when_the_outcome_is_not_confirmed(broker: ScriptedExchange, worker: Worker) -> None:
    eventually(lambda: broker.events("heartbeat"))
    broker.hold = True
    (tag,) = broker.deliver(envelope("note", 1))
    eventually(lambda: broker.held)
    assert not broker.subscription.acked(tag)
    broker.confirm()
    assert broker.subscription.acked(tag)


@pytest.mark.parametrize("kind", list(Unconfirmed))
def test_an_outcome_is_told_until_it_is_confirmed_and_then_acknowledged(
    broker: ScriptedExchange, worker: Worker, kind: Unconfirmed
) -> None:
    eventually(lambda: broker.events("heartbeat"))
    broker.hold = True
    job = envelope("note", 1)
    (tag,) = broker.deliver(job)
    for _ in range(3):
        eventually(lambda: broker.held)
        broker.fail(kind)
        assert not broker.subscription.acked(tag)
    eventually(lambda: broker.held)
    broker.confirm()
    assert broker.subscription.acked(tag)
    assert ran == [1]
    assert len({str(event) for event in broker.events("succeeded")}) == 1


def test_a_redelivered_delivery_is_not_run(broker: ScriptedExchange, worker: Worker) -> None:
    job = envelope("note", 1, epoch=3)
    (tag,) = broker.deliver(job, redelivered=True)
    event = broker.event("returned", job.id)
    assert (event["reason"], event["redelivered"], event["epoch"]) == ("redelivered", True, 3)
    assert '"note"' in event["envelope"]
    eventually(lambda: broker.subscription.acked(tag))
    assert ran == []


def test_a_message_that_was_published_twice_is_run_once_and_both_are_acknowledged(
    broker: ScriptedExchange, worker: Worker
) -> None:
    job = envelope("note", 1)
    first, second = broker.deliver(job, job)
    eventually(lambda: broker.subscription.acked(first) and broker.subscription.acked(second))
    again = job.model_copy(update={"epoch": 2})
    (third,) = broker.deliver(again)
    eventually(lambda: broker.subscription.acked(third))
    assert ran == [1, 1], "the coordinator's next release is another message"
    assert [event["epoch"] for event in broker.events("succeeded")] == [1, 2]
    assert broker.events("returned") == []


@pytest.mark.parametrize("before", [0, 7, 19, 20, 33])
def test_a_message_that_was_published_twice_is_known_among_the_last_deliveries_and_later_forgotten(
    broker: ScriptedExchange, worker: Worker, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    monkeypatch.setattr(receiver, "REMEMBERED", 20)
    job = envelope("note", 1)
    broker.deliver(*(envelope("note", 0) for _ in range(before)))
    broker.deliver(job, *(envelope("note", 0) for _ in range(19)), job)
    eventually(lambda: len(broker.events("succeeded")) == before + 20)
    tags = broker.deliver(*(envelope("note", 0) for _ in range(40)), job)
    eventually(lambda: all(broker.subscription.acked(tag) for tag in tags))
    assert ran.count(1) == 2, "once, and once more when it was forgotten: memory is bounded"


def test_of_a_message_that_comes_again_as_redelivered_the_coordinator_is_told(
    broker: ScriptedExchange, worker: Worker
) -> None:
    job = envelope("note", 1)
    broker.deliver(job)
    broker.event("succeeded", job.id)
    (tag,) = broker.deliver(job, redelivered=True)
    assert broker.event("returned", job.id)["reason"] == "redelivered"
    eventually(lambda: broker.subscription.acked(tag))
    assert ran == [1]


@pytest.mark.parametrize(
    ("exchange", "redelivered", "runs"),
    [(names.SUBMIT, False, False), (names.SUBMIT, True, False), (names.WORK, False, True)],
)
def test_a_job_with_conditions_runs_only_when_the_coordinator_has_released_it(
    broker: ScriptedExchange, worker: Worker, exchange: str, redelivered: bool, runs: bool
) -> None:
    job = envelope("note", 1, unique=UniqueKey(key="k"))
    (tag,) = broker.deliver(job, exchange=exchange, redelivered=redelivered)
    if runs:
        broker.event("succeeded", job.id)
    else:
        assert broker.event("returned", job.id)["reason"] == "not released"
    eventually(lambda: broker.subscription.acked(tag))
    assert ran == [1] * runs


def test_a_job_without_conditions_runs_as_its_producer_published_it(broker: ScriptedExchange, worker: Worker) -> None:
    job = envelope("note", 1)
    broker.deliver(job, exchange=names.SUBMIT)
    broker.event("succeeded", job.id)
    assert ran == [1]


def test_an_unknown_job_is_returned(broker: ScriptedExchange, worker: Worker) -> None:
    job = envelope("of_a_newer_deploy")
    (tag,) = broker.deliver(job)
    assert broker.event("returned", job.id)["reason"] == "unknown job"
    eventually(lambda: broker.subscription.acked(tag))


@pytest.mark.parametrize(
    "body",
    [b"", b"garbage", b"\xff\xfe", b"[]", b'{"v":99,"id":"a","job":"note"}', b'{"v":1}', b'{"a":' * 100_000],
)
def test_garbage_is_dead_lettered_as_it_is_and_acknowledged(
    broker: ScriptedExchange, worker: Worker, body: bytes
) -> None:
    good = envelope("note", 1)
    first, last = broker.deliver(body, good)
    broker.event("succeeded", good.id)
    (dead_letters,) = [message for message in broker.published if message.exchange == names.DEAD_LETTERS]
    assert dead_letters.body == body
    assert dead_letters.type.startswith("dead-lettered:")
    assert len(dead_letters.type) > len("dead-lettered:")
    eventually(lambda: broker.subscription.acked(first) and broker.subscription.acked(last))


def test_a_body_that_no_event_could_carry_is_told_without_it(broker: ScriptedExchange, worker: Worker) -> None:
    job = envelope("note", '"' * (7 * 1024 * 1024))
    (tag,) = broker.deliver(job, redelivered=True)
    assert broker.event("returned", job.id)["envelope"] == ""
    eventually(lambda: broker.subscription.acked(tag))


def test_a_job_in_the_middle_does_not_hold_up_the_acknowledgement_of_the_others(
    broker: ScriptedExchange, worker: Worker
) -> None:
    first, slow, *rest = broker.deliver(
        envelope("note", 1), envelope("wait_for_gate", 2), *(envelope("note", n) for n in range(3, 8))
    )
    eventually(lambda: all(broker.subscription.acked(tag) for tag in [first, *rest]))
    assert not broker.subscription.acked(slow)
    gate.set()
    eventually(lambda: broker.subscription.acked(slow))


def test_acknowledgements_of_neighbours_go_as_one(broker: ScriptedExchange, worker: Worker) -> None:
    eventually(lambda: broker.events("heartbeat"))
    broker.hold = True
    tags = broker.deliver(*(envelope("note", n) for n in range(50)))
    eventually(lambda: len(ran) == 50)
    while not broker.subscription.acked(tags[-1]):
        eventually(lambda: broker.held)
        broker.confirm()
    assert len(broker.subscription.acks) <= 3


def test_what_runs_when_the_channel_is_lost_is_told_once_and_never_acknowledged(
    broker: ScriptedExchange, worker: Worker
) -> None:
    job = envelope("wait_for_gate", 1)
    broker.deliver(job)
    assert entered.wait(20)
    broker.lose_channel()
    broker.deliver(job, redelivered=True)
    broker.event("returned", job.id)
    gate.set()
    broker.event("succeeded", job.id)
    assert ran == [1]
    eventually(lambda: broker.subscription.acked(1, channel=2))
    assert not broker.subscription.acked(1, channel=1)


def test_what_has_not_started_when_the_channel_is_lost_does_not_start(broker: ScriptedExchange) -> None:
    worker = start_worker(REGISTRY, broker, concurrency=1)
    broker.deliver(envelope("wait_for_gate", 1), envelope("note", 2))
    assert entered.wait(20)
    broker.lose_channel()
    after = envelope("note", 3)
    broker.deliver(after)
    gate.set()
    broker.event("succeeded", after.id)
    assert ran == [1, 3]
    worker.stop_now()


def test_a_careful_job_does_not_run_before_its_start_is_confirmed(broker: ScriptedExchange, worker: Worker) -> None:
    eventually(lambda: broker.events("heartbeat"))
    broker.hold = True
    job = envelope("note", 1, careful=True)
    broker.deliver(job)
    eventually(lambda: broker.held)
    assert broker.events("started")[0]["id"] == job.id
    assert ran == []
    broker.hold = False
    broker.confirm()
    broker.event("succeeded", job.id)
    assert ran == [1]


def test_a_careful_async_job_does_not_run_before_its_start_is_confirmed(
    broker: ScriptedExchange, worker: Worker
) -> None:
    eventually(lambda: broker.events("heartbeat"))
    broker.hold = True
    job = envelope("note_async", 1, careful=True)
    broker.deliver(job)
    eventually(lambda: broker.held)
    assert broker.events("started")[0]["id"] == job.id
    assert ran == []
    broker.hold = False
    broker.confirm()
    broker.event("succeeded", job.id)
    assert ran == [1]


def test_a_long_run_is_handed_over_confirmed_and_then_acknowledged(broker: ScriptedExchange) -> None:
    worker = start_worker(REGISTRY, broker, settings=Settings(handover_after=0.2, worker_heartbeat=10))
    eventually(lambda: broker.events("heartbeat"))
    broker.hold = True
    job = envelope("wait_for_gate", 1)
    (tag,) = broker.deliver(job)
    eventually(lambda: broker.held)
    assert [event["owned"] for event in broker.events("started")] == [True]
    assert not broker.subscription.acked(tag)
    broker.hold = False
    broker.confirm()
    assert broker.subscription.acked(tag)
    assert broker.events("succeeded") == []
    gate.set()
    broker.event("succeeded", job.id)
    assert len(broker.subscription.acks) == 1
    worker.stop_now()


def test_a_run_of_over_a_second_is_announced_once(broker: ScriptedExchange, worker: Worker) -> None:
    job = envelope("wait_for_gate", 1)
    broker.deliver(job)
    broker.event("started", job.id)
    gate.set()
    broker.event("succeeded", job.id)
    assert [event["owned"] for event in broker.events("started")] == [False]


def test_the_preferred_queue_comes_first(broker: ScriptedExchange) -> None:
    worker = start_worker(REGISTRY, broker, concurrency=1, queues=["urgent", "default"])
    broker.deliver(envelope("wait_for_gate", 0))
    assert entered.wait(20)
    broker.deliver(envelope("note", 1), envelope("note", 2))
    broker.deliver(envelope("note", 3), envelope("note", 4), queue="urgent")
    gate.set()
    eventually(lambda: len(ran) == 5)
    assert ran == [0, 3, 4, 1, 2]
    worker.stop_now()


def test_a_heartbeat_lists_running_and_received_jobs(broker: ScriptedExchange) -> None:
    worker = start_worker(REGISTRY, broker, concurrency=1, settings=Settings(worker_heartbeat=0.2))
    runs, received = envelope("wait_for_gate", 1, epoch=7), envelope("note", 2)
    broker.deliver(runs, received)
    eventually(
        lambda: any(
            e["running"] == [[runs.id, 7]] and e["received"] == [received.id] for e in broker.events("heartbeat")
        )
    )
    gate.set()
    eventually(lambda: any(e["done"] == 2 and not e["running"] for e in broker.events("heartbeat")))
    worker.stop_now()

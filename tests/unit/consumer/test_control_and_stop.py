"""What the coordinator says is known before the next run; a stop loses nothing and reruns nothing."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Literal

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery, Unconfirmed
from broker_jobs.clock import ManualClock
from broker_jobs.consumer.worker import Worker
from broker_jobs.errors import GiveUp, UsageError
from broker_jobs.messages.control import Control, Fence
from broker_jobs.messages.envelope import LimitKey
from broker_jobs.producer.current_job import JobCancelled, current_job
from broker_jobs.settings import Settings
from tests.support.wait import eventually
from tests.unit.consumer.scripted import ScriptedExchange, envelope, registry_of, start_worker

ran: list[int] = []
gate = threading.Event()
entered = threading.Event()


def seen_more_than(number: int) -> bool:
    return len(ran) > number


def note(number: int) -> None:
    ran.append(number)


async def note_async(number: int) -> None:
    ran.append(number)


def wait_for_gate(number: int) -> None:
    ran.append(number)
    entered.set()
    gate.wait(20)


def end_well_whatever_comes(number: int) -> int:
    entered.set()
    with suppress(JobCancelled):
        gate.wait(20)
    return number


def wait_until_told() -> None:
    entered.set()
    while True:
        current_job().raise_if_cancelled()
        time.sleep(0.01)


def raise_when_told(number: int) -> None:
    entered.set()
    with suppress(JobCancelled):
        while not current_job().cancelled():
            time.sleep(0.01)
    raise GiveUp("it is no use") if number else OSError("cut off")


async def wait_for_ever() -> None:
    entered.set()
    await asyncio.sleep(60)


REGISTRY = registry_of(
    note, note_async, wait_for_gate, end_well_whatever_comes, wait_until_told, raise_when_told, wait_for_ever
)


@pytest.fixture
def broker() -> Iterator[ScriptedExchange]:
    ran.clear()
    gate.clear()
    entered.clear()
    yield ScriptedExchange()
    gate.set()


@pytest.fixture
def worker(broker: ScriptedExchange) -> Iterator[Worker]:
    worker = start_worker(REGISTRY, broker, concurrency=1)
    yield worker
    gate.set()
    worker.stop_now()


# --- hello ---


def test_hello_is_said_before_jobs_are_taken_and_names_the_private_queue(broker: ScriptedExchange) -> None:
    broker.answer_hello = False
    worker = Worker(REGISTRY, broker, queues=["mail"], concurrency=1, settings=Settings())
    worker.start()
    hello = eventually(lambda: next((m for m in broker.published if m.type == "command"), None))
    assert hello is not None
    assert (hello.exchange, hello.key, hello.reply_to) == (names.REPORT, names.COMMAND_KEY, "private-1")
    said = json.loads(hello.body)
    assert hello.message_id == hello.correlation_id == said["id"]
    assert (said["kind"], said["queues"], said["worker"]["id"]) == ("hello", ["mail"], worker.ref.id)
    assert not broker.subscribed.wait(0.3)
    assert worker.stop(1)


def test_without_an_answer_it_works_all_the_same(broker: ScriptedExchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_jobs.consumer.worker.HELLO_SECONDS", 0.1)
    broker.answer_hello = False
    worker = start_worker(REGISTRY, broker)
    job = envelope("note", 1)
    broker.deliver(job)
    broker.event("succeeded", job.id)
    worker.stop_now()


def test_hello_is_repeated_at_each_reconnect_with_what_runs(broker: ScriptedExchange, worker: Worker) -> None:
    job = envelope("wait_for_gate", 1, epoch=5)
    broker.deliver(job)
    assert entered.wait(20)
    broker.reconnect_private()
    hellos = [json.loads(m.body) for m in broker.published if m.type == "command"]
    assert [hello["running"] for hello in hellos] == [[], [[job.id, 5]]]


# --- fences and pauses ---


def test_a_fenced_epoch_is_not_run_and_a_later_one_is(broker: ScriptedExchange, worker: Worker) -> None:
    old = envelope("note", 1, epoch=3)
    broker.say(Control(version=2, fences=[Fence(id=old.id, epoch=3)]))
    (tag,) = broker.deliver(old)
    assert broker.event("returned", old.id)["reason"] == "fenced"
    broker.deliver(old.evolve(epoch=4, args=[2]))
    broker.event("succeeded", old.id)
    assert ran == [2]
    assert broker.subscription.acked(tag)


def test_a_fence_counts_at_the_start_not_at_the_receipt(broker: ScriptedExchange, worker: Worker) -> None:
    waiting = envelope("note", 2)
    broker.deliver(envelope("wait_for_gate", 1), waiting)
    assert entered.wait(20)
    broker.say(Control(version=2, fences=[Fence(id=waiting.id, epoch=1)]))
    gate.set()
    assert broker.event("returned", waiting.id)["reason"] == "fenced"
    assert ran == [1]


def test_a_paused_queue_gives_its_unstarted_jobs_back_and_takes_no_more(
    broker: ScriptedExchange, worker: Worker
) -> None:
    held = envelope("note", 2)
    broker.deliver(envelope("wait_for_gate", 1), held)
    assert entered.wait(20)
    broker.say(Control(version=2, paused=["default"]))
    assert broker.event("returned", held.id)["reason"] == "pause"
    assert broker.subscription.paused == {*names.work_queues("default")}
    late = envelope("note", 3)
    broker.deliver(late)
    assert broker.event("returned", late.id)["reason"] == "pause"
    broker.say(Control(version=3, paused=[]))
    assert broker.subscription.paused == {*names.work_queues("default")}, "no slot is free"
    gate.set()
    eventually(lambda: broker.subscription.paused == set())
    after = envelope("note", 4)
    broker.deliver(after)
    broker.event("succeeded", after.id)
    assert ran == [1, 4]


def test_older_news_does_not_undo_a_pause(broker: ScriptedExchange, worker: Worker) -> None:
    broker.say(Control(version=7, snapshot=True, paused=["default"]))
    broker.say(Control(version=6, snapshot=True, paused=[]))
    assert broker.subscription.paused == {*names.work_queues("default")}


def test_after_a_lost_broadcast_the_heartbeat_asks_by_its_version(broker: ScriptedExchange) -> None:
    worker = start_worker(REGISTRY, broker, settings=Settings(worker_heartbeat=0.1))
    broker.say(Control(version=4))  # 2 and 3 never came
    eventually(lambda: len(broker.events("heartbeat")) > 3)
    assert {e["control_version"] for e in broker.events("heartbeat")} <= {0, 1}
    broker.say(Control(version=4, snapshot=True, paused=[]))
    eventually(lambda: broker.events("heartbeat")[-1]["control_version"] == 4)
    worker.stop_now()


def test_what_cannot_be_understood_of_the_coordinator_changes_nothing(broker: ScriptedExchange, worker: Worker) -> None:
    assert broker._hear is not None
    before = broker.deliver(envelope("note", 1))
    broker._hear([exchange_delivery(b"\xff"), exchange_delivery(b'{"version":"x"}'), exchange_delivery(b"[]")])
    job = envelope("note", 2)
    broker.deliver(job)
    broker.event("succeeded", job.id)
    assert before


def exchange_delivery(body: bytes) -> Delivery:
    return Delivery(9, 0, "private-1", body, False, "", "", "", "", None, None, 0)


# --- waiting, leases, floods ---


def test_what_waits_too_long_is_returned(broker: ScriptedExchange) -> None:
    clock = ManualClock()
    worker = start_worker(REGISTRY, broker, concurrency=1, clock=clock)
    first, second = envelope("wait_for_gate", 1), envelope("note", 2)
    broker.deliver(first, second)
    assert entered.wait(20)
    clock.advance(1.1)
    assert broker.event("returned", second.id)["reason"] == "waited too long"
    assert broker.subscription.paused == {*names.work_queues("default")[1:]}, "what is high goes before it"
    gate.set()
    broker.event("succeeded", first.id)
    assert ran == [1]
    worker.stop_now()


@pytest.mark.parametrize("kind", ["concurrency", "ordered", "rate", None])
def test_owned_runs_of_a_narrow_limit_are_asked_to_stop_before_the_lease_ends_and_others_go_on(
    broker: ScriptedExchange, kind: Literal["concurrency", "ordered", "rate"] | None
) -> None:
    clock = ManualClock()
    worker = start_worker(REGISTRY, broker, clock=clock)
    limits = () if kind is None else (LimitKey(kind=kind, key="k", per=1.0 if kind == "rate" else None),)
    job = envelope("wait_until_told", limits=limits)
    (tag,) = broker.deliver(job)
    assert entered.wait(20)
    clock.advance(61)
    eventually(lambda: broker.subscription.acked(tag))
    assert broker.events("started")[0]["owned"]
    clock.advance(6)  # the heartbeat of the moment before may have been sent before it was owned
    eventually(lambda: broker.events("heartbeat")[-1]["running"])
    broker.hold = True
    clock.advance(6)
    eventually(lambda: broker.held)
    for _ in range(3):
        clock.advance(8)
        eventually(lambda: broker.held)
        broker.fail(Unconfirmed.NOT_SENT)
    broker.hold = False
    eventually(lambda: broker.held == [])
    clock.advance(1)
    if kind in {"concurrency", "ordered"}:
        assert broker.event("returned", job.id)["reason"] == "shutdown"
    else:
        clock.advance(6)
        eventually(lambda: len(broker.events("heartbeat")) > 1)
        assert broker.events("heartbeat")[-1]["running"], "it goes on"
        assert broker.events("returned") == []
        # It is told when it is connected again.
        broker.say(Control(version=1, cancel=[job.id]))
        eventually(lambda: broker.events("failed") or broker.events("interrupted") or broker.events("returned"))
    worker.stop_now()


def test_prefetch_grows_while_jobs_are_short(broker: ScriptedExchange, worker: Worker) -> None:
    assert list(broker.prefetch.values()) == [2, 1, 1]
    for number in range(20):
        broker.deliver(envelope("note", number))
        eventually(partial(seen_more_than, number))
        time.sleep(0.05)
    eventually(lambda: broker.subscription.prefetch[names.work_queue("default")] > 2)


# --- stop ---


def test_a_graceful_stop_returns_what_has_not_started_and_waits_for_the_rest(
    broker: ScriptedExchange, worker: Worker
) -> None:
    running, held = envelope("wait_for_gate", 1), envelope("note", 2)
    tags = broker.deliver(running, held)
    assert entered.wait(20)
    results: list[bool] = []
    stopping = threading.Thread(target=lambda: results.append(worker.stop(20)))
    stopping.start()
    assert broker.event("returned", held.id)["reason"] == "shutdown"
    assert broker.subscription.cancelled
    late = envelope("note", 3)
    tags += broker.deliver(late)
    assert broker.event("returned", late.id)["reason"] == "shutdown"
    gate.set()
    stopping.join()
    assert results == [True]
    assert ran == [1]
    broker.event("succeeded", running.id)
    assert all(broker.subscription.acked(tag) for tag in tags)
    assert broker.events()[-1]["kind"] == "heartbeat"
    assert broker.events()[-1]["leaving"]
    assert broker.subscription.closed
    assert broker.private.closed


@pytest.mark.parametrize("kind", ["note", "note_async"])
def test_a_careful_job_whose_start_is_not_confirmed_at_a_stop_is_returned(
    broker: ScriptedExchange, worker: Worker, kind: str
) -> None:
    eventually(lambda: broker.events("heartbeat"))
    broker.hold = True
    careful = envelope(kind, 1, careful=True)
    broker.deliver(careful)
    eventually(lambda: broker.held)
    stopping = threading.Thread(target=worker.stop, args=(60,))
    stopping.start()
    eventually(lambda: len(worker._running) == 0)
    broker.hold = False
    broker.confirm()
    assert broker.event("returned", careful.id)["reason"] == "shutdown"
    stopping.join()
    assert ran == []


@pytest.mark.parametrize("job", ["wait_until_told", "wait_for_ever"])
def test_a_job_that_stops_as_told_at_shutdown_is_interrupted_and_not_lost(
    broker: ScriptedExchange, worker: Worker, job: str
) -> None:
    running = envelope(job)
    broker.deliver(running)
    assert entered.wait(20)
    assert worker.stop(0.1)
    assert broker.event("interrupted", running.id)
    assert broker.events()[-1]["leaving"]


@pytest.mark.parametrize(("number", "kind"), [(0, "interrupted"), (1, "failed")])
def test_what_a_job_raises_that_is_told_to_stop_at_shutdown_counts_only_if_it_gives_up(
    broker: ScriptedExchange, worker: Worker, number: int, kind: str
) -> None:
    running = envelope("raise_when_told", number)
    broker.deliver(running)
    assert entered.wait(20)
    assert worker.stop(0.1)
    assert broker.event(kind, running.id)
    assert len(broker.events("interrupted", "failed")) == 1


def test_a_job_that_does_not_stop_is_told_as_interrupted_and_comes_back_when_the_process_has_ended(
    broker: ScriptedExchange,
) -> None:
    worker = start_worker(REGISTRY, broker, settings=Settings(url="amqp://outlives.us"))
    running = envelope("end_well_whatever_comes", 1)
    broker.deliver(running)
    assert entered.wait(20)
    assert not worker.stop(0.1)
    assert broker.event("interrupted", running.id)
    assert broker.events()[-1]["leaving"]
    assert broker.subscription.acks == []
    assert not broker.subscription.closed
    gate.set()
    broker.event("succeeded", running.id)  # that it ended well after all overtakes what was told


def test_a_job_that_outlasts_its_timeout_and_the_shutdown_has_timed_out(
    broker: ScriptedExchange, worker: Worker
) -> None:
    running = envelope("wait_for_gate", 1, timeout=0.05)
    broker.deliver(running)
    assert entered.wait(20)
    assert not worker.stop(0.5)
    assert broker.event("failed", running.id)["error"]["type"] == "TimedOut"
    assert not broker.events("interrupted")


def test_at_a_second_signal_what_runs_is_told_and_what_waits_is_returned(
    broker: ScriptedExchange, worker: Worker
) -> None:
    running, held = envelope("wait_for_gate", 1), envelope("note", 2)
    broker.deliver(running, held)
    assert entered.wait(20)
    worker.stop_now()
    assert broker.event("interrupted", running.id)
    assert broker.event("returned", held.id)["reason"] == "shutdown"


def test_stop_waits_for_the_confirms_of_the_last_outcomes(broker: ScriptedExchange, worker: Worker) -> None:
    eventually(lambda: broker.events("heartbeat"))
    broker.hold = True
    (tag,) = broker.deliver(envelope("note", 1))
    eventually(lambda: broker.held)
    stopping = threading.Thread(target=worker.stop, args=(20,))
    stopping.start()
    broker.fail()
    eventually(lambda: broker.held)
    assert stopping.is_alive()
    broker.hold = False
    broker.confirm()
    stopping.join()
    assert broker.subscription.acked(tag)


def test_stop_tolerates_twice_and_never(broker: ScriptedExchange, worker: Worker) -> None:
    assert worker.running
    assert worker.stop(1)
    assert worker.stop(1)
    worker.stop_now()
    eventually(lambda: not worker.running)
    never = Worker(REGISTRY, ScriptedExchange(), queues=["default"], concurrency=1, settings=Settings())
    assert never.stop(1)
    never.stop_now()
    with pytest.raises(UsageError):
        never.start()


def test_stop_now_does_not_wait(broker: ScriptedExchange, worker: Worker) -> None:
    broker.deliver(envelope("wait_for_gate", 1))
    assert entered.wait(20)
    before = time.monotonic()
    worker.stop_now()
    assert time.monotonic() - before < 2
    assert broker.subscription.closed


def test_a_stopped_worker_leaves_no_thread(broker: ScriptedExchange) -> None:
    before = set(threading.enumerate())
    worker = start_worker(REGISTRY, broker)
    broker.deliver(envelope("note", 1), envelope("note", 2))
    eventually(lambda: len(ran) == 2)
    worker.stop(5)
    eventually(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("broker-jobs")])

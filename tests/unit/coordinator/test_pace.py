"""Under load transactions gather what comes for a moment, where nobody waits for what it may bring."""

from __future__ import annotations

import threading
import time

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.coordinator import input_queue
from broker_jobs.coordinator.input_queue import InputQueue
from broker_jobs.coordinator.inputs import WorkItemsWaiting
from broker_jobs.coordinator.pace import GATHER_SECONDS, LOAD, WINDOW_SECONDS, Pace
from broker_jobs.coordinator.records import FromWorker
from broker_jobs.messages.commands import GetJob
from broker_jobs.messages.envelope import Dependencies, LimitKey, Parent
from broker_jobs.messages.events import event_json
from broker_jobs.store.open import Store
from tests.unit.coordinator.engine_harness import EngineHarness


class Clocked:
    """A pace, and its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pace = Pace(lambda: self.now)

    def load(self, per_second: float) -> None:
        """Transactions of ten records at this rate, for two windows."""
        end = self.now + 2 * WINDOW_SECONDS
        while self.now < end:
            self.now += 10 / per_second
            self.pace.begins(10)


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


@pytest.fixture
def clocked() -> Clocked:
    return Clocked()


def test_without_load_no_transaction_waits(clocked: Clocked) -> None:
    assert clocked.pace.gather_seconds() == 0.0
    clocked.load(LOAD * 0.8)
    assert clocked.pace.gather_seconds() == 0.0


def test_under_load_a_transaction_begins_a_moment_after_the_last_one_began(clocked: Clocked) -> None:
    clocked.load(LOAD * 2)
    assert clocked.pace.gather_seconds() == pytest.approx(GATHER_SECONDS)
    clocked.now += GATHER_SECONDS / 2
    assert clocked.pace.gather_seconds() == pytest.approx(GATHER_SECONDS / 2)
    clocked.now += GATHER_SECONDS
    assert clocked.pace.gather_seconds() == 0.0


def test_when_the_load_ends_no_transaction_waits_any_more(clocked: Clocked) -> None:
    clocked.load(LOAD * 2)
    clocked.now += 2 * WINDOW_SECONDS
    clocked.pace.begins(1)
    assert clocked.pace.gather_seconds() == 0.0


# ---- who may wait for what an outcome brings


def test_at_first_and_until_a_tick_somebody_may_wait(harness: EngineHarness) -> None:
    assert not harness.engine.may_gather()
    harness.apply(harness.ready())
    assert not harness.engine.may_gather()
    harness.apply(harness.tick())
    assert harness.engine.may_gather()
    harness.engine.become_active(harness.now)
    assert not harness.engine.may_gather()


@pytest.mark.parametrize("waits", ["child", "limited"])
def test_while_a_job_waits_for_another_one_nothing_is_gathered(harness: EngineHarness, waits: str) -> None:
    harness.apply(harness.tick())
    limit = (LimitKey(kind="concurrency", key="k", limit=1),)
    if waits == "child":
        after = Dependencies(parents=(Parent(id="j"),))
        harness.apply(harness.ready(), harness.held("waits", after=after))
    else:
        harness.apply(harness.held(limits=limit), harness.held("waits", limits=limit))
    assert harness.row("waits").is_waiting
    assert not harness.engine.may_gather()
    harness.apply(harness.tick())
    assert not harness.engine.may_gather()
    harness.apply(harness.succeeded())
    harness.apply(harness.tick())
    assert harness.engine.may_gather()


def test_while_a_caller_waits_for_a_job_nothing_is_gathered(harness: EngineHarness) -> None:
    harness.apply(harness.tick(), harness.ready())
    harness.apply(harness.ask(GetJob, reply_to="jobs.v1.reply.me", job_id="j", until_ended=True))
    assert not harness.engine.may_gather()
    harness.apply(harness.succeeded())
    assert harness.engine.may_gather()


def test_a_transaction_that_is_rolled_back_says_nothing(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "transaction", lambda _: pytest.fail("the store is away"))
    with pytest.raises(pytest.fail.Exception):
        harness.apply(harness.tick())
    assert not harness.engine.may_gather()


# ---- what is gathered


def log(tag: int, queue: str = names.LOG) -> Delivery:
    return Delivery(
        channel=1, tag=tag, queue=queue, body=b"{}", redelivered=False, exchange="", key="", type="", message_id="",
        reply_to=None, correlation_id=None, delivery_count=0,
    )  # fmt: skip


def waited(inbox: InputQueue, gather_seconds: float) -> float:
    began = time.monotonic()
    inbox.wait(60.0, gather_seconds)
    return time.monotonic() - began


def test_a_little_of_the_log_waits_for_more_of_it() -> None:
    inbox = InputQueue()
    inbox.put(names.LOG, [log(1)])
    timer = threading.Timer(0.05, inbox.put, (names.LOG, [log(2)]))
    timer.start()
    assert waited(inbox, 0.3) >= 0.3
    assert inbox.log_waits() == 2
    timer.join()


@pytest.mark.parametrize("what", ["command", "due", "dead", "own", "much"])
def test_what_is_urgent_or_much_waits_for_nothing(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_queue, "GATHER_BELOW", 10)
    inbox = InputQueue()
    inbox.put(names.LOG, [log(1)])

    def come() -> None:
        match what:
            case "own":
                inbox.add([WorkItemsWaiting()])
            case "much":
                inbox.put(names.LOG, [log(tag) for tag in range(2, 11)])
            case _:
                queue = {"command": names.COMMAND, "due": names.DUE, "dead": names.DEAD_LETTERS}[what]
                inbox.put(queue, [log(1, queue)])

    timer = threading.Timer(0.05, come)
    timer.start()
    assert waited(inbox, 50.0) < 50.0
    timer.join()


def test_without_anything_it_waits_until_its_time_alone() -> None:
    inbox = InputQueue()
    began = time.monotonic()
    inbox.wait(0.05, 30.0)
    assert time.monotonic() - began < 30.0


@pytest.mark.parametrize("what", ["a job with conditions", "failed", "returned", "interrupted"])
def test_what_may_bring_a_release_is_not_gathered(harness: EngineHarness, what: str) -> None:
    told: dict[str, FromWorker] = {
        "failed": harness.failed(), "returned": harness.returned("shutdown"), "interrupted": harness.interrupted(),
    }  # fmt: skip
    inbox = InputQueue()
    if what in told:
        body = f'{{"events":[{event_json(told[what].event).decode()}]}}'.encode()
        urgent = log(2)._replace(exchange=names.REPORT, body=body)
    else:
        urgent = log(2)._replace(exchange=names.OFFER)
    inbox.put(names.LOG, [log(1), urgent])
    assert waited(inbox, 5.0) < 5.0
    assert len(inbox.take()) == 2
    inbox.put(names.LOG, [log(3)])
    assert waited(inbox, 0.1) >= 0.1, "what was decided hurries no more"


def test_successes_are_gathered(harness: EngineHarness) -> None:
    body = f'{{"events":[{event_json(harness.succeeded().event).decode()}]}}'.encode()
    inbox = InputQueue()
    inbox.put(names.LOG, [log(1)._replace(exchange=names.REPORT, body=body)])
    assert waited(inbox, 0.1) >= 0.1

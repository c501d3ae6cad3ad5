"""An exception that is sent to a run comes inside its function, or not at all."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from broker_jobs.consumer import thread_interrupt
from broker_jobs.consumer.thread_interrupt import ThreadInterrupt
from broker_jobs.messages.control import Control
from broker_jobs.producer.current_job import JobCancelled, JobTimedOut
from tests.support.wait import eventually
from tests.unit.consumer.scripted import ScriptedExchange, envelope, registry_of, start_worker

RUNS = 3_000


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Threads take turns after each few steps, so that a race has many chances.

    No garbage is collected: what comes inside a callback of the collector is lost, as Python ignores its exceptions.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    gc.disable()
    yield
    gc.enable()
    sys.setswitchinterval(before)


def spin(steps: int) -> int:
    for _ in range(steps):
        pass
    return steps


def call_c(steps: int) -> int:
    return sum(range(steps))


def raise_at_the_end(steps: int) -> int:
    spin(steps)
    raise ValueError(steps)


class Race:
    """A thread that runs one function after the other, and one that sends an exception of its own to each."""

    def __init__(self, function: Callable[[int], int], steps: int) -> None:
        self.function = function
        self.steps = steps
        self.current: tuple[int, ThreadInterrupt, type[JobCancelled]] | None = None
        self.ends: list[str] = []
        self.wrong: list[str] = []
        self.seen = -1
        self.over = False

    def run_all(self) -> None:
        try:
            for number in range(RUNS):
                self.run_one(number)
        except BaseException as stray:  # noqa: BLE001  # that is what the test looks for
            self.wrong.append(f"between two runs: {stray!r}")
        self.over = True

    def run_one(self, number: int) -> None:
        interrupt, own = ThreadInterrupt(), type("Own", (JobCancelled,), {})
        self.current = (number, interrupt, own)
        while number % 20 == 0 and self.seen != number:  # else it is over before the sender has noticed most of them
            pass
        steps = number * 7 % self.steps
        try:
            end = "returned" if interrupt.call(self.function, (steps,), {}) >= 0 else "?"
        except JobCancelled as cancelled:
            end = "cancelled"
            if type(cancelled) is not own:
                self.wrong.append(f"run {number} got the exception of another")
            if not interrupt.delivered:
                self.wrong.append(f"run {number} raised what is said to be not delivered")
        except ValueError:
            end = "returned"
        if end == "returned" and interrupt.delivered:
            self.wrong.append(f"run {number} ended by itself and is said to have been told")
        self.ends.append(end)

    def send_all(self) -> None:
        last = -1
        while not self.over:
            if self.current is None or self.current[0] == last:
                continue
            last, interrupt, own = self.current
            self.seen = last
            spin(last * 13 % self.steps)
            interrupt.send(own)


@pytest.mark.parametrize("function", [spin, call_c, raise_at_the_end])
@pytest.mark.usefixtures("switching_often")
def test_of_thousands_of_runs_that_end_as_they_are_cancelled_none_harms_another(function: Callable[[int], int]) -> None:
    race = Race(function, 400)
    sender = threading.Thread(target=race.send_all)
    runner = threading.Thread(target=race.run_all)
    runner.start()
    sender.start()
    runner.join()
    sender.join()
    assert race.wrong == []
    assert len(race.ends) == RUNS
    assert set(race.ends) == {"returned", "cancelled"}


@pytest.mark.usefixtures("switching_often")
def test_deletes_that_race_with_the_ends_of_jobs_cost_no_outcome_and_no_thread() -> None:
    jobs = [envelope("spin", number * 11 % 900) for number in range(600)]
    broker = ScriptedExchange()
    worker = start_worker(registry_of(spin), broker, concurrency=4)
    over = threading.Event()

    def cancel_all() -> None:
        number = 2
        while not over.is_set():
            broker.say(Control(version=number, cancel=[job.id for job in jobs[number % 3 :: 3]]))
            number += 1

    canceller = threading.Thread(target=cancel_all)
    canceller.start()
    try:
        tags = broker.deliver(*jobs)
        eventually(lambda: all(broker.subscription.acked(tag) for tag in tags), 60)
    finally:
        over.set()
        canceller.join()
    ended = [event["id"] for event in broker.events("succeeded", "failed", "returned")]
    assert sorted(ended) == sorted(job.id for job in jobs)
    assert {e["error"]["type"] for e in broker.events("failed")} <= {"Cancelled"}
    assert worker.stop(10)


def test_what_is_asked_before_the_function_runs_is_raised_at_its_beginning() -> None:
    interrupt = ThreadInterrupt()
    ran: list[int] = []
    interrupt.send(JobTimedOut)
    with pytest.raises(JobTimedOut, match="longer than its timeout"):
        interrupt.call(ran.append, (1,), {})
    assert (ran, interrupt.delivered) == ([], True)


def test_what_is_asked_after_the_function_has_ended_is_raised_nowhere() -> None:
    interrupt = ThreadInterrupt()
    assert interrupt.call(spin, (3,), {}) == 3
    interrupt.send(JobTimedOut)
    spin(100)
    assert not interrupt.delivered


def test_an_exception_is_kept_back_from_a_logging_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    fragile = [True, True, False]
    monkeypatch.setattr(thread_interrupt, "_is_fragile", lambda _: fragile.pop(0))
    interrupt, entered = ThreadInterrupt(), threading.Event()
    raised: list[BaseException] = []

    def wait() -> None:
        entered.set()
        while True:
            time.sleep(0.001)

    def run() -> None:
        try:
            interrupt.call(wait, (), {})
        except JobTimedOut as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert entered.wait(30)
    for _ in range(2):
        interrupt.send(JobTimedOut)
        assert interrupt.waits
        assert not interrupt.delivered
    interrupt.send(JobTimedOut)
    thread.join(30)
    assert not interrupt.waits
    assert len(raised) == 1


def test_a_thread_inside_logging_is_seen() -> None:

    inside, over = threading.Event(), threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            inside.set()
            over.wait(30)

    logger = logging.getLogger("tests.slow")
    logger.addHandler(Handler())
    thread = threading.Thread(target=ThreadInterrupt().call, args=(logger.error, ("x",), {}))
    thread.start()
    try:
        assert inside.wait(30)
        assert thread.ident is not None
        assert thread_interrupt._is_fragile(thread.ident)
    finally:
        over.set()
        thread.join(30)
        logger.handlers.clear()

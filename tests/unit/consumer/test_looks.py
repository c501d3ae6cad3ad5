"""What a worker looks after a few times a second is told once, and by its clock."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery
from broker_jobs.clock import ManualClock
from broker_jobs.consumer.acknowledger import Acknowledger
from broker_jobs.consumer.event_sender import EventSender
from broker_jobs.consumer.flow_control import (
    FEW_EVENTS,
    PREFETCH_SECONDS,
    TOO_MANY_EVENTS,
    FlowControl,
    RunTimes,
)
from broker_jobs.consumer.heartbeat import LEASE_MARGIN_SECONDS, LEASE_SECONDS, HeartbeatSender
from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.monitor import OUTLIVED_AFTER_SECONDS, Monitor
from broker_jobs.consumer.observer import NoWorkerObserver
from broker_jobs.consumer.outcome import Completed, raised
from broker_jobs.consumer.overdue import OverdueRuns
from broker_jobs.consumer.program_code import ProgramCode
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.running import Run, Running
from broker_jobs.consumer.starter import Starter
from broker_jobs.consumer.windows import LOWER_AFTER_LOOKS, Windows
from broker_jobs.function.definition import define
from broker_jobs.function.registry import Registry
from broker_jobs.messages.codec import encode
from broker_jobs.messages.events import WorkerRef
from broker_jobs.producer.current_job import JobTimedOut
from broker_jobs.served_queues import ServedQueues
from tests.unit.consumer.scripted import ScriptedSubscription, envelope

QUEUE = names.work_queue("default")


def note() -> None: ...


def run(received: ReceivedDelivery) -> None: ...


async def run_async(received: ReceivedDelivery) -> None: ...


class Parts:
    """The parts of a worker that are called again and again, and what they told."""

    def __init__(self, *, leaves: bool = False) -> None:
        self.slots = 0
        self.left: list[str] = []
        self.clock = ManualClock()
        self.confirms = True
        self.told: list[dict[str, Any]] = []
        self.open: list[Callable[[str | None], None]] = []
        self.ran: list[float] = []
        self.running = Running()
        self.run_times = RunTimes()
        self.acknowledger = Acknowledger(self.clock)
        self.event_sender = EventSender(
            self._send, WorkerRef(id="w"), self.clock, acknowledge=self.acknowledger.acknowledge
        )
        self.reporter = Reporter(self.event_sender, self.clock, NoWorkerObserver(), self.ran.append)
        self.heartbeat_sender = HeartbeatSender(
            event_sender=self.event_sender, clock=self.clock, running=self.running, held=list, fences=Revocations(),
            reporter=self.reporter, serves=lambda: (ServedQueues.parse(["default"]), 1), period_seconds=5.0, version="",
            code=ProgramCode("", Registry()),
        )  # fmt: skip
        queues = ServedQueues.parse(["default"])
        self.local_queue = LocalQueue(queues, 4)
        self.starter = Starter(self.local_queue, run, run_async)
        self.flow_control = FlowControl(
            Windows(queues, self.local_queue, 500), self.starter, run_times=self.run_times, fences=Revocations(),
            event_sender=self.event_sender, running=self.running,
        )  # fmt: skip
        self.monitor = Monitor(
            running=self.running, reporter=self.reporter, acknowledger=self.acknowledger,
            heartbeat_sender=self.heartbeat_sender, clock=self.clock, handover_after=60.0, timeout_grace=10.0,
            handed_over=self.flow_control.handed_over,
            overdue=OverdueRuns(2, self._add_slots, self.left.append if leaves else None),
        )  # fmt: skip
        self.subscription = ScriptedSubscription()
        self.acknowledger.use(self.subscription)
        self.flow_control.use(self.subscription)

    def _add_slots(self, by: int) -> None:
        self.slots += by

    def _send(self, body: bytes, ended: Callable[[str | None], None]) -> None:
        self.told += json.loads(body)["events"]
        if self.confirms:
            ended(None)
        else:
            self.open.append(ended)

    def run(self, **fields: Any) -> Run:
        """A run that has begun."""
        job = envelope("note", **fields)
        queue = names.work_queue("default")
        delivery = Delivery(1, 1, queue, encode(job), False, names.WORK, "default", "", "", None, None, 0)
        self.acknowledger.took([delivery])
        received = ReceivedDelivery(delivery, job, define(note, {}), self.clock.monotonic())
        run = Run(received, self.clock.now(), self.clock.monotonic())
        self.running.add(run)
        return run

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.told]

    def look_at_prefetch(self, run_seconds: float | None, seconds: float = PREFETCH_SECONDS) -> int:
        """A look after a while in which a job ran for so long; the prefetch then."""
        if run_seconds is not None:
            self.run_times.ran(run_seconds)
        self.clock.advance(seconds)
        self.flow_control.look(self.clock.monotonic())
        return self.flow_control.prefetch[QUEUE]


@pytest.fixture
def parts() -> Parts:
    return Parts()


# --- runs ---


def test_a_long_run_is_handed_over_once_and_is_owned_when_that_is_confirmed(parts: Parts) -> None:
    parts.confirms = False
    run = parts.run()
    parts.clock.advance(60.0)
    for _ in range(3):
        parts.monitor.look()
    assert [(event["kind"], event["owned"]) for event in parts.told] == [("started", True)]
    assert (run.owned, parts.subscription.acks) == (False, [])
    parts.open.pop()(None)
    assert (run.owned, parts.subscription.acks) == (True, [(1, 1, True)])
    assert (parts.kinds(), parts.event_sender.waiting) == (["started"], 0)


def test_a_run_that_outlives_its_timeout_is_said_to_do_so_once(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    run = parts.run(timeout=3.0)
    parts.clock.advance(3.0 + OUTLIVED_AFTER_SECONDS)
    for _ in range(3):
        parts.monitor.look()
    assert run.cancel_reason == "timeout"
    assert len([record for record in caplog.records if "outlives its timeout" in record.getMessage()]) == 1


def test_the_coordinator_learns_once_that_a_run_goes_on_after_its_timeout(parts: Parts) -> None:
    parts.run(timeout=3.0)
    parts.clock.advance(3.0 + OUTLIVED_AFTER_SECONDS)
    for _ in range(3):
        parts.monitor.look()
    assert parts.kinds().count("overrun") == 1


def test_the_first_of_two_requests_counts(parts: Parts) -> None:
    run = parts.run()
    run.cancel("timeout")
    run.cancel("deleted")
    with pytest.raises(JobTimedOut):
        run.interrupt.call(note, (), {})


def test_a_thread_goes_on_while_its_worker_is_cut_off_and_is_stopped_at_its_timeout_all_the_same(parts: Parts) -> None:
    run = parts.run()
    run.cancel("lease")
    run.interrupt.call(note, (), {})
    run.cancel("timeout")
    assert run.cancel_reason == "timeout"
    with pytest.raises(JobTimedOut):
        run.interrupt.call(note, (), {})


def test_a_process_leaves_once_when_a_run_is_overdue() -> None:
    parts = Parts(leaves=True)
    runs = [parts.run(timeout=3.0), parts.run(timeout=4.0)]
    parts.clock.advance(12.9)
    parts.monitor.look()
    assert parts.left == []
    parts.clock.advance(2.0)
    for _ in range(3):
        parts.monitor.look()
    (reason,) = parts.left
    assert reason.startswith(f"note {runs[0].received.envelope.id} attempt 1 still runs 10 s after its timeout of 3 s")
    assert (parts.slots, [run.overdue for run in runs]) == (0, [True, True])


def test_a_process_that_nobody_replaces_gives_the_place_to_others_until_the_run_has_ended(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [parts.run(timeout=3.0) for _ in range(3)]
    parts.clock.advance(13.0)
    parts.monitor.look()
    assert parts.slots == 2  # as many as there are regular ones
    assert "its place is lost" in caplog.text
    for run in runs:
        parts.running.remove(run)
    parts.monitor.look()
    assert parts.slots == 0


def test_nothing_is_asked_or_told_of_a_run_that_has_ended(parts: Parts) -> None:
    run = parts.run()
    parts.running.remove(run)
    run.cancel("deleted")
    parts.reporter.line(run, "late")
    parts.reporter.cut_off(run)
    assert (run.cancel_reason, run.cut_off, parts.told) == (None, False, [])


def test_a_run_that_ends_is_counted_with_its_time_and_no_alarm(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    run = parts.run()
    parts.clock.advance(2.0)
    parts.reporter.ended(run, Completed("null"))
    assert (parts.kinds(), parts.reporter.done) == (["succeeded"], 1)
    assert parts.ran == pytest.approx([2.0])
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize(
    ("attempt", "level", "what_follows"),
    [(2, logging.WARNING, "retry 2 of 2 follows after its backoff"), (3, logging.ERROR, "it is not retried; correct")],
)
def test_a_failure_is_an_error_in_the_log_when_no_retry_is_left(
    parts: Parts, caplog: pytest.LogCaptureFixture, attempt: int, level: int, what_follows: str
) -> None:
    parts.reporter.ended(parts.run(retries=2, attempt=attempt), raised(ValueError("boom"), (Exception,)))
    (record,) = caplog.records
    assert (record.levelno, what_follows in record.getMessage()) == (level, True)


# --- heartbeats ---


def test_a_heartbeat_that_is_not_confirmed_is_followed_by_none(parts: Parts) -> None:
    parts.confirms = False
    for _ in range(3):
        parts.heartbeat_sender.look()
        parts.clock.advance(5.0)
    assert parts.kinds() == ["heartbeat"]
    parts.open.pop()(None)
    parts.heartbeat_sender.look()
    assert parts.kinds() == ["heartbeat"] * 2


def test_a_lease_counts_from_when_the_last_confirmed_heartbeat_was_said(parts: Parts) -> None:
    parts.confirms = False
    parts.heartbeat_sender.look()
    parts.clock.advance(LEASE_SECONDS - LEASE_MARGIN_SECONDS)
    parts.open.pop()(None)
    assert not parts.heartbeat_sender.lease_is_ending()
    parts.clock.advance(1.0)
    assert parts.heartbeat_sender.lease_is_ending()


# --- what comes in ---


def test_a_prefetch_is_lowered_when_a_lower_one_was_right_for_some_looks_in_a_row(parts: Parts) -> None:
    assert [parts.look_at_prefetch(0.001) for _ in range(2)] == [8, 16]
    looks = [parts.look_at_prefetch(0.5) for _ in range(LOWER_AFTER_LOOKS - 1)]
    assert [*looks, parts.look_at_prefetch(0.015)] == [16] * LOWER_AFTER_LOOKS
    looks = [parts.look_at_prefetch(0.5) for _ in range(LOWER_AFTER_LOOKS)]
    assert looks == [*[16] * (LOWER_AFTER_LOOKS - 1), 4]
    assert parts.subscription.prefetch[QUEUE] == 4


def test_a_prefetch_is_looked_at_a_few_times_a_second(parts: Parts) -> None:
    assert [parts.look_at_prefetch(0.001, PREFETCH_SECONDS / 2) for _ in range(4)] == [8, 8, 16, 16]


def test_what_runs_counts_where_nothing_has_ended(parts: Parts) -> None:
    assert parts.look_at_prefetch(0.001) == 8
    assert parts.look_at_prefetch(None) == 8, "nothing runs"
    parts.run()
    parts.clock.advance(10.0)
    looks = [parts.look_at_prefetch(None) for _ in range(LOWER_AFTER_LOOKS)]
    assert looks[-1] == 4


def test_no_job_comes_in_while_too_many_outcomes_wait_for_their_confirm(parts: Parts) -> None:
    parts.confirms = False
    queues = {*names.work_queues("default")}
    for _ in range(TOO_MANY_EVENTS + 1):
        parts.event_sender.put(b'{"kind":"note"}')
    parts.look_at_prefetch(None)
    assert parts.subscription.paused == queues
    while parts.event_sender.waiting >= FEW_EVENTS:
        assert parts.subscription.paused == queues
        parts.open.pop()(None)
        parts.look_at_prefetch(None)
    for _ in range(2):  # what is low is opened when nothing higher has come
        parts.look_at_prefetch(None)
    assert parts.subscription.paused == set()


# --- what waits ---


def delivered(parts: Parts, number: int) -> ReceivedDelivery:
    delivery = Delivery(1, number, QUEUE, b"", False, names.WORK, "default", "", "", None, None, 0)
    return ReceivedDelivery(delivery, envelope("note"), define(note_async, {}), parts.clock.monotonic())


async def note_async() -> None: ...


def test_what_has_waited_for_a_second_goes_back_in_its_order_and_its_queue_is_shut_before(parts: Parts) -> None:
    parts.local_queue.put([delivered(parts, number) for number in range(7)])
    parts.clock.advance(1.0)
    assert parts.flow_control.late(parts.clock.monotonic()) == []
    parts.clock.advance(0.1)
    parts.subscription.stopping = {QUEUE}
    assert parts.flow_control.late(parts.clock.monotonic()) == [], "more of it may come as long as it is not confirmed"
    parts.subscription.stopping = set()
    late = parts.flow_control.late(parts.clock.monotonic())
    assert [received.place.tag for received in late] == [4, 5, 6]
    assert parts.subscription.paused == {QUEUE, names.work_queue("default", "low")}
    assert parts.flow_control.late(parts.clock.monotonic()) == []


def test_while_a_queue_moves_its_deliveries_may_wait_longer(parts: Parts) -> None:
    running = parts.local_queue.put([delivered(parts, number) for number in range(20)])
    for _ in range(9):
        parts.clock.advance(0.3)
        following = parts.local_queue.ended(running.pop(0))
        assert following is not None
        running.append(following)
        assert parts.flow_control.late(parts.clock.monotonic()) == []
    parts.clock.advance(0.6)
    assert [received.place.tag for received in parts.flow_control.late(parts.clock.monotonic())] == list(range(13, 20))

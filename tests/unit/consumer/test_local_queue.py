"""What a worker starts next: the first named queue, in it what is high, and what is high and about to come."""

from __future__ import annotations

from typing import cast

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.names import work_queue
from broker_jobs.clock import ManualClock
from broker_jobs.consumer.acknowledger import Acknowledger
from broker_jobs.consumer.event_sender import DeliveryTag
from broker_jobs.consumer.local_queue import DELIVERY_SECONDS, REPORT_SECONDS, LocalQueue
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.function.registry import Function
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.priority import PRIORITIES, Priority
from tests.unit.consumer.scripted import ScriptedSubscription

PREFETCH = 2


class Stage:
    """A local queue, and the deliveries that it is given."""

    def __init__(self, *queues: str) -> None:
        self.clock = ManualClock()
        self.subscription = ScriptedSubscription()
        self.acknowledger = Acknowledger(self.clock, lambda: PREFETCH)
        self.acknowledger.use(self.subscription)
        self.ready = LocalQueue(queues or ("mail",), self.acknowledger, self.clock)
        self._tags = 0
        self.begun = set[str]()

    def put(self, id: str, priority: Priority = "normal", queue: str = "mail") -> ReceivedDelivery:
        self._tags += 1
        name = work_queue(queue, priority)
        delivery = Delivery(1, self._tags, name, b"", False, "", "", "", "", None, None, 0)
        envelope = Envelope.model_validate(
            {"id": id, "job": "work", "priority": priority, "created_at": "2026-11-22T14:00:00Z"}
        )
        received = ReceivedDelivery(delivery, envelope, cast("Function", None), self.clock.monotonic())
        self.acknowledger.took([delivery])
        if name not in self.begun:  # after the first one the others come at once
            self.begun.add(name)
            self.clock.advance(DELIVERY_SECONDS)
        self.ready.put(received)
        return received

    def pop(self) -> str | None:
        received = self.ready.pop()
        return None if received is None else received.envelope.id

    def take(self) -> ReceivedDelivery:
        received = self.ready.pop()
        assert received is not None
        return received

    def acknowledge(self, received: ReceivedDelivery) -> None:
        self.acknowledger.acknowledge([DeliveryTag(received.place.channel, received.place.tag)])


def test_high_goes_before_normal_before_low_and_each_in_the_order_it_came() -> None:
    stage = Stage()
    for n in range(2):
        for priority in reversed(PRIORITIES):
            stage.put(f"{priority}-{n}", priority)
    assert [stage.pop() for _ in range(7)] == ["high-0", "high-1", "normal-0", "normal-1", "low-0", "low-1", None]


def test_the_first_named_queue_goes_before_the_others_whatever_the_priorities_are() -> None:
    stage = Stage("mail", "bulk")
    stage.put("bulk-high", "high", "bulk")
    stage.put("mail-low", "low")
    stage.put("other", "high", "not.asked.for")
    assert [stage.pop() for _ in range(3)] == ["mail-low", "bulk-high", "other"]


def test_what_is_lower_waits_while_the_broker_is_about_to_deliver_what_is_higher() -> None:
    stage = Stage()
    for id in ("first", "second"):
        stage.put(id, "high")
    stage.put("normal")
    first, second = stage.take(), stage.take()
    assert stage.pop() == "normal", "nothing high can come before one of them has ended"
    stage.put("later")
    stage.ready.ended(first)
    assert (stage.pop(), len(stage.ready)) == (None, 1)
    stage.acknowledge(first)
    assert stage.pop() is None, "it is on its way"
    stage.put("third", "high")
    assert stage.pop() == "third"
    stage.ready.ended(second)
    stage.acknowledge(second)
    assert stage.pop() is None
    stage.clock.advance(DELIVERY_SECONDS)
    assert stage.pop() == "later", "the broker has no more"


def test_nothing_waits_for_a_work_queue_of_which_the_broker_has_no_more() -> None:
    stage = Stage()
    stage.put("only", "high")
    stage.put("normal")
    only = stage.take()
    stage.ready.ended(only)
    stage.acknowledge(only)
    assert stage.pop() == "normal"


def test_what_is_lower_waits_a_second_at_most_for_an_outcome_that_is_not_confirmed() -> None:
    stage = Stage()
    for id in ("first", "second"):
        stage.put(id, "high")
    stage.put("normal")
    first, _ = stage.take(), stage.take()
    stage.ready.ended(first)
    stage.clock.advance(REPORT_SECONDS - 0.01)
    assert stage.pop() is None
    stage.clock.advance(0.02)
    assert stage.pop() == "normal"


def test_other_queues_do_not_wait_for_what_is_high_in_one() -> None:
    stage = Stage("mail", "bulk")
    for id in ("first", "second"):
        stage.put(id, "high", "bulk")
    first, _ = stage.take(), stage.take()
    stage.put("bulk-low", "low", "bulk")
    stage.ready.ended(first)
    stage.put("mail-low", "low")
    assert [stage.pop(), stage.pop()] == ["mail-low", None]


def test_beyond_a_gap_what_keeps_a_work_queue_full_is_acknowledged_at_once() -> None:
    stage = Stage()
    stage.put("waits")
    high = [stage.put(id, "high") for id in ("first", "second")]
    stage.acknowledge(high[0])
    assert stage.subscription.acks == [(1, high[0].place.tag, False)]
    stage.acknowledge(high[1])
    assert len(stage.subscription.acks) == 1, "the broker may deliver one more: this one is not in a hurry"


def test_what_a_lost_channel_had_counts_no_more() -> None:
    stage = Stage()
    high = [stage.put(id, "high") for id in ("first", "second")]
    stage.acknowledge(high[1])
    stage.acknowledger.lost(1)
    assert not stage.acknowledger.is_full(work_queue("mail", "high"))
    assert stage.acknowledger.unacknowledged == 0


def test_at_the_start_what_is_lower_waits_for_the_first_that_is_higher() -> None:
    stage = Stage()
    stage.ready.expect(work_queue("mail", "high"))
    stage.put("normal")
    assert stage.pop() is None
    stage.put("high", "high")
    assert [stage.pop(), stage.pop()] == ["high", "normal"]


def test_what_is_lower_waits_a_moment_when_the_first_comes_that_is_higher_as_more_may_follow() -> None:
    stage = Stage()
    stage.begun.add(work_queue("mail", "high"))
    stage.put("normal")
    stage.put("high", "high")
    assert [stage.pop(), stage.pop()] == ["high", None]
    stage.clock.advance(DELIVERY_SECONDS)
    assert stage.pop() == "normal"


def test_at_the_start_what_is_lower_waits_a_second_at_most_as_another_worker_may_be_faster() -> None:
    stage = Stage()
    stage.ready.expect(work_queue("mail", "high"))
    stage.put("normal")
    stage.clock.advance(REPORT_SECONDS)
    assert stage.pop() == "normal"

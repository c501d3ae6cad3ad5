"""The deliveries of a channel are handed on together, once each, and counted until they are acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika import spec

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.rabbitmq.deliveries import ChannelDeliveries
from broker_jobs.broker.rabbitmq.io_loop import IoLoop
from broker_jobs.broker.rabbitmq.properties import properties_of


class Loop(IoLoop):
    """Keeps what is to be called at the end of its iteration."""

    def __init__(self) -> None:
        super().__init__("unused")
        self.later: list[Callable[[], object]] = []

    def call_later(self, seconds: float, function: Callable[[], object]) -> object:
        assert seconds == 0
        self.later.append(function)
        return None

    def end_iteration(self) -> None:
        for function in self.later:
            function()
        self.later.clear()


class Channel:
    """The deliveries of one channel, and what was handed on."""

    def __init__(self, *, needs_acks: bool = True) -> None:
        self.loop = Loop()
        self.handed_on: list[list[int]] = []
        self.deliveries = ChannelDeliveries(self.loop, 7, self._take, needs_acks=needs_acks)

    def _take(self, deliveries: list[Delivery]) -> None:
        self.handed_on.append([delivery.tag for delivery in deliveries])

    def take(self, *tags: int, consumer: str = "a") -> None:
        for tag in tags:
            delivery = Delivery(7, tag, "jobs", b"body", False, "exchange", "key", "", "", None, None, 0)
            self.deliveries.take(delivery, consumer)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock."""
    clock = [100.0]
    monkeypatch.setattr("broker_jobs.broker.rabbitmq.deliveries.time.monotonic", lambda: clock[0])
    return clock


def test_what_is_read_at_once_is_handed_on_together_and_once() -> None:
    channel = Channel()
    channel.take(1, 2)
    assert (channel.handed_on, len(channel.loop.later)) == ([], 1)
    channel.loop.end_iteration()
    channel.loop.end_iteration()
    assert channel.handed_on == [[1, 2]]
    channel.take(3)
    channel.loop.end_iteration()
    assert channel.handed_on == [[1, 2], [3]]


def test_what_is_not_acknowledged_is_counted_by_consumer() -> None:
    channel = Channel()
    channel.take(1, 2, 3, 4)
    channel.take(5, consumer="b")
    assert channel.deliveries.unacknowledged() == {"a": 4, "b": 1}
    channel.deliveries.acknowledged(4, multiple=False)
    channel.deliveries.acknowledged(4, multiple=False)
    assert channel.deliveries.unacknowledged() == {"a": 3, "b": 1}
    channel.deliveries.acknowledged(2, multiple=True)
    assert channel.deliveries.unacknowledged() == {"a": 1, "b": 1}
    channel.deliveries.acknowledged(9, multiple=True)
    assert channel.deliveries.unacknowledged() == {}


def test_where_nothing_is_acknowledged_nothing_is_counted() -> None:
    channel = Channel(needs_acks=False)
    channel.take(1)
    channel.loop.end_iteration()
    assert (channel.handed_on, channel.deliveries.unacknowledged()) == ([[1]], {})


def test_what_a_lost_channel_had_is_forgotten() -> None:
    channel = Channel()
    channel.take(1)
    channel.deliveries.forget()
    channel.loop.end_iteration()
    assert (channel.handed_on, channel.deliveries.unacknowledged()) == ([], {})


def test_what_pika_reads_is_handed_on_with_its_queue_and_consumer() -> None:
    handed_on: list[Delivery] = []
    loop = Loop()
    deliveries = ChannelDeliveries(loop, 7, handed_on.extend, needs_acks=True)
    read_by_pika = deliveries.add_consumer("jobs", "a")
    assert deliveries.consumers == {b"a": ("jobs", "a")}
    method = spec.Basic.Deliver("a", 3, True, "exchange", "key")
    read_by_pika(None, method, pika.BasicProperties(type="job"), b"body")
    assert deliveries.unacknowledged() == {"a": 1}
    loop.end_iteration()
    expected = Delivery(7, 3, "jobs", b"body", True, "exchange", "key", "job", "", None, None, 0)
    assert handed_on == [expected]


def test_a_channel_is_active_when_a_consumer_starts_and_at_each_delivery_and_acknowledgement(now: list[float]) -> None:
    channel = Channel()
    assert channel.deliveries.active_at == 0.0
    channel.deliveries.add_consumer("jobs", "a")
    assert channel.deliveries.active_at == 100.0
    channel.take(1)
    now[0] = 101.0
    channel.loop.end_iteration()
    assert channel.deliveries.active_at == 101.0
    now[0] = 102.0
    channel.deliveries.hand_on()
    assert channel.deliveries.active_at == 101.0, "there was nothing"
    channel.deliveries.acknowledged(1, multiple=False)
    assert channel.deliveries.active_at == 102.0


@pytest.mark.parametrize(
    ("headers", "count", "dead"),
    [
        (None, 0, False),
        ({}, 0, False),
        ({"x-delivery-count": 3}, 3, False),
        ({"x-delivery-count": "many"}, 0, False),
        ({"x-death": []}, 0, True),
    ],
)
def test_headers_say_how_often_a_message_was_delivered_and_that_it_was_dead_lettered(
    headers: dict[str, Any] | None, count: int, dead: bool
) -> None:
    properties = pika.BasicProperties(
        headers=headers, type="job", message_id="m", reply_to="r", correlation_id="c", user_id="u", expiration="1500"
    )
    assert properties_of(properties) == ("job", "m", "r", "c", count, "u", dead, 1.5)


@pytest.mark.parametrize("expiration", [None, "", "never", "-1"])
def test_an_expiration_that_is_no_number_of_milliseconds_is_none(expiration: str | None) -> None:
    assert properties_of(pika.BasicProperties(expiration=expiration))[-1] is None

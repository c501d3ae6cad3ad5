"""Keeps the deliveries of one channel: hands them on together, and knows which are unacknowledged."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pika

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.rabbitmq.io_loop import IoLoop, run_safely
from broker_jobs.broker.rabbitmq.properties import as_text, properties_of


class ChannelDeliveries:
    """The deliveries of one channel. I/O thread.

    Args:
        loop: of the I/O thread.
        number: of the channel, unique over the life of the broker object.
        on_deliveries: called with what came while the socket was read.
        needs_acks: whether deliveries are acknowledged.
    """

    def __init__(
        self, loop: IoLoop, number: int, on_deliveries: Callable[[list[Delivery]], None], *, needs_acks: bool
    ) -> None:
        self.number = number
        self.consumers: dict[bytes, tuple[str, str]] = {}
        """The queue of each consumer and its tag as text, by the bytes of the tag."""
        self.active_at = 0.0
        """The last start of a consumer, acknowledgement or delivery: monotonic."""
        self._loop = loop
        self._on_deliveries = on_deliveries
        self._needs_acks = needs_acks
        self._gone = False
        self._received: list[Delivery] = []
        self._unacknowledged: dict[int, str] = {}  # delivery tags, oldest first → consumer tag

    def of_channel(self, number: int) -> ChannelDeliveries:
        """Those of another channel, handed on to the same callback."""
        return ChannelDeliveries(self._loop, number, self._on_deliveries, needs_acks=self._needs_acks)

    def add_consumer(self, queue: str, tag: str) -> Callable[..., None]:
        """A consumer is started; what pika is to call with what it reads."""
        self.consumers[tag.encode()] = queue, tag
        self.active_at = time.monotonic()
        return partial(self._read_by_pika, queue)

    def _read_by_pika(self, queue: str, _: object, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        if self._gone:
            return
        tag, redelivered, named = method.delivery_tag, method.redelivered, properties_of(properties)
        exchange, key = as_text(method.exchange), as_text(method.routing_key)
        delivery = Delivery(self.number, tag, queue, body, redelivered, exchange, key, *named)
        self.take(delivery, method.consumer_tag)

    def take(self, delivery: Delivery, consumer_tag: str) -> None:
        """A delivery to a consumer has come."""
        received = self._received
        if not received:
            self._loop.call_later(0, self.hand_on)  # at the end of this iteration: when the socket is read empty
        if self._needs_acks:
            self._unacknowledged[delivery.tag] = consumer_tag
        received.append(delivery)

    def hand_on(self) -> None:
        """Hand on what has come."""
        received, self._received = self._received, []
        if received:
            self.active_at = time.monotonic()
            run_safely(self._on_deliveries, received)

    def acknowledged(self, tag: int, *, multiple: bool) -> None:
        """A delivery, or with `multiple` all up to it, is acknowledged or returned."""
        self.active_at = time.monotonic()
        for each in list(itertools.takewhile(lambda out: out <= tag, self._unacknowledged)) if multiple else [tag]:
            self._unacknowledged.pop(each, None)

    def unacknowledged(self) -> Counter[str]:
        """How many are unacknowledged, by consumer tag."""
        return Counter(self._unacknowledged.values())

    def forget(self) -> None:
        """The channel is gone: what has not been handed on comes again."""
        self._gone = True
        self._received.clear()
        self._unacknowledged.clear()

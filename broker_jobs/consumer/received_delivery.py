"""Holds a delivery that was understood and is not started."""

from __future__ import annotations

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.names import queue_of
from broker_jobs.consumer.event_sender import DeliveryTag
from broker_jobs.function.registry import Function
from broker_jobs.messages.envelope import Envelope


class ReceivedDelivery:
    """What waits for a free thread or its turn on the event loop.

    `queue` is the one it came from; in its `line` it waits behind those of the same queue and priority.
    """

    __slots__ = ("delivery", "envelope", "function", "line", "place", "queue", "received_monotonic")

    def __init__(self, delivery: Delivery, envelope: Envelope, function: Function, received_monotonic: float) -> None:
        self.delivery = delivery
        self.envelope = envelope
        self.function = function
        self.queue = queue_of(delivery.queue)
        self.line = self.queue, envelope.priority
        self.place = DeliveryTag(delivery.channel, delivery.tag)
        self.received_monotonic = received_monotonic

"""Holds a delivery that was understood and is not started."""

from __future__ import annotations

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.names import queue_of
from broker_jobs.consumer.event_sender import DeliveryTag
from broker_jobs.function.registry import Function
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.priority import PRIORITIES

_RANKS = {priority: rank for rank, priority in enumerate(PRIORITIES)}


class ReceivedDelivery:
    """What waits for a free thread or its turn on the event loop.

    `queue` is the one it came from, `work_queue` its queue in the broker, `rank` its priority, 0 the highest.
    `on_loop`: it runs on the event loop.
    """

    __slots__ = (
        "delivery",
        "envelope",
        "function",
        "on_loop",
        "place",
        "queue",
        "rank",
        "received_monotonic",
        "work_queue",
    )

    def __init__(self, delivery: Delivery, envelope: Envelope, function: Function, received_monotonic: float) -> None:
        self.delivery = delivery
        self.envelope = envelope
        self.function = function
        self.on_loop = function.on_loop
        self.queue = queue_of(delivery.queue)
        self.work_queue = delivery.queue
        self.rank = _RANKS[envelope.priority]
        self.place = DeliveryTag(delivery.channel, delivery.tag)
        self.received_monotonic = received_monotonic

"""Holds a delivery that was understood and is not started."""

from __future__ import annotations

from broker_jobs.exchange.names import queue_of
from broker_jobs.exchange.port import Delivery
from broker_jobs.function.registry import Function
from broker_jobs.job.envelope import Envelope
from broker_jobs.outcome.emit import Place


class Taken:
    """What waits for a free thread or its turn on the event loop. `queue` is the one it came from."""

    __slots__ = ("delivery", "envelope", "function", "place", "queue", "taken_monotonic")

    def __init__(self, delivery: Delivery, envelope: Envelope, function: Function, taken_monotonic: float) -> None:
        self.delivery = delivery
        self.envelope = envelope
        self.function = function
        self.queue = queue_of(delivery.queue)
        self.place = Place(delivery.channel, delivery.tag)
        self.taken_monotonic = taken_monotonic

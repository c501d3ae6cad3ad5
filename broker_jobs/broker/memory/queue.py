"""A queue of the broker in memory: its messages, returned messages and consumers."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.memory.transport import KombuTransport, QueuedMessage
from broker_jobs.broker.topology import QueueSpec


class DeliveryTarget(Protocol):
    """The methods of a consumer that a queue and the server use."""

    def has_room(self, queue: str) -> bool:
        """Whether it may have one more unacknowledged delivery of this queue."""
        ...

    def now(self) -> float:
        """The time by its monotonic clock."""
        ...

    def deliver(self, queue: str, queued: QueuedMessage) -> Delivery:
        """Record a delivery of a message and return it."""
        ...

    def receive(self, deliveries: list[Delivery]) -> None:
        """Pass on deliveries as one list."""


class MemoryQueue:
    """Messages and consumers of a queue. Returned messages are delivered before those in the transport."""

    def __init__(self, spec: QueueSpec, transport: KombuTransport) -> None:
        self.spec = spec
        self.consumers: deque[DeliveryTarget] = deque()
        self.returned: deque[QueuedMessage] = deque()
        self._transport = transport
        transport.open(spec.name)

    def ready(self) -> int:
        return len(self.returned) + self._transport.size(self.spec.name)

    def put(self, queued: QueuedMessage) -> None:
        if self.spec.ttl_seconds is None:
            self._transport.put(self.spec.name, queued)

    def take(self, now: float) -> QueuedMessage | None:
        """The next message that has not expired at `now`, or None."""
        while (queued := self.returned.popleft() if self.returned else self._transport.get(self.spec.name)) is not None:
            if queued.expires_at is None or queued.expires_at > now:
                return queued
        return None

    def purge(self) -> int:
        dropped = self.ready()
        self.returned.clear()
        self._transport.purge(self.spec.name)
        return dropped

    def next_consumer(self) -> DeliveryTarget | None:
        """Return the consumer for the next message: each in turn, or only the oldest with a single active consumer."""
        if self.spec.single_active:
            first = self.consumers[0] if self.consumers else None
            return first if first is not None and first.has_room(self.spec.name) else None
        for _ in range(len(self.consumers)):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.has_room(self.spec.name):
                return consumer
        return None

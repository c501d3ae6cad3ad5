"""A queue of the embedded broker: who consumes it, and what came back to it."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

from broker_jobs.broker.interface import Delivery, Message
from broker_jobs.broker.memory.transport import KombuTransport
from broker_jobs.broker.topology import QueueSpec


class QueuedMessage(NamedTuple):
    """A message in a queue, or out at a consumer."""

    message: Message
    returns: int = 0
    """How often it came back."""


class DeliveryTarget(Protocol):
    """What a queue must know of a consumer."""

    def has_room(self, queue: str) -> bool:
        """Whether it may have one more unacknowledged delivery of this queue."""

    def deliver(self, queue: str, held: QueuedMessage) -> Delivery:
        """Put a message out to it."""

    def receive(self, deliveries: list[Delivery]) -> None:
        """Hand over what was put out, as one list."""


class MemoryQueue:
    """A queue's consumers, and what came back to it: that is served before what is in the pipe."""

    def __init__(self, spec: QueueSpec, pipe: KombuTransport) -> None:
        self.spec = spec
        self.consumers: deque[DeliveryTarget] = deque()
        self.returned: deque[QueuedMessage] = deque()
        self._pipe = pipe
        pipe.open(spec.name)

    def ready(self) -> int:
        return len(self.returned) + self._pipe.size(self.spec.name)

    def put(self, message: Message) -> None:
        if self.spec.ttl_seconds is None:
            self._pipe.put(self.spec.name, message)

    def take(self) -> QueuedMessage | None:
        if self.returned:
            return self.returned.popleft()
        message = self._pipe.get(self.spec.name)
        return None if message is None else QueuedMessage(message)

    def purge(self) -> int:
        dropped = self.ready()
        self.returned.clear()
        self._pipe.purge(self.spec.name)
        return dropped

    def next_consumer(self) -> DeliveryTarget | None:
        """Who gets the next message: each in turn, or the oldest one alone where only one may be active."""
        if self.spec.single_active:
            first = self.consumers[0] if self.consumers else None
            return first if first is not None and first.has_room(self.spec.name) else None
        for _ in range(len(self.consumers)):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.has_room(self.spec.name):
                return consumer
        return None

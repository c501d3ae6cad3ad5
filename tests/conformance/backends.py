"""The two exchanges as the conformance suite sees them, and a collector for what they deliver."""

import threading
import uuid
from collections.abc import Callable
from typing import Protocol

from broker_jobs.broker.interface import Broker, Consumer, Delivery, Message, PublishFailure
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.broker.topology import fixed_topology, work_topology
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually


class Backend(Protocol):
    """One broker of one kind, and as many exchanges on it as a test wants."""

    def broker(self) -> Broker:
        """Start one more exchange on the same broker, with the topology and the queues `mail` and `bulk` applied."""

    def close(self) -> None:
        """Stop them all."""


def applied(broker: Broker) -> Broker:
    """Start an exchange and declare on it what the suite uses."""
    broker.start()
    broker.apply(fixed_topology())
    broker.apply(work_topology("mail", "bulk"))
    return broker


class RabbitBackend:
    """A virtual host."""

    def __init__(self, vhost: Vhost) -> None:
        self._url = vhost.url
        self._exchanges: list[Broker] = []

    def broker(self) -> Broker:
        made = RabbitBroker(self._url, name="conformance")
        self._exchanges.append(made)
        return applied(made)

    def close(self) -> None:
        for broker in self._exchanges:
            broker.stop()


class MemoryBackend:
    """A broker in memory, of a name of its own."""

    def __init__(self) -> None:
        self._make: Callable[[str], Broker] = MemoryBroker
        self._url = f"memory://{uuid.uuid4().hex}"
        self._exchanges: list[Broker] = []

    def broker(self) -> Broker:
        made = self._make(self._url)
        self._exchanges.append(made)
        return applied(made)

    def close(self) -> None:
        for broker in self._exchanges:
            broker.stop()


class Inbox:
    """Collects what a subscription delivers, and what it says of its channels."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.ready: list[int] = []
        self.lost: list[int] = []
        self._lock = threading.Lock()

    def on_deliveries(self, deliveries: list[Delivery]) -> None:
        with self._lock:
            self.deliveries.extend(deliveries)

    def subscribe(self, broker: Broker, *queues: str, prefetch: int = 100) -> Consumer:
        """Take deliveries of these queues into this inbox; returns when that has begun."""
        subscription = broker.subscribe(
            queues, self.on_deliveries, prefetch=prefetch, on_lost=self.lost.append, on_ready=self.ready.append
        )
        eventually(lambda: self.ready, what=f"on_ready of {queues}")
        return subscription

    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    def wait(self, count: int) -> list[Delivery]:
        """Wait for at least so many deliveries; returns all there are."""
        eventually(lambda: len(self.deliveries) >= count, what=f"{count} deliveries")
        return list(self.deliveries)


def publish(broker: Broker, *messages: Message, timeout: float = 10) -> list[PublishFailure | None]:
    """Publish and wait for what became of it."""
    return broker.publish(messages, timeout).result(timeout + 5)


def confirmed(broker: Broker, *messages: Message) -> None:
    """Publish, and fail unless all is confirmed."""
    results = publish(broker, *messages)
    assert results == [None] * len(messages), results


def numbered(exchange_name: str, key: str, count: int, start: int = 0) -> list[Message]:
    """Messages whose bodies are numbers."""
    return [Message(exchange_name, key, b"%d" % n, message_id=str(n)) for n in range(start, start + count)]

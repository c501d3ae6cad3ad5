"""The two brokers of the conformance suite, and a collector of their deliveries."""

import threading
import uuid
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

from broker_jobs.broker.interface import Broker, Consumer, Delivery, Message, PublishFailure
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.broker.topology import fixed_topology, work_topology
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually


class Backend(Protocol):
    """One server of one kind, and as many brokers on it as a test needs."""

    user: str
    """The user of its brokers."""

    def broker(self) -> Broker:
        """Start another broker on the same server, with the topology and the queues `mail` and `bulk`."""

    def close(self) -> None:
        """Stop them all."""


def applied(broker: Broker) -> Broker:
    """Start a broker and declare what the suite uses."""
    broker.start()
    broker.apply(fixed_topology())
    broker.apply(work_topology("mail", "bulk"))
    return broker


class RabbitBackend:
    """A virtual host."""

    def __init__(self, vhost: Vhost) -> None:
        self._url = vhost.url
        self.user = urlsplit(vhost.url).username or ""
        self._brokers: list[Broker] = []

    def broker(self) -> Broker:
        made = RabbitBroker(self._url, name="conformance")
        self._brokers.append(made)
        return applied(made)

    def close(self) -> None:
        for broker in self._brokers:
            broker.stop()


class MemoryBackend:
    """A broker in memory with its own name."""

    def __init__(self) -> None:
        self._make: Callable[[str], Broker] = MemoryBroker
        self.user = "ann"
        self._url = f"memory://ann@{uuid.uuid4().hex}"
        self._brokers: list[Broker] = []

    def broker(self) -> Broker:
        made = self._make(self._url)
        self._brokers.append(made)
        return applied(made)

    def close(self) -> None:
        for broker in self._brokers:
            broker.stop()


class Inbox:
    """Collects the deliveries of a consumer and its ready and lost channels."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.ready: list[int] = []
        self.lost: list[int] = []
        self._lock = threading.Lock()

    def on_deliveries(self, deliveries: list[Delivery]) -> None:
        with self._lock:
            self.deliveries.extend(deliveries)

    def subscribe(self, broker: Broker, *queues: str, prefetch: int = 100) -> Consumer:
        """Consume these queues into this inbox. Returns when the consumer is ready."""
        consumer = broker.subscribe(
            queues, self.on_deliveries, prefetch=prefetch, on_lost=self.lost.append, on_ready=self.ready.append
        )
        eventually(lambda: self.ready, what=f"on_ready of {queues}")
        return consumer

    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    def wait(self, count: int) -> list[Delivery]:
        """Wait for at least `count` deliveries and return all."""
        eventually(lambda: len(self.deliveries) >= count, what=f"{count} deliveries")
        return list(self.deliveries)


def publish(broker: Broker, *messages: Message, timeout: float = 10) -> list[PublishFailure | None]:
    """Publish and return the results."""
    return broker.publish(messages, timeout).result(timeout + 5)


def confirmed(broker: Broker, *messages: Message) -> None:
    """Publish, and fail unless all messages are confirmed."""
    results = publish(broker, *messages)
    assert results == [None] * len(messages), results


def numbered(exchange_name: str, key: str, count: int, start: int = 0) -> list[Message]:
    """Return messages whose bodies are numbers."""
    return [Message(exchange_name, key, b"%d" % n, message_id=str(n)) for n in range(start, start + count)]

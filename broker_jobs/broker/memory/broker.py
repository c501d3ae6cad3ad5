"""EmbeddedExchange: the port on a broker in memory, and what a test may do to it."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from urllib.parse import urlsplit

from broker_jobs.broker import io_threads
from broker_jobs.broker.interface import Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.memory.consumer import MemoryConnection, MemoryConsumer
from broker_jobs.broker.memory.server import NOT_STARTED, MemoryServer, PendingPublish
from broker_jobs.broker.topology import Topology
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.errors import BrokerError

logger = logging.getLogger(__name__)

PRIVATE_QUEUE = "jobs.v1.reply.{}"
ASK_SECONDS = 10.0

_servers: dict[str, MemoryServer] = {}
"""The brokers that are running, by name: from the first start of an exchange of that name to the last stop."""
_servers_lock = threading.Lock()


class MemoryBroker:
    """The exchange in memory. Thread-safe.

    Args:
        url: `memory://`, or `memory://name` to share a broker with other exchanges of this process.
        clock: what the deadlines of publishes are measured by.
    """

    def __init__(self, url: str = "memory://", *, clock: Clock | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "memory":
            raise BrokerError(f"{url!r} is no address of an embedded exchange; write memory:// or memory://name")
        self._name = parts.netloc + parts.path.rstrip("/") or uuid.uuid4().hex
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()  # start and stop
        self._connection: tuple[MemoryServer, MemoryConnection] | None = None
        self._topologies: list[Topology] = []

    @property
    def connected(self) -> bool:
        """Whether it is started, and not taken down by `disconnect`."""
        connection = self._connection
        return connection is not None and connection[1].up

    @property
    def reconnects(self) -> int:
        """How often `reconnect` was called since the start."""
        connection = self._connection
        return 0 if connection is None else connection[1].reconnects

    @property
    def blocked(self) -> bool:
        """Whether publishing waits for the end of an alarm."""
        connection = self._connection
        return connection is not None and connection[0].blocked

    def start(self, timeout: float = 10.0) -> None:
        """Start; tolerates twice. What was applied before a stop is declared again."""
        with self._lock:
            if self._connection is not None:
                return
            with _servers_lock:
                if self._name not in _servers:
                    _servers[self._name] = MemoryServer(self._name)
                broker = _servers[self._name]
                broker.users += 1
            self._connection = broker, MemoryConnection(self._clock)
        for topology in self._topologies:
            broker.thread.ask(partial(broker.declare, topology), timeout)

    def stop(self, timeout: float = 5.0) -> None:
        """Close; tolerates twice and never-started. Publishes still waiting end as failures.

        With the last exchange of a name its broker ends, and with it every message in it.
        """
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is None:
            return
        broker, link = connection
        try:
            broker.thread.ask(partial(broker.leave, link), timeout)
        except BrokerError as error:
            logger.warning("stopping without waiting for what is being published: %s", error)
        with _servers_lock:
            broker.users -= 1
            if broker.users:
                return
            del _servers[self._name]
        broker.thread.stop(timeout)

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        """Declare exchanges, queues and bindings. Raises BrokerError when something exists in another shape."""
        broker = self._reach()
        broker.thread.ask(partial(broker.declare, topology), timeout)
        if topology not in self._topologies:
            self._topologies.append(topology)

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        """Publish; the future ends on the I/O thread. During an alarm or outage messages wait, up to `timeout` s."""
        connection = self._connection
        if connection is None:
            batch = PendingPublish(MemoryConnection(self._clock), list(messages), 0.0)
            batch.refuse(NOT_STARTED)
            return batch.future
        broker, link = connection
        batch = PendingPublish(link, list(messages), self._clock.monotonic() + timeout)
        try:
            taken = broker.thread.call(partial(broker.publish, batch))
        except BaseException:  # a signal handler raised: nobody will have the future
            batch.future.cancel()
            raise
        if not taken:
            batch.refuse(NOT_STARTED)
        return batch.future

    def subscribe(
        self,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int,
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> Consumer:
        """Consume queues, as the port says; a queue that does not exist is consumed once it is declared."""
        io_threads.defer_logs()
        broker, link = self._running()
        subscription = MemoryConsumer(
            link, broker, queues, on_deliveries, prefetch=prefetch, on_lost=on_lost, on_ready=on_ready
        )
        broker.thread.call(partial(broker.attach, subscription))
        return subscription

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Consumer]:
        """An exclusive queue of its own; what is in it is lost with the connection, its name is not."""
        io_threads.defer_logs()
        broker, link = self._running()
        name = PRIVATE_QUEUE.format(uuid.uuid4().hex)
        subscription = MemoryConsumer(
            link, broker, [name], on_deliveries, prefetch=None, bind_to=bind_to, on_ready=on_ready
        )
        broker.thread.call(partial(broker.attach, subscription))
        return name, subscription

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        """(messages ready, consumers) of a queue, None when it does not exist."""
        broker = self._reach()
        return broker.thread.ask(partial(broker.depth, queue), timeout)

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        """Drop what is ready in a queue; the number dropped."""
        broker = self._reach()
        return broker.thread.ask(partial(broker.purge, queue), timeout)

    # --- what a test does to a broker ---

    def block(self) -> None:
        """Raise an alarm: publishes wait from now on, deliveries and acknowledgements go on."""
        self._set_blocked(True)

    def unblock(self) -> None:
        """End the alarm; what waits is published."""
        self._set_blocked(False)

    def disconnect(self) -> None:
        """Cut the connection: subscriptions are lost, what they had out is redelivered, publishes wait."""
        broker, link = self._running()

        def cut() -> None:
            link.up = False
            for subscription in broker.subscriptions_of(link):
                subscription.lose()

        broker.thread.ask(cut, ASK_SECONDS)

    def reconnect(self) -> None:
        """Let the connection come back: every subscription consumes again on a new channel."""
        broker, link = self._running()

        def come_back() -> None:
            link.up = True
            link.reconnects += 1
            for subscription in broker.subscriptions_of(link):
                broker.attach(subscription)

        broker.thread.ask(come_back, ASK_SECONDS)

    def lose_connections(self) -> None:
        """A blip: `disconnect`, then `reconnect`."""
        self.disconnect()
        self.reconnect()

    def fail_next(self, kind: Unconfirmed, count: int = 1, *, taken_over: bool = False) -> None:
        """Let the next `count` messages published here end as `kind`; with `taken_over` their queues get them."""
        _, link = self._running()
        link.failures.extend([(PublishFailure(kind, f"{kind.value}, as the test asked"), taken_over)] * count)

    def _set_blocked(self, blocked: bool) -> None:
        broker, _ = self._running()

        def change() -> None:
            broker.blocked = blocked

        broker.thread.ask(change, ASK_SECONDS)

    def _running(self) -> tuple[MemoryServer, MemoryConnection]:
        if (connection := self._connection) is None:
            raise BrokerError("the exchange is not started; call start()")
        return connection

    def _reach(self) -> MemoryServer:
        broker, link = self._running()
        if not link.up:
            raise BrokerError("the exchange is not connected")
        return broker

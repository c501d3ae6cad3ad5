"""Implements the broker interface in memory, with methods by which tests cause alarms and outages."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from urllib.parse import urlsplit

from broker_jobs.broker import io_threads, names
from broker_jobs.broker.interface import Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.memory.consumer import MemoryConnection, MemoryConsumer
from broker_jobs.broker.memory.server import NOT_STARTED, MemoryServer, PendingPublish
from broker_jobs.broker.topology import Topology
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.errors import BrokerError

logger = logging.getLogger(__name__)

CALL_SECONDS = 10.0
USER = "memory"
"""The user of every connection without one in its address."""

_servers: dict[str, MemoryServer] = {}
"""The running servers by name, from the first start of a broker of that name to the last stop."""
_servers_lock = threading.Lock()


def _reset_in_child() -> None:
    """Forget the servers of the parent process: their threads are not here, and the lock may be held."""
    global _servers_lock  # noqa: PLW0603
    _servers_lock = threading.Lock()
    _servers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)


class MemoryBroker:
    """The broker in memory. Thread-safe.

    Args:
        url: `memory://`, or `memory://name` to share one server with other brokers of this process. The user of
            `memory://user@name` is named by its messages.
        clock: measures the deadlines of publishes.
    """

    def __init__(self, url: str = "memory://", *, clock: Clock | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "memory":
            raise BrokerError(f"{url!r} is not an address of a broker in memory; write memory:// or memory://name")
        self._name = parts.netloc.rpartition("@")[2] + parts.path.rstrip("/") or uuid.uuid4().hex
        self._user = parts.username or USER
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()  # start and stop
        self._started: tuple[MemoryServer, MemoryConnection] | None = None
        self._topologies: list[Topology] = []

    @property
    def connected(self) -> bool:
        """Whether it is started, and not disconnected by `disconnect`."""
        started = self._started
        return started is not None and started[1].up

    @property
    def problem(self) -> str | None:
        """Why it is not connected, in a few words."""
        return None if self.connected else "it was disconnected"

    @property
    def reconnects(self) -> int:
        """Number of calls of `reconnect` since the start."""
        started = self._started
        return 0 if started is None else started[1].reconnects

    @property
    def blocked(self) -> bool:
        """Whether an alarm blocks publishing."""
        started = self._started
        return started is not None and started[0].blocked

    def start(self, timeout: float = 10.0) -> None:
        """Start. A second call does nothing. After a stop, topologies that were applied before are declared again."""
        with self._lock:
            if self._started is not None:
                return
            with _servers_lock:
                if self._name not in _servers:
                    _servers[self._name] = MemoryServer(self._name)
                server = _servers[self._name]
                server.users += 1
            self._started = server, MemoryConnection(self._clock, self._user)
        for topology in self._topologies:
            server.thread.call(partial(server.declare, topology), timeout)

    def stop(self, timeout: float = 5.0) -> None:
        """Close. Does nothing if not started. Publishes that still wait end as failures.

        The last stop of a name ends its server and deletes every message.
        """
        with self._lock:
            started, self._started = self._started, None
        if started is None:
            return
        server, connection = started
        try:
            server.thread.call(partial(server.leave, connection), timeout)
        except BrokerError as error:
            logger.warning("stopping without waiting for publishes: %s", error)
        with _servers_lock:
            server.users -= 1
            if server.users:
                return
            del _servers[self._name]
        server.thread.stop(timeout)

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        """Declare exchanges, queues and bindings. Raises BrokerError if one exists with other arguments."""
        server = self._connected_server()
        server.thread.call(partial(server.declare, topology), timeout)
        if topology not in self._topologies:
            self._topologies.append(topology)

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        """Publish. The future ends in the I/O thread. During an alarm or outage messages wait for `timeout` seconds."""
        started = self._started
        if started is None:
            batch = PendingPublish(MemoryConnection(self._clock), list(messages), 0.0)
            batch.fail(NOT_STARTED)
            return batch.future
        server, connection = started
        batch = PendingPublish(connection, list(messages), self._clock.monotonic() + timeout)
        try:
            accepted = server.thread.call_soon(partial(server.publish, batch))
        except BaseException:  # a signal handler raised: the caller does not get the future
            batch.future.cancel()
            raise
        if not accepted:
            batch.fail(NOT_STARTED)
        return batch.future

    def subscribe(
        self,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int | Mapping[str, int],
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> Consumer:
        """Consume queues; see `Broker.subscribe`. A queue that does not exist is consumed once it is declared."""
        io_threads.defer_logs()
        server, connection = self._started_server()
        consumer = MemoryConsumer(
            connection, server, queues, on_deliveries, prefetch=prefetch, on_lost=on_lost, on_ready=on_ready
        )
        server.thread.call_soon(partial(server.attach, consumer))
        return consumer

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Consumer]:
        """Consume an exclusive queue; see `Broker.subscribe_private`. A disconnect deletes its messages."""
        io_threads.defer_logs()
        server, connection = self._started_server()
        name = names.new_reply_queue()
        consumer = MemoryConsumer(
            connection, server, [name], on_deliveries, prefetch=None, bind_to=bind_to, on_ready=on_ready
        )
        server.thread.call_soon(partial(server.attach, consumer))
        return name, consumer

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        """Return (ready messages, consumers) of a queue, or None if it does not exist."""
        server = self._connected_server()
        return server.thread.call(partial(server.depth, queue), timeout)

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        """Delete the ready messages of a queue. Returns their number."""
        server = self._connected_server()
        return server.thread.call(partial(server.purge, queue), timeout)

    # --- for tests ---

    def block(self) -> None:
        """Raise an alarm: publishes wait, deliveries and acknowledgements go on."""
        self._set_blocked(True)

    def unblock(self) -> None:
        """End the alarm. Waiting messages are published."""
        self._set_blocked(False)

    def disconnect(self) -> None:
        """Lose the connection: unacknowledged deliveries are redelivered, publishes wait."""
        server, connection = self._started_server()

        def go_down() -> None:
            connection.up = False
            for consumer in server.consumers_of(connection):
                consumer.lose()

        server.thread.call(go_down, CALL_SECONDS)

    def reconnect(self) -> None:
        """Restore the connection: every consumer consumes again on a new channel."""
        server, connection = self._started_server()

        def come_up() -> None:
            connection.up = True
            connection.reconnects += 1
            for consumer in server.consumers_of(connection):
                server.attach(consumer)

        server.thread.call(come_up, CALL_SECONDS)

    def lose_connections(self) -> None:
        """Lose the connection for a moment: `disconnect`, then `reconnect`."""
        self.disconnect()
        self.reconnect()

    def fail_next(self, kind: Unconfirmed, count: int = 1, *, delivered: bool = False) -> None:
        """Let the next `count` published messages end as `kind`. With `delivered` they reach their queues."""
        _, connection = self._started_server()
        connection.failures.extend(
            [(PublishFailure(kind, f"{kind.value}, as requested by fail_next"), delivered)] * count
        )

    def _set_blocked(self, blocked: bool) -> None:
        server, _ = self._started_server()

        def change() -> None:
            server.blocked = blocked

        server.thread.call(change, CALL_SECONDS)

    def _started_server(self) -> tuple[MemoryServer, MemoryConnection]:
        if (started := self._started) is None:
            raise BrokerError("the broker is not started; call start()")
        return started

    def _connected_server(self) -> MemoryServer:
        server, connection = self._started_server()
        if not connection.up:
            raise BrokerError("the broker is not connected")
        return server

"""Implements the broker interface on RabbitMQ, with two connections on one I/O thread.

During an alarm RabbitMQ stops reading a connection that publishes, and acknowledgements must go on. So one connection
publishes and one consumes. Declarations are repeated on both after a loss, so that neither continues without them.

Over 300 lines: it is the whole interface, and start and stop need everything in it.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pika

from broker_jobs.broker import io_threads, names
from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.rabbitmq import declarations
from broker_jobs.broker.rabbitmq.connection import RabbitConnection, describe_error, parse_hosts, refusal, unreachable
from broker_jobs.broker.rabbitmq.consumer import PrivateConsumer, RabbitConsumer
from broker_jobs.broker.rabbitmq.io_loop import IoLoop
from broker_jobs.broker.rabbitmq.publisher import NOT_OPEN, PublishBatch, Publisher
from broker_jobs.broker.rabbitmq.receiving import ReceivingConnection
from broker_jobs.broker.topology import Topology
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.errors import BrokerError

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
"""How long a clean close may take, besides the wait for confirms. Then the sockets are shut down."""
SHUT_DOWN_SECONDS = 0.05
"""How long pika may take to notice that."""


class RabbitBroker:
    """The broker on RabbitMQ. Thread-safe. Reconnects by itself without limit.

    Args:
        urls: amqp:// or amqps:// addresses, comma-separated; tried in random order. BrokerError if one is not valid.
        name: shown by RabbitMQ's management pages for our connections.
        heartbeat: seconds between AMQP heartbeats. A silent connection is closed after one or two of them plus 5 s.
        declare: whether `apply` declares. False if an administrator has declared everything.
        clock: measures the deadlines of publishes.
    """

    def __init__(
        self, urls: str, *, name: str = "", heartbeat: int = 20, declare: bool = True, clock: Clock | None = None
    ) -> None:
        self._hosts = parse_hosts(urls, name, heartbeat)
        self._declare = declare
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()  # start and stop
        self._numbers = itertools.count(1)
        self._consumers: list[RabbitConsumer] = []
        self._topology = Topology()
        self._connections: tuple[RabbitConnection, ...] = ()  # publishing, consuming
        self._started: SignalSafeFuture[None] = SignalSafeFuture()
        self._waiting_requests: list[Callable[[], None]] = []  # wait for the consuming connection
        self._loop = IoLoop(f"broker-jobs-io {name}".rstrip())
        self._publisher = Publisher(self._loop, self._clock)
        _silence_pika()

    @property
    def connected(self) -> bool:
        """Whether both connections are open."""
        return bool(self._connections) and all(each.pika_connection is not None for each in self._connections)

    @property
    def problem(self) -> str | None:
        """Why it is not connected, in a few words."""
        for each in self._connections:
            if each.pika_connection is None and each.error is not None:
                return f"{each.address}: {describe_error(each.error)}"
        return None

    @property
    def reconnects(self) -> int:
        """Number of reconnects since the start."""
        return sum(connection.reconnects for connection in self._connections)

    @property
    def blocked(self) -> bool:
        """Whether RabbitMQ blocks publishing (an alarm)."""
        return self._publisher.blocked

    # --- start and stop ---

    def start(self, timeout: float = 10.0) -> None:
        """Connect. Raises BrokerError: at once if RabbitMQ refuses, after `timeout` seconds if nothing answers."""
        with self._lock:
            if self._loop.running:
                return
            self._started = SignalSafeFuture()
            self._publisher.accept()
            self._publisher.address = self._hosts[0][1]
            self._loop.start()
            publishing = RabbitConnection(
                self._loop,
                self._hosts,
                "publish",
                self._clock,
                on_up=self._publishing_opened,
                on_down=self._publisher.connection_lost,
                on_failed=lambda error: self._start_failed(publishing, error),
            )
            consuming = RabbitConnection(
                self._loop,
                self._hosts,
                "consume",
                self._clock,
                on_up=self._consuming_opened,
                on_down=lambda _: None,  # each consumer is notified by its channel
                on_failed=lambda error: self._start_failed(consuming, error),
            )
            self._connections = (publishing, consuming)
            for connection in self._connections:
                self._loop.call_soon(connection.connect)
            try:
                self._started.result(timeout)
            except TimeoutError:
                down = next(
                    (connection for connection in self._connections if connection.pika_connection is None), publishing
                )
                self._shut_down(0.0)
                raise unreachable(down.error, down.address) from None
            except BrokerError:
                self._shut_down(0.0)
                raise

    def stop(self, timeout: float = 5.0) -> None:
        """Wait up to `timeout` seconds for confirms, then close. Unconfirmed publishes end as failures."""
        with self._lock:
            if not self._loop.running:
                return
            for consumer in self._consumers:
                consumer.close()
            self._shut_down(timeout)
            self._consumers.clear()

    def _shut_down(self, timeout: float) -> None:
        ended: SignalSafeFuture[None] = SignalSafeFuture()
        self._loop.call_soon(partial(self._drain, time.monotonic() + timeout, ended))
        if not self._loop.is_current_thread():
            try:
                ended.result(timeout + 2 * CLOSE_SECONDS)
            except TimeoutError:
                logger.warning(
                    "the I/O thread did not close its connections in time; the program goes on without waiting for it"
                )
        self._loop.stop(CLOSE_SECONDS)
        self._connections = ()

    def _drain(self, until: float, ended: Future[None]) -> None:
        """Wait for confirms, then close. Runs in the I/O thread, again and again until `until`."""
        self._publisher.stop_accepting()
        if not self._publisher.idle and time.monotonic() < until:
            self._loop.call_later(0.005, partial(self._drain, until, ended))
            return
        self._publisher.fail_all(
            PublishFailure(Unconfirmed.NOT_SENT, "the broker was stopped before the message was sent")
        )
        self._waiting_requests.clear()
        for connection in self._connections:
            connection.close()
        self._await_closed(time.monotonic() + CLOSE_SECONDS, ended)

    def _await_closed(self, until: float, ended: Future[None]) -> None:
        if all(connection.closed for connection in self._connections):
            ended.set_result(None)
        elif time.monotonic() >= until or all(connection.pika_connection is None for connection in self._connections):
            self._loop.shut_down_sockets()
            self._loop.call_later(SHUT_DOWN_SECONDS, lambda: ended.set_result(None))
        else:
            self._loop.call_later(0.005, partial(self._await_closed, until, ended))

    def _start_failed(self, connection: RabbitConnection, error: BaseException) -> None:
        refused = refusal(error, connection.address)
        if refused is not None and not self._started.done():
            self._started.set_exception(refused)

    def _check_started(self) -> None:
        if self.connected and not self._started.done():
            self._started.set_result(None)

    # --- connections open ---

    def _publishing_opened(self, connection: pika.SelectConnection) -> None:
        connection.add_on_connection_blocked_callback(
            lambda _, frame: self._publisher.set_blocked(True, str(frame.method.reason))
        )
        connection.add_on_connection_unblocked_callback(lambda _, __: self._publisher.set_blocked(False))
        address = self._connections[0].address
        self._redeclare(connection, lambda: self._publisher.open(connection, address))
        self._check_started()

    def _consuming_opened(self, connection: ReceivingConnection) -> None:
        self._redeclare(connection, lambda: self._open_consumers(connection))
        self._check_started()

    def _open_consumers(self, connection: ReceivingConnection) -> None:
        for consumer in list(self._consumers):
            consumer.open(connection)
        requests, self._waiting_requests = self._waiting_requests, []
        for request in requests:
            request()

    def _redeclare(self, connection: pika.SelectConnection, then: Callable[[], None]) -> None:
        """After a loss, repeat the declarations of `apply`: the broker may have been set up anew."""
        if self._topology == Topology():
            then()
            return

        def done(result: object) -> None:
            if not connection.is_open:
                return  # the next connection calls its own `then`
            if isinstance(result, BaseException):
                logger.error(
                    "repeating the declarations failed; continuing with the queues that exist: %s",
                    self._explain(result),
                )
            then()

        declarations.run_on_channel(connection, declarations.declare(self._topology), done)

    # --- the interface ---

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        """Declare exchanges, queues and bindings, now and after each reconnect. Does nothing with `declare=False`.

        Raises BrokerError: 406 and 403 with an explanation, or nothing answers.
        """
        if not self._declare:
            return
        self._request(declarations.declare(topology), timeout)
        self._loop.call_soon(partial(self._remember, topology))

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        """Publish persistent messages with confirms, in order; see `Broker.publish`. `timeout` in seconds."""
        batch = PublishBatch(messages, timeout, self._clock.monotonic() + timeout)
        if not messages:
            batch.future.set_result([])
            return batch.future
        batch.future.on_cancel = partial(self._loop.call_soon, partial(self._publisher.cancel, batch))
        try:
            accepted = self._loop.call_soon(partial(self._publisher.publish, batch))
        except BaseException:  # a signal handler raised: the caller does not get the future
            batch.future.cancel()
            raise
        if not accepted:
            batch.fail_unwritten(NOT_OPEN)
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
        """Consume queues on one channel; see `Broker.subscribe`."""
        consumer = RabbitConsumer(
            self._loop, self._numbers, queues, on_deliveries, prefetch=prefetch, on_lost=on_lost, on_ready=on_ready
        )
        self._add(consumer)
        return consumer

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Consumer]:
        """Consume an exclusive queue of this process; see `Broker.subscribe_private`."""
        queue = names.new_reply_queue()
        consumer = PrivateConsumer(self._loop, self._numbers, queue, on_deliveries, bind_to=bind_to, on_ready=on_ready)
        self._add(consumer)
        return queue, consumer

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        """Return (ready messages, consumers) of a queue, or None if it does not exist."""
        try:
            found: tuple[int, int] = self._request(declarations.measure(queue), timeout)
        except declarations.QueueMissingError:
            return None
        return found

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        """Delete the ready messages of a queue. Returns their number."""
        dropped: int = self._request(declarations.purge(queue), timeout)
        return dropped

    # --- private ---

    def _add(self, consumer: RabbitConsumer) -> None:
        io_threads.defer_logs()
        if not self._loop.call_soon(partial(self._open, consumer)):
            self._consumers.append(consumer)  # opened by `start`

    def _open(self, consumer: RabbitConsumer) -> None:
        self._consumers[:] = [each for each in self._consumers if not each.closed]
        self._consumers.append(consumer)
        connection = self._connections[1].pika_connection if self._connections else None
        if connection is not None:
            consumer.open(connection)

    def _remember(self, topology: Topology) -> None:
        known = self._topology
        self._topology = Topology(
            exchanges=tuple(dict.fromkeys(known.exchanges + topology.exchanges)),
            queues=tuple(dict.fromkeys(known.queues + topology.queues)),
            bindings=tuple(dict.fromkeys(known.bindings + topology.bindings)),
        )

    def _request(self, operation: Callable[[Any, declarations.Finish], None], timeout: float) -> Any:
        """Run an operation on the consuming connection, which no alarm blocks, and wait. Repeated after each outage."""
        if self._loop.is_current_thread():
            raise RuntimeError("this call waits for the I/O thread and was made in it; call it from another thread")
        answer: SignalSafeFuture[Any] = SignalSafeFuture()
        until = time.monotonic() + timeout

        def run() -> None:
            connection = self._connections[1].pika_connection if self._connections else None
            if connection is None or not connection.is_open:
                self._waiting_requests.append(run)
            elif time.monotonic() < until:
                declarations.run_on_channel(connection, operation, done)

        def done(result: Any) -> None:
            if declarations.is_outage(result):
                self._waiting_requests.append(run)
            elif not answer.done():
                answer.set_result(result)

        if not self._loop.call_soon(run):
            raise BrokerError(NOT_OPEN.reason)
        try:
            result = answer.result(timeout)
        except TimeoutError:
            connection = self._connections[1] if self._connections else None
            if connection is None:
                raise BrokerError(NOT_OPEN.reason) from None
            if connection.pika_connection is None:
                raise unreachable(connection.error, connection.address) from None
            raise BrokerError(f"RabbitMQ at {connection.address} did not answer in {timeout:g} s") from None
        if declarations.is_missing(result):
            raise declarations.QueueMissingError(self._explain(result))
        if isinstance(result, BaseException):
            raise self._explain(result)
        return result

    def _explain(self, error: BaseException) -> BrokerError:
        connection = self._connections[1] if self._connections else None
        address = connection.address if connection is not None else self._publisher.address
        credentials = self._hosts[0][0].credentials
        return declarations.explain(error, address, str(getattr(credentials, "username", "")))


def _silence_pika() -> None:
    """Silence pika, which logs each failed attempt with several tracebacks: we log one line instead.

    A level that the program has set for the logger `pika` is kept.
    """
    pika_logger = logging.getLogger("pika")
    if pika_logger.level == logging.NOTSET:
        pika_logger.setLevel(logging.CRITICAL)

"""RabbitExchange: the broker, as one process sees it. Puts the parts of this folder together.

Two connections on one I/O thread: under an alarm the broker stops reading a connection that publishes, and
acknowledgements must go on. Declarations run on both, so that neither goes on without them after a loss.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pika

from broker_jobs.broker import io_threads
from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.rabbitmq import declarations
from broker_jobs.broker.rabbitmq.connection import RabbitConnection, hosts_of, refusal, unreachable
from broker_jobs.broker.rabbitmq.consumer import PrivateConsumer, RabbitConsumer
from broker_jobs.broker.rabbitmq.io_loop import IoLoop
from broker_jobs.broker.rabbitmq.publisher import NOT_OPEN, PublishBatch, Publisher
from broker_jobs.broker.topology import Topology
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.errors import BrokerError

logger = logging.getLogger(__name__)

REPLY_QUEUE = "jobs.v1.reply.{}"
CLOSE_SECONDS = 2.0
"""How long closing in order may take beside the wait for confirms; then the sockets are cut."""
CUT_SECONDS = 0.05
"""How long pika has to see that."""


class RabbitBroker:
    """The exchange on RabbitMQ. Thread-safe; reconnects by itself for ever.

    Args:
        urls: amqp:// or amqps:// addresses, comma-separated; tried in random order. Raises BrokerError if unreadable.
        name: what RabbitMQ's own pages call our connections.
        heartbeat: seconds between AMQP heartbeats; a silent connection is given up after one or two of them and 5 s.
        declare: whether `apply` declares; off where an administrator has declared everything.
        clock: what deadlines are measured by.
    """

    def __init__(
        self, urls: str, *, name: str = "", heartbeat: int = 20, declare: bool = True, clock: Clock | None = None
    ) -> None:
        self._hosts = hosts_of(urls, name, heartbeat)
        self._declare = declare
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()  # start and stop
        self._numbers = itertools.count(1)
        self._subscriptions: list[RabbitConsumer] = []
        self._topology = Topology()
        self._links: tuple[RabbitConnection, ...] = ()  # to publish, to consume
        self._started: SignalSafeFuture[None] = SignalSafeFuture()
        self._errands: list[Callable[[], None]] = []  # wait for the consuming connection
        self._loop = IoLoop(f"broker-jobs-io {name}".rstrip())
        self._publisher = Publisher(self._loop, self._clock)
        _quieten_pika()

    @property
    def connected(self) -> bool:
        """Whether both connections are up now."""
        return all(link.connection is not None for link in self._links) and bool(self._links)

    @property
    def reconnects(self) -> int:
        """How often a connection was lost and made again since the start."""
        return sum(link.reconnects for link in self._links)

    @property
    def blocked(self) -> bool:
        """Whether the broker has blocked publishing (an alarm)."""
        return self._publisher.blocked

    # --- start and stop ---

    def start(self, timeout: float = 10.0) -> None:
        """Connect. Raises BrokerError: at once when we are refused, after `timeout` seconds when nothing answers."""
        with self._lock:
            if self._loop.running:
                return
            self._started = SignalSafeFuture()
            self._publisher.resume()
            self._publisher.address = self._hosts[0][1]
            self._loop.start()
            publishing = RabbitConnection(
                self._loop,
                self._hosts,
                "publish",
                self._clock,
                on_up=self._publishing_up,
                on_down=self._publisher.lose,
                on_failed=lambda error: self._not_started(publishing, error),
            )
            consuming = RabbitConnection(
                self._loop,
                self._hosts,
                "consume",
                self._clock,
                on_up=self._consuming_up,
                on_down=lambda _: None,  # each channel of it tells its subscription
                on_failed=lambda error: self._not_started(consuming, error),
            )
            self._links = (publishing, consuming)
            for link in self._links:
                self._loop.call(link.connect)
            try:
                self._started.result(timeout)
            except TimeoutError:
                down = next((link for link in self._links if link.connection is None), publishing)
                self._end(0.0)
                raise unreachable(down.error, down.address) from None
            except BrokerError:
                self._end(0.0)
                raise

    def stop(self, timeout: float = 5.0) -> None:
        """Wait up to `timeout` seconds for outstanding confirms, then close. What is still open ends as failures."""
        with self._lock:
            if not self._loop.running:
                return
            for subscription in self._subscriptions:
                subscription.close()
            self._end(timeout)
            self._subscriptions.clear()

    def _end(self, timeout: float) -> None:
        ended: SignalSafeFuture[None] = SignalSafeFuture()
        self._loop.call(partial(self._drain, time.monotonic() + timeout, ended))
        if not self._loop.inside():
            try:
                ended.result(timeout + 2 * CLOSE_SECONDS)
            except TimeoutError:
                logger.warning("the I/O thread does not answer; it is left behind")
        self._loop.stop(CLOSE_SECONDS)
        self._links = ()

    def _drain(self, until: float, ended: Future[None]) -> None:
        """Wait for confirms, then close, then cut what does not close: each a step of the I/O thread."""
        self._publisher.refuse()
        if not self._publisher.idle and time.monotonic() < until:
            self._loop.later(0.005, partial(self._drain, until, ended))
            return
        self._publisher.give_up(
            PublishFailure(Unconfirmed.NOT_SENT, "the exchange was stopped before it could be sent")
        )
        self._errands.clear()
        for link in self._links:
            link.close()
        self._await_closed(time.monotonic() + CLOSE_SECONDS, ended)

    def _await_closed(self, until: float, ended: Future[None]) -> None:
        if all(link.closed for link in self._links):
            ended.set_result(None)
        elif time.monotonic() >= until or all(link.connection is None for link in self._links):
            self._loop.cut_sockets()
            self._loop.later(CUT_SECONDS, lambda: ended.set_result(None))
        else:
            self._loop.later(0.005, partial(self._await_closed, until, ended))

    def _not_started(self, link: RabbitConnection, error: BaseException) -> None:
        refused = refusal(error, link.address)
        if refused is not None and not self._started.done():
            self._started.set_exception(refused)

    def _look_if_started(self) -> None:
        if self.connected and not self._started.done():
            self._started.set_result(None)

    # --- connections come up ---

    def _publishing_up(self, connection: pika.SelectConnection) -> None:
        connection.add_on_connection_blocked_callback(
            lambda _, frame: self._publisher.set_blocked(True, str(frame.method.reason))
        )
        connection.add_on_connection_unblocked_callback(lambda _, __: self._publisher.set_blocked(False))
        address = self._links[0].address
        self._declare_again(connection, lambda: self._publisher.open(connection, address))
        self._look_if_started()

    def _consuming_up(self, connection: pika.SelectConnection) -> None:
        self._declare_again(connection, lambda: self._consume_on(connection))
        self._look_if_started()

    def _consume_on(self, connection: pika.SelectConnection) -> None:
        for subscription in list(self._subscriptions):
            subscription.open(connection)
        errands, self._errands = self._errands, []
        for errand in errands:
            errand()

    def _declare_again(self, connection: pika.SelectConnection, then: Callable[[], None]) -> None:
        """After a loss, declare what `apply` was given before; the broker may have been set up anew."""
        if self._topology == Topology():
            then()
            return

        def done(result: object) -> None:
            if not connection.is_open:
                return  # `then` belongs to the next connection
            if isinstance(result, BaseException):
                logger.error("declaring again failed; going on with what exists: %s", self._explained(result))
            then()

        declarations.run_errand(connection, declarations.declare(self._topology), done)

    # --- what is asked for ---

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        """Declare exchanges, queues and bindings; remembered and repeated at each reconnect.

        Raises BrokerError that explains 406 and 403, or when nothing answers. Checks nothing with `declare=False`.
        """
        if not self._declare:
            return
        self._ask(declarations.declare(topology), timeout)
        self._loop.call(partial(self._remember, topology))

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        """Publish persistently with confirms, in order; see the port. `timeout` is in seconds, from now."""
        batch = PublishBatch(messages, timeout, self._clock.monotonic() + timeout)
        if not messages:
            batch.future.set_result([])
            return batch.future
        batch.future.on_cancel = partial(self._loop.call, partial(self._publisher.withdraw, batch))
        try:
            taken = self._loop.call(partial(self._publisher.publish, batch))
        except BaseException:  # a signal handler raised: nobody will have the future
            batch.future.cancel()
            raise
        if not taken:
            batch.resolve_unwritten(NOT_OPEN)
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
        """Consume queues on one channel, with `prefetch` (1..65535) deliveries of each queue out here; see the port."""
        subscription = RabbitConsumer(
            self._loop, self._numbers, queues, on_deliveries, prefetch=prefetch, on_lost=on_lost, on_ready=on_ready
        )
        self._add(subscription)
        return subscription

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Consumer]:
        """An exclusive queue of this process, without acknowledgements; see the port."""
        queue = REPLY_QUEUE.format(uuid.uuid4().hex)
        subscription = PrivateConsumer(
            self._loop, self._numbers, queue, on_deliveries, bind_to=bind_to, on_ready=on_ready
        )
        self._add(subscription)
        return queue, subscription

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        """(messages ready, consumers) of a queue, None when it does not exist."""
        try:
            found: tuple[int, int] = self._ask(declarations.measure(queue), timeout)
        except declarations.QueueMissingError:
            return None
        return found

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        """Drop what is ready in a queue; the number dropped."""
        dropped: int = self._ask(declarations.purge(queue), timeout)
        return dropped

    # --- inside ---

    def _add(self, subscription: RabbitConsumer) -> None:
        io_threads.defer_logs()
        if not self._loop.call(partial(self._open, subscription)):
            self._subscriptions.append(subscription)  # opened by `start`

    def _open(self, subscription: RabbitConsumer) -> None:
        self._subscriptions[:] = [each for each in self._subscriptions if not each.closed]
        self._subscriptions.append(subscription)
        connection = self._links[1].connection if self._links else None
        if connection is not None:
            subscription.open(connection)

    def _remember(self, topology: Topology) -> None:
        known = self._topology
        self._topology = Topology(
            exchanges=tuple(dict.fromkeys(known.exchanges + topology.exchanges)),
            queues=tuple(dict.fromkeys(known.queues + topology.queues)),
            bindings=tuple(dict.fromkeys(known.bindings + topology.bindings)),
        )

    def _ask(self, work: Callable[[Any, declarations.Finish], None], timeout: float) -> Any:
        """Run an errand on the consuming connection (which no alarm stops) and wait; again after each outage."""
        if self._loop.inside():
            raise RuntimeError("this would wait for the I/O thread, in the I/O thread: call it from another one")
        answer: SignalSafeFuture[Any] = SignalSafeFuture()
        until = time.monotonic() + timeout

        def run() -> None:
            connection = self._links[1].connection if self._links else None
            if connection is None or not connection.is_open:
                self._errands.append(run)
            elif time.monotonic() < until:
                declarations.run_errand(connection, work, done)

        def done(result: Any) -> None:
            if declarations.is_outage(result):
                self._errands.append(run)
            elif not answer.done():
                answer.set_result(result)

        if not self._loop.call(run):
            raise BrokerError(NOT_OPEN.reason)
        try:
            result = answer.result(timeout)
        except TimeoutError:
            link = self._links[1] if self._links else None
            if link is None:
                raise BrokerError(NOT_OPEN.reason) from None
            if link.connection is None:
                raise unreachable(link.error, link.address) from None
            raise BrokerError(f"RabbitMQ at {link.address} did not answer in {timeout:g} s") from None
        if declarations.is_missing(result):
            raise declarations.QueueMissingError(self._explained(result))
        if isinstance(result, BaseException):
            raise self._explained(result)
        return result

    def _explained(self, error: BaseException) -> BrokerError:
        link = self._links[1] if self._links else None
        address = link.address if link is not None else self._publisher.address
        credentials = self._hosts[0][0].credentials
        return declarations.explain(error, address, str(getattr(credentials, "username", "")))


def _quieten_pika() -> None:
    """pika logs each failed try with several tracebacks; what a person needs of it is said here, in one line.

    A level that the program has set for the logger `pika` stays as it is.
    """
    pika_logger = logging.getLogger("pika")
    if pika_logger.level == logging.NOTSET:
        pika_logger.setLevel(logging.CRITICAL)

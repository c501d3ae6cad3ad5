"""The server of the broker in memory: queues, routes, confirms, deliveries. Everything runs in its I/O thread."""

from __future__ import annotations

import itertools
import logging
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial

from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.memory.consumer import MemoryConnection, MemoryConsumer
from broker_jobs.broker.memory.io_thread import IoThread, run_safely
from broker_jobs.broker.memory.queue import DeliveryTarget, MemoryQueue
from broker_jobs.broker.memory.transport import KombuTransport, QueuedMessage
from broker_jobs.broker.routing import Routes
from broker_jobs.broker.topology import BindingSpec, QueueSpec, Topology
from broker_jobs.errors import BrokerError

logger = logging.getLogger(__name__)

MAX_DELIVERIES = 500
"""Deliveries of one queue in one turn, so that a full queue does not starve the others."""
DEADLINE_TICK_SECONDS = 0.05
NOT_STARTED = "the broker is not connected: it was not started, or it was stopped"


class PendingPublish:
    """The messages of one publish that wait for the I/O thread, or for the end of an alarm or outage."""

    def __init__(self, connection: MemoryConnection, messages: list[Message], deadline: float) -> None:
        self.connection = connection
        self.messages = messages
        self.deadline = deadline
        self.future: SignalSafeFuture[list[PublishFailure | None]] = SignalSafeFuture()

    def fail(self, reason: str) -> None:
        self.future.set_result([PublishFailure(Unconfirmed.NOT_SENT, reason)] * len(self.messages))


class MemoryServer:
    """Shared by all `MemoryBroker`s of one name. Their start and stop count them in `users`."""

    def __init__(self, name: str) -> None:
        self.users = 0
        self.blocked = False
        self.thread = IoThread(f"memory-broker-{name}", self._turn, self._end)
        self._transport = KombuTransport(
            uuid.uuid4().hex
        )  # not the name: another server of this name may still be stopping
        self._routes = Routes()
        self._queues: dict[str, MemoryQueue] = {}
        self._consumers: list[MemoryConsumer] = []
        self._channels = itertools.count(1)
        self._waiting: deque[PendingPublish] = deque()
        self._changed: dict[str, None] = {}  # queues to process, in order
        self.thread.start()

    def _turn(self) -> float | None:
        if self._waiting:
            self._publish_waiting()
        self._deliver()
        if self._changed:
            return 0
        return DEADLINE_TICK_SECONDS if self._waiting else None

    def _end(self) -> None:
        for batch in self._waiting:
            batch.fail(NOT_STARTED)
        for name in self._queues:
            self._transport.delete(name)
        self._transport.close()

    def declare(self, topology: Topology) -> None:
        for spec in self._routes.declare(topology):
            self._queues[spec.name] = MemoryQueue(spec, self._transport)
            for consumer in self._consumers:
                if spec.name in consumer.queues:
                    self.attach(consumer)

    def leave(self, connection: MemoryConnection) -> None:
        """A broker stops: publish its messages that need not wait, fail the others."""
        self._publish_waiting()
        connection.up, connection.closed = False, True
        self._publish_waiting()
        for consumer in self.consumers_of(connection):
            consumer.close_now()

    def missing(self, queues: Iterable[str]) -> list[str]:
        """Those of these queues that do not exist."""
        return [queue for queue in queues if queue not in self._queues]

    def depth(self, queue: str) -> tuple[int, int] | None:
        found = self._queues.get(queue)
        return None if found is None else (found.ready(), len(found.consumers))

    def purge(self, queue: str) -> int:
        found = self._queues.get(queue)
        if found is None:
            raise BrokerError(f"there is no queue {queue!r}")
        return found.purge()

    # publishing

    def publish(self, batch: PendingPublish) -> None:
        self._waiting.append(batch)

    def _publish_waiting(self) -> None:
        waiting: deque[PendingPublish] = deque()
        for batch in self._waiting:
            connection = batch.connection
            if batch.future.cancelled():
                continue  # the caller has cancelled it
            if connection.closed:
                batch.fail(NOT_STARTED)
            elif connection.up and not self.blocked:
                batch.future.set_result([self._publish(connection, message) for message in batch.messages])
            elif connection.clock.monotonic() >= batch.deadline:
                batch.fail("publishing is blocked by an alarm" if self.blocked else "the broker is not connected")
            else:
                waiting.append(batch)
        self._waiting = waiting

    def _publish(self, connection: MemoryConnection, message: Message) -> PublishFailure | None:
        failure, delivered = connection.next_failure()
        if failure is not None and not delivered:
            return failure
        if self._routes.is_internal(message.exchange):
            return PublishFailure(
                Unconfirmed.NOT_SENT, f"nobody publishes to the internal exchange {message.exchange!r}"
            )
        queues = (
            self._routes.queues_for(message.exchange, message.key)
            if self._routes.has_exchange(message.exchange)
            else ()
        )
        if not queues:
            return PublishFailure(
                Unconfirmed.NOT_SENT, f"no queue accepts it (exchange {message.exchange!r}, key {message.key!r})"
            )
        lives = message.expiration
        expires_at = None if lives is None else connection.clock.monotonic() + lives
        self._put(queues, QueuedMessage(message, user_id=connection.user, expires_at=expires_at))
        return failure

    def _put(self, queues: Sequence[str], queued: QueuedMessage) -> None:
        for name in queues:
            self._queues[name].put(queued)
            self._changed[name] = None

    # consuming

    def attach(self, consumer: MemoryConsumer) -> None:
        """Start to consume its existing queues now, and the others when they are declared."""
        if consumer not in self._consumers:
            self._consumers.append(consumer)
        if not consumer.wants_to_consume:
            return
        if consumer.private:
            self._declare_private(consumer)
        for name in consumer.queues:
            queue = self._queues.get(name)
            if queue is None or name in consumer.paused or consumer in queue.consumers:
                continue
            queue.consumers.append(consumer)
            self._changed[name] = None
            consumer.became_ready(self._channels)

    def _declare_private(self, consumer: MemoryConsumer) -> None:
        (name,) = consumer.queues
        if name in self._queues:
            return
        spec = QueueSpec(name)
        bindings = (BindingSpec(consumer.bind_to, name),) if consumer.bind_to else ()
        self._routes.declare(Topology(queues=(spec,), bindings=bindings))
        self._queues[name] = MemoryQueue(spec, self._transport)

    def detach(self, consumer: MemoryConsumer, names: Sequence[str]) -> None:
        """Stop to consume. With a single active consumer the next one becomes active."""
        for name in names:
            queue = self._queues.get(name)
            if queue is not None and consumer in queue.consumers:
                queue.consumers.remove(consumer)
                self._changed[name] = None

    def drop(self, consumer: MemoryConsumer, *, for_good: bool) -> None:
        """The channel of a consumer is lost: return its deliveries in order, and delete a private queue."""
        self.detach(consumer, consumer.queues)
        for name, queued in consumer.take_unacknowledged():
            self.return_message(name, queued)
        if consumer.private:
            for name in consumer.queues:
                self._routes.delete(name)
                if self._queues.pop(name, None) is not None:
                    self._transport.delete(name)
        if for_good and consumer in self._consumers:
            self._consumers.remove(consumer)

    def return_message(self, name: str, queued: QueuedMessage) -> None:
        """Return a message to the front of its queue, or dead-letter it at the delivery limit."""
        queue = self._queues.get(name)
        if queue is None:
            return
        queued = queued._replace(returns=queued.returns + 1)
        if queued.returns <= queue.spec.delivery_limit:
            queue.returned.append(queued)
            self._changed[name] = None
            return
        exchange = queue.spec.dead_letter_to
        if exchange is None:
            logger.error(
                "a message of %s was returned %d times and is dropped, as the queue has no dead-letter exchange",
                name,
                queued.returns,
            )
            return
        moved = queued.message._replace(exchange=exchange, key=name, expiration=None)
        targets = self._routes.queues_for(exchange, name) if self._routes.has_exchange(exchange) else ()
        self._put(targets, QueuedMessage(moved, user_id=queued.user_id, dead_lettered=True))

    def wake(self, names: Sequence[str]) -> None:
        """Process these queues again: their consumers have room."""
        self._changed.update(dict.fromkeys(names))

    def consumers_of(self, connection: MemoryConnection) -> list[MemoryConsumer]:
        return [each for each in self._consumers if each.connection is connection]

    def _deliver(self) -> None:
        lists: dict[DeliveryTarget, list[Delivery]] = {}
        for name in list(self._changed):
            queue = self._queues.get(name)
            for _ in range(MAX_DELIVERIES):
                consumer = None if queue is None else queue.next_consumer()
                if queue is None or consumer is None or (queued := queue.take(consumer.now())) is None:
                    self._changed.pop(name)
                    break
                lists.setdefault(consumer, []).append(consumer.deliver(name, queued))
        for consumer, deliveries in lists.items():
            run_safely(partial(consumer.receive, deliveries))

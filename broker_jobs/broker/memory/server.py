"""The broker in memory: queues, routes, confirms, deliveries. Everything here happens on its I/O thread."""

from __future__ import annotations

import itertools
import logging
import uuid
from collections import deque
from collections.abc import Sequence
from functools import partial

from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.memory.consumer import MemoryConnection, MemoryConsumer
from broker_jobs.broker.memory.io_thread import IoThread, guarded
from broker_jobs.broker.memory.queue import DeliveryTarget, MemoryQueue, QueuedMessage
from broker_jobs.broker.memory.transport import KombuTransport
from broker_jobs.broker.routing import Routes
from broker_jobs.broker.topology import BindingSpec, QueueSpec, Topology
from broker_jobs.errors import BrokerError

logger = logging.getLogger(__name__)

LIST_MOST = 500
"""The most deliveries of one queue handed over in one turn, so that a full queue does not starve the others."""
DEADLINE_TICK_SECONDS = 0.05
NOT_STARTED = "this exchange is not connected: it was not started, or it was stopped"


class PendingPublish:
    """Messages of one publish that wait for the I/O thread, or for the end of an alarm or outage."""

    def __init__(self, link: MemoryConnection, messages: list[Message], deadline: float) -> None:
        self.link = link
        self.messages = messages
        self.deadline = deadline
        self.future: SignalSafeFuture[list[PublishFailure | None]] = SignalSafeFuture()

    def refuse(self, reason: str) -> None:
        self.future.set_result([PublishFailure(Unconfirmed.NOT_SENT, reason)] * len(self.messages))


class MemoryServer:
    """What exchanges of one name share. `users` counts them; it is the business of who starts and stops brokers."""

    def __init__(self, name: str) -> None:
        self.users = 0
        self.blocked = False
        self.thread = IoThread(f"embedded-exchange-{name}", self._turn, self._end)
        self._pipe = KombuTransport(uuid.uuid4().hex)  # not the name: one of this name may still be ending
        self._routes = Routes()
        self._queues: dict[str, MemoryQueue] = {}
        self._subscriptions: list[MemoryConsumer] = []
        self._channels = itertools.count(1)
        self._waiting: deque[PendingPublish] = deque()
        self._busy: dict[str, None] = {}  # queues to look at, in order
        self.thread.start()

    def _turn(self) -> float | None:
        if self._waiting:
            self._publish_waiting()
        self._hand_over()
        if self._busy:
            return 0
        return DEADLINE_TICK_SECONDS if self._waiting else None

    def _end(self) -> None:
        for batch in self._waiting:
            batch.refuse(NOT_STARTED)
        for name in self._queues:
            self._pipe.delete(name)
        self._pipe.close()

    def declare(self, topology: Topology) -> None:
        for spec in self._routes.declare(topology):
            self._queues[spec.name] = MemoryQueue(spec, self._pipe)
            for subscription in self._subscriptions:
                if spec.name in subscription.queues:
                    self.attach(subscription)

    def leave(self, link: MemoryConnection) -> None:
        """One exchange stops: what it published can still go, what must wait is refused."""
        self._publish_waiting()
        link.up, link.closed = False, True
        self._publish_waiting()
        for subscription in self.subscriptions_of(link):
            subscription.close_now()

    def depth(self, queue: str) -> tuple[int, int] | None:
        found = self._queues.get(queue)
        return None if found is None else (found.ready(), len(found.consumers))

    def purge(self, queue: str) -> int:
        found = self._queues.get(queue)
        if found is None:
            raise BrokerError(f"no queue {queue!r}")
        return found.purge()

    # publishing

    def publish(self, batch: PendingPublish) -> None:
        self._waiting.append(batch)

    def _publish_waiting(self) -> None:
        still: deque[PendingPublish] = deque()
        for batch in self._waiting:
            link = batch.link
            if batch.future.cancelled():
                continue  # its caller has given it up
            if link.closed:
                batch.refuse(NOT_STARTED)
            elif link.up and not self.blocked:
                batch.future.set_result([self._publish(link, message) for message in batch.messages])
            elif link.clock.monotonic() >= batch.deadline:
                batch.refuse("publishing is blocked by an alarm" if self.blocked else "the exchange is not connected")
            else:
                still.append(batch)
        self._waiting = still

    def _publish(self, link: MemoryConnection, message: Message) -> PublishFailure | None:
        failure, taken_over = link.next_failure()
        if failure is not None and not taken_over:
            return failure
        queues = (
            self._routes.queues_for(message.exchange, message.key)
            if self._routes.has_exchange(message.exchange)
            else ()
        )
        if not queues:
            return PublishFailure(
                Unconfirmed.NOT_SENT, f"no queue takes it (exchange {message.exchange!r}, key {message.key!r})"
            )
        for name in queues:
            self._queues[name].put(message)
            self._busy[name] = None
        return failure

    # consuming

    def attach(self, subscription: MemoryConsumer) -> None:
        """Start consuming those of its queues that exist; the others when they are declared."""
        if subscription not in self._subscriptions:
            self._subscriptions.append(subscription)
        if not subscription.wants_to_consume:
            return
        if subscription.private:
            self._declare_private(subscription)
        for name in subscription.queues:
            queue = self._queues.get(name)
            if queue is None or name in subscription.paused or subscription in queue.consumers:
                continue
            queue.consumers.append(subscription)
            self._busy[name] = None
            subscription.became_ready(self._channels)

    def _declare_private(self, subscription: MemoryConsumer) -> None:
        (name,) = subscription.queues
        if name in self._queues:
            return
        spec = QueueSpec(name)
        bindings = (BindingSpec(subscription.bind_to, name),) if subscription.bind_to else ()
        self._routes.declare(Topology(queues=(spec,), bindings=bindings))
        self._queues[name] = MemoryQueue(spec, self._pipe)

    def detach(self, subscription: MemoryConsumer, names: Sequence[str]) -> None:
        """Stop consuming; where one consumer is active alone, the next takes over."""
        for name in names:
            queue = self._queues.get(name)
            if queue is not None and subscription in queue.consumers:
                queue.consumers.remove(subscription)
                self._busy[name] = None

    def drop(self, subscription: MemoryConsumer, *, for_good: bool) -> None:
        """Its channel is gone: what was out there comes back, in order; a private queue is deleted."""
        self.detach(subscription, subscription.queues)
        for name, held in subscription.take_unsettled():
            self.give_back(name, held)
        if subscription.private:
            for name in subscription.queues:
                self._routes.forget(name)
                if self._queues.pop(name, None) is not None:
                    self._pipe.delete(name)
        if for_good and subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def give_back(self, name: str, held: QueuedMessage) -> None:
        """To the front of its queue, or to the dead letters when it came back too often."""
        queue = self._queues.get(name)
        if queue is None:
            return
        held = QueuedMessage(held.message, held.returns + 1)
        if held.returns <= queue.spec.delivery_limit:
            queue.returned.append(held)
            self._busy[name] = None
            return
        target = self._queues.get(queue.spec.dead_letter_to or "")
        if target is None:
            logger.error("a message of %s was returned %d times and is dropped: no dead letters", name, held.returns)
            return
        target.put(held.message._replace(exchange="", key=target.spec.name))
        self._busy[target.spec.name] = None

    def wake(self, names: Sequence[str]) -> None:
        """Look at these queues again: there is room for deliveries."""
        self._busy.update(dict.fromkeys(names))

    def subscriptions_of(self, link: MemoryConnection) -> list[MemoryConsumer]:
        return [each for each in self._subscriptions if each.link is link]

    def _hand_over(self) -> None:
        lists: dict[DeliveryTarget, list[Delivery]] = {}
        for name in list(self._busy):
            queue = self._queues.get(name)
            for _ in range(LIST_MOST):
                consumer = None if queue is None else queue.next_consumer()
                if queue is None or consumer is None or (held := queue.take()) is None:
                    self._busy.pop(name)
                    break
                lists.setdefault(consumer, []).append(consumer.deliver(name, held))
        for consumer, deliveries in lists.items():
            guarded(partial(consumer.receive, deliveries))

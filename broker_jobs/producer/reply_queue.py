"""The private queue in which the answers to a program's questions come; one for all who ask from it."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future

from pydantic import ValidationError

from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Broker, Consumer, Delivery
from broker_jobs.messages.commands import Reply
from broker_jobs.producer.blocking import in_thread
from broker_jobs.producer.connection import Connection

logger = logging.getLogger(__name__)


class ReplyQueue:
    """Answers that are waited for. Thread-safe; the queue is made by the first question, and anew on a new exchange."""

    def __init__(self, connection: Connection) -> None:
        self.address = ""
        """The name of the private queue."""
        self._connection = connection
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[Reply]] = {}
        self._broker: Broker | None = None
        self._subscription: Consumer | None = None

    def open(self) -> None:
        """Have a queue.

        Raises:
            BrokerError: RabbitMQ cannot be reached, or refuses.
        """
        broker = self._connection.broker()
        if self._broker is broker:
            return
        with self._lock:
            if self._broker is not broker:
                self.address, self._subscription = broker.subscribe_private(self._on_deliveries)
                self._broker = broker

    async def open_async(self) -> None:
        """As `open`; the event loop goes on meanwhile."""
        if self._broker is None or self._broker is not await self._connection.broker_async():
            await in_thread(self.open)

    def close(self) -> None:
        """Give the queue back. Tolerates twice and never."""
        with self._lock:
            subscription, self._subscription, self._broker = self._subscription, None, None
        if subscription is not None:
            subscription.close()

    def expect(self, id: str) -> Future[Reply]:
        """The answer to the question of this id, to come."""
        answered: SignalSafeFuture[Reply] = SignalSafeFuture()
        self._waiting[id] = answered
        return answered

    def forget(self, id: str) -> None:
        """Nobody waits for this answer any more."""
        self._waiting.pop(id, None)

    def _on_deliveries(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            try:
                reply = Reply.model_validate_json(delivery.body)
            except ValidationError as error:
                logger.warning("a reply that cannot be read is ignored: %s", error)
                continue
            answered = self._waiting.pop(reply.id, None)
            if answered is not None and not answered.done():
                answered.set_result(reply)

"""The private queue in which the answers to a program's questions come; one for all who ask from it."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future

from pydantic import ValidationError

from broker_jobs.exchange.future import SignalSafeFuture
from broker_jobs.exchange.port import Delivery, Exchange, Subscription
from broker_jobs.outcome.command import Reply
from broker_jobs.producer.blocking import in_thread
from broker_jobs.producer.sender import Sender

log = logging.getLogger(__name__)


class Mailbox:
    """Answers that are waited for. Thread-safe; the queue is made by the first question, and anew on a new exchange."""

    def __init__(self, sender: Sender) -> None:
        self.address = ""
        """The name of the private queue."""
        self._sender = sender
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[Reply]] = {}
        self._exchange: Exchange | None = None
        self._subscription: Subscription | None = None

    def open(self) -> None:
        """Have a queue.

        Raises:
            BrokerError: RabbitMQ cannot be reached, or refuses.
        """
        exchange = self._sender.exchange()
        if self._exchange is exchange:
            return
        with self._lock:
            if self._exchange is not exchange:
                self.address, self._subscription = exchange.subscribe_private(self._on_deliveries)
                self._exchange = exchange

    async def open_async(self) -> None:
        """As `open`; the event loop goes on meanwhile."""
        if self._exchange is None or self._exchange is not await self._sender.exchange_async():
            await in_thread(self.open)

    def close(self) -> None:
        """Give the queue back. Tolerates twice and never."""
        with self._lock:
            subscription, self._subscription, self._exchange = self._subscription, None, None
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
                log.warning("a reply that cannot be read is ignored: %s", error)
                continue
            answered = self._waiting.pop(reply.id, None)
            if answered is not None and not answered.done():
                answered.set_result(reply)

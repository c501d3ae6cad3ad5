"""Puts what cannot be understood where a person can see it, replay it or delete it; never drops, never loops.

The body goes as it is to the parked exchange, with the reason in the message's type; the delivery is acknowledged when
that is confirmed.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import Future

from broker_jobs.consumer.settle import Settler
from broker_jobs.exchange import names
from broker_jobs.exchange.port import Delivery, Exchange, Failure, Message
from broker_jobs.outcome.emit import Place

logger = logging.getLogger(__name__)

MAX_REASON_BYTES = 200


class Parker:
    """Parks deliveries, and repeats what was not confirmed while the delivery is still ours."""

    def __init__(self, exchange: Exchange, settler: Settler, publish_timeout: float) -> None:
        self._exchange = exchange
        self._settler = settler
        self._publish_timeout = publish_timeout
        self._again: deque[tuple[Delivery, str]] = deque()
        self._in_flight = 0

    @property
    def waiting(self) -> int:
        """How many are not confirmed yet (approximately)."""
        return len(self._again) + self._in_flight

    def park(self, delivery: Delivery, reason: str) -> None:
        """Publish to the parked exchange; returns at once."""
        logger.error(
            "a message of queue %s cannot be understood: %s; it is parked, to be looked at and replayed",
            delivery.queue,
            reason,
        )
        self._publish(delivery, reason)

    def repeat(self) -> None:
        """Publish again what failed. Called a few times a second."""
        for _ in range(len(self._again)):
            delivery, reason = self._again.popleft()
            if self._settler.is_open(Place(delivery.channel, delivery.tag)):  # else it comes again by itself
                self._publish(delivery, reason)

    def _publish(self, delivery: Delivery, reason: str) -> None:
        def ended(future: Future[list[Failure | None]]) -> None:
            self._in_flight -= 1
            failure = future.result()[0]
            if failure is None:
                self._settler.settle((Place(delivery.channel, delivery.tag),))
            else:
                logger.warning("parking is not confirmed (%s); it is repeated", failure.reason)
                self._again.append((delivery, reason))

        self._in_flight += 1
        short = reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")
        message = Message(names.PARKED, delivery.key, delivery.body, "parked:" + short, delivery.message_id)
        self._exchange.publish([message], timeout=self._publish_timeout).add_done_callback(ended)

"""Puts what cannot be understood where a person can see it, replay it or delete it; never drops, never loops.

The body goes as it is to the dead-lettered exchange, with the reason in the message's type; the delivery is
acknowledged when that is confirmed.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import Future

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Delivery, Message, PublishFailure
from broker_jobs.consumer.acknowledger import Acknowledger
from broker_jobs.consumer.event_sender import DeliveryTag

logger = logging.getLogger(__name__)

MAX_REASON_BYTES = 200
MAX_TEXT_BYTES = 255
"""Of a property. One that was not UTF-8 became longer when it was received, and could not be sent without a cut."""


class DeadLetterPublisher:
    """Publishes deliveries as dead letters, and repeats what was not confirmed while the delivery is still ours."""

    def __init__(self, broker: Broker, acknowledger: Acknowledger, publish_timeout: float) -> None:
        self._broker = broker
        self._acknowledger = acknowledger
        self._publish_timeout = publish_timeout
        self._again: deque[tuple[Delivery, str]] = deque()
        self._in_flight = 0

    @property
    def waiting(self) -> int:
        """How many are not confirmed yet (approximately)."""
        return len(self._again) + self._in_flight

    def publish_dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Publish to the dead-lettered exchange; returns at once."""
        logger.error(
            "a message of queue %s could not be decoded: %s; it is now a dead letter (broker-jobs dead-letters)",
            delivery.queue,
            reason,
        )
        self._publish(delivery, reason)

    def repeat(self) -> None:
        """Publish again what failed. Called a few times a second."""
        for _ in range(len(self._again)):
            delivery, reason = self._again.popleft()
            if self._acknowledger.is_open(DeliveryTag(delivery.channel, delivery.tag)):  # else it comes again by itself
                self._publish(delivery, reason)

    def _publish(self, delivery: Delivery, reason: str) -> None:
        def ended(future: Future[list[PublishFailure | None]]) -> None:
            self._in_flight -= 1
            failure = future.result()[0]
            if failure is None:
                self._acknowledger.acknowledge((DeliveryTag(delivery.channel, delivery.tag),))
            else:
                logger.warning("a dead letter was not confirmed (%s); publishing it again", failure.reason)
                self._again.append((delivery, reason))

        self._in_flight += 1
        message = Message(
            names.DEAD,
            _cut(delivery.key, MAX_TEXT_BYTES),
            delivery.body,
            "dead-lettered:" + _cut(reason, MAX_REASON_BYTES),
            _cut(delivery.message_id, MAX_TEXT_BYTES),
        )
        self._broker.publish([message], timeout=self._publish_timeout).add_done_callback(ended)


def _cut(text: str, size: int) -> str:
    """As much of a text as so many bytes can hold."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")

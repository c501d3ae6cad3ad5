"""Turns deliveries into what can be run; what cannot be run is acknowledged here, before anything else is done.

On the exchange's I/O thread, so quick: one decode and one lookup a delivery.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.names import SUBMIT, queue_of
from broker_jobs.clock import Clock
from broker_jobs.consumer.acknowledger import Acknowledger
from broker_jobs.consumer.dead_letter import DeadLetterPublisher
from broker_jobs.consumer.event_sender import DeliveryTag
from broker_jobs.consumer.observer import WorkerObserver
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.function.registry import Registry
from broker_jobs.messages.codec import Undecodable, decode
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import ReturnReason

logger = logging.getLogger(__name__)

REMEMBERED = 10_000
"""Deliveries of which a worker remembers at least that it had them."""


class Receiver:
    """Sorts deliveries: dead-lettered, returned, or ready to be started."""

    def __init__(
        self,
        *,
        registry: Registry,
        acknowledger: Acknowledger,
        dead_letter_publisher: DeadLetterPublisher,
        reporter: Reporter,
        fences: Revocations,
        clock: Clock,
        observer: WorkerObserver,
        ready: Callable[[Sequence[ReceivedDelivery]], None],
    ) -> None:
        self._registry = registry
        self._acknowledger = acknowledger
        self._dead_letter_publisher = dead_letter_publisher
        self._reporter = reporter
        self._revocations = fences
        self._clock = clock
        self._observer = observer
        self._ready = ready
        self._closed = False
        self._had: set[tuple[str, int]] = set()
        """(job, epoch) of the last deliveries."""
        self._had_before: set[tuple[str, int]] = set()
        """Of those before them."""

    def close(self) -> None:
        """Return whatever still comes."""
        self._closed = True

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries in; nothing leaves this without being ready or on its way to be acknowledged."""
        self._acknowledger.took(deliveries)
        for work_queue, count in Counter([delivery.queue for delivery in deliveries]).items():
            self._observer.received(queue_of(work_queue), count)
        monotonic = self._clock.monotonic()
        ready: list[ReceivedDelivery] = []
        for delivery in deliveries:
            try:
                received = self._understand(delivery, monotonic)
            except Exception as error:
                logger.exception("internal error of the worker at a delivery; it is now a dead letter")
                self._dead_letter(delivery, f"internal error of the worker: {type(error).__name__}")
                continue
            if received is not None:
                ready.append(received)
        if ready:
            self._ready(ready)

    def _understand(self, delivery: Delivery, monotonic: float) -> ReceivedDelivery | None:
        """What can be run, or None when it is acknowledged another way."""
        try:
            envelope = decode(delivery.body)
        except Undecodable as reason:
            self._dead_letter(delivery, str(reason))
            return None
        if not delivery.redelivered and self._is_repeated(envelope):
            self._acknowledger.acknowledge([DeliveryTag(delivery.channel, delivery.tag)])
            return None
        refused: ReturnReason | None = None
        function = self._registry.get(envelope.job)
        if delivery.exchange == SUBMIT and envelope.has_conditions:
            refused = "not released"  # no worker runs it: what the coordinator releases comes from its own exchange
        elif delivery.redelivered:  # not run: another worker may be running it (rule R3)
            refused = "redelivered"
        elif self._closed:
            refused = "shutdown"
        elif function is None:
            refused = "unknown job"
        elif queue_of(delivery.queue) in self._revocations.paused:
            refused = "pause"
        if refused is not None or function is None:
            self._reporter.returned(delivery, envelope, refused or "unknown job", redelivered=delivery.redelivered)
            return None
        return ReceivedDelivery(delivery, envelope, function, monotonic)

    def _is_repeated(self, envelope: Envelope) -> bool:
        """Whether a producer has published a message twice, and this worker has had it.

        What comes back by itself is marked as redelivered, and the coordinator's next release has another epoch. So the
        first delivery was run or returned here, and this one is dropped.
        """
        key = envelope.id, envelope.epoch
        if key in self._had or key in self._had_before:
            logger.warning("job %s was published twice with one id: the second message is dropped", envelope.id)
            return True
        self._had.add(key)
        if len(self._had) >= REMEMBERED:
            self._had, self._had_before = set(), self._had
        return False

    def _dead_letter(self, delivery: Delivery, reason: str) -> None:
        self._observer.dead_letters(queue_of(delivery.queue))
        self._dead_letter_publisher.publish_dead_letter(delivery, reason)

"""Turns deliveries into what can be run; what cannot be run is settled here, before anything else is done.

On the exchange's I/O thread, so quick: one decode and one lookup a delivery.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from broker_jobs.clock import Clock
from broker_jobs.consumer.fences import Fences
from broker_jobs.consumer.observer import Observer
from broker_jobs.consumer.park import Parker
from broker_jobs.consumer.ready import Ready
from broker_jobs.consumer.report import Reporter
from broker_jobs.consumer.settle import Settler
from broker_jobs.consumer.taken import Taken
from broker_jobs.exchange.names import queue_of
from broker_jobs.exchange.port import Delivery
from broker_jobs.function.registry import Registry
from broker_jobs.job.codec import Undecodable, decode
from broker_jobs.outcome.event import HandBackReason

logger = logging.getLogger(__name__)


class Intake:
    """Sorts deliveries: parked, handed back, or ready for a thread or the event loop."""

    def __init__(
        self,
        *,
        registry: Registry,
        settler: Settler,
        parker: Parker,
        reporter: Reporter,
        fences: Fences,
        clock: Clock,
        observer: Observer,
        sync: Ready,
        wake_threads: Callable[[int], None],
        asynchronous: Ready,
        wake_loop: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._settler = settler
        self._parker = parker
        self._reporter = reporter
        self._fences = fences
        self._clock = clock
        self._observer = observer
        self._sync = sync
        self._wake_threads = wake_threads
        self._async = asynchronous
        self._wake_loop = wake_loop
        self._closed = False

    def close(self) -> None:
        """Hand back whatever still comes."""
        self._closed = True

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries in; nothing leaves this without being ready or on its way to be settled."""
        self._settler.took(deliveries)
        for work_queue, count in Counter([delivery.queue for delivery in deliveries]).items():
            self._observer.taken(queue_of(work_queue), count)
        monotonic = self._clock.monotonic()
        for_threads = 0
        for_loop = False
        for delivery in deliveries:
            try:
                taken = self._understand(delivery, monotonic)
            except Exception as error:
                logger.exception("a delivery broke the intake")
                self._park(delivery, f"the worker failed at it: {type(error).__name__}")
                continue
            if taken is None:
                continue
            if taken.function.is_async:
                self._async.put(taken)
                for_loop = True
            else:
                self._sync.put(taken)
                for_threads += 1
        if for_threads:
            self._wake_threads(for_threads)
        if for_loop:
            self._wake_loop()

    def _understand(self, delivery: Delivery, monotonic: float) -> Taken | None:
        """What can be run, or None when it is settled another way."""
        try:
            envelope = decode(delivery.body)
        except Undecodable as reason:
            self._park(delivery, str(reason))
            return None
        refused: HandBackReason | None = None
        function = self._registry.get(envelope.job)
        if delivery.redelivered:  # never run again: somebody may be running it (rule R3)
            refused = "redelivered"
        elif self._closed:
            refused = "shutdown"
        elif function is None:
            refused = "unknown job"
        elif queue_of(delivery.queue) in self._fences.paused:
            refused = "pause"
        if refused is not None or function is None:
            self._reporter.handed_back(delivery, envelope, refused or "unknown job", redelivered=delivery.redelivered)
            return None
        return Taken(delivery, envelope, function, monotonic)

    def _park(self, delivery: Delivery, reason: str) -> None:
        self._observer.parked(queue_of(delivery.queue))
        self._parker.park(delivery, reason)

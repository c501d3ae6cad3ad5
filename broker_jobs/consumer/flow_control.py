"""Regulates how much comes in: prefetch by run time, queues shut while they are paused or outcomes pile up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from broker_jobs.broker.interface import Consumer
from broker_jobs.broker.names import work_queues
from broker_jobs.consumer.event_sender import EventSender
from broker_jobs.consumer.prefetch import first_prefetch, next_prefetch
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.running import Running

logger = logging.getLogger(__name__)

TOO_MANY_EVENTS = 20_000
FEW_EVENTS = 2_000
PREFETCH_SECONDS = 0.25
"""Between two looks at the prefetch."""
LOWER_AFTER_LOOKS = 8
"""A lower prefetch must be right for this many looks in a row: lowering may return deliveries under way."""


class FlowControl:
    """The worker's subscription, opened and shut. `look` is called a few times a second, by one thread."""

    def __init__(
        self,
        queues: Sequence[str],
        fences: Revocations,
        event_sender: EventSender,
        running: Running,
        *,
        concurrency: int,
        prefetch_max: int,
    ) -> None:
        self._queues = tuple(queues)
        self._revocations = fences
        self._event_sender = event_sender
        self._running = running
        self._concurrency = concurrency
        self._prefetch_max = prefetch_max
        self._lock = threading.Lock()
        self._subscription: Consumer | None = None
        self._shut: frozenset[str] = frozenset()
        self._flooded = False
        self._next_monotonic = float("-inf")
        self._lower_looks = 0
        self._ended = 0
        self._ended_seconds = 0.0
        self.prefetch = first_prefetch(concurrency, prefetch_max)

    def use(self, subscription: Consumer) -> None:
        """Regulate this subscription, just made, with all queues open."""
        self._shut = frozenset()
        self._subscription = subscription
        self.apply_pauses()

    def ran(self, seconds: float) -> None:
        """An attempt took so long. Called by many threads without a lock: a lost one does not matter."""
        self._ended += 1
        self._ended_seconds += seconds

    def look(self, now_monotonic: float) -> None:
        """Adapt prefetch and pauses."""
        waiting = self._event_sender.waiting
        if waiting > TOO_MANY_EVENTS and not self._flooded:
            self._flooded = True
            logger.warning(
                "%d outcomes wait for their confirm; no new jobs are received until there are fewer", waiting
            )
        elif waiting < FEW_EVENTS and self._flooded:
            self._flooded = False
            logger.info("outcomes are confirmed again; jobs are received again")
        self.apply_pauses()
        if now_monotonic >= self._next_monotonic:
            self._next_monotonic = now_monotonic + PREFETCH_SECONDS
            self._adapt_prefetch(self._mean(now_monotonic))

    def _adapt_prefetch(self, mean_run_seconds: float | None) -> None:
        prefetch = next_prefetch(self.prefetch, mean_run_seconds, self._concurrency, self._prefetch_max)
        self._lower_looks = self._lower_looks + 1 if prefetch < self.prefetch else 0
        if self._subscription is None or prefetch == self.prefetch or 0 < self._lower_looks < LOWER_AFTER_LOOKS:
            return
        logger.debug("prefetch of each queue: %d, was %d", prefetch, self.prefetch)
        self.prefetch = prefetch
        self._subscription.set_prefetch(prefetch)

    def apply_pauses(self) -> None:
        """Shut the paused queues and open the others."""
        with self._lock:
            if self._subscription is None:
                return
            wanted = frozenset(self._queues) if self._flooded else self._revocations.paused & frozenset(self._queues)
            for queue in wanted - self._shut:
                for name in work_queues(queue):
                    self._subscription.pause(name, paused=True)
            for queue in self._shut - wanted:
                for name in work_queues(queue):
                    self._subscription.pause(name, paused=False)
            self._shut = wanted

    def _mean(self, now_monotonic: float) -> float | None:
        count, seconds = self._ended, self._ended_seconds
        self._ended, self._ended_seconds = 0, 0.0
        if count:
            return seconds / count
        ages = [now_monotonic - run.started_monotonic for run in self._running.all()]
        return sum(ages) / len(ages) if ages else None

"""Regulates how much comes in: applies the windows of the queues, and shuts queues while outcomes pile up.

The worker takes what it can start soon. What would wait for longer than a second goes back, as it could run elsewhere,
and its queue is shut before it is returned.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter

from broker_jobs.broker.interface import Consumer
from broker_jobs.consumer.event_sender import EventSender
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.running import Running
from broker_jobs.consumer.starter import Starter
from broker_jobs.consumer.windows import Windows
from broker_jobs.served_queues import ServedQueues

logger = logging.getLogger(__name__)

TOO_MANY_EVENTS = 20_000
FEW_EVENTS = 2_000
PREFETCH_SECONDS = 0.25
"""Between two looks at the prefetch."""
MAX_WAIT_SECONDS = 1.0
"""What waits longer than this behind our own jobs could have run elsewhere."""
STANDS_SECONDS = 0.5
"""A work queue of which nothing has started for so long stands. While one moves, its jobs may wait longer."""
MAX_MOVING_WAIT_SECONDS = 3.0


class RunTimes:
    """How long attempts took, of late. Many threads add to it without a lock: a lost one does not matter."""

    def __init__(self) -> None:
        self._count = 0
        self._seconds = 0.0

    def ran(self, seconds: float) -> None:
        """An attempt took so long."""
        self._count += 1
        self._seconds += seconds

    def mean(self) -> float | None:
        """The mean since the last call; None: nothing has ended."""
        count, seconds = self._count, self._seconds
        self._count, self._seconds = 0, 0.0
        return seconds / count if count else None


class FlowControl:
    """The worker's subscription, opened and shut. `look` and `late` are called a few times a second, by one thread."""

    def __init__(
        self,
        windows: Windows,
        starter: Starter,
        *,
        run_times: RunTimes,
        fences: Revocations,
        event_sender: EventSender,
        running: Running,
    ) -> None:
        self._windows = windows
        self._starter = starter
        self._run_times = run_times
        self._revocations = fences
        self._event_sender = event_sender
        self._running = running
        self._lock = threading.RLock()
        self._subscription: Consumer | None = None
        self._applied: dict[str, int] = {}
        """Work queue -> what the subscription has been told."""
        self._heads: dict[str, tuple[ReceivedDelivery, float]] = {}
        """Work queue -> what waited longest at the last look, and since when (monotonic)."""
        self._waits_for_slot = False
        self._was_free = False
        """Whether slots were free at the last look."""
        self._flooded = False
        self._next_monotonic = float("-inf")

    @property
    def prefetch(self) -> dict[str, int]:
        """Work queue -> its prefetch, at least 1: what is shut is paused."""
        return {name: max(1, size) for name, size in self._windows.sizes.items()}

    def use(self, subscription: Consumer) -> None:
        """Regulate this subscription, just made with `prefetch` and all queues open."""
        with self._lock:
            self._applied = self.prefetch
            self._subscription = subscription
            self.apply_pauses()

    def late(self, now_monotonic: float) -> list[ReceivedDelivery]:
        """Take out what would wait too long here, so that it is returned and runs elsewhere.

        First its work queue is shut. When the broker has confirmed that, all that waits of it goes back together, in
        its order: else it could come here again.
        """
        oldest = self._starter.oldest()
        heads, self._heads = self._heads, {}
        late: list[str] = []
        for name, received in oldest.items():
            head, since = heads.get(name, (received, received.received_monotonic))
            if head is not received:  # the queue moves
                since = now_monotonic
            self._heads[name] = received, since
            waits_seconds, stands_seconds = now_monotonic - received.received_monotonic, now_monotonic - since
            if waits_seconds > (MAX_WAIT_SECONDS if stands_seconds > STANDS_SECONDS else MAX_MOVING_WAIT_SECONDS):
                late.append(name)
        if not late:
            return []
        with self._lock:
            for name in late:
                self._windows.shut_behind(name)
            self._apply()
        subscription = self._subscription
        stopped = {name for name in late if subscription is None or subscription.has_stopped(name)}
        return self._starter.remove(lambda received: received.work_queue in stopped)

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
        with self._lock:
            if now_monotonic >= self._next_monotonic:
                self._next_monotonic = now_monotonic + PREFETCH_SECONDS
                self._adapt(now_monotonic)
            self._regulate(looked=self._was_free)
            self._was_free = self._starter.free > 0

    def apply_pauses(self) -> None:
        """Shut the paused queues, and open others that are shut if a slot is free."""
        with self._lock:
            self._regulate(looked=False)

    def freed(self) -> None:
        """A slot has become free, and nothing waits that could have it. From any thread."""
        if self._waits_for_slot:
            self.apply_pauses()

    def change(self, queues: ServedQueues, concurrency: int) -> list[ReceivedDelivery]:
        """Serve other queues, or run more or fewer jobs. Returns what waits here of queues that are not served now."""
        with self._lock:
            dropped = self._starter.change(queues, concurrency)
            self._windows.change(queues)
            self._apply()  # all are shut: on opening nothing counts that is here already
            self._regulate(looked=True)
        return dropped

    def handed_over(self) -> None:
        """A run is owned from now on, and its delivery is acknowledged next: its slot stays taken."""
        with self._lock:
            self._windows.hand_over(self._owned())
            self._apply()

    def lost(self) -> None:
        """The channel is lost; on the new one the broker counts nothing of what runs."""
        with self._lock:
            self._windows.shut(self._windows.sizes)
            self._apply()

    def _regulate(self, *, looked: bool) -> None:
        if self._flooded:
            self._windows.shut(self._windows.sizes)
        else:
            self._windows.pause(self._revocations.paused)
            self._windows.open(self._revocations.paused, looked=looked)
        self._apply()

    def _adapt(self, now_monotonic: float) -> None:
        mean = self._run_times.mean()
        has_ended = mean is not None
        if not has_ended and (runs := self._running.all()):
            mean = sum(now_monotonic - run.started_monotonic for run in runs) / len(runs)
        self._windows.adapt(
            mean,
            has_ended=has_ended,
            owned=self._owned(),
            waits_seconds={n: now_monotonic - each.received_monotonic for n, each in self._starter.oldest().items()},
        )

    def _owned(self) -> Counter[str]:
        """How many runs of each queue were handed over."""
        return Counter(run.received.queue for run in self._running.all() if run.owned)

    def _apply(self) -> None:
        self._waits_for_slot = not self._flooded and self._windows.waits_for_slot(self._revocations.paused)
        subscription = self._subscription
        if subscription is None:
            return
        for name in self._applied.keys() | self._windows.sizes.keys():
            size = self._windows.sizes.get(name, 0)
            applied = self._applied.get(name, 0)
            if size == applied:
                continue
            logger.debug("prefetch of %s: %d, was %d", name, size, applied)
            self._applied[name] = size
            if size:
                subscription.set_prefetch({name: size})
            if not size or not applied:
                subscription.pause(name, paused=not size)

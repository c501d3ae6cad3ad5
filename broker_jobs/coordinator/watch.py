"""Looks at the depths of queues and at overdue recurring jobs, from a thread of its own; ends a stuck coordinator.

A stuck coordinator would keep the log from all others: if its thread has not come round for a minute although the
store answers, its consumers are closed.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from broker_jobs.beat import cron as cron
from broker_jobs.broker import names
from broker_jobs.broker.delay import LEVELS
from broker_jobs.broker.interface import Broker
from broker_jobs.broker.work_depth import work_depth
from broker_jobs.clock import Clock, Instant, WallTime
from broker_jobs.coordinator.leadership import Leadership
from broker_jobs.coordinator.liveness import Liveness
from broker_jobs.coordinator.observer import CoordinatorObserver
from broker_jobs.errors import BrokerError, OptionError, StoreError
from broker_jobs.store.open import Store
from broker_jobs.store.records import ScheduleRow

logger = logging.getLogger(__name__)

WATCH_EVERY_SECONDS = 5.0
WEDGED_SECONDS = 60.0
DELAY_QUEUES_EVERY_LOOKS = 6
"""There are many delay queues, and they change slowly."""


class OverdueSchedules:
    """Remembers the next planned time of each schedule, as cron expressions are costly and schedules many."""

    def __init__(self) -> None:
        self._next: dict[str, tuple[int, Instant, Instant]] = {}  # name → version, last planned, next

    def seconds(self, rows: Iterable[ScheduleRow], now: Instant) -> float:
        """How long ago the planned time was that has waited longest for its fire; 0: none waits. Not of paused ones."""
        known, self._next = self._next, {}
        oldest = now
        for row in rows:
            if row.paused or row.last_planned_at is None:
                continue
            kept = known.get(row.name)
            if kept is None or kept[:2] != (row.version, row.last_planned_at):
                try:
                    kept = row.version, row.last_planned_at, cron.next_after(row.cron, row.tz, row.last_planned_at)
                except OptionError:  # its time zone is not known here: another coordinator may have taken it
                    continue
            self._next[row.name] = kept
            oldest = min(oldest, kept[2])
        return now - oldest


MOST_COUNTED = 100_000
"""Held jobs that a metric counts."""


class Watch:
    """The thread that looks.

    Args:
        progress: a number that changes while the coordinator's thread comes round; None while the store is away.
        on_stuck: called with the reason when the coordinator's thread is stuck.
        also: one more look, at each turn.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        clock: Clock,
        *,
        leadership: Leadership,
        liveness: Liveness,
        observer: CoordinatorObserver,
        progress: Callable[[], int | None],
        on_stuck: Callable[[str], None],
        also: Callable[[], None],
    ) -> None:
        self._store = store
        self._broker = broker
        self._leadership = leadership
        self._liveness = liveness
        self._observer = observer
        self._clock = clock
        self._progress = progress
        self._on_stuck = on_stuck
        self._also = also
        self._looks = itertools.count()
        self._overdue = OverdueSchedules()

    def run(self, stopping: threading.Event) -> None:
        """Look every few seconds until the coordinator stops."""
        before: int | None = None
        since = 0.0
        while not stopping.wait(WATCH_EVERY_SECONDS):
            try:
                self._look_at_depths()
                self._also()
            except (BrokerError, StoreError) as error:
                logger.debug("no look at queue depths now: %s", error)
            except Exception:
                logger.exception("reading the lengths of the queues failed; trying again")
            # By looks, not by the clock: a program that was frozen as a whole is not stuck when it thaws.
            progress = self._progress()
            since = since + WATCH_EVERY_SECONDS if progress is not None and progress == before else 0.0
            before = progress
            if since > WEDGED_SECONDS:
                self._on_stuck(f"its thread has not come round for {since:.0f} s; leaving it to another coordinator")
                return

    def _look_at_depths(self) -> None:
        for queue, paused in self._store.reader.queues.all().items():
            self._observer.paused(queue, paused)
            seen_at, monotonic = WallTime(self._clock.now()), self._clock.monotonic()
            depth = work_depth(self._broker, queue)
            if depth is None:
                continue
            if self._leadership.stepped_up:
                self._liveness.depth_seen(queue, depth.total, seen_at, monotonic)
            self._observer.work_depth(queue, depth)
            released_at = self._store.reader.queues.oldest(queue)
            self._observer.oldest(queue, 0.0 if released_at is None else max(0.0, seen_at - WallTime(released_at)))
        looked = [names.LOG, names.COMMAND, names.DUE, names.DEAD_LETTERS]
        if self._leadership.stepped_up and next(self._looks) % DELAY_QUEUES_EVERY_LOOKS == 0:
            looked += [names.delay_queue(step) for step in range(LEVELS)]
        for queue in looked:
            own = self._broker.depth(queue)
            if own is not None:
                self._observer.depth(queue, *own)
        overdue = self._overdue.seconds(self._store.reader.schedules.all(), self._clock.now())
        self._observer.kept(self._store.reader.dead_letters.count(), overdue)
        held: Counter[str] = Counter()
        for one in self._store.reader.known_jobs.held(MOST_COUNTED):
            held[one.queue] += one.n
        self._observer.held(held)
        self._observer.states({str(state): count for state, count in self._store.reader.statistics.counts().items()})

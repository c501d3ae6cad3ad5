"""Publishes releases at their time and turns the broker's confirms into records; keeps the timers of due jobs."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future

from broker_jobs.broker.interface import Broker, Message, PublishFailure, Unconfirmed
from broker_jobs.clock import Clock, Instant
from broker_jobs.coordinator import release
from broker_jobs.coordinator.input_queue import InputQueue
from broker_jobs.coordinator.inputs import Input, QueuedInput
from broker_jobs.coordinator.precise_timer import AHEAD_SECONDS, PreciseTimer
from broker_jobs.coordinator.records import Released, ReleaseFailed, ReleaseUnknown, TimerDue
from broker_jobs.store.row import Row

RELEASE_TIMEOUT_SECONDS = 10.0
MOST_IN_FLIGHT = 10_000
"""Releases that may wait for their confirms: what is due beyond them waits in the store, not in memory."""
MOST_DUE_NOTICES = 2_000
"""Timers that end in one transaction."""
CHUNK = 1_000
"""Releases of one publish."""


class DueTimers:
    """A heap of (due_at, job). A job may stand in it several times; only its latest setting counts."""

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, str]] = []
        self._nearest: dict[str, Instant] = {}
        self._order = itertools.count()

    def set(self, id: str, due_at: Instant) -> None:
        """Look at this job at this time (again)."""
        if self._nearest.get(id) == due_at:
            return
        self._nearest[id] = due_at
        heapq.heappush(self._heap, (due_at, next(self._order), id))

    def clear(self) -> None:
        """Forget all: this coordinator is no longer the active one."""
        self._heap.clear()
        self._nearest.clear()

    def next_at(self) -> Instant | None:
        """The earliest time."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: Instant, limit: int) -> list[str]:
        """The jobs whose time has come, at most `limit`; each only for its latest setting."""
        found: list[str] = []
        while self._heap and self._heap[0][0] <= now and len(found) < limit:
            due_at, _, id = heapq.heappop(self._heap)
            if self._nearest.get(id) == due_at:
                del self._nearest[id]
                found.append(id)
        return found

    def __len__(self) -> int:
        return len(self._nearest)


class ReleasePublisher:
    """What leaves for the work queues. `confirmed` and the precise timer run on threads of their own.

    Args:
        broker: takes the messages.
        clock: says when they go.
        input_queue: gets the records about them.
        stopping: set when the coordinator has to stop.
        active: whether this coordinator is the active one now.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        input_queue: InputQueue,
        stopping: threading.Event,
        active: Callable[[], bool],
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._input_queue = input_queue
        self._stopping = stopping
        self._active = active
        self._precise_timer = PreciseTimer(clock, self._publish, self._clock_went_back)
        self._in_flight = 0
        self._counting = threading.Lock()
        self.timers = DueTimers()

    def start(self) -> None:
        """Start the precise timer's thread."""
        self._precise_timer.start()

    def stop(self) -> None:
        """Publish what the precise timer holds, each at its time, and end its thread."""
        self._precise_timer.stop()

    @property
    def in_flight(self) -> int:
        """Releases whose confirm has not come yet."""
        return self._in_flight

    def is_able(self) -> bool:
        """Whether a release would be published now; during an alarm it would only wait, expire, and be made again."""
        if self._stopping.is_set() or not self._broker.connected or self._broker.blocked:
            return False
        return self._in_flight < MOST_IN_FLIGHT

    # ---- timers

    def due(self, most: int) -> list[QueuedInput]:
        """The timers that have ended, at most `most`."""
        ids = self.timers.due(self._clock.now() + AHEAD_SECONDS, min(MOST_DUE_NOTICES, most))
        return [QueuedInput(TimerDue(id), None) for id in ids]

    def set_timers(self, timers: list[tuple[str, Instant]], *, active: bool) -> None:
        """Keep the timers of jobs, or tell the active coordinator of them."""
        if active:
            for id, due_at in timers:
                self.timers.set(id, due_at)
        elif timers:
            self._broker.publish(release.looks([id for id, _ in timers]), timeout=RELEASE_TIMEOUT_SECONDS)

    # ---- releases

    def release(self, rows: list[Row], messages: list[Message]) -> None:
        """Publish committed releases, each at its row's `released_at`."""
        if not self._active():
            self._input_queue.add([ReleaseFailed(row.id, row.epoch, "its coordinator stepped down") for row in rows])
            return
        self._add_in_flight(len(rows))
        now = self._clock.now()
        pairs = list(zip(rows, messages, strict=True))
        early = [pair for pair in pairs if (pair[0].released_at or 0.0) > now]
        if early:
            self._precise_timer.hold([row for row, _ in early], [message for _, message in early])
            pairs = [pair for pair in pairs if (pair[0].released_at or 0.0) <= now]
        self._publish([row for row, _ in pairs], [message for _, message in pairs])

    def _publish(self, rows: list[Row], messages: list[Message]) -> None:
        for start in range(0, len(rows), CHUNK):
            chunk = [(row.id, row.epoch) for row in rows[start : start + CHUNK]]
            future = self._broker.publish(messages[start : start + CHUNK], timeout=RELEASE_TIMEOUT_SECONDS)
            future.add_done_callback(lambda done, chunk=chunk: self._confirmed(chunk, done))  # type: ignore[misc]

    def _confirmed(self, chunk: list[tuple[str, int]], done: Future[list[PublishFailure | None]]) -> None:
        """What was confirmed, and what was not, is decided in the next transaction (the broker's I/O thread)."""
        records: list[Input] = []
        for (id, epoch), failure in zip(chunk, done.result(), strict=True):
            if failure is None:
                records.append(Released(id, epoch))
            elif failure.kind is Unconfirmed.NOT_SENT:
                records.append(ReleaseFailed(id, epoch, failure.reason))
            else:
                records.append(ReleaseUnknown(id, epoch))
        # First the records, then the count: a stop that waits for the last confirm finds its record. Confirms alone
        # are no reason for a transaction of their own: most outcomes come in the next one.
        if all(isinstance(record, Released) for record in records) and not self._stopping.is_set():
            self._input_queue.add_quietly(records)
        else:
            self._input_queue.add(records)
        self._add_in_flight(-len(chunk))

    def _clock_went_back(self, rows: list[Row]) -> None:
        """The clock was set back, so the time of these is far away again (the precise timer's thread)."""
        self._input_queue.add([ReleaseFailed(row.id, row.epoch, "the clock was set back") for row in rows])
        self._add_in_flight(-len(rows))

    def _add_in_flight(self, count: int) -> None:
        with self._counting:
            self._in_flight += count

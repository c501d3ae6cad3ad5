"""Keeps what was received and is not started, and the slots in which jobs run: what starts next, and that it may.

Of one queue what is high starts first, then what is normal, then what is low.

A free slot never stands beside a delivery that could have it: whoever adds a delivery, or ends a job and gives its slot
back, takes out what starts next under one lock. A slot is taken before a thread or the event loop is asked to run.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable

from broker_jobs.broker.names import work_queues
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.messages.priority import PRIORITIES
from broker_jobs.served_queues import ServedQueues


class _Line:
    """The deliveries of one queue that wait, and how many of it run."""

    __slots__ = ("came", "credit", "limit", "name", "running", "waiting", "weight")

    def __init__(self, name: str, weight: int = 1, limit: float = math.inf) -> None:
        self.name = name
        self.weight = weight
        self.limit = limit
        self.credit = 0
        """What it is owed of its share of the starts."""
        self.running = 0
        self.waiting: tuple[deque[ReceivedDelivery], ...] = tuple(deque[ReceivedDelivery]() for _ in PRIORITIES)
        """By priority, the highest first."""
        self.came = [False] * len(PRIORITIES)
        """By priority, whether something came since it was last asked."""

    def add(self, received: ReceivedDelivery) -> None:
        """Let a delivery wait behind the others of its priority."""
        self.waiting[received.rank].append(received)
        self.came[received.rank] = True

    @property
    def has_waiting(self) -> bool:
        """Whether a delivery waits."""
        high, normal, low = self.waiting
        return bool(high or normal or low)

    def __len__(self) -> int:
        return sum(map(len, self.waiting))

    def first(self) -> ReceivedDelivery:
        """Take out the delivery that starts next; there is one."""
        high, normal, low = self.waiting
        return (high or normal or low).popleft()

    def all(self) -> list[ReceivedDelivery]:
        """What waits, in its order."""
        return [received for waiting in self.waiting for received in waiting.copy()]

    def remove(self, which: Callable[[ReceivedDelivery], bool]) -> list[ReceivedDelivery]:
        """Take out what is not to be started any more."""
        removed: list[ReceivedDelivery] = []
        for waiting in self.waiting:
            kept: list[ReceivedDelivery] = []
            for _ in range(len(waiting)):  # in place: others may be added at its end meanwhile
                received = waiting.popleft()
                (removed if which(received) else kept).append(received)
            waiting.extendleft(reversed(kept))
        return removed


class LocalQueue:
    """Deliveries that wait to be started, and `concurrency` slots; any thread may call it."""

    def __init__(self, queues: ServedQueues, concurrency: int) -> None:
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._only: _Line | None = None
        """The line, where there is one."""
        self._weighted = False
        self._concurrency = concurrency
        self._slots = concurrency
        self._taken = 0
        self._in_threads = 0
        self._serve(queues)

    @property
    def concurrency(self) -> int:
        """How many jobs run at once, of all kinds and queues together."""
        return self._concurrency

    @property
    def slots(self) -> int:
        """How many jobs run at once, with the spare slots."""
        return self._slots

    @property
    def in_threads(self) -> int:
        """How many slots are taken by jobs that need a thread."""
        return self._in_threads

    @property
    def free(self) -> int:
        """How many slots are free; then nothing waits that could have one."""
        return max(0, self._slots - self._taken)

    # --- start and end ---

    def put(self, deliveries: Iterable[ReceivedDelivery]) -> list[ReceivedDelivery]:
        """Add deliveries, each behind the others of its queue and priority. Returns what starts now: each has a slot.

        Without the lock, which the threads need, while all slots are taken. Whoever gives one back after that looks
        afterwards at what waits, and finds them.
        """
        lines = self._lines
        for received in deliveries:
            line = lines.get(received.queue)
            if line is None:
                with self._lock:
                    line = self._line(received.queue)
                lines = self._lines
            line.add(received)
        if self._taken >= self._slots:
            return []
        with self._lock:
            return self._start()

    def ended(self, received: ReceivedDelivery) -> ReceivedDelivery | None:
        """Give back the slot of a delivery. Returns what starts in its place, with a slot, or None."""
        with self._lock:
            only = self._only
            if only is not None and only.has_waiting and self._taken <= self._slots and only.running <= only.limit:
                # Most often: the next of the same queue takes the slot on.
                following = only.first()
                if following.on_loop is not received.on_loop:
                    self._in_threads += -1 if following.on_loop else 1
                return following
            self._taken -= 1
            self._line(received.queue).running -= 1
            if not received.on_loop:
                self._in_threads -= 1
            return self._next()

    def change(self, queues: ServedQueues, concurrency: int) -> tuple[list[ReceivedDelivery], list[ReceivedDelivery]]:
        """Serve other queues, or run more or fewer jobs. Jobs that run go on.

        Returns what starts now, and what waited of queues that are not served any more.
        """
        with self._lock:
            self._slots += concurrency - self._concurrency
            self._concurrency = concurrency
            dropped = self._serve(queues)
            return self._start(), dropped

    def add_slots(self, by: int) -> list[ReceivedDelivery]:
        """Have so many slots more, or fewer, than `concurrency` says. Returns what starts now.

        A job that cannot be ended holds its slot; then another one takes its place.
        """
        with self._lock:
            self._slots += by
            return self._start()

    def _serve(self, queues: ServedQueues) -> list[ReceivedDelivery]:
        """Use these queues, in their order; what waited of others. Their lines stay: a delivery may be on its way."""
        old, lines = self._lines, dict[str, _Line]()
        for name in queues.names:
            line = lines[name] = old[name] if name in old else _Line(name)
            line.weight, line.limit, line.credit = queues.weights.get(name, 1), queues.limits.get(name, math.inf), 0
        dropped: list[ReceivedDelivery] = []
        for name, line in old.items():
            if name not in lines:
                lines[name] = line
                line.weight, line.limit = 1, math.inf
                dropped += line.remove(lambda _: True)
        self._weighted = bool(queues.weights)
        self._only = next(iter(lines.values())) if len(lines) == 1 else None
        self._lines = lines
        return dropped

    def _start(self) -> list[ReceivedDelivery]:
        started: list[ReceivedDelivery] = []
        while (received := self._next()) is not None:
            started.append(received)
        return started

    def _next(self) -> ReceivedDelivery | None:
        if self._taken >= self._slots:
            return None
        line = self._choose()
        if line is None:
            return None
        received = line.first()
        self._taken += 1
        line.running += 1
        if not received.on_loop:
            self._in_threads += 1
        return received

    def _choose(self) -> _Line | None:
        """The queue of which a job starts next: the first that has one, or by the shares of those that have."""
        chosen: _Line | None = None
        total = 0
        for line in self._lines.values():
            if line.has_waiting and line.running < line.limit:
                if not self._weighted:
                    return line
                total += line.weight
                line.credit += line.weight
                if chosen is None or line.credit > chosen.credit:
                    chosen = line
        if chosen is not None:
            chosen.credit -= total
        return chosen

    def _line(self, queue: str) -> _Line:
        """The line of a queue; of one that was not asked for, a new one, the last."""
        line = self._lines.get(queue)
        if line is None:
            line = _Line(queue)
            self._lines = {**self._lines, queue: line}  # a new one, as others may be walking over the old one
            self._only = None
        return line

    # --- what waits ---

    def remove(self, which: Callable[[ReceivedDelivery], bool]) -> list[ReceivedDelivery]:
        """Take out what is not to be started any more."""
        with self._lock:
            return [received for line in self._lines.values() for received in line.remove(which)]

    def held(self) -> list[ReceivedDelivery]:
        """What waits now."""
        with self._lock:
            return [received for line in self._lines.values() for received in line.all()]

    def oldest(self) -> dict[str, ReceivedDelivery]:
        """Work queue -> the delivery of it that waits longest; without those of which none waits."""
        with self._lock:
            heads = [waiting[0] for line in self._lines.values() for waiting in line.waiting if waiting]
            return {received.work_queue: received for received in heads}

    def came(self) -> set[str]:
        """The work queues of which something came since this was last called."""
        with self._lock:
            found: set[str] = set()
            for line in self._lines.values():
                if any(line.came):
                    found.update(name for name, came in zip(work_queues(line.name), line.came, strict=True) if came)
                    line.came = [False] * len(PRIORITIES)
            return found

    def room(self, queue: str) -> int:
        """How many jobs of a queue could start at once."""
        with self._lock:
            line = self._lines.get(queue)
            return self.free if line is None else int(max(0, min(self.free, line.limit - line.running)))

    def running(self, queue: str) -> int:
        """How many jobs of a queue have a slot."""
        line = self._lines.get(queue)
        return 0 if line is None else line.running

    def at_limit(self, queue: str) -> bool:
        """Whether a queue has a limit and as many of its jobs run."""
        with self._lock:
            line = self._lines.get(queue)
            return line is not None and line.running >= line.limit

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

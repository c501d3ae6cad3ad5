"""Holds committed releases for their last milliseconds, and publishes them at their time, never before.

A transaction takes some milliseconds, most of them for the disk. So it begins a little ahead of the time, and its
releases wait here: a job is late by the way through the broker alone. Meanwhile the row says `publishing`, as for any
release that is not confirmed.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable, Sequence

from broker_jobs.broker.interface import Message
from broker_jobs.clock import Clock, Instant
from broker_jobs.store.row import Row

AHEAD_SECONDS = 0.02
"""How long before its time a job's release may be committed; a commit takes 1 to 10 ms."""
LONGEST_SECONDS = 1.0
"""A longer wait means that the clock was set back."""


class PreciseTimer:
    """Releases by their time; a thread of its own, so that no transaction is in their way."""

    def __init__(
        self,
        clock: Clock,
        publish: Callable[[list[Row], list[Message]], None],
        give_up: Callable[[list[Row]], None],
    ) -> None:
        self._clock = clock
        self._publish = publish
        self._give_up = give_up
        self._held: list[tuple[Instant, int, float, Row, Message]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def start(self) -> None:
        """Begin; tolerates twice."""
        if self._thread is None:
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="coordinator-timer", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Publish what is held, each at its time, then end; may be called twice, and without start()."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)
        self._thread = None

    def hold(self, rows: Sequence[Row], messages: Sequence[Message]) -> None:
        """Take releases; each is published at its row's `released_at`."""
        with self._changed:
            until = self._clock.monotonic() + LONGEST_SECONDS
            for row, message in zip(rows, messages, strict=True):
                heapq.heappush(self._held, (row.released_at or 0.0, next(self._order), until, row, message))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._held and not self._stopping:
                    self._changed.wait()
                if not self._held:
                    return
                pause = self._held[0][0] - self._clock.now()
                if pause > 0:
                    self._changed.wait(min(pause, LONGEST_SECONDS))
                due, late = self._due()
            if due:
                self._publish([row for row, _ in due], [message for _, message in due])
            if late:
                self._give_up(late)

    def _due(self) -> tuple[list[tuple[Row, Message]], list[Row]]:
        """What is published now, and what has waited too long because the clock was set back."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        due: list[tuple[Row, Message]] = []
        while self._held and self._held[0][0] <= now:
            _, _, _, row, message = heapq.heappop(self._held)
            due.append((row, message))
        late = [entry[3] for entry in self._held if entry[2] <= monotonic]
        if late:
            self._held = [entry for entry in self._held if entry[2] > monotonic]
            heapq.heapify(self._held)
        return due, late

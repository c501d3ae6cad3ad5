"""Notices that a job keeps others from running: it blocks the event loop, or holds Python's interpreter lock (GIL).

The thread that looks after the worker asks the loop for an answer ten times a second. A loop that gives none is
blocked. A held GIL stops that thread too, so it is noticed when it is over, by the time that has passed between two
looks.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from broker_jobs.clock import Clock
from broker_jobs.consumer.event_loop import EventLoop
from broker_jobs.consumer.observer import WorkerObserver
from broker_jobs.consumer.running import Run, Running

logger = logging.getLogger(__name__)

STALL_SECONDS = 1.0
"""A shorter stall is no news."""
SHOWN_SECONDS = 60.0
"""How long the heartbeats tell of a stall that is over."""
MAX_NAMED = 5
"""So many jobs are named that ran during a stall."""


class StallWatch:
    """Watches one worker. `begin_look` and `end_look` are called around each look at it, in one thread."""

    def __init__(self, loop: EventLoop, running: Running, observer: WorkerObserver, clock: Clock) -> None:
        self._loop = loop
        self._running = running
        self._observer = observer
        self._clock = clock
        self._looked_monotonic: float | None = None
        self._looked_cpu = 0.0
        self._runs: list[Run] = []
        self._asked_monotonic: float | None = None
        """When the loop was asked; None: it has answered."""
        self._blocked_by = ""
        """What blocks the loop; empty: nothing, or it is not said yet."""
        self._busy = ""
        self._shown_until = 0.0

    @property
    def busy(self) -> str:
        """What keeps jobs of this process from running, or has just done so; else empty."""
        if not self._blocked_by and self._clock.monotonic() > self._shown_until:
            self._busy = ""
        return self._busy

    def begin_look(self) -> None:
        """A look begins: did it come in time?"""
        now = self._clock.monotonic()
        if self._looked_monotonic is not None and now - self._looked_monotonic > STALL_SECONDS:
            self._stood_still(now - self._looked_monotonic, now)
        self._look_at_loop(now)

    def end_look(self) -> None:
        """A look has ended: the next one follows a tenth of a second later."""
        self._looked_monotonic = self._clock.monotonic()
        self._looked_cpu = time.process_time()
        self._runs = self._running.all()
        self._running.pop_ended()

    def _stood_still(self, seconds: float, now: float) -> None:
        """No thread of ours ran. The loop could not answer, which says nothing about it."""
        if self._asked_monotonic is not None:
            self._asked_monotonic += seconds
        # What took the interpreter may have begun after the last look, and ended before this one.
        ran = dict.fromkeys((*self._running.pop_ended(), *self._runs, *self._running.all()))
        computed = time.process_time() - self._looked_cpu > seconds / 2
        cause = "a job held Python's GIL" if computed else "a job held Python's GIL, or the process was stopped"
        self._say(f"this process stood still for {seconds:.1f} s: {cause}; {_named(list(ran))}", now)
        logger.error(
            "%s. Other jobs, and the reports of this process, waited. Give such a job isolation='process', or use a "
            "library that releases the GIL",
            self._busy,
        )
        self._observer.stalled("process", seconds)

    def _look_at_loop(self, now: float) -> None:
        asked = self._asked_monotonic
        if asked is None:
            self._asked_monotonic = now
            if not self._loop.ping(self._answer):
                self._asked_monotonic = None
        elif now - asked > STALL_SECONDS:
            if not self._blocked_by:
                self._begin_block(asked, now)
            self._observer.blocked(now - asked)

    def _answer(self) -> None:
        """The loop runs; on the loop."""
        asked, self._asked_monotonic = self._asked_monotonic, None
        if self._blocked_by and asked is not None:
            seconds = self._clock.monotonic() - asked
            logger.warning("the event loop was blocked for %.1f s by %s; it runs again", seconds, self._blocked_by)
            self._say(f"its event loop was blocked for {seconds:.1f} s by {self._blocked_by}", self._clock.monotonic())
            self._blocked_by = ""
            self._observer.stalled("event loop", seconds)
            self._observer.blocked(0.0)

    def _begin_block(self, asked: float, now: float) -> None:
        received, task, stack = self._loop.in_turn()
        if received is not None:
            envelope = received.envelope
            self._blocked_by = f"{envelope.job} {envelope.id} attempt {envelope.attempt}"
        else:
            asynchronous = [run for run in self._running.all() if run.task is not None]
            self._blocked_by = f"{task} ({_named(asynchronous)})"
        since = datetime.fromtimestamp(self._clock.now() - (now - asked), UTC).isoformat(timespec="seconds")
        self._say(f"its event loop is blocked since {since} by {self._blocked_by}", now)
        logger.error(
            "the event loop of async jobs has been blocked for %.1f s by %s; no other async job of this process runs. "
            "Write def instead of async def, or put what blocks into asyncio.to_thread. It stands here:\n%s",
            now - asked,
            self._blocked_by,
            stack,
        )

    def _say(self, busy: str, now: float) -> None:
        self._busy = busy[:1_000]
        self._shown_until = now + SHOWN_SECONDS


def _named(runs: list[Run]) -> str:
    if not runs:
        return "no job ran"
    names = [f"{run.received.envelope.job} {run.received.envelope.id}" for run in runs[:MAX_NAMED]]
    more = f" and {len(runs) - MAX_NAMED} more" if len(runs) > MAX_NAMED else ""
    return f"these jobs ran: {', '.join(names)}{more}"

"""Keeps the attempts that have begun; here the outside reaches a running function: cancelled, timed out, handed over.

Plain slots and no locks: each field is written by one party, and a late look costs a tick, not a job. What must not be
late or twice, an exception in a thread, is in thread_interrupt.py.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from collections.abc import Iterable
from typing import Literal, Protocol, TypeAlias

from broker_jobs.clock import Instant
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.thread_interrupt import ThreadInterrupt
from broker_jobs.producer.current_job import JobCancelled, JobTimedOut

MOST_ENDED = 1_000
"""Of so many attempts that have ended it is known for a moment what ran."""

CancelReason: TypeAlias = Literal["deleted", "timeout", "shutdown", "lease"]


class Run:
    """One attempt that has begun."""

    __slots__ = (
        "announced",
        "asked_again",
        "asked_monotonic",
        "board_place",
        "cancel_reason",
        "cut_off",
        "deadline_monotonic",
        "ended",
        "handed_over",
        "interrupt",
        "interrupted",
        "isolated",
        "lines",
        "noticed",
        "outlived",
        "overdue",
        "owned",
        "pid",
        "progress",
        "progress_monotonic",
        "received",
        "started_at",
        "started_monotonic",
        "task",
        "told",
    )

    def __init__(self, received: ReceivedDelivery, started_at: Instant, started_monotonic: float) -> None:
        self.received = received
        self.pid = os.getpid()
        self.started_at = started_at
        self.started_monotonic = started_monotonic
        timeout = received.envelope.policy.timeout
        self.isolated = received.function.options.isolation == "process"
        self.deadline_monotonic = None if timeout is None or self.isolated else started_monotonic + timeout
        """When its timeout is over; of an isolated run not before its process is ready."""
        self.cancel_reason: CancelReason | None = None
        """Why it was asked to stop; the first reason stands, but for "lease", which stops no thread."""
        self.asked_monotonic: float | None = None
        """When the monitor saw that it was asked."""
        self.asked_again = False
        self.interrupt = ThreadInterrupt()
        self.told = False
        """Whether the function has learned that it should stop."""
        self.interrupted = False
        """Whether its task was cancelled for that; once, until it is asked again."""
        self.board_place: int | None = None
        """Where it stands on the board of this process."""
        self.announced = False
        """Whether `started` was said."""
        self.outlived = False
        """Whether it was logged that it runs on after its timeout."""
        self.overdue = False
        """Whether it has outlived its timeout by more than the grace: its process leaves."""
        self.handed_over = False
        """Whether `started(owned)` was said."""
        self.owned = False
        """Whether that is confirmed: the delivery is acknowledged, the coordinator owns the job by our heartbeats."""
        self.cut_off = False
        """Whether it was reported that the worker stops while this runs; after that only a success is reported."""
        self.ended = False
        self.progress: tuple[float, float | None] | None = None
        """The last progress that was not reported yet."""
        self.progress_monotonic = float("-inf")
        self.lines = 0
        self.noticed = False
        """Whether the hooks of its end were called."""
        self.task: asyncio.Task[None] | None = None

    def cancel(self, reason: CancelReason) -> None:
        """Ask it to stop: `cancelled()` turns true, and CancelledError or JobCancelled is raised in it.

        Not in a thread while the worker is cut off from RabbitMQ ("lease"): its job may well be nowhere else.
        """
        if self.ended or self.cancel_reason not in {None, "lease"} or self.cancel_reason == reason:
            return
        self.cancel_reason = reason
        self.stop()

    def leave_if_copied(self) -> None:
        """End this process at once if the job, or a hook of it, has forked it: the copy has returned to us.

        It would go on as a second worker: end the same run, and run further jobs.
        """
        if os.getpid() != self.pid:
            os._exit(0)

    def begin_again(self, monotonic: float) -> None:
        """Its timeout counts from now."""
        if self.received.envelope.policy.timeout is not None:
            self.deadline_monotonic = monotonic + self.received.envelope.policy.timeout

    def ask_again(self) -> None:
        """It caught what was raised in it and goes on, or is in a call that nothing ends: raise it once more."""
        self.asked_again = True
        self.interrupted = False
        self.stop()

    def stop(self) -> None:
        """Raise in the function what it was asked for."""
        task = self.task
        if task is not None:
            loop = task.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._cancel_task)
        elif self.cancel_reason != "lease":
            self.interrupt.send(self._exception())

    def set_task(self, task: asyncio.Task[None]) -> None:
        """It runs in this task from now on; on the task's loop."""
        self.task = task
        if self.cancel_reason is not None:
            self._cancel_task()

    def _cancel_task(self) -> None:
        if self.task is not None and not self.ended and not self.interrupted:
            self.told = self.interrupted = True
            self.task.cancel()

    def _exception(self) -> type[JobCancelled]:
        return JobTimedOut if self.cancel_reason == "timeout" else JobCancelled

    def asked_to_stop(self) -> type[JobCancelled] | None:
        """Answer the function's question with what it should raise, or None; from then on it knows."""
        if self.cancel_reason is None:
            return None
        self.told = True
        return self._exception()

    def note_progress(self, done: float, total: float | None) -> None:
        """Keep the progress; reported at most once a second. What is not a finite number is ignored."""
        progress = progress_of(done, total)
        if progress is not None:
            self.progress = progress


def progress_of(done: float, total: float | None) -> tuple[float, float | None] | None:
    """What a job says of its progress, as numbers; None: not all of it is finite.

    Raises:
        TypeError, ValueError, OverflowError: it is no number.
    """
    progress = (float(done), None if total is None else float(total))
    return progress if all(amount is None or math.isfinite(amount) for amount in progress) else None


class Board(Protocol):
    """Shows the runs of this process to its supervisor, also while one keeps Python's GIL."""

    def begin(self, id: str, epoch: int, started_at: Instant) -> int | None:
        """A run begins; its place on the board, if there is one."""
        ...

    def end(self, place: int | None) -> None:
        """It has ended."""


class Running:
    """All attempts that have begun and not ended, on any thread."""

    def __init__(self, board: Board | None = None) -> None:
        self._board = board
        self._runs: dict[Run, None] = {}  # adding, removing and copying are one step of the interpreter each
        self._ended: deque[Run] = deque(maxlen=MOST_ENDED)

    def add(self, run: Run) -> None:
        """An attempt begins."""
        self._runs[run] = None
        if self._board is not None:
            envelope = run.received.envelope
            run.board_place = self._board.begin(envelope.id, envelope.epoch, run.started_at)

    def remove(self, run: Run) -> None:
        """An attempt has ended."""
        run.ended = True
        if self._runs.pop(run, run) is None:
            self._ended.append(run)
            if self._board is not None:
                self._board.end(run.board_place)

    def hide(self, run: Run) -> None:
        """Take a run off the board whose end is reported, though it runs on: if its process dies, that is no crash."""
        if self._board is not None:
            self._board.end(run.board_place)
            run.board_place = None

    def pop_ended(self) -> list[Run]:
        """The attempts that have ended since the last call, the newest of them."""
        ended = list(self._ended)
        self._ended.clear()
        return ended

    def all(self) -> list[Run]:
        """The attempts that run now."""
        return list(self._runs)

    def cancel_all(self) -> None:
        """Ask all to stop, as the worker has to leave."""
        for run in self.all():
            run.cancel("shutdown")

    def has_only_overdue(self) -> bool:
        """Whether none runs but those that went on after their timeout and the grace."""
        return all(run.overdue for run in self.all())

    def ids(self) -> list[tuple[str, int]]:
        """(job, epoch) of the attempts that run now."""
        return [(run.received.envelope.id, run.received.envelope.epoch) for run in self.all()]

    def cancel(self, job_ids: Iterable[str]) -> None:
        """Ask the runs of these jobs to stop, as they were deleted."""
        wanted = set(job_ids)
        for run in self.all() if wanted else ():
            if run.received.envelope.id in wanted:
                run.cancel("deleted")

    def __len__(self) -> int:
        return len(self._runs)

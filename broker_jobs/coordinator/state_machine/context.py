"""Describes what a decision is made with, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker_jobs.clock import Instant
from broker_jobs.store.row import Row


@dataclass(frozen=True, slots=True)
class Context:
    """When and by whom is decided: wall time, log time, this coordinator's id, and chance for the back-off."""

    now: Instant
    log_now: float
    coordinator: str
    chance: Callable[[], float]
    ahead: float = 0.0
    """Seconds: what comes due so soon is released now, and let go at its time (see precise_timer.py)."""
    max_body: int = 256 * 1024
    """Bytes a message may have."""

    @property
    def until(self) -> Instant:
        """What is due by then is due now: the one bound that every question about a job's time is asked with."""
        return self.now + self.ahead


@dataclass(frozen=True, slots=True)
class Decision:
    """What a record makes of a job: its next row, and what is to be said about it."""

    row: Row | None = None
    """None: nothing is known of the job still. The same object as before: nothing has changed."""
    refused: str | None = None
    """Why a command did nothing, and what to do instead."""
    ended_before: bool = False
    """The command found the job ended."""
    cancel: bool = False
    """The worker is to be told that the job should stop."""
    fenced_runner: str | None = None
    """A worker runs what has ended: it is to be told."""
    notes: tuple[str, ...] = ()
    """What is counted in the metrics: an event that came too late, a job that was started twice."""

"""Defines what a worker reports to its metrics; the default does nothing."""

from __future__ import annotations

from typing import Protocol


class WorkerObserver(Protocol):
    """Callbacks of a worker; quick, from any of its threads, and must not raise."""

    def received(self, queue: str, count: int) -> None:
        """Deliveries of a queue came in."""

    def finished(
        self, outcome: str, job: str, queue: str, *, run_seconds: float, wait_seconds: float, attempt: int
    ) -> None:
        """An attempt ended: "succeeded", "raised", "timed out", "cancelled", "crashed" or "interrupted".

        The wait is from enqueue (or due) to start.
        """

    def returned(self, reason: str, queue: str) -> None:
        """A delivery was not run."""

    def dead_letters(self, queue: str) -> None:
        """A delivery could not be understood."""

    def in_flight(self, running: int, held: int, unconfirmed: int) -> None:
        """Once a second: attempts running, deliveries unstarted, events without a confirm."""

    def blocked(self, seconds: float) -> None:
        """While a job blocks the event loop: for how long; 0.0: it runs again."""

    def stalled(self, what: str, seconds: float) -> None:
        """A stall is over: of the "event loop", or of the whole "process"."""


class NoWorkerObserver:
    """Counts nothing."""

    def received(self, queue: str, count: int) -> None: ...

    def finished(
        self, outcome: str, job: str, queue: str, *, run_seconds: float, wait_seconds: float, attempt: int
    ) -> None: ...

    def returned(self, reason: str, queue: str) -> None: ...

    def dead_letters(self, queue: str) -> None: ...

    def in_flight(self, running: int, held: int, unconfirmed: int) -> None: ...

    def blocked(self, seconds: float) -> None: ...

    def stalled(self, what: str, seconds: float) -> None: ...

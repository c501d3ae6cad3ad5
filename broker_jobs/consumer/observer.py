"""Says what may be counted in a worker, so that metrics are told and not asked for; doing nothing is the default."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Callbacks of a worker; quick, from any of its threads, and must not raise."""

    def taken(self, queue: str, count: int) -> None:
        """Deliveries of a queue came in."""

    def finished(
        self, outcome: str, job: str, queue: str, *, run_seconds: float, wait_seconds: float, attempt: int
    ) -> None:
        """An attempt ended: "succeeded", "failed", "cancelled" or "interrupted".

        The wait is from enqueue (or due) to start.
        """

    def handed_back(self, reason: str, queue: str) -> None:
        """A delivery was not run."""

    def parked(self, queue: str) -> None:
        """A delivery could not be understood."""

    def in_flight(self, running: int, held: int, unconfirmed: int) -> None:
        """Once a second: attempts running, deliveries unstarted, events without a confirm."""


class NoObserver:
    """Counts nothing."""

    def taken(self, queue: str, count: int) -> None: ...

    def finished(
        self, outcome: str, job: str, queue: str, *, run_seconds: float, wait_seconds: float, attempt: int
    ) -> None: ...

    def handed_back(self, reason: str, queue: str) -> None: ...

    def parked(self, queue: str) -> None: ...

    def in_flight(self, running: int, held: int, unconfirmed: int) -> None: ...

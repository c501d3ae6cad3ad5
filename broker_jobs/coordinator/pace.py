"""Lets transactions under load gather what comes for a moment, as each costs as much as fifty jobs beside its jobs."""

from __future__ import annotations

from collections.abc import Callable

LOAD = 500
"""Records of the log a second from which on transactions gather."""
GATHER_SECONDS = 0.1
"""Between the beginnings of two transactions. Nobody waits for it: see `Engine.may_gather`."""
WINDOW_SECONDS = 0.5
"""The load is that of the last window."""


class Pace:
    """When the next transaction may begin. Coordinator's thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began = float("-inf")
        self._window_began = monotonic()
        self._records = 0
        self._load = 0.0

    def begins(self, records: int) -> None:
        """A transaction begins, with so many records of the log."""
        now = self._monotonic()
        self._began = now
        self._records += records
        passed = now - self._window_began
        if passed >= WINDOW_SECONDS:
            self._load = self._records / passed
            self._window_began, self._records = now, 0

    def gather_seconds(self) -> float:
        """For how long the next transaction may wait."""
        if self._load < LOAD:
            return 0.0
        return max(0.0, self._began + GATHER_SECONDS - self._monotonic())

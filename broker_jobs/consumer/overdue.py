"""Decides what follows when a run cannot be ended: its process leaves, or other jobs get the capacity that it holds."""

from __future__ import annotations

import logging
from collections.abc import Callable

from broker_jobs.consumer.running import Run

logger = logging.getLogger(__name__)


class OverdueRuns:
    """The runs that went on after their timeout and the grace.

    `on_leave` is called once, with the reason. Without it nobody can replace this process, as it is a program that runs
    jobs beside its own work. Then there is a spare slot for each such run until it ends: at most as many as there are
    regular ones.
    """

    def __init__(
        self, concurrency: int, add_slots: Callable[[int], None], on_leave: Callable[[str], None] | None
    ) -> None:
        """`add_slots`: lets so many jobs more, or fewer, run at once."""
        self._add_slots = add_slots
        self._concurrency = concurrency
        self._on_leave = on_leave
        self._leaving = False
        self._spared: dict[Run, None] = {}

    def add(self, run: Run, grace_seconds: float) -> None:
        """A run has not ended in the grace after its timeout."""
        envelope = run.received.envelope
        timeout = envelope.policy.timeout or 0.0
        described = (
            f"{envelope.job} {envelope.id} attempt {envelope.attempt} still runs {grace_seconds:g} s after its timeout "
            f"of {timeout:g} s"
        )
        if self._on_leave is not None:
            logger.error("%s: this process takes no more jobs and leaves, which ends it", described)
            if not self._leaving:
                self._leaving = True
                self._on_leave(described)
        elif len(self._spared) < self._concurrency:
            self._spared[run] = None
            self._add_slots(1)
            logger.error(
                "%s: only the end of this program ends it; another job gets its place (%d of %d places are spares now)",
                described,
                len(self._spared),
                self._concurrency,
            )
        else:
            logger.critical(
                "%s, and so do %d others: its place is lost; restart this program", described, len(self._spared)
            )

    def look(self) -> None:
        """Take back what was given for runs that have ended after all."""
        for run in [run for run in self._spared if run.ended]:
            del self._spared[run]
            self._add_slots(-1)

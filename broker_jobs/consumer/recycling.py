"""Decides when a worker leaves so that a fresh process takes its place: after so many jobs, or over so much memory."""

from __future__ import annotations

import itertools
import logging
import threading
from typing import Protocol

from broker_jobs.consumer.process_stats import ProcessStats

logger = logging.getLogger(__name__)

MIB = 1024 * 1024


class OnLeave(Protocol):
    """Called when a worker takes no more jobs and its process is to be replaced."""

    def __call__(self, reason: str, *, patient: bool = False) -> None:
        """`patient`: its running jobs get all the time that they need; else that of a graceful stop."""


class Recycling:
    """The limits of one worker process. `begin` is called in any thread, `look` once a second."""

    def __init__(self, on_leave: OnLeave | None, *, max_jobs: int | None, max_memory: int | None) -> None:
        """
        Args:
            on_leave: called once. None: nothing replaces this process, so the limits do not hold.
            max_jobs: runs; None: no limit.
            max_memory: MiB of resident memory; None: no limit.
        """
        self._on_leave = on_leave
        self.max_jobs = None if on_leave is None else max_jobs
        self._max_memory = None if on_leave is None else max_memory
        self._numbers = itertools.count(1)  # one step of the interpreter, so two threads never get one number
        self._begun = False
        self._process_stats = ProcessStats()
        self._warned = False
        self._lock = threading.Lock()
        self._left = False

    def leave(self, reason: str, *, patient: bool = False) -> None:
        """Have this process replaced: it takes no more jobs, and exits after a graceful stop.

        Only the first call has an effect.

        Args:
            reason: shown in the log.
            patient: running jobs get all the time that they need; False: they get `shutdown_timeout`, then the process
                exits, whatever still runs.
        """
        with self._lock:
            if self._left:
                return
            self._left = True
        if self._on_leave is None:
            logger.error("this worker should leave (%s), but nothing replaces it: restart this process", reason)
        else:
            self._on_leave(reason, patient=patient)

    def begin(self) -> bool:
        """A run is to begin; whether it may."""
        self._begun = True
        if self.max_jobs is None:
            return True
        number = next(self._numbers)
        if number == self.max_jobs:
            self.leave(f"it has taken {number} jobs, its max_jobs", patient=True)
        return number <= self.max_jobs

    def look(self) -> None:
        """Compare the memory of this process with its limit."""
        if self._max_memory is None:
            return
        mib = self._process_stats.rss_bytes() / MIB
        if mib <= self._max_memory:
            return
        if self._begun:
            self.leave(
                f"it takes {mib:.0f} MiB of memory, more than its max_memory of {self._max_memory}", patient=True
            )
        elif not self._warned:
            self._warned = True
            logger.error(
                "this process takes %.0f MiB before its first job, and max_memory is %d: it is replaced after each "
                "job. Set a higher max_memory",
                mib,
                self._max_memory,
            )

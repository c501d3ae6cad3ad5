"""Runs sync attempts: a pool of threads, started when they are needed.

What is handed over has a slot already. There are as many threads as sync jobs have had slots at once, so a free one
takes it at once. A thread that has ended a job runs what starts in its place, without a hand-over. Daemon threads: a
job that never ends does not keep the process from ending.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from broker_jobs.consumer.received_delivery import ReceivedDelivery

logger = logging.getLogger(__name__)

REFUSED_SECONDS = 1.0
"""How long no thread is asked for after the machine has refused one: CPython keeps something of each try."""


class ThreadPool:
    """Threads that call `work`, and then `ended`, which says what they run next."""

    def __init__(
        self,
        work: Callable[[ReceivedDelivery], None],
        ended: Callable[[ReceivedDelivery], ReceivedDelivery | None],
        needed: Callable[[], int],
    ) -> None:
        """
        Args:
            work: runs a delivery.
            ended: gives its slot back; what this thread runs next, or None.
            needed: how many slots are taken by jobs that need a thread.
        """
        self._work = work
        self._ended = ended
        self._needed = needed
        self._handed: SimpleQueue[ReceivedDelivery | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._problem: str | None = None
        self._refused_until = 0.0
        self._lock = threading.Lock()

    def run(self, received: ReceivedDelivery) -> None:
        """Run a delivery that has a slot, in a thread that is free or new."""
        self._handed.put(received)
        self.look()

    def look(self) -> None:
        """Start the threads that are missing. The machine may have refused one: then a later call starts it."""
        if len(self._threads) >= self._needed() or time.monotonic() < self._refused_until:
            return
        with self._lock:
            try:
                while len(self._threads) < self._needed():
                    name = f"broker-jobs-run-{len(self._threads) + 1}"
                    thread = threading.Thread(target=self._run, name=name, daemon=True)
                    thread.start()
                    self._threads.append(thread)
            except RuntimeError as error:
                self._refused_until = time.monotonic() + REFUSED_SECONDS
                self._note(f"a thread for jobs cannot be started: {error}; {len(self._threads)} threads run")
            else:
                self._note(None)

    def problem(self) -> str | None:
        """Why jobs that have a slot do not run; None: they do."""
        return self._problem

    def _note(self, problem: str | None) -> None:
        if problem is not None and self._problem is None:
            logger.error("%s; trying again", problem)
        elif problem is None and self._problem is not None:
            logger.info("threads for jobs can be started again")
        self._problem = problem

    def _run(self) -> None:
        get, work, ended = self._handed.get, self._work, self._ended
        while (received := get()) is not None:
            while received is not None:
                try:
                    work(received)
                except BaseException:
                    logger.critical(
                        "internal error at %s; its delivery is not acknowledged and returns to the queue",
                        received.envelope.id,
                        exc_info=True,
                    )
                received = ended(received)
        self._handed.put(None)  # the next thread is to learn it too

    def stop(self, timeout: float) -> bool:
        """Let the threads end after what they run; whether all have ended in time (seconds)."""
        self._handed.put(None)
        deadline = time.monotonic() + timeout
        with self._lock:  # a thread is listed a moment after it is started
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

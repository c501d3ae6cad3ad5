"""Runs sync attempts: a pool of threads, started when they are needed.

A token for each delivery in a C-level queue wakes a thread; which delivery it takes is decided when it wakes, by the
order of preference. Daemon threads: a job that never ends does not keep the process from ending.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.received_delivery import ReceivedDelivery

logger = logging.getLogger(__name__)


class ThreadPool:
    """At most `concurrency` threads that take from `ready` and call `work`."""

    def __init__(self, ready: LocalQueue, work: Callable[[ReceivedDelivery], None], concurrency: int) -> None:
        self._ready = ready
        self._work = work
        self._concurrency = concurrency
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy: dict[int, None] = {}
        self._lock = threading.Lock()

    def wake(self, count: int) -> None:
        """`count` deliveries were put into `ready`."""
        put = self._tokens.put
        for _ in range(count):
            put(True)
        if len(self._threads) < self._concurrency:
            self._start_more()

    def resize(self, by: int) -> None:
        """From now on there are so many threads more, or fewer: a thread that is too many ends after its job."""
        with self._lock:
            self._concurrency += by
        self._start_more()

    def _start_more(self) -> None:
        with self._lock:
            wanted = min(self._concurrency, len(self._busy) + len(self._ready))
            while len(self._threads) < wanted:
                thread = threading.Thread(
                    target=self._run, name=f"broker-jobs-run-{len(self._threads) + 1}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _run(self) -> None:
        me = threading.get_ident()
        get, pop, work, busy = self._tokens.get, self._ready.pop, self._work, self._busy
        while get():
            received = pop()
            if received is None:  # returned meanwhile
                continue
            busy[me] = None
            try:
                work(received)
            except BaseException:
                logger.critical(
                    "internal error at %s; its delivery is not acknowledged and returns to the queue",
                    received.envelope.id,
                    exc_info=True,
                )
            del busy[me], received
            if len(self._threads) > self._concurrency and self._retire():
                return
        self._tokens.put(False)  # the next thread is to learn it too

    def _retire(self) -> bool:
        """Whether this thread is one too many and ends."""
        with self._lock:
            if len(self._threads) <= self._concurrency:
                return False
            self._threads.remove(threading.current_thread())
            return True

    def stop(self, timeout: float) -> bool:
        """Let the threads end after what they run; whether all have ended in time (seconds)."""
        self._tokens.put(False)
        deadline = time.monotonic() + timeout
        with self._lock:  # a thread is listed a moment before it is started
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

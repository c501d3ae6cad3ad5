"""Runs async attempts: one event loop in a thread of its own, at most `concurrency` at once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from broker_jobs.consumer.ready import Ready
from broker_jobs.consumer.taken import Taken

logger = logging.getLogger(__name__)


class Loop:
    """An event loop that takes from `ready` and awaits `work`; its thread starts with the first delivery."""

    def __init__(self, ready: Ready, work: Callable[[Taken], Coroutine[Any, Any, None]], concurrency: int) -> None:
        self._ready = ready
        self._work = work
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def wake(self) -> None:
        """Something was put into `ready`."""
        loop = self._loop or self._start()
        if loop is not None:
            loop.call_soon_threadsafe(self._feed)

    def _start(self) -> asyncio.AbstractEventLoop | None:
        with self._lock:
            if self._loop is None and not self._stopping:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name="broker-jobs-loop", daemon=True
                )
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _feed(self) -> None:
        assert self._loop is not None
        while len(self._tasks) < self._concurrency:
            taken = self._ready.pop()
            if taken is None:
                return
            task = self._loop.create_task(self._work(taken))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.critical(
                "the worker itself failed at an async job; its delivery stays unacknowledged and comes back",
                exc_info=error,
            )
        self._feed()

    def stop(self, timeout: float) -> bool:
        """End the loop when nothing runs on it; whether it has ended (seconds)."""
        with self._lock:
            self._stopping = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return True
        if thread.is_alive() and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop_when_idle)
        thread.join(timeout)
        return not thread.is_alive()

    def _stop_when_idle(self) -> None:
        assert self._loop is not None
        if self._tasks:
            self._loop.call_later(0.01, self._stop_when_idle)
        else:
            self._loop.stop()

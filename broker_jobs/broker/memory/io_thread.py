"""Runs the calls of other threads in order in one I/O thread, and a turn of the server after them.

A caller takes no lock: a signal handler may interrupt it anywhere, raise, or make a call itself.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from broker_jobs.broker import io_threads
from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.errors import BrokerError

logger = logging.getLogger(__name__)
T = TypeVar("T")


class IoThread:
    """The thread in which everything of a `MemoryServer` runs.

    Args:
        name: name of the thread.
        turn: called after each round of calls. Returns the seconds until the next turn without a call (0: at once,
            None: no such turn).
        end: called last.
    """

    def __init__(self, name: str, turn: Callable[[], float | None], end: Callable[[], None]) -> None:
        self._turn = turn
        self._end = end
        self._changed: SimpleQueue[None] = SimpleQueue()
        self._calls: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call_soon(self, function: Callable[[], None]) -> bool:
        """Run a function after the calls made before. Returns False if the thread has ended and will not run it."""
        if self._ended:
            return False
        self._calls.append(function)
        self._changed.put(None)
        return self._will_run(function)

    def _will_run(self, function: Callable[[], None]) -> bool:
        """Return whether an added call has run or will run: the thread may have ended meanwhile."""
        if self._ended:
            with contextlib.suppress(ValueError):
                self._calls.remove(function)
                return False
        return True

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """Run a function in the thread and return its result. Its exception is raised here."""
        if threading.current_thread() is self._thread:
            return function()
        io_threads.refuse_blocking_call()  # in the I/O thread of another broker
        answer: SignalSafeFuture[T] = SignalSafeFuture()

        def call_function() -> None:
            try:
                answer.set_result(function())
            except Exception as error:  # noqa: BLE001  # raised in the caller
                answer.set_exception(error)

        if not self.call_soon(call_function):
            raise BrokerError("the broker in memory was stopped")
        try:
            return answer.result(timeout)
        except TimeoutError:
            raise BrokerError(f"the broker in memory did not answer in {timeout:g} s") from None

    def stop(self, timeout: float) -> None:
        """End the thread after the calls made so far. May be called in the thread itself."""
        self._stopping = True
        self._changed.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        io_threads.register()
        pause: float | None = None
        while not (self._stopping and not self._calls):
            if not self._calls and not self._stopping and pause != 0:
                with contextlib.suppress(Empty):
                    self._changed.get(timeout=pause)
            while not self._changed.empty():  # before the calls: a later call is seen in the next round
                self._changed.get()
            pause = self._round()
        self._ended = True
        self._round()  # calls made while it ended
        self._end()
        io_threads.unregister()

    def _round(self) -> float | None:
        for _ in range(len(self._calls)):
            run_safely(self._calls.popleft())
        try:
            return self._turn()
        except Exception:
            logger.exception("error in the broker in memory; it continues in a second")
            return 1.0


def run_safely(callback: Callable[[], object]) -> None:
    """Run a callback and log its error, which must not stop the I/O thread."""
    try:
        callback()
    except Exception:
        logger.exception("a callback of the broker in memory raised an error; its deliveries stay unacknowledged")

"""The I/O thread: does what other threads ask, in order, then takes a turn at the queues.

Who asks takes no lock: it may be interrupted anywhere by a signal handler that raises, or that asks something itself.
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
    """One thread that owns everything of a broker.

    Args:
        name: of the thread.
        turn: what is done after each round of errands; returns the seconds after which it wants another turn though
            nobody asked (0: at once, None: not at all).
        end: what is done last.
    """

    def __init__(self, name: str, turn: Callable[[], float | None], end: Callable[[], None]) -> None:
        self._turn = turn
        self._end = end
        self._changed: SimpleQueue[None] = SimpleQueue()
        self._errands: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call(self, errand: Callable[[], None]) -> bool:
        """Have something done after what was asked before; False when the thread has ended and will not do it."""
        if self._ended:
            return False
        self._errands.append(errand)
        self._changed.put(None)
        return self._takes(errand)

    def _takes(self, errand: Callable[[], None]) -> bool:
        """Whether an errand that was added was done or will be: the thread may have ended meanwhile."""
        if self._ended:
            with contextlib.suppress(ValueError):
                self._errands.remove(errand)
                return False
        return True

    def ask(self, question: Callable[[], T], timeout: float) -> T:
        """Have something answered; what it raises is raised here."""
        if threading.current_thread() is self._thread:
            return question()
        io_threads.refuse_blocking_call()  # of another broker
        answer: SignalSafeFuture[T] = SignalSafeFuture()

        def errand() -> None:
            try:
                answer.set_result(question())
            except Exception as error:  # noqa: BLE001  # raised where it was asked
                answer.set_exception(error)

        if not self.call(errand):
            raise BrokerError("the embedded exchange was stopped")
        try:
            return answer.result(timeout)
        except TimeoutError:
            raise BrokerError(f"the embedded exchange did not answer in {timeout:g} s") from None

    def stop(self, timeout: float) -> None:
        """End after what was asked; tolerates being called on the thread itself."""
        self._stopping = True
        self._changed.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        io_threads.enter()
        pause: float | None = None
        while not (self._stopping and not self._errands):
            if not self._errands and not self._stopping and pause != 0:
                with contextlib.suppress(Empty):
                    self._changed.get(timeout=pause)
            while not self._changed.empty():  # before the errands: one that comes now is noticed in the next round
                self._changed.get()
            pause = self._round()
        self._ended = True
        self._round()  # what was asked while it ended
        self._end()
        io_threads.leave()

    def _round(self) -> float | None:
        for _ in range(len(self._errands)):
            guarded(self._errands.popleft())
        try:
            return self._turn()
        except Exception:
            logger.exception("a turn of the embedded exchange failed; the next one follows in a second")
            return 1.0


def guarded(callback: Callable[[], object]) -> None:
    """Run what others gave us; an error of theirs must not stop the I/O thread."""
    try:
        callback()
    except Exception:
        logger.exception("a callback of the embedded exchange failed; what it was given stays unacknowledged")

"""The I/O thread: does what other threads ask, in order, then takes a turn at the queues."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from broker_jobs.errors import BrokerError

log = logging.getLogger(__name__)
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
        self._changed = threading.Condition()
        self._errands: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call(self, errand: Callable[[], None]) -> bool:
        """Have something done after what was asked before; False when the thread has ended and will not do it."""
        with self._changed:
            if self._ended:
                return False
            self._errands.append(errand)
            self._changed.notify()
            return True

    def ask(self, question: Callable[[], T], timeout: float) -> T:
        """Have something answered; what it raises is raised here."""
        if threading.current_thread() is self._thread:
            return question()
        answer: Future[T] = Future()

        def errand() -> None:
            try:
                answer.set_result(question())
            except Exception as error:  # noqa: BLE001  # raised where it was asked
                answer.set_exception(error)

        if not self.call(errand):
            raise BrokerError("the embedded exchange was stopped")
        try:
            return answer.result(timeout)
        except FutureTimeout:
            raise BrokerError(f"the embedded exchange did not answer in {timeout:g} s") from None

    def stop(self, timeout: float) -> None:
        """End after what was asked; tolerates being called on the thread itself."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause: float | None = None
        while True:
            with self._changed:
                if not self._errands and not self._stopping and pause != 0:
                    self._changed.wait(pause)
                errands, self._errands = self._errands, deque()
                if self._stopping and not errands:
                    self._ended = True
                    break
            for errand in errands:
                guarded(errand)
            try:
                pause = self._turn()
            except Exception:
                log.exception("a turn of the embedded exchange failed; the next one follows in a second")
                pause = 1.0
        self._end()


def guarded(callback: Callable[[], object]) -> None:
    """Run what others gave us; an error of theirs must not stop the I/O thread."""
    try:
        callback()
    except Exception:
        log.exception("a callback of the embedded exchange failed; what it was given stays unsettled")

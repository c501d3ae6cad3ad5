"""A future that an interrupted waiter cannot break: who waits holds no lock, so the I/O thread never waits for one.

The library's own Future takes a lock in both threads. A signal handler that raises (Ctrl-C, an alarm) may leave it held
in the one that waits; then the I/O thread would wait for it without end, and with it every later call.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Literal, TypeAlias, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

_Outcome: TypeAlias = tuple[Literal["result", "error", "cancelled"], Any]


class SignalSafeFuture(Future[T]):
    """As `concurrent.futures.Future`, for `result`, callbacks and `asyncio.wrap_future`. What ends it first stands."""

    def __init__(self) -> None:
        # Not the parent's __init__: all that it makes is for its lock.
        self.on_cancel: Callable[[], object] | None = None
        """Called when it is cancelled before it has ended."""
        self._ended: dict[str, _Outcome] = {}  # setdefault is one step of the interpreter: the first to end it wins
        self._callbacks: deque[Callable[[Any], object]] = deque()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._ended.get('outcome', ('pending',))[0]}>"

    def cancel(self) -> bool:
        """Give it up; whether it is cancelled now."""
        if self._end(("cancelled", None)) and self.on_cancel is not None:
            self.on_cancel()
        return self.cancelled()

    def cancelled(self) -> bool:
        """Whether it was given up."""
        return self._ended.get("outcome", ("",))[0] == "cancelled"

    def running(self) -> bool:
        """Never: it can be cancelled until it has ended."""
        return False

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return bool(self._ended)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result. Raises TimeoutError, CancelledError, or what it ended with."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        value: T = self._ended["outcome"][1]
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end: the error, or None. Raises TimeoutError and CancelledError."""
        if not self._ended:
            self._wait(timeout)
        kind, value = self._ended["outcome"]
        if kind == "cancelled":
            raise CancelledError
        return value if kind == "error" else None

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call a function with this future when it has ended; at once if it has."""
        self._callbacks.append(fn)
        if self._ended:
            self._call()

    def set_running_or_notify_cancel(self) -> bool:
        """Whether the work is still wanted."""
        return not self.cancelled()

    def set_result(self, result: T) -> None:
        """End it; nothing happens when it has ended."""
        self._end(("result", result))

    def set_exception(self, exception: BaseException | None) -> None:
        """End it with an error; nothing happens when it has ended."""
        self._end(("error", exception))

    def _end(self, outcome: _Outcome) -> bool:
        if self._ended.setdefault("outcome", outcome) is not outcome:
            return False
        self._call()
        return True

    def _call(self) -> None:
        """Call what waits for the end: each once, as who takes it out calls it."""
        while True:
            try:
                callback = self._callbacks.popleft()
            except IndexError:
                return
            try:
                callback(self)
            except Exception:
                logger.exception("a callback of a future failed; the others are called")

    def _wait(self, timeout: float | None) -> None:
        bell = threading.Lock()  # of this call alone: whatever becomes of it hurts nobody
        bell.acquire()

        def wake(_: object) -> None:
            bell.release()

        self.add_done_callback(wake)
        seconds = -1.0 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
        if not bell.acquire(timeout=seconds) and not self._ended:
            with contextlib.suppress(ValueError):
                self._callbacks.remove(wake)
            raise TimeoutError

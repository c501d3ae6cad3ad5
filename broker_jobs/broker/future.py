"""Provides a future without a shared lock, so that a waiter interrupted by a signal cannot block the I/O thread.

`concurrent.futures.Future` takes a lock in both threads. A signal handler that raises (Ctrl-C, an alarm) may leave it
locked in the waiting thread. Then the I/O thread would wait for it for ever, and with it every later call.
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
    """A `concurrent.futures.Future` for `result`, callbacks and `asyncio.wrap_future`. The first outcome wins."""

    def __init__(self) -> None:
        # The parent's __init__ is not called: it only sets up the lock.
        self.on_cancel: Callable[[], object] | None = None
        """Called if it is cancelled before it has an outcome."""
        self._outcome: dict[str, _Outcome] = {}  # setdefault is atomic: the first outcome wins
        self._callbacks: deque[Callable[[Any], object]] = deque()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._outcome.get('outcome', ('pending',))[0]}>"

    def cancel(self) -> bool:
        """Cancel it. Returns whether it is cancelled now."""
        if self._set(("cancelled", None)) and self.on_cancel is not None:
            self.on_cancel()
        return self.cancelled()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._outcome.get("outcome", ("",))[0] == "cancelled"

    def running(self) -> bool:
        """Return False: it can be cancelled until it has an outcome."""
        return False

    def done(self) -> bool:
        """Whether it has an outcome."""
        return bool(self._outcome)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result. Raises TimeoutError, CancelledError, or the exception that was set."""
        error = self.exception(timeout)
        if error is not None:
            raise error
        value: T = self._outcome["outcome"][1]
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome and return its exception or None. Raises TimeoutError and CancelledError."""
        if not self._outcome:
            self._wait(timeout)
        kind, value = self._outcome["outcome"]
        if kind == "cancelled":
            raise CancelledError
        return value if kind == "error" else None

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call a function with this future when it has an outcome; at once if it has one."""
        self._callbacks.append(fn)
        if self._outcome:
            self._run_callbacks()

    def remove_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Forget a callback, if it is still to run."""
        with contextlib.suppress(ValueError):
            self._callbacks.remove(fn)

    def set_running_or_notify_cancel(self) -> bool:
        """Return whether it was not cancelled."""
        return not self.cancelled()

    def set_result(self, result: T) -> None:
        """Set the result. Does nothing if there is an outcome."""
        self._set(("result", result))

    def set_exception(self, exception: BaseException | None) -> None:
        """Set the exception. Does nothing if there is an outcome."""
        self._set(("error", exception))

    def _set(self, outcome: _Outcome) -> bool:
        if self._outcome.setdefault("outcome", outcome) is not outcome:
            return False
        self._run_callbacks()
        return True

    def _run_callbacks(self) -> None:
        """Run each callback once: the thread that removes it runs it."""
        while True:
            try:
                callback = self._callbacks.popleft()
            except IndexError:
                return
            try:
                callback(self)
            except Exception:
                logger.exception("a callback of a future raised an error; the other callbacks run")

    def _wait(self, timeout: float | None) -> None:
        woken = threading.Lock()  # used only by this call, so it does no harm if it stays locked
        woken.acquire()

        def wake(_: object) -> None:
            woken.release()

        self.add_done_callback(wake)
        seconds = -1.0 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)
        if not woken.acquire(timeout=seconds) and not self._outcome:
            self.remove_done_callback(wake)
            raise TimeoutError

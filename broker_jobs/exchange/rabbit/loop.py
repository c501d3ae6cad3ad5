"""Runs pika's event loop in one thread of its own, and lets other threads have their calls run there.

pika is not thread-safe; only `add_callback_threadsafe` may cross threads, and it costs a system call. So calls from
other threads go into a deque, and one wake-up serves all that are there when the loop gets to them.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pika.adapters.select_connection import IOLoop

log = logging.getLogger(__name__)

Timer = object
"""What `later` returns; only good for `forget`."""


class _SocketsKnown(IOLoop):
    """pika's loop, which remembers its sockets: pika has no public way to drop a connection that does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: set[int] = set()

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        self.sockets.add(fd)
        super().add_handler(fd, handler, events)

    def remove_handler(self, fd: int) -> None:
        self.sockets.discard(fd)
        super().remove_handler(fd)


class Loop:
    """The I/O thread. `call` is for any thread; `later` and `forget` are for the I/O thread alone."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ioloop: _SocketsKnown | None = None
        self._thread: threading.Thread | None = None
        self._calls: deque[Callable[[], object]] = deque()
        self._woken = False
        self._running = False
        self._stopping = False
        self._lock = threading.Lock()

    @property
    def ioloop(self) -> _SocketsKnown:
        """pika's loop, for its connections."""
        assert self._ioloop is not None, "the loop is not running"
        return self._ioloop

    @property
    def running(self) -> bool:
        """Whether calls are taken."""
        return self._running

    def start(self) -> None:
        """Start the thread; may be done again after `stop`."""
        self._ioloop = _SocketsKnown()
        self._stopping = self._woken = False
        self._running = True
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], object]) -> bool:
        """Have a function run in the I/O thread soon; False when the loop does not run, so that it never will be."""
        with self._lock:
            if not self._running:
                return False
            self._calls.append(function)
            if self._woken:
                return True
            self._woken = True
            self.ioloop.add_callback_threadsafe(self._run_calls)
        return True

    def later(self, seconds: float, function: Callable[[], object]) -> Timer:
        """Run a function after `seconds`; 0 is at the end of this turn of the loop."""
        return self.ioloop.call_later(seconds, lambda: guarded(function))

    def forget(self, timer: Timer) -> None:
        """Forget a timer that has not run."""
        self.ioloop.remove_timeout(timer)  # type: ignore[arg-type]  # pika's private type

    def cut_sockets(self) -> None:
        """Let all connections see the end of their stream now, answered or not."""
        for fd in list(self.ioloop.sockets):
            try:
                duplicate = socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM)
            except OSError:
                continue
            with duplicate:
                try:
                    duplicate.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def stop(self, timeout: float) -> None:
        """End the thread; what was called before still runs. Waits `timeout` seconds for it."""
        self.call(self._stop)
        if self._thread is not None and not self.inside():
            self._thread.join(timeout)

    def inside(self) -> bool:
        """Whether the caller is the I/O thread itself (which must not wait for itself)."""
        return threading.current_thread() is self._thread

    def _stop(self) -> None:
        self._stopping = True
        self.ioloop.stop()

    def _run(self) -> None:
        ioloop = self.ioloop
        while not self._stopping:
            try:
                ioloop.start()
            except Exception:
                log.exception("the I/O thread met an error that nobody caught; it goes on")
        with self._lock:
            self._running = False
        self._run_calls()
        ioloop.close()

    def _run_calls(self) -> None:
        self._woken = False  # before the deque is read: a call that comes now wakes the loop again
        calls = self._calls
        for _ in range(len(calls)):
            guarded(calls.popleft())


def guarded(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function; an error in it is logged and ends there: it must not end the I/O thread."""
    try:
        function(*arguments)
    except Exception:
        log.exception("a callback raised an error; the I/O thread goes on")

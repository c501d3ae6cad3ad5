"""Runs pika's event loop in one thread of its own, and lets other threads have their calls run there.

pika is not thread-safe. So calls from other threads go into a deque, and one wake-up, which is a system call, serves
all that are there when the loop gets to them. No lock is taken: a signal handler may interrupt a caller anywhere, raise
or make a call itself, and must leave nothing behind that stops the others.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pika.adapters.select_connection import IOLoop

from broker_jobs.broker import io_threads

logger = logging.getLogger(__name__)

Timer = object
"""What `later` returns; only good for `forget`."""


class _TrackingIOLoop(IOLoop):
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


class IoLoop:
    """The I/O thread. `call` is for any thread; `later` and `forget` are for the I/O thread alone."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ioloop: _TrackingIOLoop | None = None
        self._thread: threading.Thread | None = None
        self._calls: deque[Callable[[], object]] = deque()
        self._rounds = 0
        """How often the calls were looked at."""
        self._woken_in = -1
        """The round that was woken last: it has not begun while this is `_rounds`."""
        self._waker: tuple[socket.socket, socket.socket] | None = None
        self._running = False
        self._stopping = False

    @property
    def ioloop(self) -> _TrackingIOLoop:
        """pika's loop, for its connections."""
        assert self._ioloop is not None, "the loop is not running"
        return self._ioloop

    @property
    def running(self) -> bool:
        """Whether calls are taken."""
        return self._running

    def start(self) -> None:
        """Start the thread; may be done again after `stop`."""
        self._ioloop = _TrackingIOLoop()
        self._calls.clear()
        self._stopping = False
        self._woken_in = -1
        self._waker = socket.socketpair()
        for end in self._waker:
            end.setblocking(False)
        reader = self._waker[0]
        IOLoop.add_handler(self._ioloop, reader.fileno(), lambda *_: self._awake(reader), IOLoop.READ)
        self._running = True
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], object]) -> bool:
        """Have a function run in the I/O thread soon; False when the loop does not run, so that it never will be."""
        if not self._running:
            return False
        self._calls.append(function)
        rounds = self._rounds  # after the append: this round sees it
        if self._woken_in != rounds:
            self._wake()
            self._woken_in = rounds  # after the wake-up: who is interrupted between them costs one more, not one less
        return self._takes(function)

    def _takes(self, function: Callable[[], object]) -> bool:
        """Whether a call that was added has run or will: the loop may have ended meanwhile, with or without it."""
        if not self._running:
            with contextlib.suppress(ValueError):
                self._calls.remove(function)
                return False
        return True

    def _wake(self) -> None:
        waker = self._waker
        if waker is not None:
            with contextlib.suppress(OSError):  # full: it is awake; closed: it has ended
                waker[1].send(b".")

    def _awake(self, reader: socket.socket) -> None:
        with contextlib.suppress(OSError):
            reader.recv(4096)
        self._run_calls()

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
        io_threads.enter()
        while not self._stopping:
            try:
                ioloop.start()
            except Exception:
                logger.exception("the I/O thread met an error that nobody caught; it goes on")
        self._running = False
        self._run_calls()
        waker, self._waker = self._waker, None
        if waker is not None:
            IOLoop.remove_handler(ioloop, waker[0].fileno())
            for end in waker:
                end.close()
        ioloop.close()
        io_threads.leave()

    def _run_calls(self) -> None:
        self._rounds += 1  # before the deque is read: a call that comes now wakes the loop again
        calls = self._calls
        for _ in range(len(calls)):
            guarded(calls.popleft())


def guarded(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function; an error in it is logged and ends there: it must not end the I/O thread."""
    try:
        function(*arguments)
    except Exception:
        logger.exception("a callback raised an error; the I/O thread goes on")

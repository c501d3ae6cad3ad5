"""Runs pika's event loop in its own thread, and runs functions there for other threads.

pika is not thread-safe. So calls from other threads go into a deque, and one wake-up, which is a system call, serves
all calls that are in it when the loop runs. No lock is taken: a signal handler may interrupt a caller anywhere, raise,
or make a call itself, and must not leave a lock behind that blocks the others.
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
"""Returned by `call_later`, for `cancel_timer`."""


class _TrackingIOLoop(IOLoop):
    """pika's loop, with a set of its sockets: pika has no public method to drop a connection that does not answer."""

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
    """The I/O thread. `call_soon` is for any thread; `call_later` and `cancel_timer` are for the I/O thread only."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ioloop: _TrackingIOLoop | None = None
        self._thread: threading.Thread | None = None
        self._calls: deque[Callable[[], object]] = deque()
        self._rounds = 0
        """How often the calls were processed."""
        self._woken_in = -1
        """The round that was last woken. It has not begun while this equals `_rounds`."""
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
        """Whether calls are accepted."""
        return self._running

    def start(self) -> None:
        """Start the thread. May be called again after `stop`."""
        self._ioloop = _TrackingIOLoop()
        self._calls.clear()
        self._stopping = False
        self._woken_in = -1
        self._waker = socket.socketpair()
        for end in self._waker:
            end.setblocking(False)
        reader = self._waker[0]
        IOLoop.add_handler(self._ioloop, reader.fileno(), lambda *_: self._on_wake(reader), IOLoop.READ)
        self._running = True
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def call_soon(self, function: Callable[[], object]) -> bool:
        """Run a function in the I/O thread soon. Returns False if the loop does not run, so that it will never run."""
        if not self._running:
            return False
        self._calls.append(function)
        rounds = self._rounds  # read after the append: this round processes it
        if self._woken_in != rounds:
            self._wake()
            self._woken_in = (
                rounds  # after the wake-up: an interrupt between them costs one wake-up too many, not one too few
            )
        return self._will_run(function)

    def _will_run(self, function: Callable[[], object]) -> bool:
        """Return whether an added call has run or will run: the loop may have ended meanwhile, with or without it."""
        if not self._running:
            with contextlib.suppress(ValueError):
                self._calls.remove(function)
                return False
        return True

    def _wake(self) -> None:
        waker = self._waker
        if waker is not None:
            with contextlib.suppress(OSError):  # the buffer is full: it is awake; closed: it has ended
                waker[1].send(b".")

    def _on_wake(self, reader: socket.socket) -> None:
        with contextlib.suppress(OSError):
            reader.recv(4096)
        self._run_calls()

    def call_later(self, seconds: float, function: Callable[[], object]) -> Timer:
        """Run a function after `seconds`; 0 is at the end of this iteration of the loop."""
        return self.ioloop.call_later(seconds, lambda: run_safely(function))

    def cancel_timer(self, timer: Timer) -> None:
        """Cancel a timer that has not run."""
        self.ioloop.remove_timeout(timer)  # type: ignore[arg-type]  # pika's private type

    def shut_down_sockets(self) -> None:
        """Shut down all sockets, so that each connection sees the end of its stream at once."""
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
        """End the thread after the calls made so far. WaitReason up to `timeout` seconds."""
        self.call_soon(self._stop)
        if self._thread is not None and not self.is_current_thread():
            self._thread.join(timeout)

    def is_current_thread(self) -> bool:
        """Whether the caller is this I/O thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def _stop(self) -> None:
        self._stopping = True
        self.ioloop.stop()

    def _run(self) -> None:
        ioloop = self.ioloop
        io_threads.register()
        while not self._stopping:
            try:
                ioloop.start()
            except Exception:
                logger.exception("uncaught error in the I/O thread; it continues")
        self._running = False
        self._run_calls()
        waker, self._waker = self._waker, None
        if waker is not None:
            IOLoop.remove_handler(ioloop, waker[0].fileno())
            for end in waker:
                end.close()
        ioloop.close()
        io_threads.unregister()

    def _run_calls(self) -> None:
        self._rounds += 1  # before the deque is read: a later call wakes the loop again
        calls = self._calls
        for _ in range(len(calls)):
            run_safely(calls.popleft())


def run_safely(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function and log its error, which must not end the I/O thread."""
    try:
        function(*arguments)
    except Exception:
        logger.exception("a callback raised an error; the I/O thread continues")

"""Stops a process on signals: the first lets running jobs finish, a second one exits at once.

A handler only puts the signal into a SimpleQueue, whose put is safe inside a handler. The main thread acts on it
outside the handler, so no lock is taken twice. Windows has SIGINT and SIGBREAK (Ctrl-Break) only.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import NoReturn, Protocol, Self

from broker_jobs.broker import io_threads

logger = logging.getLogger(__name__)

EXIT_CUT_OFF = 1
"""Jobs still ran when the time for a graceful stop was over."""
EXIT_FAILED = 70
"""The component failed and the process cannot continue; a service manager should restart it."""
EXIT_NOW_SECONDS = 2.0
"""The longest time an exit after a second signal takes."""

FLUSH_SECONDS = 2.0
EXIT_SOON_SECONDS = 3.0
"""How long remaining threads may delay the exit."""

_ending = threading.Event()
"""Set when Python itself runs the functions that are registered with atexit."""

_POLL_SECONDS = 0.5 if sys.platform == "win32" else 3600.0
"""Windows runs no handler during a wait for a lock, so there the wait is cut in pieces."""


class Component(Protocol):
    """What a process runs. It can be stopped gracefully or at once."""

    def stop(self, timeout: float) -> bool:
        """Take no more jobs and let running ones finish; whether all ended within `timeout` seconds."""
        ...

    def stop_now(self) -> None:
        """Stop without waiting for running jobs."""


@dataclass(frozen=True)
class SignalReceived:
    """The operating system sent a signal."""

    number: int


@dataclass(frozen=True)
class ExitNow:
    """The parent process received a second signal."""


@dataclass(frozen=True)
class LeaveAsked:
    """The component is to be replaced. `patient`: its running jobs get all the time that they need."""

    patient: bool


@dataclass(frozen=True)
class StopFinished:
    """The graceful stop is over; `in_time`: everything ended within its time."""

    in_time: bool


@dataclass(frozen=True)
class ComponentFailed:
    """The component cannot continue. `code`: the exit code of the process."""

    reason: str
    code: int = EXIT_FAILED


ShutdownEvent = SignalReceived | ExitNow | LeaveAsked | StopFinished | ComponentFailed


class ShutdownSignals:
    """A queue of the events that stop a process. As a context manager it installs signal handlers."""

    def __init__(self, *, has_parent: bool = False, parent_only: bool = False) -> None:
        """`has_parent`: this is a child process. It ignores Ctrl-C, which its parent handles. A second SIGTERM does not
        exit at once here, as a service manager may send SIGTERM to both; only the parent's ExitNow does.
        `parent_only`: a child that also ignores SIGTERM, as its parent stops it after others.
        """
        self._queue: queue.SimpleQueue[ShutdownEvent] = queue.SimpleQueue()
        self._peeked: list[ShutdownEvent] = []
        self._before: dict[signal.Signals, object] = {}
        self.has_parent = has_parent or parent_only
        self.parent_only = parent_only

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _numbers():
                self._before[number] = signal.getsignal(number)
                ignored = self.parent_only or (self.has_parent and number.name != "SIGTERM")
                signal.signal(number, signal.SIG_IGN if ignored else self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]  # as getsignal() gave it

    def put(self, event: ShutdownEvent) -> None:
        """Add an event. Safe in any thread and in a signal handler."""
        self._queue.put(event)

    def get(self) -> ShutdownEvent:
        """Wait for the next event."""
        if self._peeked:
            return self._peeked.pop(0)
        while True:
            with contextlib.suppress(queue.Empty):
                return self._queue.get(timeout=_POLL_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for an event; whether there is one. It stays in the queue for get()."""
        if not self._peeked:
            with contextlib.suppress(queue.Empty):
                self._peeked.append(self._queue.get(timeout=seconds))
        return bool(self._peeked)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._queue.put(SignalReceived(number))


def serve(component: Component, signals: ShutdownSignals, timeout: float) -> int:
    """Run a started component until a signal or its failure ends it.

    The first signal stops it gracefully, in another thread, so that this one can receive a second signal. Upon the
    second the process exits from here.

    Returns:
        The exit code: 0, or EXIT_CUT_OFF when jobs still ran after `timeout` seconds, or EXIT_FAILED.
    """
    io_threads.defer_logs()  # a pool has no connection, and what a handler raises must not end its watch either
    code = 0
    stopping = False
    while True:
        match signals.get():
            case ExitNow():
                exit_now(component, EXIT_CUT_OFF)
            case SignalReceived() if stopping and signals.has_parent:
                pass
            case SignalReceived(number) if stopping:
                logger.warning("second %s: exiting now; running jobs return to the queue and run again", _name(number))
                exit_now(component, 128 + number)
            case SignalReceived(number):
                logger.info(
                    "%s: taking no more jobs, running jobs get %.0f s to finish; a second signal exits at once",
                    _name(number),
                    timeout,
                )
                stopping = True
                _stop_in_thread(component, signals, timeout)
            case LeaveAsked(patient):
                if not stopping:
                    stopping = True
                    _stop_in_thread(component, signals, float("inf") if patient else timeout)
            case ComponentFailed(reason, failure_code):
                logger.error("exiting, as this process cannot continue: %s", reason)
                code = failure_code
                if not stopping:
                    stopping = True
                    _stop_in_thread(component, signals, timeout)
            case StopFinished(in_time):
                if not in_time:
                    logger.warning("jobs still ran after %.0f s; they return to the queue and run again", timeout)
                    exit_now(component, code or EXIT_CUT_OFF)
                logger.info("stopped")
                return code


def exit_now(component: Component, code: int) -> NoReturn:
    """Exit within EXIT_NOW_SECONDS, without waiting for threads, which cannot be stopped."""
    stopping = threading.Thread(target=component.stop_now, name="stop now", daemon=True)
    stopping.start()
    stopping.join(EXIT_NOW_SECONDS)
    _exit(code)


def exit_soon(code: int) -> None:
    """Exit in EXIT_SOON_SECONDS at the latest, even if threads are left that Python would wait for.

    At the end of a program Python waits without limit for threads that jobs have started (those of a client library, or
    of `asyncio.to_thread`).
    """

    def exit_later() -> None:
        time.sleep(EXIT_SOON_SECONDS)
        logger.warning("threads still run %.0f s after the end; exiting without them", EXIT_SOON_SECONDS)
        _exit(code)

    atexit.register(_ending.set)
    threading.Thread(target=exit_later, name="exit soon", daemon=True).start()


def _exit(code: int) -> NoReturn:
    # In another thread, as a thread that is left may hold a lock that one of these needs for ever.
    flushing = threading.Thread(target=_flush, name="flush", daemon=True)
    flushing.start()
    flushing.join(FLUSH_SECONDS)
    os._exit(code)


def _flush() -> None:
    io_threads.flush_logs()
    sys.stdout.flush()
    if not _ending.is_set():  # error trackers and the like send there what they have gathered
        atexit._run_exitfuncs()  # noqa: SLF001  # Python has no public way
    logging.shutdown()
    sys.stdout.flush()


def _stop_in_thread(component: Component, signals: ShutdownSignals, timeout: float) -> None:
    def stop() -> None:
        try:
            in_time = component.stop(timeout)
        except Exception:
            logger.exception("the graceful stop failed; exiting anyway")
            in_time = False
        signals.put(StopFinished(in_time))

    threading.Thread(target=stop, name="stop", daemon=True).start()


def _numbers() -> list[signal.Signals]:
    names = ("SIGINT", "SIGBREAK") if sys.platform == "win32" else ("SIGINT", "SIGTERM")
    return [signal.Signals[name] for name in names]


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

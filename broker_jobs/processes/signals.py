"""Turns signals into two wishes: the first says "finish and leave", the second "leave now".

A handler only puts the signal into a SimpleQueue, whose put is safe inside a handler; what is done about it is done by
the main thread outside the handler, so no lock is taken twice. Windows knows SIGINT and SIGBREAK (Ctrl-Break) only.
"""

from __future__ import annotations

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
EXIT_BROKEN = 70
"""The part stopped by itself and the process cannot go on; a supervisor starts it again."""
NOW_SECONDS = 2.0
"""How long the leaving after a second signal may take."""

FLUSH_SECONDS = 1.0
LEAVE_SECONDS = 3.0
"""What threads that are left get at the end of a process."""

_POLL_SECONDS = 0.5 if sys.platform == "win32" else 3600.0
"""Windows runs no handler while a lock is waited for, so the wait is cut in pieces there."""


class Component(Protocol):
    """What a process runs; it has two ways to end."""

    def stop(self, timeout: float) -> bool:
        """Take no more, finish what runs; whether that was all within `timeout` seconds."""

    def stop_now(self) -> None:
        """Leave what runs."""


@dataclass(frozen=True)
class Signalled:
    """A signal came; its number."""

    number: int


@dataclass(frozen=True)
class LeaveNow:
    """The parent's word for a second signal."""


@dataclass(frozen=True)
class Stopped:
    """The graceful stop is over; whether everything ended in time."""

    in_time: bool


@dataclass(frozen=True)
class Broken:
    """The part cannot go on. `code`: what the process exits with."""

    reason: str
    code: int = EXIT_BROKEN


Signal = Signalled | LeaveNow | Stopped | Broken


class ShutdownSignals:
    """What is asked of this process, in the order it came. `with` it, signals are among it."""

    def __init__(self, *, has_parent: bool = False) -> None:
        """`has_parent`: Ctrl-C is the parent's, who passes on what it means; and as a service manager may send SIGTERM
        to both, no number of signals means "now" here, only the parent's LeaveNow.
        """
        self._news: queue.SimpleQueue[Signal] = queue.SimpleQueue()
        self._kept: list[Signal] = []
        self._before: dict[signal.Signals, object] = {}
        self.has_parent = has_parent

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _numbers():
                self._before[number] = signal.getsignal(number)
                ignored = self.has_parent and number.name != "SIGTERM"
                signal.signal(number, signal.SIG_IGN if ignored else self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]  # as getsignal() gave it

    def put(self, news: Signal) -> None:
        """Tell the main thread. From any thread, and from a handler."""
        self._news.put(news)

    def get(self) -> Signal:
        """Wait for the next news."""
        if self._kept:
            return self._kept.pop(0)
        while True:
            with contextlib.suppress(queue.Empty):
                return self._news.get(timeout=_POLL_SECONDS)

    def wait_asked(self, seconds: float) -> bool:
        """Wait until there is news, at most `seconds`; the news is kept for get()."""
        if not self._kept:
            with contextlib.suppress(queue.Empty):
                self._kept.append(self._news.get(timeout=seconds))
        return bool(self._kept)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._news.put(Signalled(number))


def serve(part: Component, wishes: ShutdownSignals, timeout: float) -> int:
    """Wait for the end of a started part, and bring it about as asked.

    The first signal stops it gracefully in a thread of its own, so that this one stays free to hear the second, upon
    which the process leaves at once and does not come back from here.

    Returns:
        The exit code: 0, or EXIT_CUT_OFF when jobs still ran after `timeout` seconds, or EXIT_BROKEN.
    """
    code = 0
    stopping = False
    while True:
        match wishes.get():
            case LeaveNow():
                leave_now(part, EXIT_CUT_OFF)
            case Signalled() if stopping and wishes.has_parent:
                pass
            case Signalled(number) if stopping:
                logger.warning("second %s: leaving now; what still runs comes back to another worker", _name(number))
                leave_now(part, 128 + number)
            case Signalled(number):
                logger.info(
                    "%s: taking no more jobs, finishing what runs (at most %.0f s); a second signal leaves at once",
                    _name(number),
                    timeout,
                )
                stopping = True
                _stop_aside(part, wishes, timeout)
            case Broken(reason, broken_code):
                logger.error("cannot go on: %s; leaving", reason)
                code = broken_code
                if not stopping:
                    stopping = True
                    _stop_aside(part, wishes, timeout)
            case Stopped(in_time):
                if not in_time:
                    logger.warning(
                        "jobs still ran after %.0f s; they are cut off and come back to another worker", timeout
                    )
                    leave_now(part, code or EXIT_CUT_OFF)
                logger.info("stopped")
                return code


def leave_now(part: Component, code: int) -> NoReturn:
    """End the process without waiting for threads, which nothing can stop. Does not return."""
    aside = threading.Thread(target=part.stop_now, name="leave now", daemon=True)
    aside.start()
    aside.join(NOW_SECONDS)
    _end(code)


def leave_soon(code: int) -> None:
    """Have the process end in LEAVE_SECONDS, whatever threads keep the interpreter from ending before.

    Threads of jobs (a client's, those of `asyncio.to_thread`) are waited for at the end of a Python program, for ever.
    """

    def leave() -> None:
        time.sleep(LEAVE_SECONDS)
        logger.warning("threads still run %.0f s after the end; leaving without them", LEAVE_SECONDS)
        _end(code)

    threading.Thread(target=leave, name="leave soon", daemon=True).start()


def _end(code: int) -> NoReturn:
    # Aside, as a thread that is left may hold the lock of a log for ever.
    flushing = threading.Thread(target=_flush, name="flush", daemon=True)
    flushing.start()
    flushing.join(FLUSH_SECONDS)
    os._exit(code)


def _flush() -> None:
    io_threads.flush()
    logging.shutdown()
    sys.stdout.flush()


def _stop_aside(part: Component, wishes: ShutdownSignals, timeout: float) -> None:
    def stop() -> None:
        try:
            in_time = part.stop(timeout)
        except Exception:
            logger.exception("the stop failed; leaving anyway")
            in_time = False
        wishes.put(Stopped(in_time))

    threading.Thread(target=stop, name="stop", daemon=True).start()


def _numbers() -> list[signal.Signals]:
    names = ("SIGINT", "SIGBREAK") if sys.platform == "win32" else ("SIGINT", "SIGTERM")
    return [signal.Signals[name] for name in names]


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

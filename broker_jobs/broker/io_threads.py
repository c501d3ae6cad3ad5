"""Knows the I/O threads of this process: no call may wait in one, and their log records are handled in another thread.

A handler of the program's logging may do anything: enqueue a job, wait for a lock, raise. In an I/O thread each of
these would stop every connection of the process for ever, as confirms, deadlines and reconnects happen there.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import TypeAlias

from broker_jobs.errors import UsageError

FLUSH_SECONDS = 1.0
"""What the handling of the last records may take at the end of the process."""
OURS = ("broker_jobs", "pika")

_io_threads: set[int] = set()

_Item: TypeAlias = logging.LogRecord | threading.Event


def enter() -> None:
    """The calling thread is an I/O thread from now on."""
    _io_threads.add(threading.get_ident())
    defer_logs()


def leave() -> None:
    """It is none any more; called at its end, as its number may be given to another thread."""
    _io_threads.discard(threading.get_ident())


def inside() -> bool:
    """Whether the caller is an I/O thread."""
    return threading.get_ident() in _io_threads


def refuse_blocking_call() -> None:
    """Raise UsageError in an I/O thread: what is waited for happens there."""
    if inside():
        raise UsageError(
            "this call waits for RabbitMQ in the thread that talks to RabbitMQ, so it would wait for ever; nothing was "
            "sent. Make it in a thread of your own: a callback puts what it has into a queue.Queue, a logging handler "
            "is put behind logging.handlers.QueueHandler and QueueListener"
        )


def defer_logs() -> None:
    """Have records that our loggers make in I/O threads handled in a thread of their own. Tolerates twice.

    Called at each start and subscription: loggers come with the modules that are imported meanwhile.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in OURS:
            logger.addFilter(_elsewhere)


def flush_logs(timeout: float = FLUSH_SECONDS) -> None:
    """Wait until the records made so far are handled, at most `timeout` seconds."""
    if _elsewhere.used and not inside():
        handled = threading.Event()
        _elsewhere.put(handled)
        handled.wait(timeout)


class _Elsewhere(logging.Filter):
    """Lets no record of an I/O thread pass, but hands it to the thread that handles them."""

    def __init__(self) -> None:
        super().__init__()
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._records: SimpleQueue[_Item] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def used(self) -> bool:
        """Whether there has been a record."""
        return self._thread is not None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is handled here."""
        if not inside():
            return True
        self.put(record)
        return False

    def put(self, item: _Item) -> None:
        """Have a record handled, or an event set when those before it are."""
        self._records.put(item)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._handle_all, args=(self._records,), name="broker-jobs-log", daemon=True
                    )
                    self._thread.start()

    @staticmethod
    def _handle_all(records: SimpleQueue[_Item]) -> None:
        while True:
            item = records.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                logging.getLogger(item.name).callHandlers(item)
            except Exception:  # noqa: BLE001  # a handler's own error; logging it might raise again
                if logging.raiseExceptions and sys.stderr is not None:
                    traceback.print_exc()


_elsewhere = _Elsewhere()
atexit.register(flush_logs)

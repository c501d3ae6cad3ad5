"""Keeps the I/O threads from blocking: refuses blocking calls in them and handles their log records elsewhere.

A logging handler of the program may do anything: enqueue a job, wait for a lock, raise. In an I/O thread each of these
would stop every connection of the process for ever, as confirms, deadlines and reconnects are handled there. In any
other thread of the package an exception of a handler would end that thread, so it is printed and goes no further.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import Any, TypeAlias

from broker_jobs.errors import UsageError

FLUSH_SECONDS = 1.0
"""How long the end of the process waits for the last log records."""
MOST_RECORDS = 10_000
"""Log records of I/O threads that wait for slow handlers; more of them are dropped, so that memory stays flat."""
LOGGERS = ("broker_jobs", "pika")
"""The top-level loggers that are used in I/O threads."""

_io_threads: set[int] = set()

_Entry: TypeAlias = logging.LogRecord | threading.Event


def register() -> None:
    """Register the calling thread as an I/O thread."""
    _io_threads.add(threading.get_ident())
    defer_logs()


def unregister() -> None:
    """Unregister the calling thread. Called at its end, as its id may be used for another thread."""
    _io_threads.discard(threading.get_ident())


def is_io_thread() -> bool:
    """Whether the caller is an I/O thread."""
    return threading.get_ident() in _io_threads


def refuse_blocking_call() -> None:
    """Raise UsageError in an I/O thread: it would wait for itself."""
    if is_io_thread():
        raise UsageError(
            "this call waits for RabbitMQ in the I/O thread of RabbitMQ, so it would wait for ever; nothing was sent. "
            "Call it from another thread: in a callback, put the data into a queue.Queue; in a logging handler, use "
            "logging.handlers.QueueHandler and QueueListener"
        )


def defer_logs() -> None:
    """Let a separate thread handle the log records of I/O threads, and let no handler raise. May be called again.

    Called at each start and subscription, as modules imported since the last call have new loggers.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] in LOGGERS:
            logger.addFilter(_deferred)


def flush_logs(timeout: float = FLUSH_SECONDS) -> None:
    """Wait until the records so far are handled, at most `timeout` seconds."""
    if _deferred.used and not is_io_thread():
        handled = threading.Event()
        _deferred.put(handled)
        handled.wait(timeout)


class _DeferredRecords(logging.Filter):
    """Calls the handlers itself, for records of I/O threads in its own thread; so it lets no record pass."""

    def __init__(self) -> None:
        super().__init__()
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        _io_threads.clear()  # a forked child has no I/O thread yet, and reuses the thread ids of its parent
        self._records: SimpleQueue[_Entry] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def used(self) -> bool:
        """Whether there was a record."""
        return self._thread is not None

    def filter(self, record: logging.LogRecord) -> bool:
        """Handle the record; return False, as nothing is left to do for the logger."""
        if is_io_thread():
            self.put(record)
        else:
            self._handle(record)
        return False

    def put(self, entry: _Entry) -> None:
        """Queue a record, or an event that is set when the records before it are handled."""
        if self._records.qsize() < MOST_RECORDS or isinstance(entry, threading.Event):
            self._records.put(entry)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    thread = threading.Thread(
                        target=self._handle_all, args=(self._records,), name="broker-jobs-log", daemon=True
                    )
                    with contextlib.suppress(RuntimeError):  # no more threads on this machine: the next record tries it
                        thread.start()
                        self._thread = thread

    def _handle_all(self, records: SimpleQueue[_Entry]) -> None:
        while True:
            entry = records.get()
            if isinstance(entry, threading.Event):
                entry.set()
            else:
                self._handle(entry)

    def _handle(self, record: logging.LogRecord) -> None:
        """Call the handlers. Print an exception of a handler or filter, as the logging module does."""
        try:
            if (passed := self._filtered(record)) is not None:
                logging.getLogger(record.name).callHandlers(passed)
        except BaseException as error:
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise  # Ctrl-C
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()

    def _filtered(self, record: logging.LogRecord) -> logging.LogRecord | None:
        """Apply the filters that were added to the logger after this one; None: the record is dropped."""
        filters = logging.getLogger(record.name).filters
        for each in filters[filters.index(self) + 1 :] if self in filters else ():
            apply: Any = getattr(each, "filter", each)  # a filter is an object with this method, or a function
            answer: Any = apply(record)
            if not answer:
                return None
            if isinstance(answer, logging.LogRecord):
                record = answer
        return record


_deferred = _DeferredRecords()
atexit.register(flush_logs)

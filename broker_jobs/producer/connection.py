"""Holds a program's way to the broker: opened on first use, shared by all its jobs, never shared over a fork.

Importing a program connects to nothing: settings are read, and the exchange is made, by the first enqueue.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker_jobs.broker import io_threads
from broker_jobs.broker.interface import Broker, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.errors import BrokerError, UsageError
from broker_jobs.producer.blocking import in_thread, withdrawable

if TYPE_CHECKING:
    from broker_jobs.settings import Settings

STALL_SECONDS = 5.0
"""How much longer than its timeout a publish is waited for; the I/O thread ends each at its deadline, if it can."""
OPEN_SECONDS = 30.0
"""How long a thread waits for another that connects."""


class Connection:
    """The broker, as the producers of one program reach it. Thread-safe.

    Args:
        load: reads the settings; called once, on first use.
        make: makes the exchange, not started; called on first use, and again in a forked child.
        clock: tells the time of created_at and of delays.
    """

    def __init__(
        self, load: Callable[[], Settings], make: Callable[[Settings], Broker], clock: Clock | None = None
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self._load = load
        self._make = make
        self._settings: Settings | None = None
        self._broker: Broker | None = None
        self._abandoned: list[Broker] = []  # of the process we were forked from: its sockets are not ours to close
        self._pid = os.getpid()
        self._started_in: int | None = None
        self._attempts = 0
        self._failed: BrokerError | None = None
        self._lock = threading.Lock()
        self._opener: int | None = None
        """The thread that connects."""

    @property
    def settings(self) -> Settings:
        """The settings, read on first use.

        Raises:
            OptionError: one of them is wrong.
        """
        if self._settings is None:
            self._settings = self._load()
        return self._settings

    def reload(self) -> None:
        """Read the settings again at the next use."""
        self._settings = None

    @property
    def used(self) -> bool:
        """Whether the exchange has been opened."""
        return self._broker is not None

    def mark_started(self, *, started: bool) -> None:
        """Say that worker, coordinator or beat run on this exchange, so that a fork must not go on with it."""
        self._started_in = os.getpid() if started else None

    @property
    def forked(self) -> bool:
        """Whether this is a child that was forked after start()."""
        return self._started_in is not None and self._started_in != os.getpid()

    def check_fork(self) -> None:
        """Raise UsageError in a child that was forked after start()."""
        if self.forked:
            raise UsageError(
                f"started in process {self._started_in}, this is {os.getpid()}; "
                "call start() after the fork (gunicorn: post_fork)"
            )

    def broker(self) -> Broker:
        """The exchange, connected, for a caller that may wait for it.

        Raises:
            BrokerError: it cannot be reached, or refuses us.
            UsageError: forked after start(); or called where waiting would be waiting for oneself: in the I/O thread,
                or (by a signal or logging handler) while this thread connects.
        """
        io_threads.refuse_blocking_call()
        broker = self._broker
        if broker is not None and self._pid == os.getpid():
            return broker
        return self._open()

    async def broker_async(self) -> Broker:
        """As `exchange`; connecting does not block the event loop."""
        broker = self._broker
        if broker is not None and self._pid == os.getpid():
            return broker
        return await in_thread(self._open)

    def send(self, messages: Sequence[Message]) -> list[PublishFailure | None]:
        """Publish and wait for the confirms; one entry a message, None where it is confirmed."""
        try:
            broker = self.broker()
        except BrokerError as error:
            return _not_sent(messages, error)
        timeout = self.settings.publish_timeout
        return confirmed(broker.publish(messages, timeout), timeout, len(messages))

    async def send_async(self, messages: Sequence[Message]) -> list[PublishFailure | None]:
        """As `send`; the event loop goes on meanwhile."""
        try:
            broker = await self.broker_async()
        except BrokerError as error:
            return _not_sent(messages, error)
        return await withdrawable(broker.publish(messages, self.settings.publish_timeout))

    @contextmanager
    def borrowed(self, broker: Broker, clock: Clock) -> Iterator[None]:
        """Use another exchange and clock for a while, as a test does; what was open is put back."""
        kept = self._broker, self.clock, self._pid
        self._broker, self.clock, self._pid = broker, clock, os.getpid()
        try:
            yield
        finally:
            self._broker, self.clock, self._pid = kept

    def close(self) -> None:
        """Close the exchange; the next use opens another. Tolerates twice and never."""
        with self._lock:
            broker, self._broker = self._broker, None
            if broker is not None and self._pid == os.getpid():
                broker.stop()

    @contextmanager
    def _opening(self) -> Iterator[None]:
        lock = self._lock
        if not lock.acquire(timeout=OPEN_SECONDS):
            raise BrokerError(f"another thread has been connecting to RabbitMQ for {OPEN_SECONDS:g} s")
        self._opener = threading.get_ident()
        try:
            yield
        finally:
            self._opener = None
            lock.release()

    def _open(self) -> Broker:
        self.check_fork()
        if self._pid != os.getpid():  # forked: the lock may have been held by a thread that does not exist here
            self._lock = threading.Lock()
            self._opener = None
        attempts = self._attempts
        if self._opener == threading.get_ident():
            raise UsageError(
                "this call was made by a signal or logging handler while its thread connects to RabbitMQ; nothing was "
                "sent. Hand it to another thread, or make it again later"
            )
        with self._opening():
            if self._pid != os.getpid():
                if self._broker is not None:
                    self._abandoned.append(self._broker)
                self._broker = None
                self._pid = os.getpid()
            if self._broker is None:
                if self._failed is not None and self._attempts != attempts:
                    raise BrokerError(str(self._failed))  # who waited here for an attempt need not wait for another
                settings = self.settings
                broker = self._make(settings)
                try:
                    broker.start(settings.publish_timeout)
                    if settings.declare:
                        broker.apply(fixed_topology(), settings.publish_timeout)
                except BaseException as error:
                    self._attempts += 1
                    self._failed = error if isinstance(error, BrokerError) else None
                    broker.stop(0)
                    raise
                self._failed = None
                self._broker = broker
            return self._broker


def confirmed(future: Future[list[PublishFailure | None]], timeout: float, count: int) -> list[PublishFailure | None]:
    """Wait for an exchange's future, of `count` messages that were published with this timeout.

    A caller that is interrupted gives the publish up: what is not written yet never goes out. So does one whose future
    does not end in time, as something holds the I/O thread up; then nobody knows.
    """
    try:
        return future.result(timeout + STALL_SECONDS)
    except TimeoutError:
        future.cancel()
        if not future.cancelled():
            return future.result()
        reason = f"the I/O thread of this process has not answered in {timeout + STALL_SECONDS:g} s"
        return [PublishFailure(Unconfirmed.UNKNOWN, reason)] * count
    except BaseException:
        future.cancel()
        raise


def _not_sent(messages: Sequence[Message], error: BrokerError) -> list[PublishFailure | None]:
    return [PublishFailure(Unconfirmed.NOT_SENT, str(error))] * len(messages)

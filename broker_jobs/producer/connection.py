"""Holds a program's connection to the broker: opened on first use, shared by all its jobs, never shared over a fork.

Importing a program connects to nothing. The first enqueue reads the settings and connects.
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
from broker_jobs.producer.asyncio_support import await_cancellable, in_thread

if TYPE_CHECKING:
    from broker_jobs.settings import Settings

STALL_SECONDS = 5.0
"""Extra wait after the timeout of a publish. The I/O thread ends each publish at its deadline, unless it is stuck."""
OPEN_SECONDS = 30.0
"""How long a thread waits while another thread connects."""


class ProcessLock:
    """A lock that is free after a fork, and that knows whether the calling thread holds it.

    A fork copies a lock that another thread holds, but not that thread: nothing would release it in the child. A signal
    handler interrupts the code of its own thread, so it must not wait for that code.
    """

    def __init__(self) -> None:
        self._locks: dict[int, threading.RLock] = {}  # one for each process
        self._holder: tuple[int, int] | None = None

    @property
    def held_here(self) -> bool:
        """Whether the calling thread holds it."""
        return self._holder == (os.getpid(), threading.get_ident())

    @contextmanager
    def held(self, timeout: float = -1) -> Iterator[bool]:
        """Hold it; the block gets False where another thread did not release it in `timeout` seconds (-1: for ever)."""
        lock = self._locks.setdefault(os.getpid(), threading.RLock())
        if not lock.acquire(timeout=timeout):
            yield False
            return
        self._holder = os.getpid(), threading.get_ident()
        try:
            yield True
        finally:
            self._holder = None
            lock.release()


class Connection:
    """Connects the producers of one program to the broker. Thread-safe.

    Args:
        load_settings: called once, on first use.
        make_broker: makes a broker object that is not started; called on first use, and again in a forked child.
        clock: the time for created_at and for delays.
    """

    def __init__(
        self,
        load_settings: Callable[[], Settings],
        make_broker: Callable[[Settings], Broker],
        clock: Clock | None = None,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self._load_settings = load_settings
        self._make_broker = make_broker
        self._settings: Settings | None = None
        self._broker: Broker | None = None
        self._inherited: list[Broker] = []  # of the parent process, which goes on to use their sockets: never closed
        self._pid = os.getpid()
        self._started_in: int | None = None
        self._attempts = 0
        self._failed: BrokerError | None = None
        self._lock = ProcessLock()

    @property
    def settings(self) -> Settings:
        """The settings, read on first use.

        Raises:
            OptionError: one of them is wrong.
        """
        if self._settings is None:
            self._settings = self._load_settings()
        return self._settings

    def reload(self) -> None:
        """Read the settings again at the next use."""
        self._settings = None

    @property
    def used(self) -> bool:
        """Whether the connection has been opened."""
        return self._broker is not None

    def mark_started(self, *, started: bool) -> None:
        """Note that a worker, coordinator or beat uses this connection, so that a forked child must not use it."""
        self._started_in = os.getpid() if started else None

    @property
    def forked(self) -> bool:
        """Whether this process was forked after start()."""
        return self._started_in is not None and self._started_in != os.getpid()

    def check_fork(self) -> None:
        """Raise UsageError if this process was forked after start()."""
        if self.forked:
            raise UsageError(
                f"started in process {self._started_in}, this is {os.getpid()}; "
                "call start() after the fork (gunicorn: post_fork)"
            )

    def broker(self) -> Broker:
        """The connected broker. Blocks while it connects.

        Raises:
            BrokerError: RabbitMQ cannot be reached, or refuses.
            UsageError: this process was forked after start(); or the call would wait for itself: in the I/O thread, or
                (by a signal or logging handler) while this thread connects.
        """
        io_threads.refuse_blocking_call()
        broker = self._broker
        if broker is not None and self._pid == os.getpid():
            return broker
        return self._open()

    async def broker_async(self) -> Broker:
        """As `broker`, without blocking the event loop."""
        broker = self._broker
        if broker is not None and self._pid == os.getpid():
            return broker
        return await in_thread(self._open)

    def send(self, messages: Sequence[Message]) -> list[PublishFailure | None]:
        """Publish messages and wait for their confirms; one entry per message, None if it is confirmed."""
        try:
            broker = self.broker()
        except BrokerError as error:
            return _not_sent(messages, error)
        timeout = self.settings.publish_timeout
        return wait_for_confirms(broker.publish(messages, timeout), timeout, len(messages))

    async def send_async(self, messages: Sequence[Message]) -> list[PublishFailure | None]:
        """As `send`, without blocking the event loop."""
        try:
            broker = await self.broker_async()
        except BrokerError as error:
            return _not_sent(messages, error)
        return await await_cancellable(broker.publish(messages, self.settings.publish_timeout))

    @contextmanager
    def replaced(self, broker: Broker, clock: Clock) -> Iterator[None]:
        """Use another broker and clock inside the block, as a test does, and restore the former ones after it."""
        former = self._broker, self.clock, self._pid
        self._broker, self.clock, self._pid = broker, clock, os.getpid()
        try:
            yield
        finally:
            self._broker, self.clock, self._pid = former

    def close(self) -> None:
        """Close the connection; the next use opens another. A second call does nothing.

        Nor does a call by a signal handler while its own thread connects or closes.
        """
        if self._lock.held_here:
            return
        with self._lock.held():
            broker, self._broker = self._broker, None
            if broker is not None and self._pid == os.getpid():
                broker.stop()

    def _open(self) -> Broker:
        self.check_fork()
        attempts = self._attempts
        if self._lock.held_here:
            raise UsageError(
                "this call was made by a signal or logging handler while its thread connects to RabbitMQ or closes the "
                "connection; nothing was sent. Make the call in another thread, or later"
            )
        with self._lock.held(OPEN_SECONDS) as held:
            if not held:
                raise BrokerError(f"another thread has been connecting to RabbitMQ for {OPEN_SECONDS:g} s")
            if self._pid != os.getpid():
                if self._broker is not None:
                    self._inherited.append(self._broker)
                self._broker = None
                self._pid = os.getpid()
            if self._broker is None:
                if self._failed is not None and self._attempts != attempts:
                    raise BrokerError(str(self._failed))  # the attempt this thread waited for has failed
                settings = self.settings
                broker = self._make_broker(settings)
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


def wait_for_confirms(
    future: Future[list[PublishFailure | None]], timeout: float, count: int
) -> list[PublishFailure | None]:
    """Wait for the result of a publish of `count` messages with this timeout.

    An interrupted caller cancels the publish: what is not written yet is never sent. If the I/O thread is stuck, the
    future is not done in time; then the publish is cancelled too, and its outcome is unknown.
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

"""Holds a program's connection to the broker: opened on first use, shared by all its jobs, never shared over a fork.

Importing a program connects to nothing. The first enqueue reads the settings and connects. Everything that a producer
publishes goes through `publish`, so that all of it has the same deadlines and the same refusals.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from broker_jobs.broker import io_threads
from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Broker, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.errors import BrokerError, UsageError
from broker_jobs.producer.asyncio_support import in_thread
from broker_jobs.producer.confirms import await_confirms, failed_publish, wait_for_confirms
from broker_jobs.producer.process_lock import Claim, ProcessLock

if TYPE_CHECKING:
    from broker_jobs.settings import Settings

OPEN_SECONDS = 30.0
"""How long a thread waits while another thread connects."""
_BUSY = (
    "this call was made by a signal or logging handler while its thread connects to RabbitMQ or closes the "
    "connection; nothing was sent. Make the call in another thread, or later"
)


class Publishing(NamedTuple):
    """How a call publishes.

    `timeout`: seconds until it is confirmed, a connect included. `fail_fast`: it does not wait for a broker that is
    known to be unreachable or to block.
    """

    timeout: float
    fail_fast: bool = False


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
        self._opening: tuple[int, SignalSafeFuture[Broker | str]] | None = None  # an attempt in a thread of its own
        self._lock = ProcessLock()

    @property
    def settings(self) -> Settings:
        """The settings, read on first use.

        Raises:
            OptionError: one of them is wrong.
            UsageError: a signal or logging handler needs them while its thread reads them.
        """
        if self._settings is None:
            if self._lock.held_here:
                raise UsageError(_BUSY)
            claim = Claim()
            try:
                if not self._lock.take(claim, OPEN_SECONDS):
                    raise BrokerError(f"another thread has been connecting to RabbitMQ for {OPEN_SECONDS:g} s")
                if self._settings is None:
                    self._settings = self._load_settings()
            finally:
                claim.over = True
        return self._settings

    def publishing(self, timeout: float | None = None, fail_fast: bool | None = None) -> Publishing:
        """How a call publishes; None: as the settings say."""
        settings = self.settings
        return Publishing(
            settings.publish_timeout if timeout is None else timeout,
            settings.fail_fast if fail_fast is None else fail_fast,
        )

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

    def broker(self, how: Publishing | None = None) -> Broker:
        """The connected broker. Blocks while it connects, at most for the timeout of `how` (None: of the settings).

        Raises:
            BrokerError: RabbitMQ cannot be reached, or refuses; with `fail_fast` also while it blocks publishing.
            UsageError: this process was forked after start(), or the interpreter exits; or the call would wait for
                itself: in the I/O thread, or (by a signal or logging handler) while this thread connects.
        """
        io_threads.refuse_blocking_call()
        broker = self._broker
        if broker is None or self._pid != os.getpid() or sys.is_finalizing():
            broker = self._connect(how)
        if how is not None and how.fail_fast:
            _refuse_to_wait(broker)
        return broker

    async def broker_async(self, how: Publishing | None = None) -> Broker:
        """As `broker`, without blocking the event loop."""
        if self._broker is not None and self._pid == os.getpid():
            return self.broker(how)
        return await in_thread(lambda: self.broker(how))

    def publish(self, messages: Sequence[Message], how: Publishing) -> Future[list[PublishFailure | None]]:
        """Publish messages; the future has one entry per message, None if it is confirmed. Blocks while it connects."""
        until = time.monotonic() + how.timeout
        try:
            opened = self.used
            broker = self.broker(how)
        except BrokerError as error:
            return failed_publish(messages, error)
        return broker.publish(messages, how.timeout if opened else max(0.0, until - time.monotonic()))

    def send(self, messages: Sequence[Message], how: Publishing) -> list[PublishFailure | None]:
        """Publish messages and wait for their confirms; one entry per message, None if it is confirmed."""
        return wait_for_confirms(self.publish(messages, how), how.timeout, len(messages))

    async def send_async(self, messages: Sequence[Message], how: Publishing) -> list[PublishFailure | None]:
        """As `send`, without blocking the event loop. If it is cancelled, what is not written yet is never sent."""
        if (failed := await self.connect_async(how)) is not None:
            return [failed] * len(messages)
        return await await_confirms(self.publish(messages, how), how.timeout, len(messages))

    async def connect_async(self, how: Publishing) -> PublishFailure | None:
        """Connect without blocking the event loop, so that `publish` does not block; the failure, if it fails."""
        try:
            await self.broker_async(how)
        except BrokerError as error:
            return PublishFailure(Unconfirmed.NOT_SENT, str(error))
        return None

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
        claim = Claim()
        try:
            self._lock.take(claim)
            broker, self._broker = self._broker, None
            if broker is not None and self._pid == os.getpid():
                broker.stop()
        finally:
            claim.over = True

    def _connect(self, how: Publishing | None) -> Broker:
        if sys.is_finalizing():
            raise UsageError(
                "the interpreter exits and its I/O threads have ended, so nothing was sent; make the call before the "
                "end of the program: in an atexit handler, not in __del__"
            )
        self.check_fork()
        if self._lock.held_here:
            raise UsageError(_BUSY)
        if how is None or (not how.fail_fast and how.timeout >= self.settings.publish_timeout):
            return self._open()
        # The caller waits less long than a connect may take, so that goes on in a thread of its own.
        failed = self._failed
        opening = self._open_in_thread()
        if how.fail_fast and failed is not None:
            raise BrokerError(str(failed))
        try:
            opened = opening.result(how.timeout)
        except TimeoutError:
            raise BrokerError(f"not connected to RabbitMQ in {how.timeout:g} s; the attempt goes on") from None
        if isinstance(opened, str):
            raise BrokerError(opened)
        return opened

    def _open_in_thread(self) -> SignalSafeFuture[Broker | str]:
        current = self._opening
        if current is not None and current[0] == os.getpid() and not current[1].done():
            return current[1]
        opening: SignalSafeFuture[Broker | str] = SignalSafeFuture()

        def connect() -> None:
            try:
                opening.set_result(self._open())
            except BaseException as error:  # noqa: BLE001  # raised in the callers, as an error of their own
                opening.set_result(str(error))

        threading.Thread(target=connect, name="broker-jobs-connect", daemon=True).start()
        self._opening = os.getpid(), opening
        return opening

    def _open(self) -> Broker:
        settings = self.settings
        attempts = self._attempts
        claim = Claim()
        try:
            if not self._lock.take(claim, OPEN_SECONDS):
                raise BrokerError(f"another thread has been connecting to RabbitMQ for {OPEN_SECONDS:g} s")
            if self._pid != os.getpid():
                if self._broker is not None:
                    self._inherited.append(self._broker)
                self._broker = None
                self._pid = os.getpid()
            if self._broker is None:
                if self._failed is not None and self._attempts != attempts:
                    raise BrokerError(str(self._failed))  # the attempt this thread waited for has failed
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
        finally:
            claim.over = True


def _refuse_to_wait(broker: Broker) -> None:
    """Raise BrokerError if the broker is known not to take messages now."""
    if broker.blocked:
        raise BrokerError("RabbitMQ blocks publishing: memory or disk alarm (fail_fast: it was not waited for)")
    if not broker.connected:
        raise BrokerError("the connection to RabbitMQ is lost, and tried again (fail_fast: it was not waited for)")

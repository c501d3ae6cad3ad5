"""Waits for the confirms of a publish, in a thread or on an event loop, not much longer than its timeout."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.errors import BrokerError
from broker_jobs.producer.asyncio_support import await_future

STALL_SECONDS = 5.0
"""Extra wait after the timeout of a publish. The I/O thread ends each publish at its deadline, unless it is stuck."""


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
        return _stuck(future, timeout, count)
    except BaseException:
        future.cancel()
        raise


async def await_confirms(
    future: Future[list[PublishFailure | None]],
    timeout: float,  # noqa: ASYNC109  # that of the publish
    count: int,
    *,
    shielded: bool = False,
) -> list[PublishFailure | None]:
    """As `wait_for_confirms`, on the event loop; `shielded`: a cancelled caller leaves the publish alone."""
    try:
        return await await_future(future, timeout + STALL_SECONDS, cancel=not shielded)
    except TimeoutError:
        return _stuck(future, timeout, count)


def _stuck(future: Future[list[PublishFailure | None]], timeout: float, count: int) -> list[PublishFailure | None]:
    future.cancel()
    if not future.cancelled():
        return future.result()
    reason = f"the I/O thread of this process has not answered in {timeout + STALL_SECONDS:g} s"
    return [PublishFailure(Unconfirmed.UNKNOWN, reason)] * count


def failed_publish(messages: Sequence[Message], error: BrokerError) -> Future[list[PublishFailure | None]]:
    """The result of a publish for which there is no connection."""
    failed: SignalSafeFuture[list[PublishFailure | None]] = SignalSafeFuture()
    failed.set_result([PublishFailure(Unconfirmed.NOT_SENT, str(error))] * len(messages))
    return failed

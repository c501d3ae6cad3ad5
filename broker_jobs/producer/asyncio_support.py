"""Warns when a blocking call stops an event loop, and awaits futures of other threads.

Separate, so that asyncio is imported by the first coroutine that waits here: a program without an event loop does not
pay for it.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from broker_jobs.broker.future import SignalSafeFuture

T = TypeVar("T")


def warn_if_blocking(call: str, instead: str, until: str = "RabbitMQ confirms") -> None:
    """Warn, once per line of the program, when this thread runs an event loop.

    Call it in the public method itself: the warning names the line of that method's caller.
    """
    get_running_loop = getattr(sys.modules.get("asyncio"), "get_running_loop", None)
    if get_running_loop is None:
        return  # asyncio is not imported, or another thread is importing it: no loop runs in this thread
    try:
        get_running_loop()
    except RuntimeError:
        return
    instead = instead if instead.startswith("async ") else f"await {instead}"
    warnings.warn(f"{call} blocks the event loop until {until}; write {instead}", RuntimeWarning, stacklevel=3)


async def in_thread(call: Callable[[], T]) -> T:
    """Run a blocking call in a thread, so that the event loop goes on."""
    import asyncio  # noqa: PLC0415  # see the head of this file

    return await asyncio.to_thread(call)


async def await_future(future: Future[T], seconds: float | None = None, *, cancel: bool) -> T:
    """Await a future of another thread. It keeps nothing of a wait that is over, as waits are repeated.

    Args:
        future: the future.
        seconds: how long; None: without end.
        cancel: a cancelled caller cancels the future: what is not written yet is never sent.

    Raises:
        TimeoutError: it is not done after `seconds`.
    """
    import asyncio  # noqa: PLC0415  # see the head of this file

    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(woken.set)

    future.add_done_callback(wake)
    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        if not future.done():
            raise
    except asyncio.CancelledError:
        if cancel:
            future.cancel()
        raise
    finally:
        if isinstance(future, SignalSafeFuture):
            future.remove_done_callback(wake)
    if future.cancelled():
        raise asyncio.CancelledError
    return future.result()

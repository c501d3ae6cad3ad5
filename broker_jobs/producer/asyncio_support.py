"""Warns when a blocking call stops an event loop, and awaits futures of other threads.

Separate, so that asyncio is imported by the first coroutine that waits here: a program without an event loop does not
pay for it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

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


async def await_shielded(future: Future[T], seconds: float | None = None) -> T:
    """Await a future of another thread. Cancelling the caller does not cancel the future.

    Raises:
        TimeoutError: it is not done after `seconds`; None waits without end.
    """
    import asyncio  # noqa: PLC0415  # see the head of this file

    waiting = asyncio.shield(asyncio.wrap_future(future))
    return await waiting if seconds is None else await asyncio.wait_for(waiting, seconds)


async def await_cancellable(future: Future[T]) -> T:
    """Await a publish of another thread. Cancelling the caller cancels it: what is not written yet is never sent."""
    import asyncio  # noqa: PLC0415  # see the head of this file

    return await asyncio.wrap_future(future)

"""Keeps blocking calls and event loops apart: a warning where one stops the other, and ways to wait from a coroutine.

asyncio is imported by the first coroutine that waits here, as a program without an event loop has no use for it.
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

    To be called by the public method itself: the line that is named is that of its caller.
    """
    get_running_loop = getattr(sys.modules.get("asyncio"), "get_running_loop", None)
    if get_running_loop is None:
        return  # not imported, or another thread is about to: no loop runs in this one
    try:
        get_running_loop()
    except RuntimeError:
        return
    instead = instead if instead.startswith("async ") else f"await {instead}"
    warnings.warn(f"{call} blocks the event loop until {until}; write {instead}", RuntimeWarning, stacklevel=3)


async def in_thread(call: Callable[[], T]) -> T:
    """Make a blocking call in a thread; the event loop goes on meanwhile."""
    import asyncio  # noqa: PLC0415  # see the head of this file

    return await asyncio.to_thread(call)


async def awaitable(future: Future[T], seconds: float | None = None) -> T:
    """Await a future of another thread; a cancelled caller leaves what it stands for alone.

    Raises:
        TimeoutError: it has not ended in `seconds`; None waits for ever.
    """
    import asyncio  # noqa: PLC0415  # see the head of this file

    waiting = asyncio.shield(asyncio.wrap_future(future))
    return await waiting if seconds is None else await asyncio.wait_for(waiting, seconds)


async def withdrawable(future: Future[T]) -> T:
    """Await a publish of another thread; a cancelled caller cancels it: what is not written yet never goes out."""
    import asyncio  # noqa: PLC0415  # see the head of this file

    return await asyncio.wrap_future(future)

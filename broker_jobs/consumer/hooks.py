"""Wraps the program's own hooks (`@jobs.around`) around one attempt, the outermost first.

A hook sees the attempt's exception but cannot hide it: a job that raised has failed. A hook that raises fails the job.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

from broker_jobs.function.registry import Around


@contextmanager
def inside(arounds: Sequence[Around]) -> Iterator[None]:
    """Run the block inside the sync hooks; async ones are for async jobs, whose loop they need."""
    with ExitStack() as stack:
        for around in arounds:
            if not inspect.isasyncgenfunction(around):
                _enter(stack, around)
        yield


@asynccontextmanager
async def inside_async(arounds: Sequence[Around]) -> AsyncIterator[None]:
    """Run the block inside all hooks."""
    async with AsyncExitStack() as stack:
        for around in arounds:
            if inspect.isasyncgenfunction(around):
                scope = asynccontextmanager(around)()
                await scope.__aenter__()
                stack.push_async_exit(_never_hiding_async(scope.__aexit__))
            else:
                _enter(stack, around)
        yield


def _enter(stack: ExitStack | AsyncExitStack, around: Callable[[], Any]) -> None:
    scope = contextmanager(around)()
    scope.__enter__()

    def leave(*error: Any) -> bool:
        scope.__exit__(*error)
        return False

    stack.push(leave)


def _never_hiding_async(leave: Callable[..., Any]) -> Callable[..., Any]:
    async def left(*error: Any) -> bool:
        await leave(*error)
        return False

    return left

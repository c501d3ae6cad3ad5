"""Turns what a function returned into the result of its job: an awaitable is awaited, what did not run is refused.

`async def` behind an ordinary wrapper looks like a sync function and returns a coroutine. Taken as a result it would be
thrown away: the job would have succeeded, and its body would never have run.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
from contextlib import AsyncContextDecorator, ContextDecorator
from types import CoroutineType
from typing import Any

from broker_jobs.consumer.hooks import RunCoroutine
from broker_jobs.consumer.running import Run
from broker_jobs.errors import DefinitionError

_FINISHED = frozenset({type(None), bool, int, float, str, bytes})


def finish(value: Any, run: Run, run_coroutine: RunCoroutine) -> Any:
    """The result of a sync function, in its thread; what it left to an event loop runs there.

    Raises:
        DefinitionError: what it returned holds code that has not run and would never run.
        BaseException: what the awaitable raised.
    """
    if type(value) in _FINISHED:
        return value
    if isinstance(value, concurrent.futures.Future):
        return finish(value.result(), run, run_coroutine)
    if inspect.isawaitable(value):
        return run_coroutine(finish_async(value, run), run)
    _refuse_unrun(value, run.received.function.name)
    return value


async def finish_async(value: Any, run: Run) -> Any:
    """The result of a function, on an event loop.

    Raises:
        As `finish`.
    """
    while type(value) not in _FINISHED:
        if isinstance(value, concurrent.futures.Future):
            value = await asyncio.wrap_future(value)
        elif inspect.isawaitable(value):
            _refuse_foreign(value, run.received.function.name)
            last, value = value, await value
            if value is last:  # a client that connects when it is awaited, and gives itself
                return value
        else:
            _refuse_unrun(value, run.received.function.name)
            return value
    return value


def _refuse_foreign(value: Any, name: str) -> None:
    if asyncio.isfuture(value) and not value.done() and value.get_loop() is not asyncio.get_running_loop():
        raise DefinitionError(
            f"{name} returned a {type(value).__name__} of another event loop, which cannot be awaited here; "
            f"write async def {name} and await it there, or return its result"
        )


def _refuse_unrun(value: Any, name: str) -> None:
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        kind = "a generator" if inspect.isgenerator(value) else "an async generator"
        raise DefinitionError(
            f"{name} returned {kind}: nothing consumes what it yields, so its body did not run. "
            "Return a list, or enqueue a job for each"
        )
    if isinstance(value, ContextDecorator | AsyncContextDecorator):
        raise DefinitionError(
            f"{name} returned a context manager that is never entered, so its body did not run. "
            "Write a function that enters it (with …) and does the work inside"
        )
    if isinstance(value, list | tuple | set | dict):
        items = value.values() if isinstance(value, dict) else value
        if CoroutineType in set(map(type, items)):
            raise DefinitionError(
                f"{name} returned coroutines inside a {type(value).__name__}, never awaited, so they did not run. "
                "Await them, as with asyncio.gather(*…), and return their results"
            )
        return
    if inspect.isroutine(value) or isinstance(value, functools.partial):
        raise DefinitionError(
            f"{name} returned a function that is never called, so its body did not run. "
            f"Call it and return its result; if {name} is decorated, a decorator may lack its parentheses"
        )

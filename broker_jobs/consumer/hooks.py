"""Wraps the program's own hooks (`@jobs.around`) around one attempt, the outermost first.

A hook sees the attempt's exception but cannot hide it: a job that raised has failed. A hook that raises fails the job.

A sync hook runs where the function runs: in its thread, or on the event loop. An async hook around a sync function runs
on an event loop. It is one task there, which stands at the yield while the function runs in its thread, and the
function sees the context variables that the hook has set.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, TypeAlias

from broker_jobs.consumer.running import Run
from broker_jobs.errors import DefinitionError
from broker_jobs.function.hooks import Around

RunCoroutine: TypeAlias = Callable[[Coroutine[Any, Any, Any], Run], Any]
"""Runs a coroutine to its end on an event loop, in the context of the calling thread, which waits."""


@contextmanager
def inside(arounds: Sequence[Around], run: Run, run_coroutine: RunCoroutine) -> Iterator[None]:
    """Run the block, which is in a thread, inside all hooks."""
    with ExitStack() as stack:
        for around in arounds:
            if inspect.isasyncgenfunction(around):
                hook = _HookTask(around)
                run_coroutine(hook.enter(), run)
                _see(hook.context)
                stack.push(_leaving(hook, run, run_coroutine))
            else:
                _enter(stack, around)
        yield


@asynccontextmanager
async def inside_async(arounds: Sequence[Around]) -> AsyncIterator[None]:
    """Run the block, which is on an event loop, inside all hooks."""
    async with AsyncExitStack() as stack:
        for around in arounds:
            if inspect.isasyncgenfunction(around):
                scope = asynccontextmanager(around)()
                with _explaining(around):
                    await scope.__aenter__()
                stack.push_async_exit(_leaving_async(around, scope.__aexit__))
            else:
                _enter(stack, around)
        yield


class _HookTask:
    """An async hook around a function in a thread: enters in one task, stands at its yield there, and leaves there."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._error: BaseException | None = None
        self.context: contextvars.Context | None = None
        """What it has set at its yield."""

    @property
    def has_ended(self) -> bool:
        """Whether it has left."""
        return self._task.done()

    async def enter(self) -> None:
        """Run it up to its yield. Raises what it raises."""
        loop = asyncio.get_running_loop()
        self._entered: asyncio.Future[None] = loop.create_future()
        self._left: asyncio.Future[BaseException | None] = loop.create_future()
        self._task = loop.create_task(self._carry())
        try:
            await asyncio.shield(self._entered)
        except asyncio.CancelledError:
            self._task.cancel()
            self._left.set_result(None)
            await asyncio.wait([self._task])
            raise
        if self._error is not None:
            raise self._error

    async def leave(self, error: BaseException | None) -> None:
        """Run it from its yield to its end; `error` is raised there. Raises what it raises."""
        if not self._left.done():
            self._left.set_result(error)
        await self._task
        if self._error is not None and self._error is not error:
            raise self._error

    async def _carry(self) -> None:
        scope = asynccontextmanager(self._around)()  # type: ignore[arg-type]  # an async generator function
        try:
            with _explaining(self._around):
                await scope.__aenter__()
            self.context = contextvars.copy_context()
            self._entered.set_result(None)
            error = await self._leaves()
            with _explaining(self._around):
                await scope.__aexit__(
                    None if error is None else type(error), error, None if error is None else error.__traceback__
                )
        except BaseException as raised:  # noqa: BLE001  # raised again in the thread of the job
            self._error = raised
        finally:
            if not self._entered.done():
                self._entered.set_result(None)

    async def _leaves(self) -> BaseException | None:
        """Wait at the yield; what to raise there."""
        try:
            return await self._left
        except asyncio.CancelledError as cancelled:  # the loop ends, or the job has learned that it should stop
            return self._left.result() if self._left.done() else cancelled


def _see(context: contextvars.Context | None) -> None:
    """Set the context variables of a hook here."""
    for variable, value in (context or {}).items():
        if variable.get(_UNSET) is not value:
            variable.set(value)


_UNSET = object()


def _enter(stack: ExitStack | AsyncExitStack, around: Callable[[], Any]) -> None:
    scope = contextmanager(around)()
    with _explaining(around):
        scope.__enter__()

    def leave(*error: Any) -> bool:
        with _explaining(around):
            scope.__exit__(*error)
        return False

    stack.push(leave)


def _leaving(hook: _HookTask, run: Run, run_coroutine: RunCoroutine) -> Callable[..., bool]:
    def leave(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        del kind, trace
        if run.cancel_reason is not None:
            run.interrupted = True  # the function has heard it: its hooks leave in peace, unless it is asked again
        try:
            run_coroutine(hook.leave(error), run)
        except asyncio.CancelledError:
            if hook.has_ended:
                raise
            run_coroutine(hook.leave(error), run)  # it was cancelled before its first step
        return False

    return leave


def _leaving_async(around: Around, leave: Callable[..., Any]) -> Callable[..., Any]:
    async def left(*error: Any) -> bool:
        with _explaining(around):
            await leave(*error)
        return False

    return left


@contextmanager
def _explaining(around: Callable[..., Any]) -> Iterator[None]:
    """Say which hook has no yield, or two, on its way through its code."""
    try:
        yield
    except RuntimeError as error:
        name = getattr(around, "__qualname__", repr(around))
        if error.args == ("generator didn't yield",):
            raise DefinitionError(
                f"the hook {name} ended before its yield, so the job did not run: yield once on each way through it; "
                "to keep a job from running raise GiveUp"
            ) from None
        if error.args == ("generator didn't stop",):
            raise DefinitionError(f"the hook {name} has yielded twice: yield once on each way through it") from None
        raise

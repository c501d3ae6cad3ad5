"""Calls the program's hooks at the start and the end of an attempt, and of a worker. What they raise is logged.

Separate from hooks.py, whose hooks are around an attempt and can fail it; these change nothing.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from broker_jobs.consumer.hooks import RunCoroutine
from broker_jobs.consumer.outcome import Completed, Outcome, Raised
from broker_jobs.consumer.running import Run
from broker_jobs.errors import JobFailed
from broker_jobs.function.hooks import Hooks, job_message, returned_by

logger = logging.getLogger(__name__)


def start(hooks: Hooks, run: Run, run_coroutine: RunCoroutine) -> None:
    """An attempt begins, in this thread."""
    if hooks.on_start:
        _call(hooks.on_start, (job_message(run.received.envelope),), run, run_coroutine)


async def start_async(hooks: Hooks, run: Run) -> None:
    """An attempt begins, on this event loop."""
    if hooks.on_start:
        await _call_async(hooks.on_start, (job_message(run.received.envelope),))


def end(hooks: Hooks, run: Run, outcome: Outcome, value: Any, run_coroutine: RunCoroutine) -> None:
    """An attempt has ended, in this thread; `value`: what the function returned."""
    run.noticed = True
    called, arguments = _at_end(hooks, run, outcome, value)
    if called:
        if run.cancel_reason is not None:
            run.interrupted = True  # the function has heard it; what is called now is not asked to stop
        _call(called, arguments, run, run_coroutine)


async def end_async(hooks: Hooks, run: Run, outcome: Outcome, value: Any) -> None:
    """An attempt has ended, on this event loop; `value`: what the function returned."""
    run.noticed = True
    called, arguments = _at_end(hooks, run, outcome, value)
    if called:
        await _call_async(called, arguments)


def start_worker(hooks: Hooks, run_here: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    """Call what a worker calls before its first job. Raises what they raise."""
    for hook in hooks.on_worker_start:
        value = returned_by(hook, hook())
        if inspect.isawaitable(value):
            run_here(_awaited(value))


def stop_worker(hooks: Hooks, run_here: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
    """Call what a worker calls after its last job, the last one first."""
    for hook in reversed(hooks.on_worker_stop):
        try:
            value = returned_by(hook, hook())
            if inspect.isawaitable(value):
                run_here(_awaited(value))
        except BaseException:
            logger.exception("the hook %s raised; the worker stops", _named(hook))


def _at_end(
    hooks: Hooks, run: Run, outcome: Outcome, value: Any
) -> tuple[Iterable[Callable[..., Any]], tuple[Any, ...]]:
    envelope = run.received.envelope
    match outcome:
        case Completed() if hooks.on_success:
            return hooks.on_success, (job_message(envelope), value)
        case Raised() if hooks.on_failed and _is_last(run, outcome):
            return hooks.on_failed, (job_message(envelope), _error_of(outcome))
        case _:
            return (), ()


def _is_last(run: Run, outcome: Raised) -> bool:
    """Whether no attempt follows: as the coordinator decides it."""
    envelope = run.received.envelope
    if outcome.ended == "cancelled" or run.cut_off:
        return False
    return outcome.final or envelope.attempt > envelope.policy.retries


def _error_of(outcome: Raised) -> BaseException:
    if outcome.exception is not None and outcome.ended == "raised":
        return outcome.exception
    error = JobFailed(f"{outcome.error.type}: {outcome.error.message}")
    error.__cause__ = outcome.exception
    return error


def _call(
    hooks: Iterable[Callable[..., Any]], arguments: tuple[Any, ...], run: Run, run_coroutine: RunCoroutine
) -> None:
    for hook in hooks:
        try:
            value = returned_by(hook, hook(*arguments))
            if inspect.isawaitable(value):
                run_coroutine(_awaited(value), run)
        except BaseException:
            logger.exception("the hook %s raised; it changes nothing of %s", _named(hook), run.received.envelope.id)


async def _call_async(hooks: Iterable[Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    for hook in hooks:
        try:
            value = returned_by(hook, hook(*arguments))
            if inspect.isawaitable(value):
                await value
        except BaseException:
            logger.exception("the hook %s raised; it changes nothing of %s", _named(hook), arguments[0].id)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _named(hook: Callable[..., Any]) -> str:
    return getattr(hook, "__qualname__", repr(hook))

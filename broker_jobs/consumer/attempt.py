"""Runs one attempt: arguments, hooks, provided arguments, the function, its result; and says how it ended.

Nothing raised inside gets out, SystemExit and KeyboardInterrupt included: a job cannot end its worker.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from broker_jobs.clock import Instant
from broker_jobs.consumer import notices
from broker_jobs.consumer.event_loop import LoopStopped
from broker_jobs.consumer.finish import finish, finish_async
from broker_jobs.consumer.hooks import RunCoroutine, inside, inside_async
from broker_jobs.consumer.outcome import (
    EXPIRED,
    Interruption,
    NotRun,
    Outcome,
    misfit,
    raised,
    returned,
    stopped,
    timed_out,
    unwritable,
)
from broker_jobs.consumer.running import Run
from broker_jobs.errors import GiveUp, Retry
from broker_jobs.function.depends import insert_gaps, provide, provide_async
from broker_jobs.function.hooks import Hooks
from broker_jobs.function.registry import Function
from broker_jobs.messages.envelope import Envelope
from broker_jobs.producer.current_job import CurrentJob, JobCancelled, running


def expired(envelope: Envelope, now: Instant) -> Outcome | None:
    """The outcome of a job that has waited longer than it may, or None."""
    if envelope.policy.expires is None:
        return None
    expires_at = envelope.expires_at()
    return EXPIRED if expires_at is not None and expires_at.timestamp() <= now else None


def attempt(run: Run, current: CurrentJob, hooks: Hooks, run_coroutine: RunCoroutine) -> Outcome:
    """Run a sync function in this thread. What it does to context variables ends with it.

    An awaitable that it returns is awaited on an event loop: `async def` behind an ordinary wrapper looks like a sync
    function.
    """
    outcome = contextvars.copy_context().run(_attempt, run, current, hooks, run_coroutine)
    run.leave_if_copied()  # by a hook
    return outcome


def _attempt(run: Run, current: CurrentJob, hooks: Hooks, run_coroutine: RunCoroutine) -> Outcome:
    function, value = run.received.function, None
    with running(current):
        try:
            args, kwargs = function.signature.decode(run.received.delivery.body)
        except BaseException as error:  # noqa: BLE001  # a validator may raise anything, SystemExit too
            outcome: Outcome = misfit(error)
        else:
            current.called_with(partial(_by_parameter, function, args, kwargs))
            notices.start(hooks, run, run_coroutine)
            try:
                if hooks.around or function.provided:
                    given = insert_gaps(function, args)
                    with inside(hooks.around, run, run_coroutine), provide(function, given, kwargs) as (args, kwargs):
                        value = finish(_called(run, args, kwargs), run, run_coroutine)
                else:
                    value = finish(_called(run, args, kwargs), run, run_coroutine)
                outcome = _ended(run, value)
            except LoopStopped:
                return NotRun("shutdown")
            except BaseException as error:  # noqa: BLE001  # a job cannot end its worker
                outcome = _broke(run, error)
        notices.end(hooks, run, outcome, value, run_coroutine)
    return outcome


async def attempt_async(run: Run, current: CurrentJob, hooks: Hooks) -> Outcome:
    """Run a coroutine function on this event loop; cancelled from outside through its task."""
    function, value = run.received.function, None
    with running(current):
        try:
            args, kwargs = function.signature.decode(run.received.delivery.body)
        except BaseException as error:  # noqa: BLE001  # a validator may raise anything, SystemExit too
            outcome: Outcome = misfit(error)
        else:
            current.called_with(partial(_by_parameter, function, args, kwargs))
            await notices.start_async(hooks, run)
            try:
                if hooks.around or function.provided:
                    given = insert_gaps(function, args)
                    async with (
                        inside_async(hooks.around),
                        provide_async(function, given, kwargs) as (args, kwargs),
                    ):
                        value = await finish_async(await _awaited(run, args, kwargs), run)
                else:
                    value = await finish_async(await _awaited(run, args, kwargs), run)
                outcome = _ended(run, value)
            except BaseException as error:  # noqa: BLE001  # a job cannot end its worker
                outcome = _broke(run, error)
        await notices.end_async(hooks, run, outcome, value)
    run.leave_if_copied()  # by a hook
    return outcome


def _called(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    run.leave_if_copied()  # by a hook, or by what provides an argument
    try:
        return run.interrupt.call(run.received.function.fn, args, kwargs)
    finally:
        run.leave_if_copied()


async def _awaited(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    run.leave_if_copied()
    try:
        return await run.received.function.fn(*args, **kwargs)
    finally:
        run.leave_if_copied()


def _by_parameter(function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call by their parameters, with defaults, and without what is provided."""
    signature = inspect.signature(function.fn)
    named = [each for each in signature.parameters.values() if each.name not in function.provided]
    bound = signature.replace(parameters=named).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _ended(run: Run, value: Any) -> Outcome:
    """A function that returned has succeeded, in time or not, unless it learned that it should stop and gave up.

    Whatever is wrong with its result is no failure: the work is done, and who runs a failed job again would repeat it.
    """
    if value is None and (run.told or run.interrupt.delivered):
        return stopped_as_asked(run)
    try:
        return returned(run.received.function.signature.encode_result(value))
    except Exception as error:  # noqa: BLE001  # serializers and validators of the program raise anything
        return unwritable(error)


def _broke(run: Run, error: BaseException) -> Outcome:
    if isinstance(error, JobCancelled | asyncio.CancelledError) and run.cancel_reason is not None:
        return stopped_as_asked(run, error)
    told = run.told or run.interrupt.delivered
    if told and run.cancel_reason == "shutdown" and not isinstance(error, GiveUp | Retry):
        return Interruption()  # what a function raises as it is cut off, a client's own error say, is no failure of it
    options = run.received.function.options
    return raised(error, options.retry_on, options.never_retry)


def stopped_as_asked(run: Run, error: BaseException | None = None) -> Outcome:
    """The outcome of a function that stopped when it was asked to, by the reason of the request."""
    match run.cancel_reason:
        case "deleted" | None:
            return stopped()
        case "timeout":
            return timed_out(run.received.envelope.policy.timeout or 0.0, error)
        case "shutdown":
            return Interruption()
        case "lease":
            return NotRun("shutdown")

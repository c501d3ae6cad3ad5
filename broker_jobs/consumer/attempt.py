"""Runs one attempt: arguments, hooks, provided arguments, the function, its result; and says how it ended.

Nothing raised inside gets out, SystemExit and KeyboardInterrupt included: a job cannot end its worker.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Any

from broker_jobs.clock import Instant
from broker_jobs.consumer.event_loop import LoopStopped
from broker_jobs.consumer.finish import RunCoroutine, finish, finish_async
from broker_jobs.consumer.hooks import inside, inside_async
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
from broker_jobs.function.registry import Around
from broker_jobs.messages.envelope import Envelope
from broker_jobs.producer.current_job import CurrentJob, JobCancelled, running


def expired(envelope: Envelope, now: Instant) -> Outcome | None:
    """The outcome of a job that has waited longer than it may, or None."""
    if envelope.policy.expires is None:
        return None
    expires_at = envelope.expires_at()
    return EXPIRED if expires_at is not None and expires_at.timestamp() <= now else None


def attempt(run: Run, current: CurrentJob, arounds: Sequence[Around], run_coroutine: RunCoroutine) -> Outcome:
    """Run a sync function in this thread. What it does to context variables ends with it.

    An awaitable that it returns is awaited on an event loop: `async def` behind an ordinary wrapper looks like a sync
    function.
    """
    return contextvars.copy_context().run(_attempt, run, current, arounds, run_coroutine)


def _attempt(run: Run, current: CurrentJob, arounds: Sequence[Around], run_coroutine: RunCoroutine) -> Outcome:
    function = run.received.function
    try:
        args, kwargs = function.signature.decode(run.received.delivery.body)
    except BaseException as error:  # noqa: BLE001  # a validator may raise anything, SystemExit too
        return misfit(error)
    try:
        with running(current):
            if arounds or function.provided:
                with inside(arounds), provide(function, insert_gaps(function, args), kwargs) as (args, kwargs):
                    value = finish(run.interrupt.call(function.fn, args, kwargs), run, arounds, run_coroutine)
            else:
                value = finish(run.interrupt.call(function.fn, args, kwargs), run, arounds, run_coroutine)
            return _ended(run, value)
    except LoopStopped:
        return NotRun("shutdown")
    except BaseException as error:  # noqa: BLE001  # a job cannot end its worker
        return _broke(run, error)


async def attempt_async(run: Run, current: CurrentJob, arounds: Sequence[Around]) -> Outcome:
    """Run a coroutine function on this event loop; cancelled from outside through its task."""
    function = run.received.function
    try:
        args, kwargs = function.signature.decode(run.received.delivery.body)
    except BaseException as error:  # noqa: BLE001  # a validator may raise anything, SystemExit too
        return misfit(error)
    try:
        with running(current):
            if arounds or function.provided:
                given = insert_gaps(function, args)
                async with inside_async(arounds), provide_async(function, given, kwargs) as (args, kwargs):
                    value = await finish_async(await function.fn(*args, **kwargs), run)
            else:
                value = await finish_async(await function.fn(*args, **kwargs), run)
            return _ended(run, value)
    except BaseException as error:  # noqa: BLE001  # a job cannot end its worker
        return _broke(run, error)


def _ended(run: Run, value: Any) -> Outcome:
    """A function that returned has succeeded, in time or not, unless it learned that it should stop and gave up.

    A result that would not arrive as it is fails the job: what waits for it could not run.
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
    return raised(error, run.received.function.options.retry_on)


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

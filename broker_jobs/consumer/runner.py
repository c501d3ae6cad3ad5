"""Takes one delivery through its steps: may it run, begin, attempt, end.

The same line of steps for threads and for the event loop; they differ in how they wait and how they call.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from broker_jobs.clock import Clock
from broker_jobs.consumer import notices
from broker_jobs.consumer.attempt import attempt, attempt_async, expired
from broker_jobs.consumer.hooks import RunCoroutine
from broker_jobs.consumer.job_records import job_fields
from broker_jobs.consumer.outcome import NotRun, Outcome, Raised, stopped
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.running import Run, Running
from broker_jobs.function.hooks import Hooks
from broker_jobs.function.registry import Function
from broker_jobs.messages.events import ReturnReason
from broker_jobs.producer.current_job import CurrentJob, running

STALE_SECONDS = 15.0
"""What has waited here longer was not looked after: the process stood still, as when a job kept Python's GIL. RabbitMQ
may have cut the connection meanwhile, and the job may run elsewhere."""


class Runner:
    """Runs deliveries, one call each, from any thread."""

    def __init__(
        self,
        running: Running,
        fences: Revocations,
        reporter: Reporter,
        clock: Clock,
        hooks_of: Callable[[Function], Hooks],
        *,
        run_coroutine: RunCoroutine,
        batch_of: Callable[[str], Any] | None = None,
        may_begin: Callable[[], bool] = lambda: True,
        run_isolated: Callable[[Run], Outcome] | None = None,
    ) -> None:
        """
        Args:
            hooks_of: the hooks of a job.
            may_begin: asked once for each run, right before it begins; False: this worker takes no more.
            run_isolated: runs a job in a process of its own; None: such jobs run in threads too.
        """
        self._running = running
        self._revocations = fences
        self._reporter = reporter
        self._clock = clock
        self._hooks_of = hooks_of
        self._run_coroutine = run_coroutine
        self._batch_of = batch_of
        self._may_begin = may_begin
        self._run_isolated = run_isolated
        self._stopping = False

    def refuse_new(self) -> None:
        """From now on what is given to run is returned."""
        self._stopping = True

    def run(self, received: ReceivedDelivery) -> None:
        """Run a sync job in this thread."""
        run = Run(received, self._clock.now(), self._clock.monotonic())
        self._running.add(run)  # before the check whether we stop; the stopping thread does both in the other order
        if self._refused(run):
            return
        hooks = self._hooks_of(received.function)
        outcome = expired(received.envelope, run.started_at)
        if outcome is None and received.envelope.careful:
            outcome = self._say_started(run)
        if outcome is None:
            if received.function.options.isolation == "process" and self._run_isolated is not None:
                outcome = self._run_isolated(run)
            else:
                outcome = attempt(run, self._current(run), hooks, self._run_coroutine)
        if isinstance(outcome, Raised) and not run.noticed and hooks.on_failed:  # it did not run, or its process ended
            with running(self._current(run)):
                notices.end(hooks, run, outcome, None, self._run_coroutine)
        self._running.remove(run)
        self._reporter.ended(run, outcome)

    async def run_async(self, received: ReceivedDelivery) -> None:
        """Run an async job on this loop."""
        run = Run(received, self._clock.now(), self._clock.monotonic())
        self._running.add(run)
        if self._refused(run):
            return
        if (task := asyncio.current_task()) is not None:
            run.set_task(task)
        if run.deadline_monotonic is not None and received.envelope.policy.timeout is not None:
            alarm = asyncio.get_running_loop().call_later(received.envelope.policy.timeout, run.cancel, "timeout")
        else:
            alarm = None
        outcome = expired(received.envelope, run.started_at)
        if outcome is None and received.envelope.careful:
            outcome = await self._say_started_async(run)
        hooks = self._hooks_of(received.function)
        if outcome is None:
            outcome = await attempt_async(run, self._current(run), hooks)
        elif isinstance(outcome, Raised) and hooks.on_failed:
            with running(self._current(run)):
                await notices.end_async(hooks, run, outcome, None)
        if alarm is not None:
            alarm.cancel()
        self._running.remove(run)
        self._reporter.ended(run, outcome)

    def _refused(self, run: Run) -> bool:
        received = run.received
        reason: ReturnReason | None
        if self._stopping:
            reason = "shutdown"
        elif run.started_monotonic - received.received_monotonic > STALE_SECONDS:
            reason = "waited too long"
        else:
            reason = self._revocations.refuses(received.envelope, received.queue)
        if reason is None and not self._may_begin():
            reason = "shutdown"
        if reason is None:
            return False
        self._running.remove(run)
        self._reporter.return_delivery(received, reason)
        return True

    def _current(self, run: Run) -> CurrentJob:
        envelope = run.received.envelope
        batch = None
        if envelope.batch is not None and self._batch_of is not None:
            batch = self._batch_of(envelope.batch)
        return CurrentJob(
            envelope.id,
            envelope.attempt,
            on_progress=run.note_progress,
            on_line=partial(self._reporter.line, run),
            asked_to_stop=run.asked_to_stop,
            batch=batch,
            envelope=envelope,
            log_fields=job_fields(envelope),
        )

    def _say_started(self, run: Run) -> Outcome | None:
        """A careful release: `started` is confirmed before the function runs; None: run it."""
        confirmed = threading.Event()
        self._reporter.started(run, confirmed.set)
        while not confirmed.wait(0.1):
            if self._stopping or run.cancel_reason is not None:
                break
        return self._still_wanted(run)

    async def _say_started_async(self, run: Run) -> Outcome | None:
        loop = asyncio.get_running_loop()
        confirmed = asyncio.Event()
        self._reporter.started(run, lambda: _call_soon(loop, confirmed))
        while not confirmed.is_set() and not self._stopping and run.cancel_reason is None:
            try:
                await asyncio.wait_for(confirmed.wait(), 0.1)
            except (TimeoutError, asyncio.CancelledError):  # another job may cancel whatever task it finds
                continue
        return self._still_wanted(run)

    def _still_wanted(self, run: Run) -> Outcome | None:
        if run.cancel_reason == "deleted":
            return stopped()
        if self._stopping or run.cancel_reason is not None:
            return NotRun("shutdown")
        reason = self._revocations.refuses(run.received.envelope, run.received.queue)
        return None if reason is None else NotRun(reason)


def _call_soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(event.set)

"""Runs jobs with isolation="process": the main program of a child process, which one worker process has.

It loads the program once, as the worker did, and then runs one job after the other in its main thread. Another thread
hears the parent: it asks the job to stop, or ends this process when the parent is gone.
What goes up to the parent is JSON, so that a job that writes into the pipe cannot run code in the parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from broker_jobs import logs
from broker_jobs.broker import factory
from broker_jobs.broker.interface import Delivery
from broker_jobs.clock import SystemClock
from broker_jobs.consumer import job_records, notices
from broker_jobs.consumer.attempt import attempt, attempt_async
from broker_jobs.consumer.job_records import job_fields
from broker_jobs.consumer.outcome import Outcome, Raised, misfit, outcome_json
from broker_jobs.consumer.own_loop import OwnLoop
from broker_jobs.consumer.process_stats import virtual_bytes
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.running import CancelReason, Run, progress_of
from broker_jobs.errors import DefinitionError
from broker_jobs.function.registry import Registry
from broker_jobs.messages.codec import decode
from broker_jobs.producer.current_job import CurrentJob

if sys.platform != "win32":  # there the parent watches the memory, as it does everywhere
    import resource

LOST_PARENT = 1
"""Exit code of a child whose parent is gone."""


@dataclass(frozen=True)
class RunOrder:
    """An order of the parent: run this delivery. `memory_limit`: bytes beyond what the process has now.

    `number`: of the order. What is said of its run carries it, as a thread that a job has left may say something later.
    """

    number: int
    delivery: Delivery
    memory_limit: int | None


@dataclass(frozen=True)
class CancelOrder:
    """An order of the parent: ask the job to stop."""

    reason: CancelReason


def child_main(pipe: Connection, load: Callable[[], Registry], log_setup: logs.LogSetup) -> None:
    """Run the jobs that the parent sends, until it is gone."""
    _ignore_signals()
    factory.refuse_memory("a job with isolation='process' runs in a process of its own")
    job_records.install()
    if log_setup.format is not None:
        logs.set_up(log_setup.level, log_setup.format)
    ChildRunner(pipe, load, log_setup).run()


class ChildRunner:
    """The child's side of the pipe, and the job that runs."""

    def __init__(self, pipe: Connection, load: Callable[[], Registry], log_setup: logs.LogSetup) -> None:
        self._pid = os.getpid()
        self._pipe = pipe
        self._log_setup = log_setup
        self._load = load
        self._clock = SystemClock()
        self._orders: SimpleQueue[RunOrder] = SimpleQueue()
        self._sending = threading.Lock()
        self._run: Run | None = None
        self._loop = OwnLoop()

    def run(self) -> None:
        """Load the program, then run jobs until the parent is gone."""
        threading.Thread(target=self._hear, name="broker-jobs-parent", daemon=True).start()
        try:
            with logs.loading() if self._log_setup.format is not None else nullcontext():
                registry = self._load()
            logging.basicConfig(level=self._log_setup.level)  # unless logging is set up
            notices.start_worker(registry.all_hooks(), self._loop.run)
        except BaseException as error:  # noqa: BLE001  # the program may raise anything
            self._send({"kind": "broken", "outcome": outcome_json(misfit(error))})
            return
        self._send({"kind": "ready"})
        while True:
            order = self._orders.get()
            outcome = self._run_job(registry, order)
            try:
                self._send({"kind": "ended", "outcome": outcome_json(outcome)}, order.number)
            except OSError:  # the job has closed the pipe
                os._exit(LOST_PARENT)

    def _hear(self) -> None:
        try:
            while True:
                order: RunOrder | CancelOrder = self._pipe.recv()
                if isinstance(order, RunOrder):
                    self._orders.put(order)
                elif (run := self._run) is not None:
                    run.cancel(order.reason)
        finally:
            os._exit(LOST_PARENT)  # the parent is gone, or the job has closed the pipe

    def _run_job(self, registry: Registry, order: RunOrder) -> Outcome:
        envelope = decode(order.delivery.body)
        function = registry.get(envelope.job)
        if function is None:
            return misfit(
                DefinitionError(
                    f"the child process of {envelope.job} imports the program and finds no such job there: "
                    "define it at the top level of a module"
                )
            )
        received = ReceivedDelivery(order.delivery, envelope, function, self._clock.monotonic())
        run = self._run = Run(received, self._clock.now(), self._clock.monotonic())
        batch = None if envelope.batch is None or registry.batch_of is None else registry.batch_of(envelope.batch)
        current = CurrentJob(
            envelope.id,
            envelope.attempt,
            on_progress=partial(self._send_progress, order.number),
            on_line=lambda text: self._send({"kind": "line", "text": text}, order.number),
            asked_to_stop=run.asked_to_stop,
            batch=batch,
            envelope=envelope,
            log_fields=job_fields(envelope),
        )
        hooks, loop = registry.hooks_of(function), self._loop
        with _memory_limited(order.memory_limit):
            if function.is_async:
                outcome = loop.run(_in_task(attempt_async(run, current, hooks), run))
            else:
                outcome = attempt(run, current, hooks, lambda each, run: loop.run(_in_task(each, run)))
        run.ended = True
        self._run = None
        return _explained(outcome, order.memory_limit)

    def _send_progress(self, number: int, done: float, total: float | None) -> None:
        if (progress := progress_of(done, total)) is not None:
            self._send({"kind": "progress", "done": progress[0], "total": progress[1]}, number)

    def _send(self, message: dict[str, Any], number: int = 0) -> None:
        """Say something of the run of this number, or of this process. A copy that a job has forked says nothing."""
        if os.getpid() != self._pid:
            return
        with self._sending:
            self._pipe.send_bytes(json.dumps({"run": number, **message}).encode())


async def _in_task(coroutine: Coroutine[Any, Any, Any], run: Run) -> Any:
    task = asyncio.current_task()
    assert task is not None
    run.set_task(task)
    try:
        return await coroutine
    finally:
        run.task = None


@contextlib.contextmanager
def _memory_limited(limit: int | None) -> Iterator[None]:
    """Let the system refuse memory beyond the limit, where it can: the job gets a MemoryError."""
    if limit is None or sys.platform == "win32":
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = virtual_bytes() + limit
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses some
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _explained(outcome: Outcome, limit: int | None) -> Outcome:
    if limit is None or not isinstance(outcome, Raised) or outcome.error.type != "MemoryError":
        return outcome
    message = f"it took more than its memory_limit of {limit} bytes"
    return outcome._replace(error=outcome.error.model_copy(update={"message": message}))


def _ignore_signals() -> None:
    """Ctrl-C and the SIGTERM of a service manager reach all processes; the parent decides.

    Handlers, and not SIG_IGN: programs that a job starts would inherit that.
    """
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if (number := getattr(signal, name, None)) is not None:
            with contextlib.suppress(ValueError, OSError):
                signal.signal(number, lambda *_: None)

"""Runs a program's jobs inside a test: nothing leaves the process, and time moves only when it is told to.

The real producer, codec, attempt, coordinator and store (SQLite in memory), stepped by hand in the test's own thread.
Only the broker between them is a still one.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from broker_jobs.app import BrokerJobs
from broker_jobs.beat.beat import ScheduleTimer
from broker_jobs.broker import names
from broker_jobs.broker.interface import Message
from broker_jobs.clock import ManualClock
from broker_jobs.coordinator import commands
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.inputs import CommandReceived, Input, Unreadable, WorkItemsWaiting, read_command, read_log
from broker_jobs.coordinator.records import Released, TimerDue
from broker_jobs.coordinator.release import release
from broker_jobs.errors import UsageError
from broker_jobs.function.depends import provided_parameters
from broker_jobs.function.pending import comparable, placeholders_of
from broker_jobs.messages import codec
from broker_jobs.messages.batch import CHUNK
from broker_jobs.messages.commands import DeclareRecurring, DeclareSubscriptions, DeleteJob, Fire, GetBatch, GetJob
from broker_jobs.messages.envelope import Envelope, new_id
from broker_jobs.messages.state import State
from broker_jobs.producer.job import Call, Job
from broker_jobs.store import Store
from broker_jobs.testing.broker import ManualBroker
from broker_jobs.testing.worker import ManualWorker

P = ParamSpec("P")
R = TypeVar("R")
GRACE_TICKS = 15
"""Log time passes a second a tick; more than a grace's length is of no use."""


class Tester:
    """A stage for the jobs of one `BrokerJobs`.

    Args:
        jobs: the program under test; while the tester is open, what it enqueues stays here.
        inline: run each job within its enqueue; its exception comes out of enqueue and nothing is retried.
    """

    __test__ = False
    """Its name begins as pytest's test classes do; it is none."""

    def __init__(self, jobs: BrokerJobs, /, *, inline: bool = False) -> None:
        self.clock = ManualClock()
        self._jobs = jobs
        self._inline = inline
        self._broker = ManualBroker()
        self._store = Store("sqlite://")
        self._engine = Engine(self._store, "tester", chance=lambda: 0.5)
        self._schedule_timer = ScheduleTimer()
        self._worker = ManualWorker(jobs.registry, self._broker, self.clock)
        self._borrowed: AbstractContextManager[None] | None = None
        self._depth = 0

    # ---- what a test says

    def __enter__(self) -> Self:
        """Take the program's broker and clock over."""
        if self._borrowed is not None:
            raise UsageError("this Tester is open already")
        self._store.open()
        self._broker.taken_over = self._taken_over
        self._borrowed = self._jobs.replaced(self._broker, self.clock)
        self._borrowed.__enter__()
        self._jobs.load_modules()
        self._worker = ManualWorker(self._jobs.registry, self._broker, self.clock)  # with what the modules put around
        self._declare()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Give the program its broker back."""
        borrowed, self._borrowed = self._borrowed, None
        if borrowed is not None:
            borrowed.__exit__(kind, error, trace)
            self._store.close()

    def enqueued(self, job: Job[..., R], /) -> list[Call[R]]:
        """The calls of this job that were enqueued or scheduled since the tester was opened, in their order."""
        return [job.bind(*args, **kwargs) for args, kwargs in self._calls(job)]

    def assert_enqueued(self, job: Job[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Fail unless this job was enqueued with these arguments; `unittest.mock.ANY` matches any.

        Raises:
            AssertionError: says with what it was enqueued instead.
        """
        calls = self._calls(job)
        wanted = _named(job, args, kwargs)
        if not any(_named(job, *call) == wanted for call in calls):
            seen = "\n  ".join(_shown(job.name, *call) for call in calls) or "nothing"
            raise AssertionError(f"{_shown(job.name, args, kwargs)} was not enqueued; enqueued was:\n  {seen}")

    def run(self) -> int:
        """Run what is ready, and what that makes ready, until nothing is; the number of runs."""
        self._require_open()
        runs = 0
        self._pump()
        while (delivery := self._broker.first_ready(self._worker.paused)) is not None:
            runs += self._worker.run(delivery)
            self._pump()
        return runs

    def advance(self, by: timedelta, /) -> int:
        """Let time pass; delays, retries and recurring jobs come due on the way, each at its time. The number of runs.

        Raises:
            UsageError: `by` is negative.
        """
        self._require_open()
        if by < timedelta():
            raise UsageError("time does not go back: advance() takes a timedelta of 0 or more")
        until = self.clock.now() + by.total_seconds()
        runs = self.run()
        while (at := self._next_at(until)) is not None:
            self.clock.advance(max(0.0, at - self.clock.now()))
            runs += self._come_due()
        self.clock.advance(max(0.0, until - self.clock.now()))
        self._let_log_time_pass(min(GRACE_TICKS, int(by.total_seconds())))
        return runs + self._come_due()

    # ---- the steps

    def _require_open(self) -> None:
        if self._borrowed is None:
            raise UsageError("write `with Tester(jobs) as tester:`; outside of it there is nothing to run")

    def _taken_over(self, message: Message) -> None:
        """A publish of the program is confirmed: questions are answered at once, and inline jobs are run."""
        if message.exchange == names.REPORT and message.key == names.COMMAND_KEY:
            self._pump()
            self._refuse_to_wait(message)
        elif self._inline and self._depth == 0 and (message.exchange == names.SUBMIT or _may_set_free(message)):
            self._depth += 1
            try:
                self._run_inline(None if message.type in ("commit", "published") else message.message_id)
            finally:
                self._depth -= 1

    def _refuse_to_wait(self, message: Message) -> None:
        asked = read_command(self._broker.delivery(message, names.COMMAND))
        match asked:
            case CommandReceived(command=GetJob(job_id=job_id, until_ended=True)):
                row = self._store.reader.job(job_id)
                what, state = f"job {job_id}", None if row is None else row.state.value
                ended = row is not None and row.state.is_final
            case CommandReceived(command=GetBatch(batch_id=batch_id, until_ended=True)):
                with self._store.transaction() as tx:
                    batch = tx.batches([batch_id]).get(batch_id)
                what, state = f"batch {batch_id}", None if batch is None else batch.state
                ended = batch is not None and batch.ended_at is not None
            case _:
                return
        if not ended:
            raise UsageError(
                f"{what} is {state or 'not known here'}: nothing moves by itself in a Tester; call tester.run() or "
                "tester.advance(…) first, or use Tester(jobs, inline=True)"
            )

    def _run_inline(self, job_id: str | None) -> None:
        """Run what is ready; what the job raised (None: any of them, of a batch or event) is raised, not retried."""
        self._worker.errors.clear()
        self.run()
        raised = [id for id in self._worker.errors if job_id is None or id == job_id]
        for id in raised:
            self._apply(
                [CommandReceived(DeleteJob(id=new_id(), at=self.clock.now(), by="Tester", job_id=id), None, None)]
            )
        if raised:
            raise self._worker.errors[raised[0]]

    def _pump(self) -> None:
        """Let the coordinator decide all that was told it, and publish what follows."""
        while True:
            inputs: list[Input] = [read_command(d) for d in self._broker.take(names.COMMAND)]
            inputs += [one for d in self._broker.take(names.LOG) for one in read_log(d)]
            if not inputs:
                return
            self._apply(inputs)

    def _apply(self, inputs: list[Input]) -> None:
        for one in inputs:
            if isinstance(one, Unreadable):
                raise AssertionError(  # noqa: TRY004  # a broken promise, not a type
                    f"the coordinator cannot read what was published: {one.reason}"
                )
        effects = self._engine.apply(inputs, self.clock.now())
        if effects.control is not None:
            self._worker.told(effects.control)
        released: list[Input] = []
        for row in effects.releases:
            self._broker.publish([release(row)])
            released.append(Released(row.id, row.epoch))
        self._broker.publish(effects.messages)
        more: list[Input] = [WorkItemsWaiting()] if effects.more else []
        if released or effects.next or more:
            self._apply([*released, *effects.next, *more])

    def _come_due(self) -> int:
        now = self.clock.now()
        self._learn()
        fires: list[Input] = [
            CommandReceived(
                Fire(id=new_id(), at=now, name=due.name, version=due.version, planned_at=due.planned_at), None, None
            )
            for due in self._schedule_timer.due(now)
        ]
        with self._store.transaction() as tx:
            fires += [TimerDue(job_id) for _, job_id in tx.due(now, limit=100_000)]
        if fires:
            self._apply(fires)
        return self.run()

    def _next_at(self, until: float) -> float | None:
        """The next time something comes due, if that is not after `until`."""
        self._learn()
        with self._store.transaction() as tx:
            due = [at for at, job_id in tx.due(until, limit=1_000) if self._waits_for_time(job_id)]
        planned = self._schedule_timer.next_at()
        times = [*due[:1], *([planned] if planned is not None and planned <= until else [])]
        return min(times, default=None)

    def _waits_for_time(self, job_id: str) -> bool:
        row = self._store.reader.job(job_id)
        return row is not None and row.state is State.SCHEDULED and row.grace_until is None

    def _let_log_time_pass(self, seconds: int) -> None:
        with self._store.transaction() as tx:
            tx.meta.log_time += seconds

    def _learn(self) -> None:
        with self._store.transaction() as tx:
            self._schedule_timer.update(commands.views(tx), self.clock.now())

    def _declare(self) -> None:
        jobs, now = self._jobs, self.clock.now()
        origin, schedules = jobs.origin, jobs.recurring.declared(jobs.origin)
        subscriptions = jobs.subscriptions.declared()
        recurring = DeclareRecurring(id=new_id(), at=now, by="Tester", origin=origin, schedules=schedules)
        subscribed = DeclareSubscriptions(
            id=new_id(), at=now, by="Tester", origin=origin, subscriptions=subscriptions
        )  # fmt: skip
        self._apply([CommandReceived(recurring, None, None), CommandReceived(subscribed, None, None)])

    # ---- what was enqueued

    def _calls(self, job: Job[..., Any]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        calls = []
        for message in self._broker.published:
            for body in _enqueued(message):
                envelope = codec.decode(body)
                if envelope.job == job.name:
                    calls.append(self._arguments(envelope, body))
        return calls

    def _arguments(self, envelope: Envelope, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        function = self._jobs.registry.get(envelope.job)
        if function is None:  # a job of another service: as it travels
            pending = placeholders_of(envelope.result_args)
            args = tuple(pending.get(place, arg) for place, arg in enumerate(envelope.args))
            return args, {name: pending.get(name, value) for name, value in envelope.kwargs.items()}
        if envelope.result_args:
            return function.signature.decode_around(
                envelope.args, envelope.kwargs, placeholders_of(envelope.result_args)
            )
        return function.signature.decode(body)


def _enqueued(message: Message) -> list[bytes]:
    """The envelopes in a message that a producer sent."""
    if message.type == "chunk":
        return [text.encode() for text in CHUNK.validate_json(message.body).jobs]
    by_producer = message.exchange in (names.SUBMIT, names.DELAY) or (
        message.exchange == names.REPORT and message.type in ("job", "repeat")
    )
    return [message.body] if by_producer and message.type in ("job", "repeat") else []


def _may_set_free(message: Message) -> bool:
    """Whether a producer's message may start jobs beside the work queues: a held job, a batch's end, an event."""
    return message.exchange == names.REPORT and message.type in ("job", "commit", "published")


def _named(job: Job[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of their parameters, defaults filled in, so that two ways to write a call are equal."""
    function = getattr(job, "__wrapped__", None)
    if function is None:
        return {
            "args": tuple(map(comparable, args)),
            "kwargs": {name: comparable(value) for name, value in kwargs.items()},
        }
    whole = inspect.signature(function)
    provided = provided_parameters(function)  # they do not travel, and take no place among the positional arguments
    shown = whole.replace(parameters=[each for each in whole.parameters.values() if each.name not in provided])
    bound = shown.bind(*args, **kwargs)
    bound.apply_defaults()
    return {name: comparable(value) for name, value in bound.arguments.items()}


def _shown(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    given = [*(repr(arg) for arg in args), *(f"{key}={value!r}" for key, value in kwargs.items())]
    return f"{name}({', '.join(given)})"

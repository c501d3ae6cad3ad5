"""Tester: runs the jobs of a program inside a test, in one thread, with a clock that the test moves.

It uses the real producer, codec, attempt, coordinator and store (SQLite in memory). Only the broker is replaced. The
file is over 300 lines, as the public methods have long docstrings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from broker_jobs.app import BrokerJobs
from broker_jobs.beat.beat import ScheduleTimer
from broker_jobs.broker import names
from broker_jobs.broker.interface import Message
from broker_jobs.broker.roles import COMMANDS
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
from broker_jobs.store.due import LINE_PREFIX
from broker_jobs.testing.broker import ManualBroker
from broker_jobs.testing.worker import ManualWorker

P = ParamSpec("P")
R = TypeVar("R")
GRACE_TICKS = 15
"""Log time passes one second per tick. More ticks than a grace period has seconds change nothing."""


class Tester:
    """Tests the jobs of one `BrokerJobs` without a broker.

    with Tester(jobs) as tester:
        signup("ann")
        tester.assert_enqueued(welcome, 42)
        assert tester.run() == 1
        tester.advance(timedelta(hours=1))

    Inside the block everything that the program enqueues stays in this process. Jobs run only when you call `run` or
    `advance`, in the thread of the test. `tester.clock` is the clock of the program.

    Args:
        jobs: the program under test. It must not be running (`start()`).
        inline: run each job inside its enqueue. Its exception is raised by enqueue, and it is not retried.
    """

    __test__ = False
    """Tells pytest that this class, whose name begins with Test, is not a test."""

    def __init__(self, jobs: BrokerJobs, /, *, inline: bool = False) -> None:
        self.clock = ManualClock()
        self._jobs = jobs
        self._inline = inline
        self._broker = ManualBroker()
        self._store = Store("sqlite://")
        self._engine = Engine(self._store, "tester", chance=lambda: 0.5)
        self._schedule_timer = ScheduleTimer()
        self._worker = ManualWorker(jobs.registry, self._broker, self.clock)
        self._replacement: AbstractContextManager[None] | None = None
        self._depth = 0

    # --- public ---

    def __enter__(self) -> Self:
        """Replace the program's broker and clock. Raises UsageError if the tester is open or the program runs."""
        if self._replacement is not None:
            raise UsageError("this Tester is open already")
        self._store.open()
        self._broker.on_published = self._on_published
        self._replacement = self._jobs.replaced(self._broker, self.clock)
        self._replacement.__enter__()
        self._jobs.load_modules()
        self._worker = ManualWorker(self._jobs.registry, self._broker, self.clock)  # with the hooks of the modules
        self._worker.start()
        self._declare()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """Restore the program's broker and clock."""
        replacement, self._replacement = self._replacement, None
        if replacement is not None:
            replacement.__exit__(kind, error, trace)
            self._worker.close()
            self._store.close()

    def enqueued(self, job: Job[..., R], /) -> list[Call[R]]:
        """The calls of this job that were enqueued or scheduled since the tester was opened, in their order.

        assert [call.args for call in tester.enqueued(welcome)] == [(42,)]
        """
        return [job.bind(*args, **kwargs) for args, kwargs in self._calls(job)]

    def assert_enqueued(self, job: Job[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Fail unless this job was enqueued with these arguments. `unittest.mock.ANY` matches any value.

        Raises:
            AssertionError: it was not; the text lists the calls that were enqueued.
        """
        calls = self._calls(job)
        wanted = _named(job, args, kwargs)
        if not any(_named(job, *call) == wanted for call in calls):
            calls_text = "\n  ".join(_call_text(job.name, *call) for call in calls) or "nothing"
            raise AssertionError(
                f"{_call_text(job.name, args, kwargs)} was not enqueued; enqueued was:\n  {calls_text}"
            )

    def override(self, provider: Callable[..., object], by: Callable[..., object], /) -> None:
        """Call `by` in place of this provider (`Depends`) in all jobs that this tester runs.

        tester.override(get_mailer, lambda: FakeMailer())
        """
        self._worker.replaced[provider] = by

    def run(self) -> int:
        """Run all jobs that are ready, and those that become ready by that, until none is left.

        Returns:
            The number of runs.
        """
        self._require_open()
        runs = 0
        self._process_messages()
        while (delivery := self._broker.take_first(self._worker.paused)) is not None:
            runs += self._worker.run(delivery)
            self._process_messages()
        return runs

    def advance(self, by: timedelta, /) -> int:
        """Move the clock forward, and run delayed jobs, retries and recurring jobs on the way, each at its time.

        Args:
            by: 0 or more.

        Returns:
            The number of runs.

        Raises:
            UsageError: `by` is negative.
        """
        self._require_open()
        if by < timedelta():
            raise UsageError("the clock cannot go back: advance() takes a timedelta of 0 or more")
        until = self.clock.now() + by.total_seconds()
        runs = self.run()
        while (at := self._next_at(until)) is not None:
            self.clock.advance(max(0.0, at - self.clock.now()))
            runs += self._run_due()
        self.clock.advance(max(0.0, until - self.clock.now()))
        self._advance_log_time(min(GRACE_TICKS, int(by.total_seconds())))
        return runs + self._run_due()

    # --- steps ---

    def _require_open(self) -> None:
        if self._replacement is None:
            raise UsageError("the tester is not open: write `with Tester(jobs) as tester:`")

    def _on_published(self, message: Message) -> None:
        """Answer a query of the program at once, and run inline jobs."""
        if message.key == names.COMMAND_KEY and message.exchange in COMMANDS:
            self._process_messages()
            self._refuse_to_wait(message)
        elif self._inline and self._depth == 0 and (message.exchange == names.SUBMIT or _may_release_jobs(message)):
            self._depth += 1
            try:
                self._run_inline(None if message.type in ("commit", "published") else message.message_id)
            finally:
                self._depth -= 1

    def _refuse_to_wait(self, message: Message) -> None:
        match read_command(self._broker.delivery(message, names.COMMAND)):
            case CommandReceived(command=GetJob(job_id=job_id, until_ended=True)):
                row = self._store.reader.jobs.get(job_id)
                what, state = f"job {job_id}", None if row is None else row.state.value
                ended = row is not None and row.state.is_final
            case CommandReceived(command=GetBatch(batch_id=batch_id, until_ended=True)):
                with self._store.transaction() as tx:
                    batch = tx.batches.load([batch_id]).get(batch_id)
                what, state = f"batch {batch_id}", None if batch is None else batch.state
                ended = batch is not None and batch.ended_at is not None
            case _:
                return
        if not ended:
            raise UsageError(
                f"{what} is {state or 'not known here'}: in a Tester jobs run only when you call tester.run() or "
                "tester.advance(…); call one of them first, or use Tester(jobs, inline=True)"
            )

    def _run_inline(self, job_id: str | None) -> None:
        """Run what is ready. The exception of this job (None: of any, for a batch or event) is raised, not retried."""
        self._worker.errors.clear()
        self.run()
        raised = [id for id in self._worker.errors if job_id is None or id == job_id]
        for id in raised:
            self._apply(
                [CommandReceived(DeleteJob(id=new_id(), at=self.clock.now(), by="Tester", job_id=id), None, None)]
            )
        if raised:
            raise self._worker.errors[raised[0]]

    def _process_messages(self) -> None:
        """Let the coordinator process all messages in its queues, and publish the results."""
        while True:
            inputs: list[Input] = [read_command(d) for d in self._broker.take(names.COMMAND)]
            inputs += [one for d in self._broker.take(names.LOG) for one in read_log(d)]
            if not inputs:
                return
            self._apply(inputs)

    def _apply(self, inputs: list[Input]) -> None:
        for one in inputs:
            if isinstance(one, Unreadable):
                raise AssertionError(  # noqa: TRY004  # not an error of the type
                    f"the coordinator cannot read what was published: {one.reason}"
                )
        effects = self._engine.apply(inputs, self.clock.now())
        if effects.control is not None:
            self._worker.on_control(effects.control)
        released: list[Input] = []
        for row in effects.releases:
            self._broker.publish([release(row)])
            released.append(Released(row.id, row.epoch))
        self._broker.publish(effects.messages)
        more: list[Input] = [WorkItemsWaiting()] if effects.more else []
        if released or effects.next or more:
            self._apply([*released, *effects.next, *more])

    def _run_due(self) -> int:
        now = self.clock.now()
        self._load_schedules()
        fires: list[Input] = [
            CommandReceived(
                Fire(id=new_id(), at=now, name=due.name, version=due.version, planned_at=due.planned_at), None, None
            )
            for due in self._schedule_timer.due(now)
        ]
        with self._store.transaction() as tx:
            fires += [TimerDue(job_id) for _, job_id in tx.due.jobs(now, limit=100_000)]
        if fires:
            self._apply(fires)
        return self.run()

    def _next_at(self, until: float) -> float | None:
        """The next time at which a job or schedule is due, if it is not after `until`."""
        self._load_schedules()
        with self._store.transaction() as tx:
            due = [at for at, job_id in tx.due.jobs(until, limit=1_000) if self._waits_for_time(job_id)]
        planned = self._schedule_timer.next_at()
        times = [*due[:1], *([planned] if planned is not None and planned <= until else [])]
        return min(times, default=None)

    def _waits_for_time(self, job_id: str) -> bool:
        if job_id.startswith(LINE_PREFIX):
            return True
        row = self._store.reader.jobs.get(job_id)
        return row is not None and row.state is State.SCHEDULED and row.grace_until is None

    def _advance_log_time(self, seconds: int) -> None:
        with self._store.transaction() as tx:
            tx.meta.log_time += seconds

    def _load_schedules(self) -> None:
        with self._store.transaction() as tx:
            self._schedule_timer.update(commands.views(tx), self.clock.now())

    def _declare(self) -> None:
        jobs, now = self._jobs, self.clock.now()
        service = jobs.service or "main"  # a test needs no name
        schedules = jobs.recurring.declared(service)
        subscriptions = jobs.subscriptions.declared()
        recurring = DeclareRecurring(id=new_id(), at=now, by="Tester", service=service, schedules=schedules)
        subscribed = DeclareSubscriptions(
            id=new_id(), at=now, by="Tester", service=service, subscriptions=subscriptions
        )  # fmt: skip
        self._apply([CommandReceived(recurring, None, None), CommandReceived(subscribed, None, None)])

    # --- enqueued calls ---

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
        if function is None:  # a job of another service: its arguments as JSON
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
    by_producer = message.exchange in (names.SUBMIT, names.OFFER)
    return [message.body] if by_producer and message.type in ("job", "repeat") else []


def _may_release_jobs(message: Message) -> bool:
    """Whether a message may start jobs without a work queue: a held job, the commit of a batch, an event."""
    return message.exchange == names.OFFER and message.type in ("job", "commit", "published")


def _named(job: Job[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the names of their parameters, with defaults, so that two ways to write a call are equal."""
    function = getattr(job, "__wrapped__", None)
    if function is None:
        return {
            "args": tuple(map(comparable, args)),
            "kwargs": {name: comparable(value) for name, value in kwargs.items()},
        }
    whole = inspect.signature(function)
    provided = provided_parameters(function)  # they are not sent, and do not count among the positional arguments
    shown = whole.replace(parameters=[each for each in whole.parameters.values() if each.name not in provided])
    bound = shown.bind(*args, **kwargs)
    bound.apply_defaults()
    return {name: comparable(value) for name, value in bound.arguments.items()}


def _call_text(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    given = [*(repr(arg) for arg in args), *(f"{key}={value!r}" for key, value in kwargs.items())]
    return f"{name}({', '.join(given)})"

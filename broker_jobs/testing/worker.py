"""Runs one delivery at a time in the thread of the test, with the code of the real worker, and records exceptions."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Delivery, Message
from broker_jobs.clock import Clock
from broker_jobs.consumer import notices
from broker_jobs.consumer.event_sender import EventSender
from broker_jobs.consumer.observer import NoWorkerObserver
from broker_jobs.consumer.own_loop import OwnLoop
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.runner import Runner
from broker_jobs.consumer.running import Running
from broker_jobs.function.depends import REPLACED
from broker_jobs.function.hooks import Hooks, joined
from broker_jobs.function.registry import Function, Registry
from broker_jobs.messages import codec
from broker_jobs.messages.control import Control
from broker_jobs.messages.events import WorkerRef
from broker_jobs.producer.current_job import current_job


class ManualWorker:
    """A worker without threads."""

    def __init__(self, registry: Registry, broker: Broker, clock: Clock) -> None:
        self.errors: dict[str, BaseException] = {}
        """The last exception of each job that raised."""
        self.replaced: dict[Callable[..., Any], Callable[..., Any]] = {}
        """Provider -> what is called in its place."""
        self._registry = registry
        self._broker = broker
        self._clock = clock
        event_sender = EventSender(self._send, WorkerRef(id="tester"), clock, acknowledge=_do_nothing)
        reporter = Reporter(event_sender, clock, NoWorkerObserver(), _do_nothing)
        self._revocations = Revocations()
        self._loop = OwnLoop()
        self._runner = Runner(
            Running(),
            self._revocations,
            reporter,
            clock,
            self._hooks_of,
            run_coroutine=lambda coroutine, _: self._loop.run(coroutine),
            batch_of=registry.batch_of,
        )

    @property
    def paused(self) -> frozenset[str]:
        """The queues that are paused."""
        return self._revocations.paused

    def on_control(self, control: Control) -> None:
        """Apply a control message of the coordinator: fences, pauses."""
        self._revocations.learn(control, self._clock.monotonic())

    def run(self, delivery: Delivery) -> bool:
        """Run one delivery to its end. Its exception is reported to the coordinator, and recorded in `errors`.

        A job of another service is dropped, as its workers would run it.

        Returns:
            False if it did not run.
        """
        envelope = codec.decode(delivery.body)
        function = self._registry.get(envelope.job)
        if function is None:
            return False
        received = ReceivedDelivery(delivery, envelope, function, self._clock.monotonic())
        may_run = self._revocations.refuses(envelope, received.queue) is None
        token = REPLACED.set(self.replaced)
        try:
            if function.is_async:
                self._loop.run(self._runner.run_async(received))
            else:
                self._runner.run(received)
        finally:
            REPLACED.reset(token)
        return may_run

    def start(self) -> None:
        """Call the hooks of on_worker_start. Raises what they raise."""
        notices.start_worker(self._registry.all_hooks(), self._loop.run)

    def close(self) -> None:
        """Call the hooks of on_worker_stop, and close the event loop of the async jobs."""
        notices.stop_worker(self._registry.all_hooks(), self._loop.run)
        self._loop.close()

    def _hooks_of(self, function: Function) -> Hooks:
        own = Hooks()
        own.around.append(self._record_errors)
        return joined([self._registry.hooks_of(function), own])

    def _record_errors(self) -> Generator[None]:
        try:
            yield
        except BaseException as error:
            self.errors[current_job().id] = error
            raise

    def _send(self, body: bytes, ended: Callable[[str | None], None]) -> None:
        self._broker.publish([Message(names.REPORT, names.LOG_KEY, body, type="events")])
        ended(None)


def _do_nothing(value: object) -> None:
    """There is no delivery to acknowledge here, and no prefetch to adapt."""
    del value

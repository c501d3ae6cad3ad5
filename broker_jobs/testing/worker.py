"""Runs one delivery at a time in the test's own thread, through the worker's own steps, and keeps what was raised."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Delivery, Message
from broker_jobs.clock import Clock
from broker_jobs.consumer.event_loop import run_alone
from broker_jobs.consumer.event_sender import EventSender
from broker_jobs.consumer.observer import NoWorkerObserver
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.runner import Runner
from broker_jobs.consumer.running import Running
from broker_jobs.errors import UsageError
from broker_jobs.function.registry import Registry
from broker_jobs.messages import codec
from broker_jobs.messages.control import Control
from broker_jobs.messages.events import WorkerRef
from broker_jobs.producer.current_job import current_job


class ManualWorker:
    """A worker without threads."""

    def __init__(self, registry: Registry, broker: Broker, clock: Clock) -> None:
        self.errors: dict[str, BaseException] = {}
        """The last exception of each job that raised."""
        self._registry = registry
        self._broker = broker
        self._clock = clock
        event_sender = EventSender(self._send, WorkerRef(id="tester"), clock, acknowledge=_nothing)
        reporter = Reporter(event_sender, clock, NoWorkerObserver(), _nothing)
        self._revocations = Revocations()
        self._runner = Runner(
            Running(),
            self._revocations,
            reporter,
            clock,
            [*registry.around, self._keep_errors],
            run_coroutine=lambda coroutine, _: _alone(coroutine),
            batch_of=registry.batch_of,
        )

    @property
    def paused(self) -> frozenset[str]:
        """Queues nothing is taken from."""
        return self._revocations.paused

    def told(self, control: Control) -> None:
        """Hear what the coordinator tells workers: fences, pauses."""
        self._revocations.learn(control, self._clock.monotonic())

    def run(self, delivery: Delivery) -> bool:
        """Run one delivery to its end; what it raises is told to the coordinator, and kept. False: it may not run.

        A job of another service is left alone: it would be run over there.
        """
        envelope = codec.decode(delivery.body)
        function = self._registry.get(envelope.job)
        if function is None:
            return False
        received = ReceivedDelivery(delivery, envelope, function, self._clock.monotonic())
        may_run = self._revocations.refuses(envelope, received.queue) is None
        if function.is_async:
            _alone(self._runner.run_async(received))
        else:
            self._runner.run(received)
        return may_run

    def _keep_errors(self) -> Generator[None]:
        try:
            yield
        except BaseException as error:
            self.errors[current_job().id] = error
            raise

    def _send(self, body: bytes, ended: Callable[[str | None], None]) -> None:
        self._broker.publish([Message(names.REPORT, names.LOG_KEY, body, type="events")])
        ended(None)


def _nothing(what: object) -> None:
    """There are no deliveries to acknowledge here, and no prefetch to adapt."""
    del what


def _alone(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end; a test that is itself on an event loop has to do that in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run_alone(coroutine)
    coroutine.close()
    raise UsageError("inside a running event loop a Tester cannot run async jobs: call tester.run() in a thread")

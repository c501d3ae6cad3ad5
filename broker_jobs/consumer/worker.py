"""Wires a worker together: deliveries arrive, attempts run, outcomes are reported, deliveries are acknowledged.

A worker decides nothing else: it runs, reports, acknowledges, in that order. The caller starts the broker and declares
the queues before it makes a worker.

Over 300 lines: it starts and stops all parts of a worker, in one order.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Consumer, Message, PublishFailure
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.consumer.acknowledger import Acknowledger
from broker_jobs.consumer.child_pool import ChildPool
from broker_jobs.consumer.control import ControlSubscription
from broker_jobs.consumer.dead_letter import DeadLetterPublisher
from broker_jobs.consumer.event_loop import EventLoop
from broker_jobs.consumer.event_sender import EventSender
from broker_jobs.consumer.flow_control import FlowControl
from broker_jobs.consumer.heartbeat import HeartbeatSender
from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.maintenance import MaintenanceThread
from broker_jobs.consumer.monitor import Monitor
from broker_jobs.consumer.observer import NoWorkerObserver, WorkerObserver
from broker_jobs.consumer.overdue import OverdueRuns
from broker_jobs.consumer.receiver import Receiver
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.runner import Runner
from broker_jobs.consumer.running import Run, Running
from broker_jobs.consumer.stalls import StallWatch
from broker_jobs.consumer.thread_pool import ThreadPool
from broker_jobs.errors import UsageError
from broker_jobs.function.registry import Registry
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.events import WorkerRef
from broker_jobs.settings import Settings

logger = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
"""How long a worker waits for the coordinator's answer before it works without."""
STOP_SECONDS = 1.0
"""What functions get to end after they were asked to stop at the end of a shutdown."""
CANCEL_SECONDS = 5.0
"""What RabbitMQ gets to end the deliveries; those that still come meanwhile are returned."""
STOP_NOW_SECONDS = 1.0
"""What the confirms get when there is no time; what has none counts as a crash of this worker."""
FLUSH_SECONDS = 5.0
"""What the confirms of the last outcomes get."""


class Worker:
    """Runs the jobs of some queues in this process. Started once, stopped once; both tolerate twice and never."""

    def __init__(
        self,
        registry: Registry,
        broker: Broker,
        *,
        queues: Sequence[str],
        concurrency: int,
        settings: Settings,
        clock: Clock | None = None,
        ref: WorkerRef | None = None,
        observer: WorkerObserver | None = None,
        on_leave: Callable[[str], None] | None = None,
        load: Callable[[], Registry] | None = None,
    ) -> None:
        """Connects to nothing; start() does.

        Args:
            on_leave: called once with the reason when this process should leave and be replaced, as a job in it cannot
                be ended. None: the process goes on, and other jobs get the capacity that such jobs hold.
            load: returns the registry in a fresh process, for jobs with isolation="process"; it must pickle.
        """
        self.ref = ref or _own_ref()
        self._broker = broker
        self._queues = tuple(queues)
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._observer: WorkerObserver = observer or NoWorkerObserver()
        self._lock = threading.Lock()
        self._started = False
        self._stopping = False
        self._stopped = False
        self._subscription: Consumer | None = None
        self._next_second = 0.0

        self._running = Running()
        self._revocations = Revocations()
        self._acknowledger = Acknowledger(self._clock)
        self._event_sender = EventSender(self._send, self.ref, self._clock, acknowledge=self._acknowledger.acknowledge)
        self._flow_control = FlowControl(
            self._queues,
            self._revocations,
            self._event_sender,
            self._running,
            concurrency=concurrency,
            prefetch_max=settings.prefetch_max,
        )
        self._reporter = Reporter(
            self._event_sender, self._clock, self._observer, self._flow_control.ran, volatile=settings.in_memory
        )
        self._dead_letter_publisher = DeadLetterPublisher(broker, self._acknowledger, settings.publish_timeout)
        self._children = ChildPool(load, self._reporter.line)
        self._runner = Runner(
            self._running,
            self._revocations,
            self._reporter,
            self._clock,
            registry.around,
            run_coroutine=self._run_coroutine,
            batch_of=registry.batch_of,
            run_isolated=self._children.run,
        )
        self._ready = LocalQueue(self._queues)
        self._ready_async = LocalQueue(self._queues)
        self._threads = ThreadPool(self._ready, self._runner.run, concurrency)
        self._loop = EventLoop(self._ready_async, self._runner.run_async, concurrency)
        self._receiver = Receiver(
            registry=registry,
            acknowledger=self._acknowledger,
            dead_letter_publisher=self._dead_letter_publisher,
            reporter=self._reporter,
            fences=self._revocations,
            clock=self._clock,
            observer=self._observer,
            sync=self._ready,
            wake_threads=self._threads.wake,
            asynchronous=self._ready_async,
            wake_loop=self._loop.wake,
        )
        self._stalls = StallWatch(self._loop, self._running, self._observer, self._clock)
        self._heartbeat_sender = HeartbeatSender(
            event_sender=self._event_sender,
            clock=self._clock,
            running=self._running,
            ready=(self._ready, self._ready_async),
            fences=self._revocations,
            reporter=self._reporter,
            queues=self._queues,
            concurrency=concurrency,
            period_seconds=settings.worker_heartbeat,
            version=_version(),
            busy=lambda: self._stalls.busy,
        )
        self._monitor = Monitor(
            running=self._running,
            ready=(self._ready, self._ready_async),
            reporter=self._reporter,
            acknowledger=self._acknowledger,
            heartbeat_sender=self._heartbeat_sender,
            clock=self._clock,
            handover_after=settings.handover_after,
            timeout_grace=settings.timeout_grace,
            overdue=OverdueRuns(
                concurrency,
                lambda run, by: (self._loop if run.received.function.on_loop else self._threads).resize(by),
                on_leave,
            ),
        )
        self._control = ControlSubscription(
            broker,
            self._clock,
            self._revocations,
            self.ref,
            queues=self._queues,
            version=_version(),
            running=self._runs,
            cancel=self._running.cancel,
            changed=self._control_changed,
        )
        self._maintenance = MaintenanceThread(self._begin, self._look)

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._started and not self._stopping

    @property
    def interrupted(self) -> bool:
        """Whether runs were cut off, which, or threads that they started, may go on until the process ends."""
        return self._reporter.interrupted > 0

    def start(self) -> None:
        """Begin: say hello, then take jobs. Returns at once.

        Raises:
            UsageError: it has been stopped; make a new one.
        """
        with self._lock:
            if self._stopping:
                raise UsageError("this worker was stopped; make a new one")
            if self._started:
                return
            self._started = True
        self._maintenance.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Receive no more jobs, return those that have not started, let running ones end, and report all of it.

        Jobs that still run after `timeout` seconds are asked to stop and have a second for it; coroutines are
        cancelled. A job that runs even then is reported as interrupted: its thread ends with the process, its delivery
        returns to RabbitMQ, and the job runs again. Returns whether all jobs have ended.
        """
        if not self._refuse_new():
            return len(self._running) == 0
        logger.info("worker %s stops: %d running jobs have %g s to end", self.ref.id, len(self._running), timeout)
        if self._subscription is not None:
            self._subscription.cancel()
        self._return_unstarted()
        if not self._wait(self._only_overdue, timeout):
            logger.warning("%d jobs still run after %g s; they are asked to stop", len(self._running), timeout)
            self._cancel_runs()
            self._wait(self._only_overdue, STOP_SECONDS)
        self._cut_off_runs()
        subscription = self._subscription
        if subscription is not None and not self._wait(lambda: not subscription.consuming, CANCEL_SECONDS):
            logger.warning("deliveries did not stop in %g s; those on their way return to the queue", CANCEL_SECONDS)
        ended = len(self._running) == 0
        if ended:  # every received job is reported
            ended = self._threads.stop(STOP_SECONDS) and self._loop.stop(STOP_SECONDS)
        reported = self._wait(
            lambda: self._event_sender.waiting == 0 and self._dead_letter_publisher.waiting == 0, FLUSH_SECONDS
        )
        if reported:
            self._heartbeat_sender.beat(leaving=True)
            reported = self._wait(lambda: self._event_sender.waiting == 0, FLUSH_SECONDS)
        if not reported:
            logger.error(
                "%d outcomes were not confirmed; their deliveries return to the queue", self._event_sender.waiting
            )
        self._acknowledger.acknowledge_rest()
        self._end()
        return ended

    def stop_now(self) -> None:
        """Stop at once: report what runs as interrupted without waiting for it; unacknowledged deliveries go back."""
        first = self._refuse_new()
        if first:
            self._return_unstarted()
        self._cancel_runs()
        self._cut_off_runs()
        self._wait(lambda: self._event_sender.waiting == 0, STOP_NOW_SECONDS)
        if first or not self._stopped:
            self._end(wait=False)

    # --- begin and end ---

    def _begin(self) -> None:
        self._control.start()
        if not self._control.answered.wait(HELLO_SECONDS):
            logger.warning(
                "no coordinator answered in %g s: jobs run and are reported, but deletes and pauses are not known; "
                "they are applied when it answers",
                HELLO_SECONDS,
            )
        with self._lock:
            if self._stopping:
                return
            self._subscription = self._broker.subscribe(
                [names.work_queue(queue) for queue in self._queues],
                self._receiver.take,
                prefetch=self._flow_control.prefetch,
                on_lost=self._lost,
            )
        self._acknowledger.use(self._subscription)
        self._flow_control.use(self._subscription)
        logger.info("worker %s serves the queues %s", self.ref.id, ", ".join(self._queues))

    def _refuse_new(self) -> bool:
        """Begin to stop; whether this call is the one that does it."""
        with self._lock:
            if self._stopping or not self._started:
                self._stopping = True
                return False
            self._stopping = True
        self._control.answered.set()  # ends the wait for the answer
        self._receiver.close()
        self._runner.refuse_new()
        return True

    def _end(self, *, wait: bool = True) -> None:
        self._stopped = True
        self._maintenance.stop(1.0 if wait else 0.0)
        self._control.stop()
        if self._subscription is not None and (self._settings.in_memory or not self.interrupted):
            self._subscription.close()  # else the end of the process does, and with it of what was cut off
        self._children.stop()
        self._threads.stop(0.0)
        self._loop.stop(0.0)

    def _return_unstarted(self) -> None:
        for ready in (self._ready, self._ready_async):
            for received in ready.remove(lambda _: True):
                self._reporter.return_delivery(received, "shutdown")

    def _cancel_runs(self) -> None:
        for run in self._running.all():
            run.cancel("shutdown")

    def _only_overdue(self) -> bool:
        return all(run.overdue for run in self._running.all())

    def _cut_off_runs(self) -> None:
        for run in self._running.all():
            self._reporter.cut_off(run)

    def _wait(self, done: Callable[[], bool], timeout: float) -> bool:
        deadline = time.monotonic() + timeout  # people's time, whatever clock the worker was given
        while not done():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        return True

    # --- while it runs ---

    def _look(self) -> None:
        self._stalls.begin_look()
        try:
            self._look_at_parts()
        finally:
            self._stalls.end_look()

    def _look_at_parts(self) -> None:
        self._event_sender.repeat_failed()
        self._dead_letter_publisher.repeat()
        self._acknowledger.look()
        self._monitor.look()
        self._heartbeat_sender.look()
        now = self._clock.monotonic()
        self._flow_control.look(now)
        if now >= self._next_second:
            self._next_second = now + 1.0
            self._revocations.forget(now)
            held = len(self._ready) + len(self._ready_async)
            self._observer.in_flight(len(self._running), held, self._event_sender.waiting)

    def _lost(self, channel: int) -> None:
        """The broker has the deliveries of this channel again: those that have not started must not start here."""
        self._acknowledger.lost(channel)
        dropped = 0
        for ready in (self._ready, self._ready_async):
            dropped += len(ready.remove(lambda received: received.place.channel == channel))
        logger.warning(
            "the connection was lost: RabbitMQ redelivers %d unstarted jobs; %d running ones continue, then report",
            dropped,
            len(self._running),
        )

    def _control_changed(self) -> None:
        self._flow_control.apply_pauses()
        if paused := self._revocations.paused:
            for ready in (self._ready, self._ready_async):
                for received in ready.remove(lambda received: received.queue in paused):
                    self._reporter.return_delivery(received, "pause")

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any], run: Run) -> Any:
        return self._loop.run_coroutine(coroutine, run)

    def _runs(self) -> list[tuple[str, int]]:
        return [(run.received.envelope.id, run.received.envelope.epoch) for run in self._running.all()]

    def _send(self, body: bytes, ended: Callable[[str | None], None]) -> None:
        message = Message(names.REPORT, names.LOG_KEY, body, type="events")
        future = self._broker.publish([message], timeout=self._settings.publish_timeout)
        future.add_done_callback(partial(_told, ended))


def _told(ended: Callable[[str | None], None], future: Future[list[PublishFailure | None]]) -> None:
    failure = future.result()[0]
    ended(None if failure is None else failure.reason or failure.kind.value)


def _own_ref() -> WorkerRef:
    own_id = new_id()  # also its slot: it replaces no other worker
    return WorkerRef(id=own_id, host=socket.gethostname(), slot=own_id, pid=os.getpid())


def _version() -> str:
    try:
        return version("broker-jobs")
    except PackageNotFoundError:
        return ""

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
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from broker_jobs import logs
from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Consumer, Message, PublishFailure
from broker_jobs.broker.topology import work_topology
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.consumer import job_records, notices
from broker_jobs.consumer.acknowledger import Acknowledger
from broker_jobs.consumer.changes import Serves, changed
from broker_jobs.consumer.child_pool import ChildPool
from broker_jobs.consumer.control import ControlSubscription
from broker_jobs.consumer.dead_letter import DeadLetterPublisher
from broker_jobs.consumer.event_sender import EventSender
from broker_jobs.consumer.flow_control import FlowControl, RunTimes
from broker_jobs.consumer.heartbeat import HeartbeatSender
from broker_jobs.consumer.local_queue import LocalQueue
from broker_jobs.consumer.maintenance import MaintenanceThread
from broker_jobs.consumer.monitor import Monitor
from broker_jobs.consumer.observer import NoWorkerObserver, WorkerObserver
from broker_jobs.consumer.overdue import OverdueRuns
from broker_jobs.consumer.program_code import ProgramCode
from broker_jobs.consumer.received_delivery import ReceivedDelivery
from broker_jobs.consumer.receiver import Receiver
from broker_jobs.consumer.recycling import OnLeave, Recycling
from broker_jobs.consumer.reporter import Reporter
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.consumer.runner import Runner
from broker_jobs.consumer.running import Board, Run, Running
from broker_jobs.consumer.stalls import StallWatch
from broker_jobs.consumer.starter import Starter
from broker_jobs.consumer.windows import Windows
from broker_jobs.errors import BrokerError, UsageError
from broker_jobs.function.registry import Registry
from broker_jobs.messages.control import WorkerChange
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.events import ReturnReason, WorkerRef
from broker_jobs.served_queues import ServedQueues
from broker_jobs.settings import Settings

logger = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
"""How long a worker waits for the coordinator's answer before it works without."""
STOP_SECONDS = 1.0
"""What functions get to end after they were asked to stop at the end of a shutdown."""
STOP_HOOK_SECONDS = 5.0
"""What each async hook of on_worker_stop gets: a job that cannot be ended may block the loop."""
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
        board: Board | None = None,
        on_leave: OnLeave | None = None,
        load: Callable[[], Registry] | None = None,
    ) -> None:
        """Connects to nothing; start() does.

        Args:
            registry: the jobs that it can run.
            broker: started.
            queues: preferred first.
            concurrency: jobs at once.
            settings: everything else.
            clock: None: the clock of this machine.
            ref: its identity; None: a new one.
            observer: receives what metrics count.
            board: shows a supervisor what it runs.
            on_leave: called once when this worker takes no more jobs and its process is to be replaced, as after
                `max_jobs`, or as a job in it cannot be ended. None: nothing replaces it; it never leaves by itself, and
                other jobs get the capacity that such jobs hold.
            load: returns the registry in a fresh process, for jobs with isolation="process"; it must pickle.
        """
        self.ref = ref or _own_ref()
        self._broker = broker
        self._as_started = Serves(ServedQueues.parse(queues, settings.queue_limits), concurrency)
        self.serves = self._as_started
        """A person may change it."""
        self._hooks = registry.all_hooks
        self._hooked = False
        """Whether the hooks of on_worker_start have returned."""
        self._declared_queues = {function.options.queue for function in registry}
        self._asked: deque[WorkerChange] = deque()
        self._changed_by = ""
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._observer: WorkerObserver = observer or NoWorkerObserver()
        self._stop_until = float("inf")
        self._lock = threading.Lock()
        self._started = False
        self._stopping = False
        self._stopped = False
        self._subscription: Consumer | None = None
        self._next_second = 0.0

        self._running = Running(board)
        self.recycling = Recycling(on_leave, max_jobs=settings.max_jobs, max_memory=settings.max_memory)
        self._revocations = Revocations()
        self._acknowledger = Acknowledger(self._clock)
        self._event_sender = EventSender(self._send, self.ref, self._clock, acknowledge=self._acknowledger.acknowledge)
        self._run_times = RunTimes()
        self._reporter = Reporter(
            self._event_sender, self._clock, self._observer, self._run_times.ran, volatile=settings.in_memory
        )
        job_records.install()
        self._dead_letter_publisher = DeadLetterPublisher(broker, self._acknowledger, settings.publish_timeout)
        self._children = ChildPool(load, self._reporter.line, settings.max_memory)
        self._runner = Runner(
            self._running,
            self._revocations,
            self._reporter,
            self._clock,
            registry.hooks_of,
            run_coroutine=self._run_coroutine,
            batch_of=registry.batch_of,
            may_begin=self.recycling.begin,
            run_isolated=self._children.run,
        )
        self._local_queue = LocalQueue(self.serves.queues, concurrency)
        self._starter = Starter(self._local_queue, self._runner.run, self._runner.run_async)
        self._flow_control = FlowControl(
            Windows(
                self.serves.queues,
                self._local_queue,
                min(settings.prefetch_max, self.recycling.max_jobs or settings.prefetch_max),
            ),
            self._starter,
            run_times=self._run_times,
            fences=self._revocations,
            event_sender=self._event_sender,
            running=self._running,
        )
        self._starter.on_free = self._flow_control.freed
        self._receiver = Receiver(
            registry=registry,
            acknowledger=self._acknowledger,
            dead_letter_publisher=self._dead_letter_publisher,
            reporter=self._reporter,
            fences=self._revocations,
            clock=self._clock,
            observer=self._observer,
            ready=self._starter.take,
        )
        self._stalls = StallWatch(self._starter.loop, self._running, self._observer, self._clock)
        code = ProgramCode(settings.service, registry)
        self.heartbeats = HeartbeatSender(
            event_sender=self._event_sender,
            clock=self._clock,
            running=self._running,
            held=self._starter.held,
            fences=self._revocations,
            reporter=self._reporter,
            serves=lambda: self.serves,
            period_seconds=settings.worker_heartbeat,
            version=_version(),
            code=code,
            problem=lambda: "; ".join(self.problems()),
            busy=lambda: self._stalls.busy,
        )
        self._monitor = Monitor(
            running=self._running,
            reporter=self._reporter,
            acknowledger=self._acknowledger,
            heartbeat_sender=self.heartbeats,
            clock=self._clock,
            handover_after=settings.handover_after,
            handed_over=self._flow_control.handed_over,
            timeout_grace=settings.timeout_grace,
            overdue=OverdueRuns(
                concurrency, self._starter.add_slots, None if on_leave is None else self.recycling.leave
            ),
        )
        self._control = ControlSubscription(
            broker,
            self._clock,
            self._revocations,
            self.ref,
            queues=lambda: self.serves.queues.names,
            version=_version(),
            code=code,
            running=self._running.ids,
            cancel=self._running.cancel,
            changed=self._control_changed,
            on_change=self._asked.append,
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

    def problems(self) -> list[str]:
        """Why it takes no jobs, or not all; an empty list: it does, or has been told to stop."""
        if not self.running:
            return []
        problems = [self._maintenance.problem(), self._starter.threads.problem(), self._starter.loop.problem()]
        if self._subscription is not None:
            problems.append(self._subscription.problem)
        return [problem for problem in problems if problem]

    def hurry(self, timeout: float) -> None:
        """Shorten the time of a graceful stop that has begun, to `timeout` seconds from now."""
        self._stop_until = min(self._stop_until, time.monotonic() + timeout)

    def start(self) -> None:
        """Begin: call the hooks of on_worker_start, say hello, then take jobs.

        Raises:
            UsageError: it has been stopped; make a new one.
            Exception: whatever a hook raises; it takes no jobs.
        """
        with self._lock:
            if self._stopping:
                raise UsageError("this worker was stopped; make a new one")
            if self._started:
                return
            self._started = True
        notices.start_worker(self._hooks(), self._starter.loop.run_here)
        self._hooked = True
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
        self.hurry(timeout)
        if not _wait(self._running.has_only_overdue, lambda: self._stop_until):
            logger.warning("%d jobs still run after %g s; they are asked to stop", len(self._running), timeout)
            self._running.cancel_all()
            _wait_for(self._running.has_only_overdue, STOP_SECONDS)
        self._cut_off_runs()
        subscription = self._subscription
        if subscription is not None and not _wait_for(lambda: not subscription.consuming, CANCEL_SECONDS):
            logger.warning("deliveries did not stop in %g s; those on their way return to the queue", CANCEL_SECONDS)
        if self._hooked:
            notices.stop_worker(self._hooks(), partial(self._starter.loop.run_here, timeout=STOP_HOOK_SECONDS))
        ended = len(self._running) == 0
        if ended:  # every received job is reported
            ended = self._starter.threads.stop(STOP_SECONDS) and self._starter.loop.stop(STOP_SECONDS)
        reported = _wait_for(
            lambda: self._event_sender.waiting == 0 and self._dead_letter_publisher.waiting == 0, FLUSH_SECONDS
        )
        if reported:
            self.heartbeats.beat(leaving=True)
            reported = _wait_for(lambda: self._event_sender.waiting == 0, FLUSH_SECONDS)
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
        self._running.cancel_all()
        self._cut_off_runs()
        _wait_for(lambda: self._event_sender.waiting == 0, STOP_NOW_SECONDS)
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
                [name for queue in self.serves.queues.names for name in names.work_queues(queue)],
                self._receiver.take,
                prefetch=self._flow_control.prefetch,
                on_lost=self._lost,
            )
        self._acknowledger.use(self._subscription)
        self._flow_control.use(self._subscription)
        logger.info("worker %s serves the queues %s", self.ref.id, ", ".join(self.serves.queues.written()))
        if others := sorted(self._declared_queues - {*self.serves.queues.names}):
            logger.warning(
                "jobs of this program are sent to queues that this worker does not serve: %s; another worker must, or "
                "name them in --queues, BROKER_JOBS_QUEUES or jobs.start(queues=…)",
                ", ".join(others),
            )
        self._stalls.end_look()  # a job may begin before the first look

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
        self._starter.threads.stop(0.0)
        self._starter.loop.stop(0.0)

    def _return_unstarted(self) -> None:
        self._return(self._starter.remove(lambda _: True), "shutdown")

    def _return(self, deliveries: Iterable[ReceivedDelivery], reason: ReturnReason) -> None:
        for received in deliveries:
            self._reporter.return_delivery(received, reason)

    def _cut_off_runs(self) -> None:
        for run in self._running.all():
            self._reporter.cut_off(run)
            self._running.hide(run)

    # --- while it runs ---

    def _look(self) -> None:
        self._stalls.begin_look()
        try:
            self._look_at_parts()
        finally:
            self._stalls.end_look()

    def _look_at_parts(self) -> None:
        while self._asked:
            self._change(self._asked.popleft())
        self._event_sender.repeat_failed()
        self._dead_letter_publisher.repeat()
        self._acknowledger.look()
        self._monitor.look()
        self._starter.look()
        self.heartbeats.look()
        now = self._clock.monotonic()
        self._return(self._flow_control.late(now), "waited too long")
        self._flow_control.look(now)
        if now >= self._next_second:
            self._next_second = now + 1.0
            self._revocations.forget(now)
            self.recycling.look()
            self._control.look()
            logs.enable_again()
            self._observer.in_flight(len(self._running), len(self._starter), self._event_sender.waiting)

    def _change(self, change: WorkerChange) -> None:
        """Do what a person has asked for, until this worker restarts."""
        if change.id == self._changed_by:  # it comes with each snapshot
            return
        self._changed_by = change.id
        try:
            serves = changed(self._as_started, change)
            new = [queue for queue in serves.queues.names if queue not in self.serves.queues.names]
            if new and self._settings.declare:
                self._broker.apply(work_topology(*new))
        except (ValueError, BrokerError) as error:
            logger.error("a change of this worker is not applied: %s", error)
            return
        self.serves = serves
        self._return(self._flow_control.change(serves.queues, serves.concurrency), "pause")
        self.heartbeats.beat_soon()
        logger.info(
            "worker %s was changed: it runs %d jobs at once and serves the queues %s",
            self.ref.id,
            serves.concurrency,
            ", ".join(serves.queues.written()),
        )

    def _lost(self, channel: int) -> None:
        """The broker has the deliveries of this channel again: those that have not started must not start here."""
        self._acknowledger.lost(channel)
        self._flow_control.lost()
        dropped = len(self._starter.remove(lambda received: received.place.channel == channel))
        logger.warning(
            "the connection was lost: RabbitMQ redelivers %d unstarted jobs; %d running ones continue, then report",
            dropped,
            len(self._running),
        )

    def _control_changed(self) -> None:
        self._flow_control.apply_pauses()
        if paused := self._revocations.paused:
            self._return(self._starter.remove(lambda received: received.queue in paused), "pause")

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any], run: Run) -> Any:
        return self._starter.loop.run_coroutine(coroutine, run)

    def _send(self, body: bytes, ended: Callable[[str | None], None]) -> None:
        message = Message(names.REPORT, names.LOG_KEY, body, type="events")
        future = self._broker.publish([message], timeout=self._settings.publish_timeout)
        future.add_done_callback(partial(_told, ended))


def _wait_for(done: Callable[[], bool], timeout: float) -> bool:
    until = time.monotonic() + timeout  # people's time, whatever clock the worker was given
    return _wait(done, lambda: until)


def _wait(done: Callable[[], bool], until: Callable[[], float]) -> bool:
    while not done():
        if time.monotonic() >= until():
            return False
        time.sleep(0.005)
    return True


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

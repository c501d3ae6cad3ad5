"""Runs worker, coordinator and beat as threads of one process, on one broker.

`BrokerJobs.start()` and `broker-jobs run` on memory:// use it with all roles, other processes with one or two. The
caller stops the broker afterwards. Over 300 lines: start, stop and health of the same three components belong together.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from broker_jobs.broker.interface import Broker
from broker_jobs.broker.topology import fixed_topology, work_topology
from broker_jobs.clock import Clock, SystemClock
from broker_jobs.errors import UsageError
from broker_jobs.extras import require, store_extras
from broker_jobs.function.describe import describe
from broker_jobs.function.registry import Registry
from broker_jobs.messages.commands import FunctionInfo, Schedule, Subscription
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.events import WorkerRef
from broker_jobs.metrics import BEAT_LATENESS, Metrics, expose
from broker_jobs.processes.declare import Declarer
from broker_jobs.processes.declared_queues import check_queues, serving_declared
from broker_jobs.processes.health import Health
from broker_jobs.processes.observers import CoordinatorMetrics, WorkerMetrics, watch_broker
from broker_jobs.processes.outages import OutageLog
from broker_jobs.settings import Settings

if TYPE_CHECKING:
    from broker_jobs.beat.beat import Beat
    from broker_jobs.consumer.recycling import OnLeave
    from broker_jobs.consumer.running import Board
    from broker_jobs.consumer.worker import Worker
    from broker_jobs.coordinator.service import Coordinator
    from broker_jobs.store import Store

logger = logging.getLogger(__name__)

Role: TypeAlias = Literal["worker", "coordinator", "beat"]
ROLES: tuple[Role, ...] = ("coordinator", "worker", "beat")
"""In the order of their start."""

CONNECT_SECONDS = 5.0
"""The longest wait for RabbitMQ before a start fails."""
SUBSCRIBE_SECONDS = 5.0
"""The longest wait for the coordinator to record the subscriptions, where it runs in the same process."""
MOST_SHOWN = 3
"""Names that an error lists."""
COORDINATOR_STOP_SECONDS = 10.0
"""The time the coordinator gets to commit its open transaction and to publish its releases."""


class Program:
    """The worker, coordinator and beat of one process, or some of them."""

    def __init__(
        self,
        registry: Registry | None,
        settings: Settings,
        broker: Broker,
        recurring: Sequence[Schedule] = (),
        *,
        subscriptions: Sequence[Subscription] = (),
        roles: Collection[str] = ROLES,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        id: str = "",
        slot: str = "",
        board: Board | None = None,
        on_fatal: Callable[[str], None] | None = None,
        on_leave: OnLeave | None = None,
        load: Callable[[], Registry] | None = None,
        all_queues: bool = False,
    ) -> None:
        """Connects to nothing; start() does.

        Args:
            registry: the jobs that the worker can run; None only without the role worker.
            settings: queues, concurrency and everything else.
            broker: started by the caller or by start(); stopped by the caller.
            recurring: the recurring jobs that the code declares; published by the beat.
            subscriptions: the subscriptions that the code declares; published by a worker and a beat.
            roles: some of "worker", "coordinator", "beat".
            metrics: receives the counts; None: they are not read.
            clock: None: the clock of this machine.
            id: of the worker, the coordinator and the beat; empty: a new one.
            slot: identifies the worker's place on this host; the next worker in it names this one as its predecessor.
            board: shows a supervisor what the worker runs; None: there is none.
            on_fatal: called with the reason when the coordinator cannot continue; None: the reason is only logged.
            on_leave: called once, with the reason, when the worker takes no more jobs and this process is to be
                replaced, as after `max_jobs`, or as a job in it cannot be ended; None: nothing replaces it, so it never
                leaves by itself, and other jobs get the place of such a job.
            load: returns the registry in a fresh process, for jobs with isolation="process"; it must pickle.
            all_queues: the worker serves all queues that the code declares, unless the settings name queues.

        Raises:
            UsageError: an unknown role, no role, a worker without a registry, or a program on RabbitMQ that would
                declare recurring jobs or subscriptions and has no name.
            OptionError: a queue has a limit and is not served.
            MissingExtra: the libraries of a role are not installed.
        """
        unknown = set(roles) - set(ROLES)
        if unknown or not roles:
            raise UsageError(f"roles are some of {', '.join(ROLES)}; not {', '.join(sorted(unknown)) or 'none'}")
        if "worker" in roles and registry is None:
            raise UsageError("a worker needs the registry of the jobs it is to run")
        require_roles(roles, settings)
        if "beat" in roles:
            require_service(settings, "recurring job", [one.name for one in recurring])
        if {"worker", "beat"} & {*roles}:
            require_service(settings, "subscription", [one.event for one in subscriptions])
        if "worker" in roles and registry is not None:
            if all_queues:
                settings = serving_declared(settings, registry, recurring, subscriptions)
            check_queues(settings)
        self.metrics = metrics or Metrics()
        self.broker = broker
        watch_broker(self.metrics, broker, role_of(roles))
        self.settings = settings
        self.id = id or new_id()
        self._registry = registry
        self._recurring = tuple(recurring)
        self._subscriptions = tuple(subscriptions)
        self._roles = tuple(role for role in ROLES if role in roles)
        self._service = settings.declared_by
        self._board = board
        self._on_fatal = on_fatal
        self._on_leave = on_leave
        self._load = load
        self._clock = clock or SystemClock()
        # Without a slot a worker has no predecessor: two programs on one host may serve one application.
        self._ref = WorkerRef(id=self.id, host=socket.gethostname(), slot=slot or self.id, pid=os.getpid())
        self._lock = threading.RLock()
        self._pid = 0
        self.interrupted = False
        """Whether the stop interrupted runs: their threads end with the process, which should exit soon."""
        self.store: Store | None = None
        self.coordinator: Coordinator | None = None
        self.worker: Worker | None = None
        self.beat: Beat | None = None
        self._declarer: Declarer | None = None
        self._outages: OutageLog | None = None

    @property
    def started(self) -> bool:
        """Whether start() has been called and stop() has not."""
        return self._pid != 0

    def start(self) -> None:
        """Start coordinator, worker and beat. Calling it again does nothing.

        Raises:
            UsageError: it was started in another process, before a fork.
            BrokerError: RabbitMQ refuses or cannot be reached. What had started is stopped again.
            StoreError: the store cannot be used.
        """
        with self._lock:
            if self._pid == os.getpid():
                return
            if self._pid:
                raise UsageError(
                    f"started in process {self._pid}, this is {os.getpid()}; "
                    "call start() after the fork (gunicorn: post_fork)"
                )
            self._pid = os.getpid()
            try:
                self._start_components()
            except BaseException:
                self.stop(0)
                raise

    def stop(self, timeout: float | None = None) -> bool:
        """Stop beat, worker, coordinator and store. May be called twice, and without start().

        Args:
            timeout: seconds that running jobs get to finish; None: settings.shutdown_timeout. Jobs that have not
                started return to the queue at once. Jobs that still run afterwards are stopped and reported as
                interrupted: that costs no retry, and they run again. What cannot be stopped ends with the process.

        Returns:
            Whether all running jobs have ended.
        """
        if self._pid not in {0, os.getpid()}:
            return True  # forked: the threads of the components are in the other process
        seconds = self.settings.shutdown_timeout if timeout is None else timeout
        finished = True

        def stop_worker(worker: Worker) -> None:
            nonlocal finished
            finished = worker.stop(seconds)
            self.interrupted = worker.interrupted

        # The callbacks run in reverse order. If one raises, the others still run.
        with self._lock, ExitStack() as stack:
            stack.callback(self._reset)
            if self._outages is not None:
                stack.callback(self._outages.stop)
            if self.store is not None:
                stack.callback(self.store.close)
            if self.coordinator is not None:
                stack.callback(self.coordinator.stop, COORDINATOR_STOP_SECONDS)
            if self.worker is not None:
                stack.callback(stop_worker, self.worker)
            if self.beat is not None:
                stack.callback(self.beat.stop)
            if self._declarer is not None:
                stack.callback(self._declarer.stop)
        return finished

    def _reset(self) -> None:
        self.beat = self.worker = self.coordinator = self.store = self._declarer = None
        self._pid = 0

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Declare the subscriptions of the code: all of them, not the difference. A worker or a beat must run here.

        Raises:
            UsageError: there are some, and the program has no name.
        """
        if not {"worker", "beat"} & {*self._roles}:
            return
        require_service(self.settings, "subscription", [one.event for one in subscriptions])
        with self._lock:
            if not self.started:
                return
            if self._declarer is not None:
                self._declarer.stop(0)
            functions = None if self._registry is None else self._describe_functions
            self._declarer = Declarer(
                self.broker, self._clock, self._service, subscriptions, self.id, functions=functions
            )
            self._declarer.start()
            if subscriptions and self.coordinator is not None:
                self._declarer.wait(SUBSCRIBE_SECONDS)

    def declare_recurring(self, schedules: Sequence[Schedule]) -> None:
        """Declare the recurring jobs of the code: all of them, not the difference. A beat must run here.

        Raises:
            UsageError: there are some, and the program has no name.
        """
        require_service(self.settings, "recurring job", [one.name for one in schedules])
        if self.beat is not None:
            self.beat.declare(schedules)

    def _describe_functions(self) -> list[FunctionInfo]:
        """Describe the functions of the code, for the dashboard's forms."""
        assert self._registry is not None
        return [describe(function, self.settings.mask) for function in self._registry]

    def stop_now(self) -> None:
        """Stop without waiting for running jobs: they run again. For a second signal; safe in any thread."""
        if (worker := self.worker) is not None:
            worker.stop_now()

    def health(self) -> Health:
        """The state of this process, for /healthz. Makes no network request."""
        worker, coordinator, beat = self.worker, self.coordinator, self.beat
        components: dict[str, Any] = {
            "broker": {"connected": self.broker.connected, "blocked": self.broker.blocked},
        }
        reasons: list[str] = []
        by_role = {"worker": worker, "coordinator": coordinator, "beat": beat}
        # Not healthy before the start is over: a coordinator may wait for its store.
        waiting = [role for role in self._roles if by_role[role] is None]
        if not self.started or waiting:
            reasons.append(f"not started yet: {', '.join(waiting or self._roles)}")
        if not self.broker.connected:
            reasons.append("not connected to RabbitMQ; it reconnects by itself")
        if worker is not None:
            problems = worker.problems()
            components["worker"] = {"running": worker.running, "problems": problems}
            reasons += problems
        if coordinator is not None:
            healthy, detail = coordinator.healthy()
            components["coordinator"] = {"active": coordinator.active, "healthy": healthy, "detail": detail}
            reasons += [] if healthy else [f"coordinator: {detail}"]
        if beat is not None:
            components["beat"] = {"started": True}
        return Health(not reasons, components, tuple(reasons))

    def expose(self) -> tuple[bytes, str]:
        """The metrics in the text format of Prometheus, and its content type."""
        return expose([self.metrics.snapshot()])

    def _fired(self, name: str, late_seconds: float) -> None:
        del name  # a label per recurring job would grow without bound where each tenant has one
        self.metrics.observe(BEAT_LATENESS, late_seconds)

    def _start_components(self) -> None:
        self.broker.start(CONNECT_SECONDS)
        self._outages = OutageLog(self.broker, self._roles)
        self._outages.start()
        if self.settings.declare:
            self.broker.apply(fixed_topology())
            if "worker" in self._roles:
                self.broker.apply(work_topology(*self.settings.queue_names))
        # Imported per role: a worker needs no database library, a coordinator none of the worker.
        if "coordinator" in self._roles:
            from broker_jobs.coordinator.service import Coordinator  # noqa: PLC0415
            from broker_jobs.store import Store  # noqa: PLC0415
            from broker_jobs.store.installation import claim  # noqa: PLC0415

            self.store = Store(self.settings.store_url())
            self.store.open()
            claim(self.store, self.settings.url)
            self.coordinator = Coordinator(
                self.broker,
                self.store,
                self.settings,
                self._clock,
                id=self.id,
                observer=CoordinatorMetrics(self.metrics),
                on_fatal=self._on_fatal,
            )
            self.coordinator.start()
        if "worker" in self._roles:
            from broker_jobs.consumer.worker import Worker  # noqa: PLC0415

            assert self._registry is not None
            self.worker = Worker(
                self._registry,
                self.broker,
                queues=self.settings.queues,
                concurrency=self.settings.concurrency,
                settings=self.settings,
                clock=self._clock,
                ref=self._ref,
                observer=WorkerMetrics(self.metrics),
                board=self._board,
                on_leave=self._on_leave,
                load=self._load,
            )
            self.worker.start()
        if "beat" in self._roles:
            from broker_jobs.beat.beat import Beat  # noqa: PLC0415

            self.beat = Beat(self.broker, self._clock, self._service, self._recurring, self.id, on_fired=self._fired)
            self.beat.start()
            logger.info("beat started", extra={"declared": len(self._recurring)})
        self.subscribe(self._subscriptions)


def role_of(roles: Collection[str]) -> str:
    """How logs, metrics and RabbitMQ name a process with these roles, such as "coordinator+beat"."""
    return "+".join(role for role in ROLES if role in roles)


def require_roles(roles: Collection[str], settings: Settings) -> None:
    """Refuse roles whose libraries are not installed.

    Raises:
        MissingExtra: names the extras to install.
    """
    # A beat needs only what a producer needs.
    extras: list[str] = [role for role in ROLES if role in roles and role != "beat"]
    if "coordinator" in extras:
        extras += [extra for extra in store_extras(settings.store_url()) if extra != "coordinator"]
    require(f"to run {' and '.join(role for role in ROLES if role in roles)} here", *extras)


def require_service(settings: Settings, what: str, declared: Collection[str]) -> None:
    """Refuse declarations of a program without a name: another program's would remove them.

    Args:
        what: what is declared, as "subscription".
        declared: the names of it.

    Raises:
        UsageError: says what to write.
    """
    if declared and not settings.declared_by:
        names = sorted(set(declared))
        more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
        raise UsageError(
            f"the code declares the {what}{'s' if len(names) > 1 else ''} {', '.join(names[:MOST_SHOWN])}{more}, and "
            'this program has no name: write BrokerJobs(service="shop"), or set BROKER_JOBS_SERVICE=shop, or pass '
            "--service shop; all processes of one program have the same name, and no other program has it"
        )

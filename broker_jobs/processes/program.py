"""Runs worker, coordinator and beat as threads of one program, on one exchange.

This is `BrokerJobs.start()`, `broker-jobs run` and, with fewer roles, each of the standalone processes: there is one
wiring. The exchange belongs to the caller, who stops it after this.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
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
from broker_jobs.processes.observers import CoordinatorMetrics, WorkerMetrics, watch_broker
from broker_jobs.settings import Settings

if TYPE_CHECKING:
    from broker_jobs.beat.beat import Beat
    from broker_jobs.consumer.worker import Worker
    from broker_jobs.coordinator.coordinator import Coordinator
    from broker_jobs.store import Store

logger = logging.getLogger(__name__)

Role: TypeAlias = Literal["worker", "coordinator", "beat"]
ROLES: tuple[Role, ...] = ("coordinator", "worker", "beat")
"""In the order they are started."""

CONNECT_SECONDS = 5.0
"""How long a start waits for RabbitMQ before it says that nothing answers."""
SUBSCRIBE_SECONDS = 5.0
"""How long a start waits, where the coordinator runs too, until what the code subscribes to is known."""
COORDINATOR_STOP_SECONDS = 10.0
"""What the coordinator gets to commit what it has and to publish its releases."""


@dataclass
class Health:
    """What is up. `ok` decides between 200 and 503; `parts` says why."""

    ok: bool
    components: dict[str, Any] = field(default_factory=dict)


class Program:
    """Worker, coordinator and beat of one process, or some of them."""

    def __init__(
        self,
        registry: Registry | None,
        settings: Settings,
        broker: Broker,
        recurring: Sequence[Schedule] = (),
        *,
        subscriptions: Sequence[Subscription] = (),
        roles: Collection[str] = ROLES,
        origin: str = "",
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        slot: str = "",
        on_fatal: Callable[[str], None] | None = None,
    ) -> None:
        """Nothing is connected here.

        Args:
            registry: the jobs the worker knows; None only without the role worker.
            settings: queues, concurrency and all else are read from here.
            exchange: started by the caller or by start(); stopped by the caller.
            recurring: what the code of this program declares; the beat publishes it.
            subscriptions: what it subscribes to; a worker and a beat publish it.
            roles: some of "worker", "coordinator", "beat".
            origin: the program whose declarations these are.
            metrics: where it is counted; None: counted for nobody.
            on_fatal: told why, when the coordinator has to give up; None: it is only logged.
            slot: the place of the worker on this host; who starts next in it names this one as its predecessor.

        Raises:
            UsageError: an unknown role, none at all, or a worker without a registry.
            MissingExtra: the libraries of a role are not installed.
        """
        unknown = set(roles) - set(ROLES)
        if unknown or not roles:
            raise UsageError(f"roles are some of {', '.join(ROLES)}; not {', '.join(sorted(unknown)) or 'none'}")
        if "worker" in roles and registry is None:
            raise UsageError("a worker needs the registry of the jobs it is to run")
        require_roles(roles, settings)
        self.metrics = metrics or Metrics()
        self.broker = broker
        watch_broker(self.metrics, broker)
        self.settings = settings
        self.id = new_id()
        self._registry = registry
        self._recurring = tuple(recurring)
        self._subscriptions = tuple(subscriptions)
        self._roles = tuple(role for role in ROLES if role in roles)
        self._origin = origin
        self._on_fatal = on_fatal
        self._clock = clock or SystemClock()
        # Without a slot of its own a place is never taken over: two programs of one host may serve one application.
        self._ref = WorkerRef(id=self.id, host=socket.gethostname(), slot=slot or self.id, pid=os.getpid())
        self._lock = threading.RLock()
        self._pid = 0
        self.interrupted = False
        """Whether runs were cut off at the stop: what they left behind ends with the process, which should be soon."""
        self.store: Store | None = None
        self.coordinator: Coordinator | None = None
        self.worker: Worker | None = None
        self.beat: Beat | None = None
        self._declarer: Declarer | None = None

    @property
    def started(self) -> bool:
        """Whether start() has been called and stop() has not."""
        return self._pid != 0

    def start(self) -> None:
        """Start the parts: coordinator, worker, beat. Tolerates twice.

        Raises:
            UsageError: it was started in another process, before a fork.
            BrokerError: RabbitMQ refuses or cannot be reached. What had been started is stopped again.
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
                self._start_parts()
            except BaseException:
                self.stop(0)
                raise

    def stop(self, timeout: float | None = None) -> bool:
        """Stop the parts: beat, worker, coordinator, store. Tolerates twice and never.

        Args:
            timeout: seconds running jobs get to finish; None: settings.shutdown_timeout. What has not started is handed
                back at once. What still runs after it is asked to stop, and told as interrupted: it costs no retry
                and runs again. A plain function cannot be stopped, it ends with the process.

        Returns:
            Whether everything that ran has ended.
        """
        if self._pid not in {0, os.getpid()}:
            return True  # forked: the threads of these parts are not in this process
        seconds = self.settings.shutdown_timeout if timeout is None else timeout
        finished = True

        def stop_worker(worker: Worker) -> None:
            nonlocal finished
            finished = worker.stop(seconds)
            self.interrupted = worker.interrupted

        # Read from the end. One that raises does not keep the others running.
        with self._lock, ExitStack() as last_first:
            last_first.callback(self._forget)
            if self.store is not None:
                last_first.callback(self.store.close)
            if self.coordinator is not None:
                last_first.callback(self.coordinator.stop, COORDINATOR_STOP_SECONDS)
            if self.worker is not None:
                last_first.callback(stop_worker, self.worker)
            if self.beat is not None:
                last_first.callback(self.beat.stop)
            if self._declarer is not None:
                last_first.callback(self._declarer.stop)
        return finished

    def _forget(self) -> None:
        self.beat = self.worker = self.coordinator = self.store = self._declarer = None
        self._pid = 0

    def subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        """Publish anew what the code subscribes to: all of it, not the difference. Nothing without worker and beat."""
        if not self._origin or not {"worker", "beat"} & {*self._roles}:
            return
        with self._lock:
            if not self.started:
                return
            if self._declarer is not None:
                self._declarer.stop(0)
            functions = None if self._registry is None else self._described
            self._declarer = Declarer(
                self.broker, self._clock, self._origin, subscriptions, self.id, functions=functions
            )
            self._declarer.start()
            if subscriptions and self.coordinator is not None:
                self._declarer.wait(SUBSCRIBE_SECONDS)

    def _described(self) -> list[FunctionInfo]:
        """What the code can run, for forms."""
        assert self._registry is not None
        return [describe(function, self.settings.mask) for function in self._registry]

    def stop_now(self) -> None:
        """Leave running jobs where they are; another worker gets them. For a second signal, from any thread."""
        if (worker := self.worker) is not None:
            worker.stop_now()

    def health(self) -> Health:
        """What is up, for /healthz. Asks nobody over the network."""
        worker, coordinator, beat = self.worker, self.coordinator, self.beat
        components: dict[str, Any] = {
            "broker": {"connected": self.broker.connected, "blocked": self.broker.blocked},
        }
        made = {"worker": worker, "coordinator": coordinator, "beat": beat}
        # While it starts it is not well yet: a coordinator may wait for its store.
        ok = self.started and self.broker.connected and all(made[role] is not None for role in self._roles)
        if worker is not None:
            components["worker"] = {"running": worker.running}
        if coordinator is not None:
            healthy, why = coordinator.healthy()
            components["coordinator"] = {"active": coordinator.active, "healthy": healthy, "detail": why}
            ok = ok and healthy
        if beat is not None:
            components["beat"] = {"started": True}
        return Health(ok, components)

    def expose(self) -> tuple[bytes, str]:
        """What these parts have counted, as Prometheus reads it, and its content type."""
        return expose([self.metrics.snapshot()])

    def _fired(self, name: str, late_seconds: float) -> None:
        del name  # a label a schedule would grow without bound where each tenant has one
        self.metrics.observe(BEAT_LATENESS, late_seconds)

    def _start_parts(self) -> None:
        self.broker.start(CONNECT_SECONDS)
        if self.settings.declare:
            self.broker.apply(fixed_topology())
            if "worker" in self._roles:
                self.broker.apply(work_topology(*self.settings.queues))
        # Each part is imported by the one who runs it: a worker has no database, a coordinator no functions.
        if "coordinator" in self._roles:
            from broker_jobs.coordinator.coordinator import Coordinator  # noqa: PLC0415
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
            )
            self.worker.start()
        if "beat" in self._roles:
            from broker_jobs.beat.beat import Beat  # noqa: PLC0415

            self.beat = Beat(self.broker, self._clock, self._origin, self._recurring, self.id, on_fired=self._fired)
            self.beat.start()
            logger.info("beat started", extra={"declared": len(self._recurring)})
        self.subscribe(self._subscriptions)


def require_roles(roles: Collection[str], settings: Settings) -> None:
    """Refuse roles whose libraries are not installed here.

    Raises:
        MissingExtra: says which extras to install.
    """
    extras: list[str] = [
        role for role in ROLES if role in roles and role != "beat"
    ]  # a beat needs what a producer needs
    if "coordinator" in extras:
        extras += [extra for extra in store_extras(settings.store_url()) if extra != "coordinator"]
    require(f"to run {' and '.join(role for role in ROLES if role in roles)} here", *extras)

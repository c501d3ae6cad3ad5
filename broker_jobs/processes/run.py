"""Runs the processes of the command line, from top to bottom: connect, start, serve, stop.

`worker` and `run` are supervisors, with processes for the roles; `coordinator` and `beat` have one role in one process.
`run` on memory:// has all roles in one.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from broker_jobs import logs
from broker_jobs.broker.factory import broker_for
from broker_jobs.errors import UsageError
from broker_jobs.function.registry import Registry
from broker_jobs.messages.commands import Schedule, Subscription
from broker_jobs.metrics import Metrics, expose
from broker_jobs.processes.child import Place
from broker_jobs.processes.connect import wait_for_broker
from broker_jobs.processes.in_child import run_in_child, service_process
from broker_jobs.processes.parent import ParentProcess
from broker_jobs.processes.program import ROLES, Program, Role, require_roles, role_of
from broker_jobs.processes.signals import (
    ComponentFailed,
    ShutdownSignals,
    exit_now,
    serve,
)
from broker_jobs.processes.supervisor import Service, SupervisorConfig, become_supervisor, http_server
from broker_jobs.settings import Settings, unknown_environment

logger = logging.getLogger(__name__)

COLLECT_EVERY_OBJECTS = 20_000
"""So many more objects made than freed start a collection in a process without users' code; Python's default is 700."""


@dataclass(frozen=True)
class Application:
    """What a process needs of a program: its jobs, and the recurring jobs and subscriptions that its code declares.

    `close` closes the connection over which its jobs enqueue.
    """

    registry: Registry | None
    """None: the process runs no jobs and loads no code of the program."""
    recurring: Sequence[Schedule] = ()
    subscriptions: Sequence[Subscription] = ()
    close: Callable[[], None] | None = None
    load: Callable[[], Application] | None = None
    """Loads this application in another process; it pickles."""


ExtraService: TypeAlias = Callable[[Program, Settings], AbstractContextManager[None]]
"""Runs from the start of a program to its end in the same process: the dashboard."""


def run_roles(
    application: Application | None,
    settings: Settings,
    roles: Collection[str] = ROLES,
    extra: ExtraService | None = None,
) -> int:
    """Run these roles in this process until a signal stops it; the exit code.

    Raises:
        UsageError: memory:// without all roles, or a port that is in use.
        BrokerRefused: RabbitMQ answered and refused.
        StoreError: the store cannot be used.
    """
    refuse_shared_memory(settings, roles)
    warn_unknown_environment()
    with ShutdownSignals() as signals:
        return _run(application, settings, roles, signals, extra=extra, all_queues="worker" in roles)


def run_workers(load: Callable[[], Application], settings: Settings) -> int:
    """Supervise `settings.processes` worker processes; the exit code. A child imports `load`, so it must pickle.

    Raises:
        UsageError: memory://, or a port that is in use.
        MissingExtra: the libraries of a worker are not installed.
    """
    refuse_shared_memory(settings, ["worker"])
    require_roles(["worker"], settings)
    warn_unknown_environment()
    return _supervise(settings, partial(run_child, load, settings))


def run_all(
    application: Application,
    load: Callable[[], Application],
    settings: Settings,
    *,
    extra: ExtraService | None = None,
    services: Sequence[Service] = (),
) -> int:
    """Supervise worker processes, one process for coordinator and beat, and `services`; the exit code.

    Coordinator and beat share a process: neither runs code of the program, and a beat of its own takes 36 MB where it
    takes 2 MB beside the coordinator.

    Args:
        application: whose declarations the beat publishes; it gets them from here and loads no code of the program.
        load: loads it in a worker process; must pickle.
        settings: of all processes.
        extra: runs in the process of the coordinator; must pickle.
        services: further processes.

    Raises:
        UsageError: memory://, or a port that is in use, or a process cannot start.
        MissingExtra: the libraries of a role are not installed.
    """
    require_roles(ROLES, settings)
    warn_unknown_environment()
    declared = replace(application, registry=None, close=None, load=None)
    roles: tuple[Role, ...] = ("coordinator", "beat")
    core = Service(role_of(roles), pickle.dumps(partial(run_service, declared, settings, roles, extra)))
    return _supervise(settings, partial(run_child, load, settings, of_run=True), (core, *services))


def _supervise(settings: Settings, worker: Callable[[Place], None], services: Sequence[Service] = ()) -> int:
    return become_supervisor(
        SupervisorConfig(
            url=settings.url,
            heartbeat=settings.heartbeat,
            declare=settings.declare,
            processes=settings.processes,
            concurrency=settings.concurrency,
            worker_heartbeat=settings.worker_heartbeat,
            shutdown_timeout=settings.shutdown_timeout,
            metrics_host=settings.metrics_host,
            metrics_port=settings.metrics_port,
            log_level=settings.log_level,
            log_format=settings.log_format,
            worker=pickle.dumps(worker),
            services=tuple(services),
            argv=tuple(sys.argv),
        )
    )


def run_child(load: Callable[[], Application], settings: Settings, place: Place, *, of_run: bool = False) -> None:
    """Run one worker process of a pool. It stops when its parent says so, and sends it metrics and health.

    `of_run`: other roles run beside it, so each line of its log names its own; it serves all queues that the code
    declares, unless the settings name queues.
    """
    logs.set_up(settings.log_level, settings.log_format)
    if of_run:
        logs.name_role("worker")
    with ShutdownSignals(has_parent=True) as signals:
        parent = ParentProcess(place, signals)
        run_in_child(
            parent, lambda: _run(_loaded(load), settings, ["worker"], signals, parent=parent, all_queues=of_run)
        )


def run_service(
    application: Application, settings: Settings, roles: Sequence[Role], extra: ExtraService | None, place: Place
) -> None:
    """Run coordinator and beat in a process of their own, under a supervisor, which alone stops them."""
    with service_process(role_of(roles), settings, place) as (parent, signals):
        run_in_child(parent, lambda: _run(application, settings, roles, signals, parent=parent, extra=extra))


def _loaded(load: Callable[[], Application]) -> Application:
    with logs.loading():
        return load()


def refuse_shared_memory(settings: Settings, roles: Collection[str]) -> None:
    """Raise UsageError for memory:// unless all roles run in this process."""
    if settings.in_memory and (set(roles) != set(ROLES)):
        raise UsageError(
            "memory:// lives inside one process and cannot be shared: "
            "use broker-jobs run, or set BROKER_JOBS_URL=amqp://user:password@host:5672/"
        )


def warn_unknown_environment() -> None:
    """Log a warning for each BROKER_JOBS_* variable that is not a setting."""
    for warning in unknown_environment(os.environ):
        logger.warning("%s", warning)


def _run(
    application: Application | None,
    settings: Settings,
    roles: Collection[str],
    signals: ShutdownSignals,
    *,
    parent: ParentProcess | None = None,
    extra: ExtraService | None = None,
    all_queues: bool = False,
) -> int:
    metrics = Metrics()
    place = None if parent is None else parent.place
    broker = broker_for(settings, role_of(roles))
    program = Program(
        application.registry if application is not None else None,
        settings,
        broker,
        application.recurring if application is not None else (),
        subscriptions=application.subscriptions if application is not None else (),
        roles=roles,
        metrics=metrics,
        id="" if place is None else place.worker_id,
        slot="" if place is None else place.slot,
        board=None if place is None else place.board,
        on_fatal=lambda reason: signals.put(ComponentFailed(reason)),
        on_leave=None if parent is None else parent.leave,
        load=partial(_load_registry, application.load) if application is not None and application.load else None,
        all_queues=all_queues,
    )
    with ExitStack() as stack:
        if application is not None and application.close is not None:
            stack.callback(application.close)
        if parent is None:
            stack.enter_context(
                http_server(
                    settings.metrics_host, settings.metrics_port, lambda: expose([metrics.snapshot()]), program.health
                )
            )
        else:
            parent.runs(program)
        stack.callback(broker.stop)
        if not wait_for_broker(program.start, broker.stop, signals.wait):
            return 0
        stack.callback(program.stop, 0.0)
        _pass_over_what_stays()
        if application is None or application.registry is None:
            _collect_rarely()
        if extra is not None:
            stack.enter_context(extra(program, settings))
        code = serve(program if "worker" in roles else _ReadsToEnd(program), signals, settings.shutdown_timeout)
        if program.interrupted:  # their threads may still run, and their next run waits for this process to exit
            if parent is not None:
                parent.report_last()
            exit_now(program, code)
        return code


class _ReadsToEnd:
    """A program without a worker. Its coordinator reads the log to its end first: workers that left wrote it."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def stop(self, timeout: float) -> bool:
        if self._program.coordinator is not None:
            self._program.coordinator.read_to_end()
        return self._program.stop(timeout)

    def stop_now(self) -> None:
        self._program.stop_now()


def _load_registry(load: Callable[[], Application]) -> Registry:
    registry = load().registry
    assert registry is not None
    return registry


def _pass_over_what_stays() -> None:
    """Let the garbage collector pass over what lives as long as the process: modules, classes, the program's jobs."""
    gc.collect()
    gc.freeze()


def _collect_rarely() -> None:
    """Let the garbage collector look less often.

    A coordinator makes thousands of objects a transaction and few cycles: looking for these took up to half of the time
    in which it reads the log. Only where no code of users runs, as the thresholds are the whole process's.
    """
    gc.set_threshold(COLLECT_EVERY_OBJECTS, 10, 10)

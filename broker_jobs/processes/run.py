"""Runs the processes of the command line, from top to bottom: connect, start, serve, stop.

`run` has all roles in one process; `worker`, `coordinator` and `beat` have one role each.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from broker_jobs import logs
from broker_jobs.broker.factory import broker_for
from broker_jobs.errors import BrokerJobsError, UsageError
from broker_jobs.function.registry import Registry
from broker_jobs.messages.commands import Schedule, Subscription
from broker_jobs.metrics import Metrics, expose
from broker_jobs.processes.child import Place, StartRefused
from broker_jobs.processes.connect import wait_for_broker
from broker_jobs.processes.parent import ParentProcess
from broker_jobs.processes.pool import EXIT_USAGE
from broker_jobs.processes.program import ROLES, Program, require_roles
from broker_jobs.processes.signals import (
    ComponentFailed,
    ShutdownSignals,
    exit_now,
    exit_soon,
    serve,
)
from broker_jobs.processes.supervisor import SupervisorConfig, become_supervisor, http_server
from broker_jobs.settings import Settings, unknown_environment

logger = logging.getLogger(__name__)

COLLECT_EVERY_OBJECTS = 20_000
"""So many more objects made than freed start a collection in a process without users' code; Python's default is 700."""


@dataclass(frozen=True)
class Application:
    """What a process needs of a program: its jobs, and the recurring jobs and subscriptions that its code declares.

    `close` closes the connection over which its jobs enqueue.
    """

    registry: Registry
    recurring: Sequence[Schedule] = ()
    subscriptions: Sequence[Subscription] = ()
    origin: str = ""
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
        return _run(application, settings, roles, signals, extra=extra)


def run_workers(load: Callable[[], Application], settings: Settings) -> int:
    """Supervise `settings.processes` worker processes; the exit code. A child imports `load`, so it must pickle.

    Raises:
        UsageError: memory://, or a port that is in use.
        MissingExtra: the libraries of a worker are not installed.
    """
    refuse_shared_memory(settings, ["worker"])
    require_roles(["worker"], settings)
    warn_unknown_environment()
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
            worker=pickle.dumps(partial(run_child, load, settings)),
            argv=tuple(sys.argv),
        )
    )


def run_child(load: Callable[[], Application], settings: Settings, place: Place) -> None:
    """Run one worker process of a pool. It stops when its parent says so, and sends it metrics and health."""
    logs.set_up(settings.log_level, settings.log_format)
    with ShutdownSignals(has_parent=True) as signals:
        parent = ParentProcess(place, signals)
        try:
            with parent.reporting():
                with logs.loading():
                    application = load()
                code = _run(application, settings, ["worker"], signals, parent=parent)
        except BrokerJobsError as error:
            logger.error("%s", error)  # our errors say what to do, so the traceback is left out
            code = EXIT_USAGE
            parent.send(StartRefused(str(error)))
    exit_soon(code)
    sys.exit(code)


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
) -> int:
    metrics = Metrics()
    place = None if parent is None else parent.place
    broker = broker_for(settings, "+".join(role for role in ROLES if role in roles))
    program = Program(
        application.registry if application is not None else None,
        settings,
        broker,
        application.recurring if application is not None else (),
        subscriptions=application.subscriptions if application is not None else (),
        roles=roles,
        origin=application.origin if application is not None else "",
        metrics=metrics,
        id="" if place is None else place.worker_id,
        slot="" if place is None else place.slot,
        board=None if place is None else place.board,
        on_fatal=lambda reason: signals.put(ComponentFailed(reason)),
        on_leave=None if parent is None else parent.leave,
        load=partial(_load_registry, application.load) if application is not None and application.load else None,
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
        if application is None:
            _collect_rarely()
        if extra is not None:
            stack.enter_context(extra(program, settings))
        code = serve(program, signals, settings.shutdown_timeout)
        if program.interrupted:  # their threads may still run, and their next run waits for this process to exit
            if parent is not None:
                parent.report_last()
            exit_now(program, code)
        return code


def _load_registry(load: Callable[[], Application]) -> Registry:
    return load().registry


def _collect_rarely() -> None:
    """Let the garbage collector pass over what lives as long as the process, and look at the rest less often.

    A coordinator makes thousands of objects a transaction and few cycles: looking for these took up to half of the time
    in which it reads the log. Only where no code of users runs, as the thresholds are the whole process's.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY_OBJECTS, 10, 10)

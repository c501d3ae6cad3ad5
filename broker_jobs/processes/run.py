"""Runs the processes of the command line, from top to bottom: connect, start, serve, stop.

`run` has all roles in one process; `worker`, `coordinator` and `beat` have one role each.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeAlias

from broker_jobs.broker.factory import broker_for
from broker_jobs.errors import BrokerJobsError, UsageError
from broker_jobs.function.registry import Registry
from broker_jobs.messages.commands import Schedule, Subscription
from broker_jobs.metrics import Metrics, expose
from broker_jobs.processes.connect import wait_for_broker
from broker_jobs.processes.http import HttpServer
from broker_jobs.processes.logs import set_up
from broker_jobs.processes.pool import EXIT_USAGE, REPORT_SECONDS, Pool, StartRefused
from broker_jobs.processes.program import ROLES, Health, Program, require_roles
from broker_jobs.processes.signals import (
    ComponentFailed,
    ExitNow,
    ShutdownSignals,
    SignalReceived,
    exit_now,
    exit_soon,
    serve,
)
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
    """Run `settings.processes` worker processes; the exit code. A child process imports `load`, so it must pickle.

    Raises:
        UsageError: memory://, or a port that is in use.
        MissingExtra: the libraries of a worker are not installed.
    """
    refuse_shared_memory(settings, ["worker"])
    require_roles(["worker"], settings)
    warn_unknown_environment()
    with ShutdownSignals() as signals, ExitStack() as stack:
        pool = Pool(run_child, (load, settings), settings.processes, on_failed=signals.put)
        stack.enter_context(_http_server(settings, lambda: expose(pool.snapshots()), pool.health))
        pool.start()
        return serve(pool, signals, settings.shutdown_timeout)


def run_child(load: Callable[[], Application], settings: Settings, slot: str, pipe: Connection) -> None:
    """Run one worker process of a pool. It stops when its parent says so, and sends it metrics and health."""
    set_up(settings.log_level)
    with ShutdownSignals(has_parent=True) as signals:
        threading.Thread(target=_follow_parent, args=(pipe, signals), name="parent", daemon=True).start()
        try:
            code = _run(load(), settings, ["worker"], signals, slot=slot, report_to=pipe)
        except BrokerJobsError as error:
            logger.error("%s", error)  # our errors say what to do, so the traceback is left out
            code = EXIT_USAGE
            with contextlib.suppress(OSError):  # the parent is gone
                pipe.send(StartRefused(str(error)))
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
    slot: str = "",
    report_to: Connection | None = None,
    extra: ExtraService | None = None,
) -> int:
    metrics = Metrics()
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
        slot=slot,
        on_fatal=lambda reason: signals.put(ComponentFailed(reason)),
        # What is in memory would end with the process.
        load=partial(_load_registry, application.load) if application is not None and application.load else None,
        on_leave=None if settings.in_memory else lambda reason: signals.put(ComponentFailed(reason)),
    )
    with ExitStack() as stack:
        if application is not None and application.close is not None:
            stack.callback(application.close)
        if report_to is None:
            stack.enter_context(_http_server(settings, lambda: expose([metrics.snapshot()]), program.health))
        else:
            stack.enter_context(_reporting(report_to, program))
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


@contextmanager
def _http_server(
    settings: Settings, expose_all: Callable[[], tuple[bytes, str]], health: Callable[[], Health]
) -> Iterator[None]:
    """Serve /metrics and /healthz, where a port is set."""
    if settings.metrics_port is None:
        yield
        return
    server = HttpServer(settings.metrics_host, settings.metrics_port, expose=expose_all, health=health)
    server.start()
    try:
        yield
    finally:
        server.stop()


@contextmanager
def _every(seconds: float, do: Callable[[], None], name: str) -> Iterator[None]:
    """Call a function every `seconds` in a thread, and once more at the end."""
    done = threading.Event()

    def loop() -> None:
        while not done.wait(seconds):
            do()

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(1.0)
        do()


@contextmanager
def _reporting(pipe: Connection, program: Program) -> Iterator[None]:
    def report() -> None:
        with contextlib.suppress(OSError):
            pipe.send((program.metrics.snapshot(), program.health()))

    with _every(REPORT_SECONDS, report, "report to parent"):
        yield


def _follow_parent(pipe: Connection, signals: ShutdownSignals) -> None:
    """Stop when the parent process sends it, or when the parent is gone."""
    try:
        while True:
            signals.put(ExitNow() if pipe.recv() == "now" else SignalReceived(signal.SIGTERM))
    except (EOFError, OSError):
        logger.warning("the parent process is gone; stopping")
        signals.put(SignalReceived(signal.SIGTERM))

"""Runs the processes of the command line, top to bottom: connect, start, serve, stop.

`run` has all roles in one process; `worker`, `coordinator` and `beat` have one each, and share the same wiring.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
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
from broker_jobs.processes.pool import EXIT_USAGE, REPORT_SECONDS, Pool, Refused
from broker_jobs.processes.program import ROLES, Health, Program, require_roles
from broker_jobs.processes.signals import Broken, LeaveNow, ShutdownSignals, Signalled, leave_now, leave_soon, serve
from broker_jobs.settings import Settings, unknown_environment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Application:
    """What a process needs to know of a program: its jobs, the recurring ones and the subscriptions its code declares.

    `close` lets go of the connection that its jobs have enqueued over.
    """

    registry: Registry
    recurring: Sequence[Schedule] = ()
    subscriptions: Sequence[Subscription] = ()
    origin: str = ""
    close: Callable[[], None] | None = None


ServedBeside: TypeAlias = Callable[[Program, Settings], AbstractContextManager[None]]
"""What runs beside a started program, from its start to its end: its dashboard."""


def run_roles(
    application: Application | None,
    settings: Settings,
    roles: Collection[str] = ROLES,
    beside: ServedBeside | None = None,
) -> int:
    """Run these roles in this process until it is told to leave; the exit code.

    Raises:
        UsageError: memory:// with roles missing, or a port that is taken.
        BrokerRefused: RabbitMQ answered and refused.
        StoreError: the store cannot be used.
    """
    refuse_shared_memory(settings, roles)
    warn_of_environment()
    with ShutdownSignals() as wishes:
        return _run_one(application, settings, roles, wishes, beside=beside)


def run_workers(load: Callable[[], Application], settings: Settings) -> int:
    """Run `settings.processes` worker processes; the exit code. `load` must be found by import in a child.

    Raises:
        UsageError: memory://, or a port that is taken.
        MissingExtra: the libraries of a worker are not installed.
    """
    refuse_shared_memory(settings, ["worker"])
    require_roles(["worker"], settings)
    warn_of_environment()
    with ShutdownSignals() as wishes, ExitStack() as stack:
        pool = Pool(run_child, (load, settings), settings.processes, on_broken=wishes.put)
        stack.enter_context(_http_server(settings, lambda: expose(pool.snapshots()), pool.health))
        pool.start()
        return serve(pool, wishes, settings.shutdown_timeout)


def run_child(load: Callable[[], Application], settings: Settings, slot: str, pipe: Connection) -> None:
    """One worker process of a pool: it obeys its parent, and reports to it."""
    set_up(settings.log_level)
    with ShutdownSignals(has_parent=True) as wishes:
        threading.Thread(target=_obey, args=(pipe, wishes), name="parent", daemon=True).start()
        try:
            code = _run_one(load(), settings, ["worker"], wishes, slot=slot, report_to=pipe)
        except BrokerJobsError as error:
            logger.error("%s", error)  # our errors say what to do; a traceback would hide it
            code = EXIT_USAGE
            with contextlib.suppress(OSError):  # the parent is gone
                pipe.send(Refused(str(error)))
    leave_soon(code)
    sys.exit(code)


def refuse_shared_memory(settings: Settings, roles: Collection[str]) -> None:
    """Raise UsageError for memory:// unless all roles are together."""
    if settings.embedded and (set(roles) != set(ROLES)):
        raise UsageError(
            "memory:// lives inside one process and cannot be shared: "
            "use broker-jobs run, or set BROKER_JOBS_URL=amqp://user:password@host:5672/"
        )


def warn_of_environment() -> None:
    """Log a line for each BROKER_JOBS_* variable that is no setting."""
    for warning in unknown_environment(os.environ):
        logger.warning("%s", warning)


def _run_one(
    application: Application | None,
    settings: Settings,
    roles: Collection[str],
    wishes: ShutdownSignals,
    *,
    slot: str = "",
    report_to: Connection | None = None,
    beside: ServedBeside | None = None,
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
        on_fatal=lambda reason: wishes.put(Broken(reason)),
    )
    with ExitStack() as stack:
        if application is not None and application.close is not None:
            stack.callback(application.close)
        if report_to is None:
            stack.enter_context(_http_server(settings, lambda: expose([metrics.snapshot()]), program.health))
        else:
            stack.enter_context(_reporting(report_to, program))
        stack.callback(broker.stop)
        if not wait_for_broker(program.start, broker.stop, wishes.wait_asked):
            return 0
        stack.callback(program.stop, 0.0)
        if beside is not None:
            stack.enter_context(beside(program, settings))
        code = serve(program, wishes, settings.shutdown_timeout)
        if program.interrupted:  # threads of these runs may go on, and the next run waits for our end
            leave_now(program, code)
        return code


@contextmanager
def _http_server(
    settings: Settings, expose_all: Callable[[], tuple[bytes, str]], health: Callable[[], Health]
) -> Iterator[None]:
    """/metrics and /healthz, where a port is set."""
    if settings.metrics_port is None:
        yield
        return
    door = HttpServer(settings.metrics_host, settings.metrics_port, expose=expose_all, health=health)
    door.start()
    try:
        yield
    finally:
        door.stop()


@contextmanager
def _every(seconds: float, do: Callable[[], None], name: str) -> Iterator[None]:
    """Do something every so many seconds in a thread, and once more at the end."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(seconds):
            do()

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)
        do()


@contextmanager
def _reporting(pipe: Connection, program: Program) -> Iterator[None]:
    def report() -> None:
        with contextlib.suppress(OSError):
            pipe.send((program.metrics.snapshot(), program.health()))

    with _every(REPORT_SECONDS, report, "report to parent"):
        yield


def _obey(pipe: Connection, wishes: ShutdownSignals) -> None:
    try:
        while True:
            wishes.put(LeaveNow() if pipe.recv() == "now" else Signalled(signal.SIGTERM))
    except (EOFError, OSError):
        logger.warning("the parent process is gone")
        wishes.put(Signalled(signal.SIGTERM))

"""Runs the supervisor of `broker-jobs worker` and `run`: child processes, and their metrics and health over HTTP.

It loads neither the user's code nor pydantic, so that it is small beside the processes that it watches. The command
line loads both to read the settings. So it is replaced by a fresh interpreter where the system can do that: the process
id stays, the memory goes.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, NoReturn

from broker_jobs.broker.factory import broker_for
from broker_jobs.errors import BrokerJobsError, UsageError
from broker_jobs.logs import name_role, set_up
from broker_jobs.metrics import expose
from broker_jobs.processes.child import Place
from broker_jobs.processes.health import Health
from broker_jobs.processes.outages import OutageLog
from broker_jobs.processes.pool import EXIT_USAGE, Pool
from broker_jobs.processes.pools import Pools
from broker_jobs.processes.signals import ComponentFailed, ShutdownSignals, exit_soon, serve
from broker_jobs.processes.supervised_heartbeats import SupervisedHeartbeats

MODULE = "broker_jobs.processes.supervisor_main"
MOST_HEARTBEAT_SECONDS = 5.0
"""The longest time between two heartbeats of a supervisor for a worker: it notices late that this one is silent."""
CAN_BE_REPLACED = sys.platform != "win32" and not getattr(sys, "frozen", False)
"""Windows starts another process instead, and one that is packed as a program has no interpreter of its own."""


@dataclass(frozen=True)
class Service:
    """One process beside the workers.

    `run` is pickled: what it calls with its place. `connects`: it is connected to RabbitMQ all the time.
    """

    role: str
    run: bytes
    connects: bool = True


@dataclass(frozen=True)
class SupervisorConfig:
    """What a supervisor needs of the settings; lengths of time are seconds."""

    url: str
    heartbeat: int
    declare: bool
    processes: int
    concurrency: int
    worker_heartbeat: float
    shutdown_timeout: float
    metrics_host: str
    metrics_port: int | None
    log_level: str
    log_format: str
    worker: bytes
    """Pickled: what a worker process calls with its place. Unpickled only there, as that imports pydantic."""
    services: tuple[Service, ...] = ()
    """The processes beside the workers, in the order of their start. They stop after the workers."""
    argv: tuple[str, ...] = ()
    in_memory: bool = False


def supervise(config: SupervisorConfig) -> int:
    """Run worker processes, and those of services, until a signal stops them; the exit code.

    Raises:
        UsageError: the port of the metrics is in use, or a process cannot start.
    """
    refused: list[str] = []

    def failed(failure: ComponentFailed) -> None:
        if failure.code == EXIT_USAGE:
            refused.append(failure.reason)
        signals.put(failure)

    if config.services:
        name_role("supervisor")
    with ShutdownSignals() as signals, ExitStack() as stack:
        broker = broker_for(config, "supervisor")
        heartbeats = SupervisedHeartbeats(broker, period_seconds=min(config.worker_heartbeat, MOST_HEARTBEAT_SECONDS))
        outages = OutageLog(broker, ["supervisor"])
        outages.start()
        stack.callback(outages.stop)
        workers = Pool(
            run_pickled,
            (config.worker,),
            config.processes,
            on_failed=failed,
            spokesman=heartbeats,
            concurrency=config.concurrency,
            leave_timeout=config.shutdown_timeout,
        )
        services = [
            Pool(run_pickled, (service.run,), 1, on_failed=failed, role=service.role, connects=service.connects)
            for service in config.services
        ]
        pools = Pools(workers, services)
        stack.enter_context(
            http_server(config.metrics_host, config.metrics_port, lambda: expose(pools.snapshots()), pools.health)
        )
        heartbeats.start()
        stack.callback(heartbeats.stop)
        pools.start()
        code = serve(pools, signals, config.shutdown_timeout)
    if refused:
        raise UsageError(refused[0])
    return code


def run_pickled(pickled: bytes, place: Place) -> None:
    """Run a child process, in it."""
    run: Callable[[Place], None] = pickle.loads(pickled)  # noqa: S301  # made by our own command line
    run(place)


def become_supervisor(config: SupervisorConfig) -> int:
    """Supervise in a fresh interpreter that takes the place of this process, or else in this one; the exit code."""
    if not CAN_BE_REPLACED:
        return supervise(config)
    with _nameless_file() as file:  # not the command line or the environment: the address has a password
        pickle.dump(config, file)
        file.flush()
        file.seek(0)
        os.set_inheritable(file.fileno(), True)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        command = [sys.executable, *_flags(), "-m", MODULE, str(file.fileno()), *config.argv[1:]]
        os.execv(sys.executable, command)  # noqa: S606  # our own interpreter
    raise AssertionError("execv returns only with an error")


def main() -> NoReturn:
    """The fresh interpreter: read the configuration from the file that was left open, and supervise."""
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        config: SupervisorConfig = pickle.load(file)  # noqa: S301  # written by the same process a moment ago
    sys.argv = list(config.argv)
    set_up(config.log_level, config.log_format)
    try:
        code = supervise(config)
    except BrokerJobsError as error:
        sys.stderr.write(f"error: {error}\n")
        code = EXIT_USAGE
    exit_soon(code)
    sys.exit(code)


def _nameless_file() -> IO[bytes]:
    """A file for this process and what takes its place. In memory on Linux, where a container may have no /tmp."""
    make = getattr(os, "memfd_create", None)
    return tempfile.TemporaryFile() if make is None else os.fdopen(make("broker-jobs"), "w+b")


def _flags() -> list[str]:
    """The options of this interpreter, such as -O and -X dev."""
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]  # noqa: PLC0415  # as multiprocessing does

    return list(_args_from_interpreter_flags())


@contextmanager
def http_server(
    host: str, port: int | None, expose_all: Callable[[], tuple[bytes, str]], health: Callable[[], Health]
) -> Iterator[None]:
    """Serve /metrics and /healthz, where a port is set."""
    if port is None:
        yield
        return
    from broker_jobs.processes.http import HttpServer  # noqa: PLC0415  # only a process that serves them pays for it

    server = HttpServer(host, port, expose=expose_all, health=health)
    server.start()
    try:
        yield
    finally:
        server.stop()

"""Commands that run until they are stopped: run, worker, coordinator, beat, dashboard."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from broker_jobs import logs
from broker_jobs.cli.dashboard import DashboardPort, dashboard, dashboard_of, dashboard_service
from broker_jobs.cli.load_app import application_of, load_application, load_target
from broker_jobs.cli.options import (
    Concurrency,
    Declare,
    LogFormat,
    LogLevel,
    MaxJobs,
    MaxMemory,
    MetricsHost,
    MetricsPort,
    More,
    QueueLimits,
    Queues,
    Service,
    ShutdownTimeout,
    StoreUrl,
    Url,
    given_settings,
    load_settings,
)
from broker_jobs.errors import UsageError
from broker_jobs.messages.envelope import new_id
from broker_jobs.processes.reload import run_reloading
from broker_jobs.processes.run import Application, refuse_shared_memory, run_all, run_roles, run_workers
from broker_jobs.processes.signals import exit_soon
from broker_jobs.settings import Settings

Target = Annotated[
    str,
    typer.Argument(
        metavar="APP", help="module:attribute of a BrokerJobs, for example shop.jobs:jobs.", show_default=False
    ),
]
Processes = Annotated[int | None, typer.Option("--processes", "-p", help="Worker processes.", show_default="1")]


Reload = Annotated[
    bool,
    typer.Option(
        "--reload",
        help="For development: start again when a Python file below the current directory changes. Running jobs are "
        "cut off and run again.",
    ),
]
RELOAD_SHUTDOWN_SECONDS = 1.0
"""What running jobs get before a restart by --reload, unless --shutdown-timeout says otherwise."""


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (run, worker, coordinator, beat, dashboard):
        app.command(command.__name__)(command)


def run(
    app: Target,
    *,
    service: Service = None,
    url: Url = None,
    store: StoreUrl = None,
    queues: Queues = None,
    queue_limit: QueueLimits = None,
    concurrency: Concurrency = None,
    processes: Processes = None,
    max_jobs: MaxJobs = None,
    max_memory: MaxMemory = None,
    declare: Declare = None,
    shutdown_timeout: ShutdownTimeout = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    dashboard_port: DashboardPort = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    more: More = None,
    reload: Reload = False,
) -> None:
    """Run workers, coordinator and beat, and with --dashboard-port the dashboard.

    On RabbitMQ they run in processes of their own (coordinator and beat share one), which are replaced when they end.
    Signals stop the workers first, as with `worker`, and then the others. On memory:// all run in one process, and this
    is the only command that can run jobs.
    """
    given = given_settings(
        queues=queues,
        queue_limits=queue_limit or None,
        more=more,
        service=service,
        url=url,
        store=store,
        concurrency=concurrency,
        processes=processes,
        max_jobs=max_jobs,
        max_memory=max_memory,
        declare=declare,
        shutdown_timeout=shutdown_timeout,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        dashboard_port=dashboard_port,
        log_level=log_level,
        log_format=log_format,
    )
    if reload:
        _reload(given)
    settings, application = _prepare(app, given)
    if settings.in_memory:
        named = {
            "--processes": processes if processes != 1 else None,
            "--max-jobs": max_jobs,
            "--max-memory": max_memory,
        }
        if options := " and ".join(name for name, value in named.items() if value is not None):
            raise UsageError(f"memory:// lives inside one process: leave out {options}, or give --url amqp://…")
        _exit(run_roles(application, settings, extra=dashboard_of))
    services = dashboard_service(settings)
    beside = dashboard_of if settings.dashboard_port is not None and not services else None
    _exit(run_all(application, partial(load_application, app, given), settings, extra=beside, services=services))


def worker(
    app: Target,
    *,
    service: Service = None,
    url: Url = None,
    queues: Queues = None,
    queue_limit: QueueLimits = None,
    concurrency: Concurrency = None,
    processes: Processes = None,
    max_jobs: MaxJobs = None,
    max_memory: MaxMemory = None,
    declare: Declare = None,
    shutdown_timeout: ShutdownTimeout = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    more: More = None,
    reload: Reload = False,
) -> None:
    """Run jobs, in processes of their own, which are replaced when they end.

    The first SIGTERM or Ctrl-C lets running jobs finish, for at most --shutdown-timeout seconds; a second one exits
    at once.
    """
    given = given_settings(
        queues=queues,
        queue_limits=queue_limit or None,
        more=more,
        service=service,
        url=url,
        concurrency=concurrency,
        processes=processes,
        max_jobs=max_jobs,
        max_memory=max_memory,
        declare=declare,
        shutdown_timeout=shutdown_timeout,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_level=log_level,
        log_format=log_format,
    )
    if reload:
        _reload(given)
    settings, _ = _prepare(app, given)
    refuse_shared_memory(settings, ["worker"])
    _exit(run_workers(partial(load_application, app, given), settings))


def coordinator(
    *,
    url: Url = None,
    store: StoreUrl = None,
    declare: Declare = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    more: More = None,
) -> None:
    """Record every job and outcome in the store, and release jobs that wait.

    Needs none of your code. Run two: one is active, the other takes over when it stops.
    """
    settings = load_settings(
        more=more,
        url=url,
        store=store,
        declare=declare,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_level=log_level,
        log_format=log_format,
    )
    logs.set_up(settings.log_level, settings.log_format)
    _exit(run_roles(None, settings, ["coordinator"]))


def beat(
    app: Target,
    *,
    service: Service = None,
    url: Url = None,
    declare: Declare = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    more: More = None,
) -> None:
    """Start recurring jobs at their planned times.

    Also declares the recurring jobs in the code of APP. Any number of beats may run.
    """
    given = given_settings(
        more=more,
        service=service,
        url=url,
        declare=declare,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_level=log_level,
        log_format=log_format,
    )
    settings, application = _prepare(app, given)
    _exit(run_roles(application, settings, ["beat"]))


def _prepare(app: str, given: dict[str, Any]) -> tuple[Settings, Application]:
    """Set logging up, import the user's modules, and return the settings and the program."""
    settings = Settings.load(**given)
    logs.set_up(settings.log_level, settings.log_format)
    with logs.loading():
        jobs = load_target(app)
        jobs.load_modules()
    if given.get("url", jobs.settings.url) == "memory://":
        # The program's enqueues and its roles open a broker each; only a memory with a name is shared between them.
        given["url"] = f"memory://{new_id()}"
    application = application_of(jobs, app, given)
    return jobs.settings, application


def _reload(given: dict[str, Any]) -> NoReturn:
    """Run this very command line below a watcher of files, without --reload."""
    logs.set_up(Settings.load(**given).log_level)
    arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
    timeout: float | None = given.get("shutdown_timeout")
    if timeout is None:
        timeout = RELOAD_SHUTDOWN_SECONDS
        arguments += ["--shutdown-timeout", f"{timeout:g}"]
    command = [sys.executable, "-m", "broker_jobs.cli.reload_child", *arguments]
    _exit(run_reloading(command, Path.cwd(), timeout))


def _exit(code: int) -> NoReturn:
    """End the command; the process exits within seconds, even if threads of jobs still run."""
    exit_soon(code)
    raise typer.Exit(code)

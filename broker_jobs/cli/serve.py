"""Commands that run until they are stopped: run, worker, coordinator, beat, dashboard."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, NoReturn

import typer

from broker_jobs import logs
from broker_jobs.cli.dashboard import DashboardPort, dashboard, dashboard_of
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
    ShutdownTimeout,
    StoreUrl,
    Url,
    given_settings,
    load_settings,
)
from broker_jobs.messages.envelope import new_id
from broker_jobs.processes.run import Application, refuse_shared_memory, run_roles, run_workers
from broker_jobs.processes.signals import exit_soon
from broker_jobs.settings import Settings

Target = Annotated[
    str,
    typer.Argument(
        metavar="APP", help="module:attribute of a BrokerJobs, for example shop.jobs:jobs.", show_default=False
    ),
]
Processes = Annotated[int | None, typer.Option("--processes", "-p", help="Worker processes.", show_default="1")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (run, worker, coordinator, beat, dashboard):
        app.command(command.__name__)(command)


def run(
    app: Target,
    *,
    url: Url = None,
    store: StoreUrl = None,
    queues: Queues = None,
    queue_limit: QueueLimits = None,
    concurrency: Concurrency = None,
    declare: Declare = None,
    shutdown_timeout: ShutdownTimeout = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    dashboard_port: DashboardPort = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    more: More = None,
) -> None:
    """Run worker, coordinator and beat in one process.

    With --dashboard-port the dashboard too. On memory:// this is the only command that can run jobs.
    """
    given = given_settings(
        queues=queues,
        queue_limits=queue_limit or None,
        more=more,
        url=url,
        store=store,
        concurrency=concurrency,
        declare=declare,
        shutdown_timeout=shutdown_timeout,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        dashboard_port=dashboard_port,
        log_level=log_level,
        log_format=log_format,
    )
    settings, application = _prepare(app, given)
    _exit(run_roles(application, settings, extra=dashboard_of))


def worker(
    app: Target,
    *,
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
) -> None:
    """Run jobs, in processes of their own, which are replaced when they end.

    The first SIGTERM or Ctrl-C lets running jobs finish, for at most --shutdown-timeout seconds; a second one exits
    at once.
    """
    given = given_settings(
        queues=queues,
        queue_limits=queue_limit or None,
        more=more,
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


def _exit(code: int) -> NoReturn:
    """End the command; the process exits within seconds, even if threads of jobs still run."""
    exit_soon(code)
    raise typer.Exit(code)

"""The commands that run until they are told to leave: run, worker, coordinator, beat, dashboard."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, NoReturn

import typer

from broker_jobs.cli.dashboard import DashboardPort, dashboard, served_with
from broker_jobs.cli.options import (
    Concurrency,
    Declare,
    LogLevel,
    MetricsHost,
    MetricsPort,
    More,
    Queues,
    ShutdownTimeout,
    StoreUrl,
    Url,
    given_of,
    settings_of,
)
from broker_jobs.cli.program import application_of, load_application, load_target
from broker_jobs.messages.envelope import new_id
from broker_jobs.processes import logs
from broker_jobs.processes.run import Application, refuse_shared_memory, run_roles, run_workers
from broker_jobs.processes.signals import leave_soon
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
    concurrency: Concurrency = None,
    declare: Declare = None,
    shutdown_timeout: ShutdownTimeout = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    dashboard_port: DashboardPort = None,
    log_level: LogLevel = None,
    more: More = None,
) -> None:
    """Run everything in one process.

    Worker, coordinator and beat, and the dashboard where it is asked for; the only way to run on memory://.
    """
    given = given_of(
        queues=queues,
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
    )
    settings, application = _prepare(app, given)
    _end(run_roles(application, settings, beside=served_with))


def worker(
    app: Target,
    *,
    url: Url = None,
    queues: Queues = None,
    concurrency: Concurrency = None,
    processes: Processes = None,
    declare: Declare = None,
    shutdown_timeout: ShutdownTimeout = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_level: LogLevel = None,
    more: More = None,
) -> None:
    """Run jobs. The first SIGTERM or Ctrl-C finishes what runs, the second leaves at once."""
    given = given_of(
        queues=queues,
        more=more,
        url=url,
        concurrency=concurrency,
        processes=processes,
        declare=declare,
        shutdown_timeout=shutdown_timeout,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_level=log_level,
    )
    settings, application = _prepare(app, given)
    refuse_shared_memory(settings, ["worker"])
    if settings.processes > 1:
        _end(run_workers(partial(load_application, app, given), settings))
    _end(run_roles(application, settings, ["worker"]))


def coordinator(
    *,
    url: Url = None,
    store: StoreUrl = None,
    declare: Declare = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_level: LogLevel = None,
    more: More = None,
) -> None:
    """Keep the truth and release what waits.

    Reads the log, writes the store. Needs no APP. Run two for safety.
    """
    settings = settings_of(
        more=more,
        url=url,
        store=store,
        declare=declare,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_level=log_level,
    )
    logs.set_up(settings.log_level)
    _end(run_roles(None, settings, ["coordinator"]))


def beat(
    app: Target,
    *,
    url: Url = None,
    declare: Declare = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_level: LogLevel = None,
    more: More = None,
) -> None:
    """Fire recurring jobs.

    Also publishes those the code of APP declares. Any number of beats may run.
    """
    given = given_of(
        more=more,
        url=url,
        declare=declare,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        log_level=log_level,
    )
    settings, application = _prepare(app, given)
    _end(run_roles(application, settings, ["beat"]))


def _prepare(app: str, given: dict[str, Any]) -> tuple[Settings, Application]:
    """The settings and the program, with logging set up before the user's modules are imported."""
    logs.set_up(Settings.load(**given).log_level)
    jobs = load_target(app)
    if given.get("url", jobs.settings.url) == "memory://":
        # The program's own enqueues and its parts have an exchange each, and only a named memory is shared.
        given["url"] = f"memory://{new_id()}"
    application = application_of(jobs, app, given)
    return jobs.settings, application


def _end(code: int) -> NoReturn:
    """End the command; the process ends within seconds too, whatever threads of jobs still run."""
    leave_soon(code)
    raise typer.Exit(code)

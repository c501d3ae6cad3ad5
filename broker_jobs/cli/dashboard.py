"""Serves the dashboard: as the command `dashboard`, or in the process of `run --dashboard-port`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from broker_jobs import logs
from broker_jobs.app import BrokerJobs
from broker_jobs.broker.factory import broker_for
from broker_jobs.cli.load_app import load_target
from broker_jobs.cli.options import LogFormat, LogLevel, More, StoreUrl, Url, given_settings
from broker_jobs.errors import UsageError
from broker_jobs.extras import require
from broker_jobs.processes.run import warn_unknown_environment
from broker_jobs.processes.signals import ShutdownSignals
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.requests import RequestClient
from broker_jobs.settings import Settings

if TYPE_CHECKING:
    from broker_jobs.processes.program import Program

logger = logging.getLogger(__name__)

WAIT_SECONDS = 3600.0

Host = Annotated[
    str | None,
    typer.Option("--host", help="Address to listen on; any but 127.0.0.1 requires a login.", show_default="127.0.0.1"),
]
Port = Annotated[int | None, typer.Option("--port", help="Port to listen on; 0: a free port.", show_default="8700")]
DashboardPort = Annotated[
    int | None,
    typer.Option(
        "--dashboard-port", help="Port on which to serve the dashboard too; 0: a free port.", show_default="off"
    ),
]
ReadOnly = Annotated[
    bool | None, typer.Option("--read-only/--no-read-only", help="Refuse every change.", show_default="no")
]


def dashboard(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="[APP]",
            help="module:attribute of a BrokerJobs whose settings are used; optional.",
            show_default=False,
        ),
    ] = None,
    *,
    host: Host = None,
    port: Port = None,
    read_only: ReadOnly = None,
    url: Url = None,
    store: StoreUrl = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    more: More = None,
) -> None:
    """Serve the dashboard.

    Reads the store and sends commands over RabbitMQ; needs none of your code. Set BROKER_JOBS_DASHBOARD_TOKEN, or
    BROKER_JOBS_DASHBOARD_USER and BROKER_JOBS_DASHBOARD_PASSWORD, to require a login; without one only requests from
    this machine are accepted.
    """
    given = given_settings(
        more=more,
        url=url,
        store=store,
        log_level=log_level,
        log_format=log_format,
        dashboard_host=host,
        dashboard_port=port,
        dashboard_read_only=read_only,
    )
    require("broker-jobs dashboard", "dashboard")
    # Imported here, so that no other command loads the web framework.
    from broker_jobs.dashboard.server import DashboardServer  # noqa: PLC0415
    from broker_jobs.dashboard.store_access import is_in_memory  # noqa: PLC0415

    chosen = Settings.load(**given)
    logs.set_up(chosen.log_level, chosen.log_format)
    with logs.loading():
        jobs = load_target(app) if app is not None else BrokerJobs()
    jobs.configure(given)
    settings = jobs.settings
    if settings.in_memory and is_in_memory(settings.store_url()):
        raise UsageError(
            "memory:// lives inside one process, and this one has nothing to show: give --url and --store of the"
            " system, or serve the dashboard in that process: broker-jobs run APP --dashboard-port 8700, or"
            " jobs.dashboard() in the program"
        )
    if settings.in_memory:
        logger.warning("memory:// lives inside one process: the dashboard shows the store, but cannot change anything")
    warn_unknown_environment()
    with ShutdownSignals() as signals, DashboardServer(jobs.dashboard(local=True), settings) as server:
        typer.echo(f"dashboard  {server.address}", err=True)
        while not signals.wait(WAIT_SECONDS):
            pass
    jobs.stop()


@contextmanager
def dashboard_of(program: Program, settings: Settings) -> Iterator[None]:
    """Serve the dashboard of a program in this process, where a port is set; its store may be in memory."""
    if settings.dashboard_port is None:
        yield
        return
    require("to serve the dashboard here", "dashboard")
    # Imported here, so that no worker loads the web framework.
    from broker_jobs.dashboard.app import Dashboard  # noqa: PLC0415
    from broker_jobs.dashboard.server import DashboardServer  # noqa: PLC0415

    connection = Connection(lambda: settings, lambda read: broker_for(read, "dashboard"))
    requests = RequestClient(connection)
    shown = Dashboard(lambda: settings, requests, connection.clock, own_store=lambda: program.store, local=True)
    try:
        with DashboardServer(shown, settings):
            yield
    finally:
        requests.close()
        connection.close()

"""Serves the dashboard: as the command `dashboard`, or with `run --dashboard-port` in a process of its own."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from broker_jobs import logs
from broker_jobs.app import BrokerJobs
from broker_jobs.broker.factory import broker_for
from broker_jobs.cli.load_app import load_target
from broker_jobs.cli.options import LogFormat, LogLevel, More, StoreUrl, Url, given_settings
from broker_jobs.errors import UsageError
from broker_jobs.extras import require
from broker_jobs.processes.child import Place
from broker_jobs.processes.in_child import ServedProgram, run_in_child, service_process
from broker_jobs.processes.run import warn_unknown_environment
from broker_jobs.processes.signals import ShutdownSignals, serve
from broker_jobs.processes.supervisor import Service
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.requests import RequestClient
from broker_jobs.settings import Settings

if TYPE_CHECKING:
    from broker_jobs.processes.program import Program
    from broker_jobs.store import Store

logger = logging.getLogger(__name__)

WAIT_SECONDS = 3600.0
ROLE = "dashboard"

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
    """Serve the dashboard of a program in this process, where a port is set: its store is in memory."""
    if settings.dashboard_port is None:
        yield
        return
    with _served(settings, lambda: program.store):
        yield


def dashboard_service(settings: Settings) -> list[Service]:
    """The dashboard in a process of its own, under the supervisor of `run`: a page that is slow delays nothing else.

    None if there is no port. None if the store is in memory: then it is served where that is, by `dashboard_of`.

    Raises:
        MissingExtra: its libraries are not installed.
    """
    if settings.dashboard_port is None:
        return []
    require("to serve the dashboard here", "dashboard")
    # Imported here, so that no other command loads SQLAlchemy for it.
    from broker_jobs.dashboard.store_access import is_in_memory  # noqa: PLC0415

    if is_in_memory(settings.store_url()):
        return []
    return [Service(ROLE, pickle.dumps(partial(_run_service, settings)), connects=False)]


def _run_service(settings: Settings, place: Place) -> None:
    with service_process(ROLE, settings, place) as (parent, signals):

        def run() -> int:
            program = ServedProgram(settings)
            parent.runs(program)
            with _served(settings, lambda: None) as program.address:
                return serve(program, signals, 0.0)

        run_in_child(parent, run)


@contextmanager
def _served(settings: Settings, own_store: Callable[[], Store | None]) -> Iterator[str]:
    """Serve the dashboard; its address."""
    require("to serve the dashboard here", "dashboard")
    # Imported here, so that no worker loads the web framework.
    from broker_jobs.dashboard.app import Dashboard  # noqa: PLC0415
    from broker_jobs.dashboard.server import DashboardServer  # noqa: PLC0415

    connection = Connection(lambda: settings, lambda read: broker_for(read, ROLE))
    requests = RequestClient(connection)
    shown = Dashboard(lambda: settings, requests, connection.clock, own_store=own_store, local=True)
    try:
        with DashboardServer(shown, settings) as server:
            yield server.address
    finally:
        requests.close()
        connection.close()

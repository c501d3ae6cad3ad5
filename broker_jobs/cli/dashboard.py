"""Serves the dashboard from the command line: alone, or beside the parts that `run` runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from broker_jobs.app import BrokerJobs
from broker_jobs.broker.factory import broker_for
from broker_jobs.cli.options import LogLevel, More, StoreUrl, Url, given_of
from broker_jobs.cli.program import load_target
from broker_jobs.errors import UsageError
from broker_jobs.extras import require
from broker_jobs.processes import logs
from broker_jobs.processes.run import warn_of_environment
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
    typer.Option("--host", help="Address to listen on; others than 127.0.0.1 need a login.", show_default="127.0.0.1"),
]
Port = Annotated[int | None, typer.Option("--port", help="Port to listen on; 0: a free one.", show_default="8700")]
DashboardPort = Annotated[
    int | None,
    typer.Option("--dashboard-port", help="Serve the dashboard here too; 0: a free port.", show_default="off"),
]
ReadOnly = Annotated[
    bool | None, typer.Option("--read-only/--no-read-only", help="Nobody can change anything.", show_default="no")
]


def dashboard(
    app: Annotated[
        str | None,
        typer.Argument(
            metavar="[APP]", help="module:attribute of a BrokerJobs, for its settings; not needed.", show_default=False
        ),
    ] = None,
    *,
    host: Host = None,
    port: Port = None,
    read_only: ReadOnly = None,
    url: Url = None,
    store: StoreUrl = None,
    log_level: LogLevel = None,
    more: More = None,
) -> None:
    """Show and operate the system in a browser.

    Reads the store, and acts over RabbitMQ. Needs no code of yours. Who may log in is set by
    BROKER_JOBS_DASHBOARD_TOKEN, or _USER and _PASSWORD; without them it is for this machine alone.
    """
    given = given_of(
        more=more,
        url=url,
        store=store,
        log_level=log_level,
        dashboard_host=host,
        dashboard_port=port,
        dashboard_read_only=read_only,
    )
    require("broker-jobs dashboard", "dashboard")
    # Its web framework should cost no other command its start, and no worker its memory.
    from broker_jobs.dashboard.server import DashboardServer  # noqa: PLC0415
    from broker_jobs.dashboard.store_access import is_in_memory  # noqa: PLC0415

    logs.set_up(Settings.load(**given).log_level)
    jobs = load_target(app) if app is not None else BrokerJobs()
    jobs.configure(given)
    settings = jobs.settings
    if settings.embedded and is_in_memory(settings.store_url()):
        raise UsageError(
            "memory:// lives inside one process, so another has nothing to show: give --url and --store of the"
            " system, or start the dashboard in it: broker-jobs run APP --dashboard-port 8700, or"
            " jobs.dashboard() in the program"
        )
    if settings.embedded:
        logger.warning("memory:// lives inside one process: what is in the store is shown, but nothing can be changed")
    warn_of_environment()
    with ShutdownSignals() as wishes, DashboardServer(jobs.dashboard(local=True), settings) as server:
        typer.echo(f"dashboard  {server.address}", err=True)
        while not wishes.wait_asked(WAIT_SECONDS):
            pass
    jobs.stop()


@contextmanager
def served_with(program: Program, settings: Settings) -> Iterator[None]:
    """The dashboard of a program that runs in this process, where a port is set; its store may be in memory."""
    if settings.dashboard_port is None:
        yield
        return
    require("to serve the dashboard here", "dashboard")
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

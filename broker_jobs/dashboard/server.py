"""Serves the dashboard with uvicorn in its own thread. Open pages do not delay its stop."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Any, Self

import uvicorn

from broker_jobs.dashboard.app import Dashboard
from broker_jobs.dashboard.local_requests import is_loopback
from broker_jobs.errors import UsageError
from broker_jobs.settings import Settings

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8700
STOP_SECONDS = 5.0
"""Time for running requests to finish when the server stops."""


class DashboardServer:
    """One dashboard on one port. A context manager: it listens inside the `with` block."""

    def __init__(self, dashboard: Dashboard, settings: Settings, *, port: int | None = None) -> None:
        """Args:
        dashboard: the application to serve; stop() closes it.
        settings: host, port, and the path under which a proxy serves it.
        port: None: the setting; 0: a free port.

        Raises:
            UsageError: other machines can reach the address, and there is no login.
        """
        self._dashboard = dashboard
        self._host = settings.dashboard_host
        self._port = port if port is not None else settings.dashboard_port
        self._path = settings.dashboard_path
        has_login = bool(settings.dashboard_token or settings.dashboard_user)
        self._local_only = dashboard.local and not has_login
        if not is_loopback(self._host) and not has_login:
            raise UsageError(
                f"the dashboard would be open to every program that can reach {self._host}: set"
                " BROKER_JOBS_DASHBOARD_TOKEN, or BROKER_JOBS_DASHBOARD_USER and BROKER_JOBS_DASHBOARD_PASSWORD, or"
                " listen on 127.0.0.1"
            )
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.address = ""
        """The URL of the dashboard; set by start()."""

    def start(self) -> None:
        """Listen. Does nothing if it already listens.

        Raises:
            UsageError: the port is in use, or the address does not belong to this machine.
        """
        if self._thread is not None:
            return
        listener = self._listen()
        port = listener.getsockname()[1]
        shown = "127.0.0.1" if self._host in {"0.0.0.0", "::"} else self._host  # noqa: S104 - compared, not bound
        self.address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}{self._path}/"
        app = PathPrefix(self._dashboard, self._path) if self._path else self._dashboard
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            interface="asgi3",
            server_header=False,
            timeout_graceful_shutdown=int(STOP_SECONDS),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="dashboard", daemon=True)
        self._thread.start()
        logger.info("dashboard on %s", self.address)
        if self._local_only:
            logger.info(
                "the dashboard has no login: every request from this machine has the rights of an administrator. Before"
                " you serve it through a proxy, set BROKER_JOBS_DASHBOARD_TOKEN, or BROKER_JOBS_DASHBOARD_USER and"
                " BROKER_JOBS_DASHBOARD_PASSWORD"
            )

    def stop(self) -> None:
        """End event streams, finish running requests, and stop listening. May be called at any time."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.should_exit = True
            self._dashboard.end_streams()
            thread.join(STOP_SECONDS + 1)
        self._dashboard.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _listen(self) -> socket.socket:
        port = DEFAULT_PORT if self._port is None else self._port
        try:
            family, _, _, _, address = socket.getaddrinfo(self._host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise UsageError(f"cannot listen on {self._host!r}: {error.strerror or error}") from None
        try:
            if not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise UsageError(
                f"cannot listen on {self._host}:{port} for the dashboard: {error.strerror or error};"
                " choose another port, or 0 for a free one"
            ) from None
        return listener


class PathPrefix:
    """Serves an ASGI application under a path, whether or not the proxy removes that path from requests."""

    def __init__(self, app: Dashboard, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            has_prefix = (path + "/").startswith(self._path + "/")
            scope = {**scope, "root_path": self._path, "path": path if has_prefix else self._path + path}
        await self._app(scope, receive, send)

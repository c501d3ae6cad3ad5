"""Serves /metrics and /healthz over HTTP from threads of its own, and never delays the exit of a process.

It serves Prometheus and the health probes of containers, by default on loopback. It uses Python's own server, as two
pages need no web framework.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from broker_jobs.errors import UsageError
from broker_jobs.processes.health import Health

logger = logging.getLogger(__name__)

STOP_SECONDS = 2.0
IDLE_SECONDS = 30.0
"""A connection without a request is closed after this."""


class HttpServer:
    """The HTTP server of one process."""

    def __init__(
        self, host: str, port: int, *, expose: Callable[[], tuple[bytes, str]], health: Callable[[], Health]
    ) -> None:
        """Args:
        host: the address to listen on; with 127.0.0.1 only this machine has access.
        port: 0 picks a free port and logs it.
        expose: returns the body of /metrics and its content type.
        health: returns the state for /healthz.
        """
        self._host = host
        self._port = port
        self._expose = expose
        self._health = health
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.address = ""

    def start(self) -> None:
        """Listen. Calling it again does nothing.

        Raises:
            UsageError: the port is in use, or the address is not one of this machine.
        """
        if self._thread is not None:
            return
        try:
            self._server = _Server(self._host, self._port, {"/metrics": self._metrics, "/healthz": self._healthz})
        except OSError as error:
            raise UsageError(
                f"cannot listen on {self._host}:{self._port} for /metrics: {error.strerror or error}; "
                "choose another --metrics-port, or 0 for a free one"
            ) from None
        self.address = f"http://{self._host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="metrics and health", daemon=True
        )
        self._thread.start()
        logger.info("metrics on %s/metrics, health on %s/healthz", self.address, self.address)

    def stop(self) -> None:
        """Stop listening. May be called twice, and without start(); running requests are not waited for."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is None or thread is None:
            return
        server.shutdown()
        server.server_close()
        thread.join(STOP_SECONDS)

    def _metrics(self) -> tuple[int, bytes, str]:
        return 200, *self._expose()

    def _healthz(self) -> tuple[int, bytes, str]:
        health = self._health()
        reasons = {"reasons": list(health.reasons)} if health.reasons else {}
        body = json.dumps({"ok": health.ok, **reasons, **health.components}, default=str)
        return 200 if health.ok else 503, body.encode(), "application/json"


Routes = dict[str, Callable[[], tuple[int, bytes, str]]]
"""Path -> a function that returns status, body and content type."""


class _Server(ThreadingHTTPServer):
    """One thread per connection, so that a slow request does not delay another."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16
    allow_reuse_address = not hasattr(socket, "SO_EXCLUSIVEADDRUSE")  # on Windows it would share a port that is taken

    def __init__(self, host: str, port: int, routes: Routes) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.routes = routes
        super().__init__((host, port), _RequestHandler)

    def server_bind(self) -> None:
        # HTTPServer's own method resolves the host's name by DNS, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(self.allow_reuse_address))
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a request from %s was not answered: %r", client_address, sys.exception())


class _RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer a known path, or 404."""
        route = cast(_Server, self.server).routes.get(self.path.partition("?")[0])
        if route is None:
            self._send(404, b"not found\n", "text/plain; charset=utf-8")
            return
        try:
            response = route()
        except Exception:
            logger.exception("%s failed; answering 500", self.path)
            response = 500, b"internal error; see the log of this process\n", "text/plain; charset=utf-8"
        self._send(*response)

    do_HEAD = do_GET  # noqa: N815  # http.server's own names

    def version_string(self) -> str:
        return "broker-jobs"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: a line per scrape, every few seconds, would fill the log."""

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

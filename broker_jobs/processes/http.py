"""Answers /metrics and /healthz from a thread of its own, and never holds up the end of a process.

A worker has no other door; Prometheus and a container's health probe come through this one. Loopback by default.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.errors import UsageError
from broker_jobs.processes.program import Health

log = logging.getLogger(__name__)

STOP_SECONDS = 2.0


class HttpDoor:
    """The HTTP server of one process."""

    def __init__(
        self, host: str, port: int, *, expose: Callable[[], tuple[bytes, str]], health: Callable[[], Health]
    ) -> None:
        """Args:
        host: an address of this machine; 127.0.0.1 lets nobody else in.
        port: 0 takes a free one and logs it.
        expose: the body of /metrics and its content type.
        health: what /healthz says.
        """
        self._host = host
        self._port = port
        self._expose = expose
        self._health = health
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.address = ""

    def start(self) -> None:
        """Listen. Tolerates twice.

        Raises:
            UsageError: the port is taken or the address is not of this machine.
        """
        if self._thread is not None:
            return
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if socket.SO_REUSEADDR and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
            listener.listen(16)
        except OSError as error:
            listener.close()
            raise UsageError(
                f"cannot listen on {self._host}:{self._port} for /metrics: {error.strerror or error}; "
                "choose another --metrics-port, or 0 for a free one"
            ) from None
        self.address = f"http://{self._host}:{listener.getsockname()[1]}"
        application = Starlette(routes=[Route("/metrics", self._metrics), Route("/healthz", self._healthz)])
        config = uvicorn.Config(
            application, log_config=None, access_log=False, lifespan="off", ws="none", interface="asgi3"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="metrics and health", daemon=True
        )
        self._thread.start()
        log.info("metrics on %s/metrics, health on %s/healthz", self.address, self.address)

    def stop(self) -> None:
        """Stop listening. Tolerates twice and never; takes at most STOP_SECONDS, as scrapes are not waited for."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is None or thread is None:
            return
        server.force_exit = True
        server.should_exit = True
        thread.join(STOP_SECONDS)

    # Plain functions: Starlette runs them in a thread, so a slow one does not keep the other from answering.
    def _metrics(self, request: Request) -> Response:
        body, content_type = self._expose()
        return Response(body, headers={"content-type": content_type})

    def _healthz(self, request: Request) -> Response:
        health = self._health()
        body = json.dumps({"ok": health.ok, **health.parts}, default=str)
        return Response(body, status_code=200 if health.ok else 503, media_type="application/json")

"""Serves an ASGI application to a WSGI server, as Flask's and Django's are; without its streams of events.

The one room of a2wsgi. Its event loop runs in a thread of its own, begun at the first request and so after a fork.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from a2wsgi import ASGIMiddleware

from broker_jobs.dashboard.sse import NO_STREAMS

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class Wsgi:
    """A WSGI application around an ASGI one."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._wrapped: ASGIMiddleware | None = None
        self._pid = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        # Who asks decides what they may see, and servers may leave the port out.
        given = {"REMOTE_PORT": "0", **environ}
        return self._loop()(cast("Any", given), cast("Any", start_response))

    def _loop(self) -> ASGIMiddleware:
        with self._lock:
            if self._wrapped is None or self._pid != os.getpid():
                self._wrapped, self._pid = ASGIMiddleware(cast("Any", self._streamless)), os.getpid()
            return self._wrapped

    async def _streamless(self, scope: Any, receive: Any, send: Any) -> None:
        """The application; a stream would hold a thread of the server for each open page."""
        await self._app({**scope, NO_STREAMS: True}, receive, send)

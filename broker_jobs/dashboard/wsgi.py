"""Adapts the dashboard to WSGI servers such as those of Flask and Django, without event streams.

The only user of a2wsgi, whose event loop runs in its own thread. The first request starts it, and so after a fork.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from a2wsgi import ASGIMiddleware

from broker_jobs.dashboard.sse import NO_STREAMS

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

TASKS = "broker_jobs.tasks"
"""In the environment of a request: the task that answers it, once it has begun."""


class Wsgi:
    """A WSGI application around an ASGI one."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._wrapped: ASGIMiddleware | None = None
        self._pid = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        # a2wsgi passes the client address, which decides on access, only together with a port.
        tasks: list[asyncio.Task[Any]] = []
        complete = {"REMOTE_PORT": "0", **environ, TASKS: tasks}
        return _ending(self._adapter()(cast("Any", complete), cast("Any", start_response)), tasks)

    def _adapter(self) -> ASGIMiddleware:
        with self._lock:
            if self._wrapped is None or self._pid != os.getpid():
                self._wrapped, self._pid = ASGIMiddleware(cast("Any", self._without_streams)), os.getpid()
            return self._wrapped

    async def _without_streams(self, scope: Any, receive: Any, send: Any) -> None:
        """The application without event streams: each would occupy a thread of the server."""
        task = asyncio.current_task()
        assert task is not None
        scope["wsgi_environ"][TASKS].append(task)
        await self._app({**scope, NO_STREAMS: True}, receive, send)


def _ending(chunks: Iterable[bytes], tasks: list[asyncio.Task[Any]]) -> Iterator[bytes]:
    """The chunks. If they are not read to the end, as the client has gone, the task that made them ends all the same.

    a2wsgi leaves it waiting then, until it is collected and asyncio logs an error about it.
    """
    try:
        yield from chunks
    finally:
        for task in tasks:
            task.get_loop().call_soon_threadsafe(task.cancel)

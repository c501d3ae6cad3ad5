"""Sends changes to open pages as server-sent events. Reads the store only while a page is open.

One thread per process reads the live counts once a second, from the first listener to the last. It is a thread because
reading blocks, and because listeners may belong to several event loops.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from broker_jobs.dashboard.views import LiveCounts
from broker_jobs.errors import BrokerJobsError

logger = logging.getLogger(__name__)

READ_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
"""Interval of comment lines. Proxies close a silent connection after a minute, and a write detects a closed page."""
MAX_LISTENERS = 100
MAX_STREAM_SECONDS = 3600.0
"""A stream ends after this time, and the browser opens a new one, which is authenticated again."""
RETRY_MS = 3_000
NO_STREAMS = "broker_jobs.no_streams"
"""Key in the ASGI scope of a server that cannot hold streams open: pages poll instead."""


class EventListener:
    """An open page. Only the newest counts are kept, since older ones are of no use to a slow page."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._counts: LiveCounts | None = None
        self._closed = False

    async def next(self, seconds: float) -> LiveCounts | None:
        """The next counts; None after this many seconds, or when the stream ends."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return None
        self._changed.clear()
        counts, self._counts = self._counts, None
        return counts

    @property
    def closed(self) -> bool:
        """Whether the stream has to end."""
        return self._closed

    def send(self, counts: LiveCounts | None) -> None:
        """Send new counts, or None to end the stream. From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._receive, counts)
        except RuntimeError:
            self._closed = True  # its event loop has already ended

    def _receive(self, counts: LiveCounts | None) -> None:
        self._counts = counts
        self._closed = self._closed or counts is None
        self._changed.set()


class EventStreams:
    """The open pages, and the thread that reads the counts for them."""

    def __init__(self, read: Callable[[], LiveCounts]) -> None:
        """`read` returns the live counts. It blocks for a short read of the store."""
        self._read = read
        self._listeners: set[EventListener] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._last: LiveCounts | None = None
        self._closed = False

    @property
    def listeners(self) -> int:
        """Number of open pages."""
        return len(self._listeners)

    def join(self) -> EventListener | None:
        """A new listener on the running event loop; None if there are too many, or the dashboard is closing."""
        with self._changed:
            if self._closed or len(self._listeners) >= MAX_LISTENERS:
                return None
            listener = EventListener()
            self._listeners.add(listener)
            if self._last is not None:
                listener.send(self._last)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dashboard live", daemon=True)
                self._thread.start()
            return listener

    def leave(self, listener: EventListener) -> None:
        """Remove a listener. May be called twice."""
        with self._changed:
            self._listeners.discard(listener)
            self._changed.notify_all()

    def close(self) -> None:
        """End every stream, and refuse new ones. May be called twice."""
        with self._changed:
            self._closed = True
            self._end_all()
            self._changed.notify_all()

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.send(None)

    def _run(self) -> None:
        failing = False
        while True:
            try:
                counts = self._read()
                failing = False
            except BrokerJobsError as error:
                counts = None
                if not failing:
                    logger.warning("open pages receive no updates until the store can be read again: %s", error)
                failing = True
            with self._changed:
                if counts is not None and (self._last is None or counts.serial != self._last.serial):
                    for listener in self._listeners:
                        listener.send(counts)
                    self._last = counts
                until = time.monotonic() + READ_SECONDS
                while self._listeners and not self._closed and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                if server_is_stopping():
                    self._end_all()
                if self._closed or not self._listeners:
                    self._thread = self._last = None
                    return


async def stream(request: Request) -> Response:
    """GET /live: live counts as server-sent events, until the page is closed or the server stops."""
    if request.scope.get(NO_STREAMS):
        return Response(status_code=204)  # the browser then does not reconnect
    streams: EventStreams = request.app.state.streams
    listener = streams.join()
    if listener is None:
        return Response("Too many pages are open; this one polls.", 503, {"retry-after": "60"})
    return StreamingResponse(
        _events(streams, listener), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def _events(streams: EventStreams, listener: EventListener) -> AsyncIterator[str]:
    until = time.monotonic() + MAX_STREAM_SECONDS
    try:
        yield f"retry: {RETRY_MS}\n\n"
        while not listener.closed and time.monotonic() < until:
            counts = await listener.next(KEEP_ALIVE_SECONDS)
            if counts is not None:
                yield f"event: counts\nid: {counts.serial}\ndata: {counts.model_dump_json()}\n\n"
            elif not listener.closed:
                yield ": keep-alive\n\n"
    finally:
        streams.leave(listener)


def server_is_stopping() -> bool:
    """Whether the uvicorn server of this process is stopping. It waits for open streams before it notifies the app."""
    for number in (signal.SIGTERM, signal.SIGINT):
        server = getattr(signal.getsignal(number), "__self__", None)
        if getattr(server, "should_exit", False) is True:
            return True
    return False

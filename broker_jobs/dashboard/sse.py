"""Tells open pages that something has changed, by server-sent events; reads nothing while nobody listens.

One thread a process looks at the store's serial once a second, from the first listener to the last. It is a thread, as
reading blocks and listeners may be on several event loops.
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

from broker_jobs.dashboard.views import ChangeView
from broker_jobs.errors import BrokerJobsError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
"""Between lines that say nothing: proxies close what is silent for a minute, and we hear of who has left."""
MOST_LISTENERS = 100
LONGEST_SECONDS = 3600.0
"""A stream ends after this, and the browser opens another: its rights are looked at again."""
RETRY_MS = 3_000
NO_STREAMS = "broker_jobs.no_streams"
"""A key of the scope, where the server cannot hold streams open: pages look for changes by themselves."""


class EventListener:
    """An open page. Only its newest pulse is kept: a slow one misses some, and none is worth a queue."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._pulse: ChangeView | None = None
        self._over = False

    async def next(self, seconds: float) -> ChangeView | None:
        """The next pulse, or None after so many seconds or at the end."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return None
        self._news.clear()
        pulse, self._pulse = self._pulse, None
        return pulse

    @property
    def over(self) -> bool:
        """Whether the stream is to end."""
        return self._over

    def tell(self, pulse: ChangeView | None) -> None:
        """From any thread: a pulse, or None for the end."""
        try:
            self._loop.call_soon_threadsafe(self._take, pulse)
        except RuntimeError:
            self._over = True  # its loop has ended before us

    def _take(self, pulse: ChangeView | None) -> None:
        self._pulse = pulse
        self._over = self._over or pulse is None
        self._news.set()


class EventStreams:
    """Who listens, and the thread that looks for them."""

    def __init__(self, look: Callable[[], ChangeView]) -> None:
        """`look` reads the store: one short read."""
        self._look = look
        self._listeners: set[EventListener] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._last: ChangeView | None = None
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many pages listen now."""
        return len(self._listeners)

    def join(self) -> EventListener | None:
        """A new listener, on the running loop; None where there are too many, or we are at the end."""
        with self._changed:
            if self._closed or len(self._listeners) >= MOST_LISTENERS:
                return None
            listener = EventListener()
            self._listeners.add(listener)
            if self._last is not None:
                listener.tell(self._last)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dashboard live", daemon=True)
                self._thread.start()
            return listener

    def leave(self, listener: EventListener) -> None:
        """It listens no more. Tolerates twice."""
        with self._changed:
            self._listeners.discard(listener)
            self._changed.notify_all()

    def close(self) -> None:
        """End every stream, and take no more. Tolerates twice."""
        with self._changed:
            self._closed = True
            self._end_all()
            self._changed.notify_all()

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.tell(None)

    def _run(self) -> None:
        troubled = False
        while True:
            try:
                pulse = self._look()
                troubled = False
            except BrokerJobsError as error:
                pulse = None
                if not troubled:
                    logger.warning("open pages are told nothing for now: %s", error)
                troubled = True
            with self._changed:
                if pulse is not None and (self._last is None or pulse.serial != self._last.serial):
                    for listener in self._listeners:
                        listener.tell(pulse)
                    self._last = pulse
                until = time.monotonic() + LOOK_SECONDS
                while self._listeners and not self._closed and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                if server_is_leaving():
                    self._end_all()
                if self._closed or not self._listeners:
                    self._thread = self._last = None
                    return


async def stream(request: Request) -> Response:
    """GET /live: pulses as server-sent events, until the page is closed or the server ends."""
    if request.scope.get(NO_STREAMS):
        return Response(status_code=204)  # tells a browser not to come again
    live: EventStreams = request.app.state.live
    listener = live.join()
    if listener is None:
        return Response("Too many pages listen; this one looks by itself.", 503, {"retry-after": "60"})
    return StreamingResponse(
        _events(live, listener), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def _events(live: EventStreams, listener: EventListener) -> AsyncIterator[str]:
    until = time.monotonic() + LONGEST_SECONDS
    try:
        yield f"retry: {RETRY_MS}\n\n"
        while not listener.over and time.monotonic() < until:
            pulse = await listener.next(KEEP_ALIVE_SECONDS)
            if pulse is not None:
                yield f"event: pulse\nid: {pulse.serial}\ndata: {pulse.model_dump_json()}\n\n"
            elif not listener.over:
                yield ": still here\n\n"
    finally:
        live.leave(listener)


def server_is_leaving() -> bool:
    """Whether the uvicorn that serves us has been told to end: it waits for our streams before it tells anybody."""
    for number in (signal.SIGTERM, signal.SIGINT):
        server = getattr(signal.getsignal(number), "__self__", None)
        if getattr(server, "should_exit", False) is True:
            return True
    return False

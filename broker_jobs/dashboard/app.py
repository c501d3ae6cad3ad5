"""Defines Dashboard, the ASGI and WSGI application that a program mounts, and builds the Starlette app inside it.

Constructing a Dashboard opens nothing; the first request does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from broker_jobs.clock import Clock
from broker_jobs.dashboard import pages
from broker_jobs.dashboard.api.app import build_api
from broker_jobs.dashboard.auth import Authentication, Authorize
from broker_jobs.dashboard.context import RequestContext, context
from broker_jobs.dashboard.credentials import Credentials, signing_key
from broker_jobs.dashboard.middleware import (
    SecurityMiddleware,
    StoreMiddleware,
    http_error_response,
    internal_error_response,
    unavailable_response,
)
from broker_jobs.dashboard.pages.rendering import STATIC_FILES
from broker_jobs.dashboard.sse import EventStreams, stream
from broker_jobs.dashboard.store_access import StoreAccess
from broker_jobs.dashboard.wsgi import Wsgi
from broker_jobs.errors import BrokerJobsError, UsageError
from broker_jobs.producer.requests import RequestClient
from broker_jobs.settings import Settings
from broker_jobs.store import Store

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

CACHE_FOR_EVER = "public, max-age=31536000, immutable"


class Dashboard:
    """Pages and API. Mount it (`app.mount("/jobs", dashboard)`), or serve it alone (`broker-jobs dashboard`)."""

    def __init__(
        self,
        load: Callable[[], Settings],
        requests: RequestClient,
        clock: Clock,
        *,
        own_store: Callable[[], Store | None] = lambda: None,
        read_only: bool | None = None,
        authorize: Authorize | None = None,
        local: bool = False,
        title: str | None = None,
    ) -> None:
        """Args:
        load: returns the settings; called by the first request.
        requests: sends commands to the coordinator.
        clock: the time.
        own_store: returns the store of the coordinator in this program, or None.
        read_only: None: the setting.
        authorize: the program's own login.
        local: without a login in the settings, requests from this machine are an administrator's.
        title: None: the setting.

        Raises:
            UsageError: both authorize and local.
        """
        if local and authorize is not None:
            raise UsageError(
                "jobs.dashboard(authorize=…, local=True) defines access twice: leave local out, and let"
                " authorize(request) return a role for requests from this machine"
            )
        self._load = load
        self._requests = requests
        self._clock = clock
        self._own_store = own_store
        self._read_only = read_only
        self._authorize = authorize
        self.local = local
        self._title = title
        self._lock = threading.Lock()
        self._store_access: StoreAccess | None = None
        self._app: Starlette | None = None
        self._streams: EventStreams | None = None
        self._wsgi: Wsgi | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await self._built()(scope, receive, send)

    def wsgi(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI. Open pages poll for changes, since a stream would occupy a thread of the server each."""
        with self._lock:
            if self._wsgi is None:
                self._wsgi = Wsgi(self)
        return self._wsgi(environ, start_response)

    def end_streams(self) -> None:
        """End the event streams of open pages, for which a stopping server waits. May be called at any time."""
        if (streams := self._streams) is not None:
            streams.close()

    def close(self) -> None:
        """End the event streams and close the store. The next request opens it again. May be called at any time."""
        with self._lock:
            streams, store_access = self._streams, self._store_access
            self._app = self._streams = self._store_access = None
        if streams is not None:
            streams.close()
        if store_access is not None:
            store_access.close()

    def _built(self) -> Starlette:
        app = self._app
        if app is not None:
            return app
        with self._lock:
            if self._app is None:
                loaded = self._load()
                settings = loaded if self._title is None else loaded.model_copy(update={"dashboard_title": self._title})
                read_only = settings.dashboard_read_only if self._read_only is None else self._read_only
                store_access = StoreAccess(
                    settings, self._requests, self._clock, own_store=self._own_store, read_only=read_only
                )
                authentication = authentication_of(
                    settings, self._clock, authorize=self._authorize, local=self.local, read_only=read_only
                )
                self._store_access = store_access
                self._streams = EventStreams(
                    lambda: store_access.context.queries.overview.live_counts()  # noqa: PLW0108 - the context is replaced
                )
                self._app = build_app(
                    store_access.context, authentication, store_access=store_access, streams=self._streams
                )
            return self._app

    async def _lifespan(self, receive: Any, send: Any) -> None:
        """The ASGI lifespan, where a server serves the dashboard alone."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def build_app(
    context: RequestContext,
    authentication: Authentication,
    *,
    store_access: StoreAccess | None = None,
    streams: EventStreams | None = None,
) -> Starlette:
    """The dashboard as one Starlette application: middleware, pages, static files, event stream and API.

    Args:
        context: queries and actions of its handlers.
        authentication: the access rules.
        store_access: opens the store before each request; None: it is open.
        streams: sends changes to open pages; None: new ones.
    """
    routes: list[BaseRoute] = [
        *pages.routes(),
        Route("/live", stream, name="live"),
        Route("/static/{path:path}", static_file, name="static"),
        Route("/healthz", healthz, name="healthz"),
        Mount("/api/v1", app=build_api(lambda: app.state.context), name="api"),
    ]
    middleware = [Middleware(SecurityMiddleware, authentication=authentication)]
    if store_access is not None:
        middleware.append(Middleware(StoreMiddleware, store_access=store_access))
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={
            HTTPException: http_error_response,
            BrokerJobsError: unavailable_response,
            Exception: internal_error_response,
        },
    )
    app.state.context = context
    app.state.streams = streams or EventStreams(context.queries.overview.live_counts)
    return app


async def static_file(request: Request) -> Response:
    """GET /static/…: a file whose address contains the hash of its content."""
    found = STATIC_FILES.get(request.path_params["path"])
    if found is None:
        raise HTTPException(404, "There is no such file.")
    return Response(found.body, media_type=found.media_type, headers={"cache-control": CACHE_FOR_EVER})


def healthz(request: Request) -> Response:
    """GET /healthz: whether the store can be read."""
    try:
        context(request).queries.overview.live_counts()
    except BrokerJobsError as error:
        return unavailable_response(request, error)
    return JSONResponse({"ok": True})


def require_login(settings: Settings) -> None:
    """Raise UsageError unless the settings have a login: others can reach a program that mounts the dashboard."""
    if not _credentials(settings):
        raise UsageError(
            "jobs.dashboard() has no login, and would be open to every program that can reach it."
            " Write jobs.dashboard(authorize=…) with your own login, or set BROKER_JOBS_DASHBOARD_TOKEN, or"
            " BROKER_JOBS_DASHBOARD_USER and BROKER_JOBS_DASHBOARD_PASSWORD, or write jobs.dashboard(local=True) to"
            " accept only requests from this machine"
        )


def _credentials(settings: Settings) -> Credentials:
    return Credentials(settings.dashboard_token, settings.dashboard_user, settings.dashboard_password)


def authentication_of(
    settings: Settings, clock: Clock, *, authorize: Authorize | None, local: bool, read_only: bool
) -> Authentication:
    """The access rules that settings and program define."""
    credentials = _credentials(settings)

    def key() -> bytes:
        if settings.in_memory and not credentials:
            return signing_key()
        return signing_key(
            credentials.token, credentials.user, credentials.password, settings.url, settings.store_url()
        )

    return Authentication(credentials, authorize=authorize, local=local, key=key, clock=clock, read_only=read_only)

"""Puts the dashboard together as one ASGI application: guard, pages, static files, live events, API."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from broker_jobs.dashboard import pages
from broker_jobs.dashboard import sse as live_events
from broker_jobs.dashboard.api.app import api
from broker_jobs.dashboard.assets import ASSETS
from broker_jobs.dashboard.auth import AUTH, Authentication
from broker_jobs.dashboard.context import RequestContext as RequestContext
from broker_jobs.dashboard.middleware import HEADERS, SecurityMiddleware, below, is_page
from broker_jobs.dashboard.pages import frame
from broker_jobs.dashboard.problem import problem
from broker_jobs.dashboard.sse import EventStreams
from broker_jobs.dashboard.store_access import StoreAccess
from broker_jobs.errors import BrokerJobsError, UsageError

FOR_EVER = "public, max-age=31536000, immutable"
NEEDS_NO_STORE = ("/static/", "/login", "/logout")


def site(
    context: RequestContext,
    access: Authentication,
    *,
    house: StoreAccess | None = None,
    live: EventStreams | None = None,
) -> Starlette:
    """The dashboard.

    Args:
        desk: where its pages read and act.
        access: who may come in.
        house: opens the store before a page reads it; None: it is open.
        live: tells open pages of changes; None: one of our own.
    """
    routes: list[BaseRoute] = [
        *pages.routes(),
        Route("/live", live_events.stream, name="live"),
        Route("/static/{path:path}", static, name="static"),
        Route("/healthz", healthz, name="healthz"),
        Mount("/api/v1", app=api(lambda: app.state.context), name="api"),
    ]
    middleware = [Middleware(SecurityMiddleware, access=access)]
    if house is not None:
        middleware.append(Middleware(Opened, house=house))
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _refused, BrokerJobsError: _troubled, Exception: _broken},
    )
    app.state.context = context
    app.state.live = live or EventStreams(context.queries.pulse)
    return app


class Opened:
    """An ASGI middleware: the store is open for what comes after it."""

    def __init__(self, app: ASGIApp, house: StoreAccess) -> None:
        self._app = app
        self._store_access = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not below(scope).startswith(NEEDS_NO_STORE):
            if not self._store_access.is_open:
                try:
                    await run_in_threadpool(self._store_access.open)
                except BrokerJobsError as error:
                    response = await run_in_threadpool(_troubled, Request(scope), error)
                    await response(scope, receive, send)
                    return
            scope["app"].state.context = self._store_access.context
        await self._app(scope, receive, send)


async def static(request: Request) -> Response:
    """A file whose address holds its content's hash."""
    found = ASSETS.find(request.path_params["path"])
    if found is None:
        raise HTTPException(404, "There is no such file.")
    return Response(found.body, media_type=found.media_type, headers={"cache-control": FOR_EVER})


def healthz(request: Request) -> Response:
    """Whether the store can be read."""
    try:
        frame.context(request).queries.pulse()
    except BrokerJobsError as error:
        return _troubled(request, error)
    return JSONResponse({"ok": True})


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _say(request, error.status_code, error.detail)


def _troubled(request: Request, error: Exception) -> Response:
    """What the dashboard needs is away: 503, and what to do. 422: the address asks for what cannot be."""
    return _say(request, 422 if isinstance(error, UsageError) else 503, str(error))


def _broken(request: Request, _error: Exception) -> Response:
    """A mistake of ours. This comes from outside of the guard, and is raised again for the server's log."""
    why = "This is a mistake of the dashboard. Its log says more."
    # A program's own login may be what is broken: then nobody knows who asks, and there is no page to draw.
    response = _say(request, 500, why) if AUTH in request.scope else Response(why, 500, media_type="text/plain")
    response.headers.update(HEADERS)
    return response


def _say(request: Request, status: int, why: str) -> Response:
    path = below(request.scope)
    if path == "/healthz":
        return JSONResponse({"ok": False}, status)  # open to all: the reason is in the log and on every page
    if path.startswith("/api/"):
        return problem(status, why)
    if not is_page(path):
        return JSONResponse({"detail": why}, status)
    return frame.show(request, "error.html", status=status, code=status, why=why)

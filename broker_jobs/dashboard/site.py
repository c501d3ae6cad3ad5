"""Puts the dashboard together as one ASGI application: guard, pages, static files, live events, API."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from broker_jobs.dashboard import pages
from broker_jobs.dashboard.access import Access
from broker_jobs.dashboard.assets import ASSETS
from broker_jobs.dashboard.desk import Desk as Desk
from broker_jobs.dashboard.guard import Guard
from broker_jobs.dashboard.pages import frame
from broker_jobs.errors import BrokerJobsError, StoreError

FOR_EVER = "public, max-age=31536000, immutable"


def site(desk: Desk, access: Access) -> Starlette:
    """The dashboard.

    Args:
        desk: where its pages read and act.
        access: who may come in.
    """
    routes: list[BaseRoute] = [
        *pages.routes(),
        Route("/static/{path:path}", static, name="static"),
        Route("/healthz", healthz, name="healthz"),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={HTTPException: _refused, StoreError: _no_store},
    )
    app.state.desk = desk
    return app


async def static(request: Request) -> Response:
    """A file whose address holds its content's hash."""
    found = ASSETS.find(request.path_params["path"])
    if found is None:
        raise HTTPException(404, "There is no such file.")
    return Response(found.body, media_type=found.media_type, headers={"cache-control": FOR_EVER})


def healthz(request: Request) -> Response:
    """Whether the store can be read."""
    try:
        frame.desk(request).lookup.pulse()
    except BrokerJobsError as error:
        return JSONResponse({"ok": False, "store": type(error).__name__}, 503)
    return JSONResponse({"ok": True})


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return frame.show(request, "error.html", status=error.status_code, code=error.status_code, why=error.detail)


def _no_store(request: Request, error: Exception) -> Response:
    return frame.show(request, "error.html", status=503, code=503, why=str(error))

"""The first page: how many jobs stand where, how it goes, and what is wrong now with what to do about it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.pages.frame import context, root, show
from broker_jobs.dashboard.pages.graph import bars_of
from broker_jobs.messages.state import State


def overview(request: Request) -> Response:
    """The page."""
    queries = context(request).queries
    seen = queries.overview()
    week = request.query_params.get("span") == "week"
    graph = queries.graph("week" if week else "day")
    return show(
        request, "overview.html", seen=seen, states=list(State), bars=bars_of(graph), graph=graph,
        is_empty=not any(seen.counts.values()), inside=lambda path: f"{root(request)}/{path.lstrip('/')}",
    )  # fmt: skip


ROUTES = [Route("/", overview, name="overview")]

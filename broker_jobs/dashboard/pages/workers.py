"""Who works: the workers with what they run now, and the coordinators and beats, of which one each is active."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.pages.frame import context, show


def page(request: Request) -> Response:
    """All workers, coordinators and beats that the store knows."""
    queries = context(request).queries
    workers = sorted(queries.workers(), key=lambda worker: (worker.lost, worker.silent, worker.host, worker.pid))
    components = sorted(
        queries.components(), key=lambda part: (part.silent, part.kind, not part.active, part.host, part.pid)
    )
    alive = [worker for worker in workers if not worker.lost and not worker.silent]
    return show(request, "workers.html", workers=workers, components=components, alive=alive)


ROUTES = [Route("/workers", page, name="workers")]

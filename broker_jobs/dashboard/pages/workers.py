"""Who works: the workers with what they run now, and the coordinators and beats, of which one each is active."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.pages.frame import desk, show


def page(request: Request) -> Response:
    """All workers, coordinators and beats that the store knows."""
    lookup = desk(request).lookup
    workers = sorted(lookup.workers(), key=lambda worker: (worker.lost, worker.silent, worker.host, worker.pid))
    parts = sorted(lookup.parts(), key=lambda part: (part.silent, part.kind, not part.active, part.host, part.pid))
    alive = [worker for worker in workers if not worker.lost and not worker.silent]
    return show(request, "workers.html", workers=workers, parts=parts, alive=alive)


ROUTES = [Route("/workers", page, name="workers")]

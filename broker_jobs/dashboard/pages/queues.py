"""The queues: how much waits in each and since when, who serves it; pausing and resuming."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.auth import Role
from broker_jobs.dashboard.pages.frame import Done, Form, acts, context, show, who


def page(request: Request) -> Response:
    """All queues."""
    return show(request, "queues.html", queues=context(request).queries.queues())


@acts(Role.OPERATOR)
def pause(request: Request, _: Form) -> Done:
    """Have no more jobs of a queue started."""
    name = request.path_params["name"]
    context(request).actions.pause_queue(who(request), name)
    return Done(f"Queue {name} is paused: jobs wait in it until it is resumed; what runs goes on.")


@acts(Role.OPERATOR)
def resume(request: Request, _: Form) -> Done:
    """Have jobs of a queue started again."""
    name = request.path_params["name"]
    context(request).actions.resume_queue(who(request), name)
    return Done(f"Queue {name} goes on.")


ROUTES = [
    Route("/queues", page, name="queues"),
    Route("/queues/{name}/pause", pause, methods=["POST"], name="queue_pause"),
    Route("/queues/{name}/resume", resume, methods=["POST"], name="queue_resume"),
]

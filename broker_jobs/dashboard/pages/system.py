"""Shows the overview, queues, workers and limits; pauses and resumes queues, and sets limits."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.context import context, root, visitor_name
from broker_jobs.dashboard.forms.form import Form
from broker_jobs.dashboard.pages.charts import bar_chart
from broker_jobs.dashboard.pages.handlers import Done, action
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.role import Role
from broker_jobs.errors import OptionError
from broker_jobs.messages.state import State


def overview(request: Request) -> Response:
    """The first page: alerts, jobs by state, latencies and history."""
    queries = context(request).queries
    found = queries.overview.get()
    history = queries.overview.history("week" if request.query_params.get("span") == "week" else "day")
    return render(
        request, "overview.html", overview=found, states=list(State), chart=bar_chart(history), history=history,
        is_empty=not any(found.counts.values()), page_url=lambda path: f"{root(request)}/{path.lstrip('/')}",
    )  # fmt: skip


def workers(request: Request) -> Response:
    """All known workers, coordinators and beats."""
    system = context(request).queries.system
    found = sorted(system.workers(), key=lambda worker: (worker.lost, worker.silent, worker.host, worker.pid))
    components = sorted(
        system.components(), key=lambda each: (each.silent, each.kind, not each.active, each.host, each.pid)
    )
    any_alive = any(not worker.lost and not worker.silent for worker in found)
    return render(request, "workers.html", workers=found, components=components, any_alive=any_alive)


# --- queues ---


def queues(request: Request) -> Response:
    """All queues."""
    return render(request, "queues.html", queues=context(request).queries.system.queues())


@action(Role.OPERATOR)
def pause_queue(request: Request, _: Form) -> Done:
    """Stop starting jobs of a queue."""
    name = request.path_params["name"]
    context(request).actions.pause_queue(visitor_name(request), name)
    return Done(f"Queue {name} is paused. Its jobs wait until you resume it; running jobs continue.")


@action(Role.OPERATOR)
def resume_queue(request: Request, _: Form) -> Done:
    """Start jobs of a queue again."""
    name = request.path_params["name"]
    context(request).actions.resume_queue(visitor_name(request), name)
    return Done(f"Queue {name} is resumed.")


# --- limits ---


def limits(request: Request) -> Response:
    """All limits that are in use or set by a person."""
    return render(request, "limits.html", limits=context(request).queries.system.limits())


@action(Role.ADMIN)
def set_limit(request: Request, form: Form) -> Done:
    """Override the limit of a key, or remove the override."""
    key = form.raw("key")
    actions, by = context(request).actions, visitor_name(request)
    if form.text("do") == "unset":
        actions.set_limit(by, key, None)
        return Done(f"The override of {key} is removed. The limit is the one that its jobs are enqueued with.")
    number = form.text("limit")
    if not (number.isascii() and number.isdecimal()):
        raise OptionError(f"a limit is an integer from 0, not {number!r}; 0 holds its jobs back")
    actions.set_limit(by, key, int(number))
    return Done(f"The limit of {key} is now {number}. It overrides the limit of its jobs.")


ROUTES = [
    Route("/", overview, name="overview"),
    Route("/workers", workers, name="workers"),
    Route("/queues", queues, name="queues"),
    Route("/queues/{name}/pause", pause_queue, methods=["POST"], name="queue_pause"),
    Route("/queues/{name}/resume", resume_queue, methods=["POST"], name="queue_resume"),
    Route("/limits", limits, name="limits"),
    Route("/limits/set", set_limit, methods=["POST"], name="limits_set"),
]

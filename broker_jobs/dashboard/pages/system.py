"""Shows the overview, queues, workers and limits; pauses queues, changes workers, and sets limits."""

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
from broker_jobs.served_queues import parse_limits

MAX_CONCURRENCY = 10_000


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


@action(Role.ADMIN)
def change_workers(request: Request, form: Form) -> Done:
    """Change what a worker, or each worker of its host, does until it restarts."""
    number = form.text("concurrency")
    if not (number.isascii() and number.isdecimal() and 1 <= int(number[:6]) <= MAX_CONCURRENCY):
        raise OptionError(f"the concurrency is an integer from 1 to {MAX_CONCURRENCY:_}, not {number!r}")
    try:
        limits = parse_limits(_parts(form.text("queue_limits")))
    except ValueError as error:
        raise OptionError(str(error)) from None
    whole_host = form.text("scope") == "host"
    changed = context(request).actions.change_workers(
        visitor_name(request),
        worker="" if whole_host else form.text("worker"),
        host=form.text("host") if whole_host else "",
        concurrency=int(number),
        queues=_parts(form.text("queues")),
        queue_limits=limits,
    )
    what = "1 worker is" if changed == 1 else f"{changed} workers are"
    return Done(f"{what} changed until the next restart. The page shows it after the next heartbeat.")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


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
    Route("/workers/change", change_workers, methods=["POST"], name="workers_change"),
    Route("/queues", queues, name="queues"),
    Route("/queues/{name}/pause", pause_queue, methods=["POST"], name="queue_pause"),
    Route("/queues/{name}/resume", resume_queue, methods=["POST"], name="queue_resume"),
    Route("/limits", limits, name="limits"),
    Route("/limits/set", set_limit, methods=["POST"], name="limits_set"),
]

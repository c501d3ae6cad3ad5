"""The batches: how far each is, what is inside it, and its failures by their errors; run again, or given up."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.auth import Role
from broker_jobs.dashboard.pages.frame import Done, Form, acts, context, not_found, show, sought, url, who
from broker_jobs.dashboard.pages.jobs import follow
from broker_jobs.dashboard.views import FailureGroup

STATES = ("awaiting", "processing", "succeeded", "failed", "deleted")


def page(request: Request) -> Response:
    """A page of batches, the newest first."""
    it, asked = context(request), request.query_params
    state, text = asked.get("state", ""), sought(request, "text")
    found = it.queries.batches(
        state=state if state in STATES else None,
        text=text or None,
        cursor=asked.get("cursor"),
        limit=it.page_size,
    )
    return show(
        request, "batches.html", found=found, states=STATES, state=state, text=text, first="cursor" not in asked
    )


def one(request: Request) -> Response:
    """One batch."""
    batch = context(request).queries.batch(request.path_params["id"])
    if batch is None:
        raise not_found(f"batch {request.path_params['id']}")
    return show(request, "batch.html", batch=batch, sought=part_of, page_name="batches")


def part_of(group: FailureGroup) -> str:
    """What to look for in errors to find the jobs of a group: the message, as its type is kept apart from it."""
    kind, _, message = group.error.partition(": ")
    return message or kind


@acts(Role.OPERATOR)
def requeue(request: Request, _: Form) -> Done:
    """Run all failed jobs of a batch again, also those of the batches inside it."""
    id = request.path_params["id"]
    command = context(request).actions.requeue_failures(who(request), id)
    return follow(request, command, "requeue", url(request, "batch", id=id))


@acts(Role.OPERATOR)
def delete(request: Request, _: Form) -> Done:
    """Delete what has not ended of a batch."""
    if context(request).actions.delete_batch(who(request), request.path_params["id"]):
        return Done("Deleted: what waited is deleted, what runs is asked to stop.")
    return Done("It had ended already: nothing is left to delete.", wrong=True)


ROUTES = [
    Route("/batches", page, name="batches"),
    Route("/batches/{id:path}/requeue", requeue, methods=["POST"], name="batch_requeue"),
    Route("/batches/{id:path}/delete", delete, methods=["POST"], name="batch_delete"),
    Route("/batches/{id:path}", one, name="batch"),
]

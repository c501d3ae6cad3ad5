"""Shows batches with their progress, inner batches and failures; requeues failures and deletes batches."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.context import context, url, visitor_name
from broker_jobs.dashboard.forms.form import Form
from broker_jobs.dashboard.pages.bulk import wait_for_bulk
from broker_jobs.dashboard.pages.handlers import Done, action, not_found, search_text
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import FailureGroup

STATES = ("awaiting", "processing", "succeeded", "failed", "deleted")


def page(request: Request) -> Response:
    """A page of batches, newest first."""
    it, params = context(request), request.query_params
    state, text = params.get("state", ""), search_text(request, "text")
    found = it.queries.batches.page(
        state=state if state in STATES else None,
        text=text or None,
        cursor=params.get("cursor"),
        limit=it.page_size,
    )
    return render(
        request, "batches.html", found=found, states=STATES, state=state, text=text, first="cursor" not in params
    )


def one(request: Request) -> Response:
    """One batch."""
    batch = context(request).queries.batches.get(request.path_params["id"])
    if batch is None:
        raise not_found(f"batch {request.path_params['id']}")
    return render(request, "batch.html", batch=batch, error_text=error_text, page_name="batches")


def error_text(group: FailureGroup) -> str:
    """The search text that finds the jobs of a group: the message, as the store keeps the type separately."""
    kind, _, message = group.error.partition(": ")
    return message or kind


@action(Role.OPERATOR)
def requeue(request: Request, _: Form) -> Done:
    """Requeue all failed jobs of a batch and its inner batches."""
    id = request.path_params["id"]
    command = context(request).actions.requeue_failures(visitor_name(request), id)
    return wait_for_bulk(request, command, "requeue", url(request, "batch", id=id))


@action(Role.OPERATOR)
def delete(request: Request, _: Form) -> Done:
    """Delete the jobs of a batch that have not ended."""
    if context(request).actions.delete_batch(visitor_name(request), request.path_params["id"]):
        return Done("Waiting jobs are deleted. Running jobs are asked to stop.")
    return Done("The batch had already ended. No job was deleted.", failed=True)


ROUTES = [
    Route("/batches", page, name="batches"),
    Route("/batches/{id:path}/requeue", requeue, methods=["POST"], name="batch_requeue"),
    Route("/batches/{id:path}/delete", delete, methods=["POST"], name="batch_delete"),
    Route("/batches/{id:path}", one, name="batch"),
]

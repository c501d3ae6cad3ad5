"""Builds the API as one ASGI application, with its OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from broker_jobs.dashboard.api import actions, reads
from broker_jobs.dashboard.api.errors import add_error_handlers
from broker_jobs.dashboard.auth import SESSION_COOKIE
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.problem import MEDIA_TYPE

VERSION = "1"
DESCRIPTION = """\
The dashboard as JSON. Times are UTC, durations are seconds. A list continues with the cursor in `next`.

Send the dashboard's token (`Authorization: Bearer …`), or a session cookie together with its `X-CSRF-Token`.
Reading needs the role viewer. Actions on existing jobs, queues, batches and recurring jobs need operator. All others,
such as running a job or adding a recurring job, need admin.
Errors are `application/problem+json`: what is wrong, and what to do. Secret arguments are masked.
"""
TAGS = {
    "overview": "The state of the system at one moment.",
    "jobs": "Search, run, requeue and delete jobs, one or many.",
    "queues": "Queues, and pausing them.",
    "recurring": "Recurring jobs and their schedules.",
    "batches": "Batches of jobs.",
    "processes": "Workers, coordinators and beats.",
    "limits": "Concurrency and rate limits by key.",
    "dead-letters": "Messages that could not be decoded, routed or applied.",
    "functions": "Functions that can be run as jobs.",
    "audit": "Commands that were applied or refused.",
}


def build_api(context: Callable[[], RequestContext]) -> FastAPI:
    """The API, to be mounted at /api/v1 behind the dashboard's middleware.

    Args:
        context: returns the request context; called at each request.
    """
    app = FastAPI(
        title="broker_jobs",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.get_context = context
    app.include_router(reads.router)
    app.include_router(actions.router)
    add_error_handlers(app)
    cached: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not cached:
            cached.update(_openapi_document(app))
        return cached

    app.openapi = document  # type: ignore[method-assign]  # as the documentation of FastAPI does
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the media type of problems and the security schemes."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, tags=app.openapi_tags, routes=app.routes
    )
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "4" and "application/json" in response.get("content", {}):
                    response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
    document["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": SESSION_COOKIE},
        "form": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token"},
    }
    document["security"] = [{"token": []}, {"session": [], "form": []}]
    return document

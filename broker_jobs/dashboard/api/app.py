"""Puts the API together as one ASGI application, and writes its OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from broker_jobs.dashboard.api import actions, reads
from broker_jobs.dashboard.api.problem import answers
from broker_jobs.dashboard.auth import SESSION_COOKIE
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.problem import MEDIA_TYPE

VERSION = "1"
DESCRIPTION = """\
What the dashboard shows and does, as JSON. Instants are UTC, lengths are seconds, lists go on at `next`.

Send the dashboard's token (`Authorization: Bearer …`), or the cookie of a session together with its `X-CSRF-Token`.
Reading needs the role viewer; acting on jobs, queues, batches and recurring jobs that are there operator; all else,
as running a job or adding a recurring one, admin.
What goes wrong is answered as `application/problem+json`: what is wrong, and what to do. Arguments are masked by name.
"""
TAGS = {
    "overview": "The state of the house at one moment.",
    "jobs": "Look at jobs, run them, run them again, delete them; one or many.",
    "queues": "Queues, paused and resumed.",
    "recurring": "Recurring jobs: when they run, and changing that.",
    "batches": "Jobs that start together and end together.",
    "processes": "Workers, coordinators and beats.",
    "limits": "How many of a key run at once, or start in a time.",
    "dead-letters": "Messages that could not be read, routed or decided.",
    "functions": "What can be run as a job.",
    "audit": "Who did what.",
}


def api(context: Callable[[], RequestContext]) -> FastAPI:
    """The API, to be mounted at /api/v1 behind the guard of the dashboard.

    Args:
        desk: where to look and to act, as it is at a request.
    """
    app = FastAPI(
        title="broker_jobs",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        generate_unique_id_function=_name,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.find_desk = context
    app.include_router(reads.router)
    app.include_router(actions.router)
    answers(app)
    described: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not described:
            described.update(_described(app))
        return described

    app.openapi = document  # type: ignore[method-assign]  # the way FastAPI has
    return app


def _name(route: APIRoute) -> str:
    return route.name


def _described(app: FastAPI) -> dict[str, Any]:
    """The document: problems are of their own media type, and who may ask is said."""
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

"""Builds problem responses (RFC 9457): what is wrong, and what to do. For the API and for the middleware before it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
WHAT_TO_DO = {
    401: "Send the dashboard's token (Authorization: Bearer …), or a session cookie, and X-CSRF-Token with a change.",
    403: "Ask the administrator of the dashboard for the role.",
    404: "Check the id in the list: it never existed, or its retention is over.",
    405: "See the OpenAPI document for the allowed methods.",
    409: "Read the current state, and decide again.",
    413: "Store the data elsewhere, and pass a reference.",
    422: "Correct the request.",
    500: "Check the log of the dashboard.",
    503: "Check that RabbitMQ, the store and a coordinator are running, and repeat the request.",
}


class Mistake(BaseModel):
    """A mistake in a request."""

    where: str = Field(description="path, query or body, and the field")
    what: str = Field(description="what is wrong")


class Problem(BaseModel):
    """An error, and what to do about it."""

    type: str = Field(default="about:blank")
    title: str = Field(description="name of the status")
    status: int
    detail: str = Field(description="what is wrong")
    do: str = Field(description="what to do about it")
    mistakes: list[Mistake] = Field(default_factory=list, description="every mistake of an invalid request")


def problem_response(
    status: int, detail: str, mistakes: list[Mistake] | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The response to an error."""
    shown = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        do=WHAT_TO_DO.get(status, "Check the log of the dashboard."),
        mistakes=mistakes or [],
    )
    wait = {"retry-after": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
    return JSONResponse(shown.model_dump(), status, {**wait, **(headers or {})}, MEDIA_TYPE)

"""Says what went wrong as JSON (RFC 9457): what is wrong, and what to do. For the API, and the guard before it."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5
WHAT_TO_DO = {
    401: "Send the dashboard's token: Authorization: Bearer …; or log in, and send X-CSRF-Token with what changes.",
    403: "Ask whoever runs the dashboard for the right.",
    404: "Look at the list it should be in: it was never there, or is past its retention.",
    405: "Look into the OpenAPI document for what is possible here.",
    409: "Look at it as it stands now, and decide again.",
    413: "Store the data elsewhere, and pass a reference.",
    422: "Mend the request.",
    500: "Look into the log of the dashboard.",
    503: "Look whether RabbitMQ, the store and a coordinator are up, and repeat.",
}


class Mistake(BaseModel):
    """One thing that is wrong in a request."""

    where: str = Field(description="path, query or body, and the field")
    what: str


class Problem(BaseModel):
    """What is wrong, and what to do."""

    type: str = Field(default="about:blank")
    title: str = Field(description="of the status")
    status: int
    detail: str = Field(description="what is wrong")
    do: str = Field(description="what to do about it")
    mistakes: list[Mistake] = Field(default_factory=list, description="each one, where the request does not fit")


def problem(
    status: int, detail: str, mistakes: list[Mistake] | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer to what went wrong."""
    shown = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        do=WHAT_TO_DO.get(status, "Look into the log of the dashboard."),
        mistakes=mistakes or [],
    )
    wait = {"retry-after": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
    return JSONResponse(shown.model_dump(), status, {**wait, **(headers or {})}, MEDIA_TYPE)

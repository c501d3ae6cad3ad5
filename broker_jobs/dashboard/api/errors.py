"""Maps errors of the API to HTTP statuses and problem responses."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from broker_jobs.dashboard.problem import Mistake, Problem, problem_response
from broker_jobs.errors import (
    ArgumentsError,
    BrokerError,
    BrokerJobsError,
    EnqueueError,
    MissingExtra,
    OptionError,
    ResultTimeout,
    StoreError,
    UsageError,
)

logger = logging.getLogger(__name__)

MAX_IN_DETAIL = 5
"""Mistakes named in `detail`; `mistakes` has all."""
DESCRIPTIONS: dict[int, str] = {
    401: "The request has no valid login.",
    403: "The role of the login does not allow this.",
    404: "There is no such thing.",
    409: "The coordinator has refused the command; the detail has the reason.",
    413: "The message is too large.",
    422: "The request is not valid.",
    503: "RabbitMQ, the store or the coordinator is not available.",
}
OF_EVERY_OPERATION = frozenset({401, 403, 503})


class NotFound(BrokerJobsError):  # answered with 404
    """The subject of a request does not exist."""


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation, for the OpenAPI document."""
    return {
        status: {"model": Problem, "description": DESCRIPTIONS[status]}
        for status in sorted(OF_EVERY_OPERATION | {*statuses})
    }


def add_error_handlers(app: FastAPI) -> None:
    """Add the error handlers to an application."""
    app.add_exception_handler(BrokerJobsError, _broker_jobs_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(Exception, _internal_error)


def status_of(error: BrokerJobsError) -> int:
    """The HTTP status of an error of ours."""
    match error:
        case NotFound():
            return 404
        case ArgumentsError() | OptionError():
            return 422
        case MissingExtra():
            return 503
        case UsageError():
            return 409
        case BrokerError() | StoreError() | ResultTimeout():
            return 503
        case EnqueueError():
            return 413
        case _:
            return 500


def _broker_jobs_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BrokerJobsError)
    return problem_response(status_of(error), str(error))


def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = 422 if error.status_code == 400 else error.status_code  # FastAPI sends 400 for a body that is no UTF-8
    return problem_response(status, error.detail, headers=error.headers)


def _invalid_request(_request: Request, error: Exception) -> Response:
    """The mistakes of a request. Its values are not repeated: they may be secret."""
    assert isinstance(error, RequestValidationError)
    mistakes = [
        Mistake(where=".".join(str(part) for part in each["loc"]), what=str(each["msg"]).removeprefix("Value error, "))
        for each in error.errors()
    ]
    detail = "; ".join(f"{each.where}: {each.what}" for each in mistakes[:MAX_IN_DETAIL])
    return problem_response(422, detail, mistakes)


def _internal_error(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed with an internal error", request.method, request.url.path, exc_info=error)
    return problem_response(500, "Internal error of the dashboard.")

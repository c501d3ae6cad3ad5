"""Answers everything that goes wrong in the API in one shape, with the status that says whose it is."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from broker_jobs.dashboard.problem import Mistake, Problem, problem
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

MOST_TOLD = 5
"""Mistakes that are told in the sentence; all of them are listed."""
PROBLEMS: dict[int, str] = {
    401: "It is not known who asks.",
    403: "Who asks may not do this.",
    404: "It is not known.",
    409: "The coordinator has refused, and says why.",
    413: "It is too large.",
    422: "The request does not fit.",
    503: "RabbitMQ, the store or the coordinator does not answer.",
}
OF_ALL = frozenset({401, 403, 503})


class NotFound(BrokerJobsError):  # a fact about a request, answered with 404
    """What a request is about is not there."""


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers of an operation that are no success, for its description; some are of every one."""
    return {status: {"model": Problem, "description": PROBLEMS[status]} for status in sorted(OF_ALL | {*statuses})}


def answers(app: FastAPI) -> None:
    """Have an application answer so."""
    app.add_exception_handler(BrokerJobsError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _unfit)
    app.add_exception_handler(Exception, _broken)


def status_of(error: BrokerJobsError) -> int:
    """What an error of ours is in HTTP."""
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


def _ours(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BrokerJobsError)
    return problem(status_of(error), str(error))


def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = 422 if error.status_code == 400 else error.status_code  # a body that is no UTF-8
    return problem(status, error.detail, headers=error.headers)


def _unfit(_request: Request, error: Exception) -> Response:
    """What does not fit; what was given is not repeated, as it may be secret."""
    assert isinstance(error, RequestValidationError)
    mistakes = [
        Mistake(where=".".join(str(part) for part in each["loc"]), what=str(each["msg"]).removeprefix("Value error, "))
        for each in error.errors()
    ]
    told = "; ".join(f"{each.where}: {each.what}" for each in mistakes[:MOST_TOLD])
    return problem(422, told, mistakes)


def _broken(request: Request, error: Exception) -> Response:
    logger.error("%s %s broke", request.method, request.url.path, exc_info=error)
    return problem(500, "This is a mistake of ours.")

"""Handles forms: checks role and CSRF token, runs the action, and redirects with a flash.

@action(Role.OPERATOR)
def requeue(request: Request, form: Form) -> Done:
    context(request).actions.requeue_job(visitor_name(request), request.path_params["id"])
    return Done("Requeued.")
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from broker_jobs.dashboard import auth
from broker_jobs.dashboard.context import is_own_address, root, visitor_name
from broker_jobs.dashboard.forms.form import Form
from broker_jobs.dashboard.role import Role
from broker_jobs.errors import BrokerJobsError

logger = logging.getLogger(__name__)

MAX_FIELDS = 2_000
"""Fields of one form: more than the largest page of selected jobs."""
MAX_SEARCH_CHARS = 1_000


@dataclass(frozen=True)
class Done:
    """The flash after an action, and the page to show; `to` None: the page that the form was on."""

    text: str
    to: str | None = None
    failed: bool = False


FormHandler = Callable[[Request, Form], Done | Response]


def action(role: Role) -> Callable[[FormHandler], Callable[[Request], Awaitable[Response]]]:
    """Make a function the handler of a form: only for this role, and only with a valid CSRF token.

    Errors of ours (refused, no coordinator, no broker) become a flash on the form's page. A handler that has to keep
    the typed values catches UsageError itself and renders its page again.
    """

    def decorate(handle: FormHandler) -> Callable[[Request], Awaitable[Response]]:
        @functools.wraps(handle)
        async def handler(request: Request) -> Response:
            auth.require_role(request, role)
            data = await request.form(max_files=0, max_fields=MAX_FIELDS, max_part_size=auth.MAX_BODY_BYTES)
            auth.require_csrf_token(request, str(data.get("csrf", "")))
            form = Form(data)
            try:
                done = await run_in_threadpool(handle, request, form)
            except BrokerJobsError as error:
                logger.info("%s: %s was refused: %s", visitor_name(request), request.url.path, error)
                done = Done(str(error), failed=True)
            if isinstance(done, Response):
                return done
            response = RedirectResponse(done.to or back_address(request, form), 303)
            auth.put_flash(request, response, done.text, failed=done.failed)
            return response

        return handler

    return decorate


def visible_to(role: Role) -> Callable[[Callable[[Request], Response]], Callable[[Request], Response]]:
    """Restrict a page to this role; without it every viewer may open the page."""

    def decorate(page: Callable[[Request], Response]) -> Callable[[Request], Response]:
        @functools.wraps(page)
        def handler(request: Request) -> Response:
            auth.require_role(request, role)
            return page(request)

        return handler

    return decorate


def search_text(request: Request, name: str) -> str:
    """A search text in the query string; empty: none. Raises 422 for a text that no store can search."""
    text = request.query_params.get(name, "").strip()
    if len(text) > MAX_SEARCH_CHARS or "\x00" in text:
        raise HTTPException(422, f"A search text has at most {MAX_SEARCH_CHARS} characters and no NUL character.")
    return text


def not_found(what: str) -> HTTPException:
    """The error to raise for a missing subject: `raise not_found("job 0190…")`."""
    return HTTPException(404, f"There is no {what}: it never existed, or its retention is over.")


def back_address(request: Request, form: Form) -> str:
    """The page that a form was on, if it is a page of this dashboard; otherwise the overview."""
    back = form.text("back")
    return back if is_own_address(request, back) else root(request) + "/"

"""Lets people in by token, or by user and password, and out again."""

from __future__ import annotations

import secrets

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from broker_jobs.dashboard import auth
from broker_jobs.dashboard.pages.frame import Form, acts, is_ours, root, show
from broker_jobs.dashboard.role import Role

MOST_FIELDS = 10


def login_page(request: Request) -> Response:
    """The form; who is in already goes on."""
    rules = auth.auth_of(request).access
    if auth.visitor_of(request).role >= Role.VIEWER:
        return RedirectResponse(_next(request, request.query_params.get("next", "")), 303)
    if not rules.credentials:
        raise HTTPException(404, "Nobody logs in here: the program this dashboard belongs to says who may come in.")
    return _form(request, request.query_params.get("next", ""))


async def log_in(request: Request) -> Response:
    """The form sent. Where it came from was looked at by the guard."""
    rules = auth.auth_of(request).access
    form = Form(await request.form(max_files=0, max_fields=MOST_FIELDS))
    if not rules.credentials:
        raise HTTPException(404, "Nobody logs in here.")
    address = request.client.host if request.client is not None else ""
    if rules.attempts.too_many(address):
        return _form(request, form.text("next"), "Too many attempts. Wait a minute.", 429)
    who = ""
    if form.text("token"):
        who = "token" if rules.credentials.is_token(form.text("token")) else ""
    elif rules.credentials.is_user(form.text("user"), form.raw("password")):
        who = rules.credentials.user
    if not who:
        rules.attempts.failed(address)
        return _form(request, form.text("next"), "That is not right.", 401)
    response = RedirectResponse(_next(request, form.text("next")), 303)
    rules.open_session(request, response, secrets.token_urlsafe(16), who)
    return response


@acts(Role.VIEWER)
def log_out(request: Request, form: Form) -> Response:
    """End the session."""
    del form
    response = RedirectResponse(f"{root(request)}/login", 303)
    auth.auth_of(request).access.close_session(request, response)
    return response


def _form(request: Request, then: str, wrong: str = "", status: int = 200) -> Response:
    credentials = auth.auth_of(request).access.credentials
    return show(
        request,
        "login.html",
        status=status,
        then=then,
        wrong=wrong,
        by_token=bool(credentials.token),
        by_user=bool(credentials.user),
    )


def _next(request: Request, then: str) -> str:
    return then if is_ours(request, then) else f"{root(request)}/"


ROUTES = [
    Route("/login", login_page, name="login"),
    Route("/login", log_in, name="log_in", methods=["POST"]),
    Route("/logout", log_out, name="logout", methods=["POST"]),
]

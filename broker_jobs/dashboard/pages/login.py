"""Shows the login form, logs visitors in by token or by user and password, and logs them out."""

from __future__ import annotations

import secrets

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from broker_jobs.dashboard import auth
from broker_jobs.dashboard.context import is_own_address, root
from broker_jobs.dashboard.forms.form import Form
from broker_jobs.dashboard.pages.handlers import action
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.role import Role

MAX_FIELDS = 10


def login_page(request: Request) -> Response:
    """The form; a visitor who is logged in is redirected."""
    rules = auth.auth_of(request).authentication
    if auth.visitor_of(request).role >= Role.VIEWER:
        return RedirectResponse(_next(request, request.query_params.get("next", "")), 303)
    if not rules.credentials:
        raise HTTPException(404, "This dashboard has no login form: the program that mounts it decides on access.")
    return _form(request, request.query_params.get("next", ""))


async def log_in(request: Request) -> Response:
    """The submitted form. The middleware has already checked its origin."""
    rules = auth.auth_of(request).authentication
    form = Form(await request.form(max_files=0, max_fields=MAX_FIELDS))
    if not rules.credentials:
        raise HTTPException(404, "This dashboard has no login form.")
    address = request.client.host if request.client is not None else ""
    if rules.attempts.too_many(address):
        return _form(request, form.text("next"), "Too many failed logins. Wait a minute.", 429)
    user = ""
    if form.text("token"):
        user = "token" if rules.credentials.is_token(form.text("token")) else ""
    elif rules.credentials.is_user(form.text("user"), form.raw("password")):
        user = rules.credentials.user
    if not user:
        rules.attempts.add_failure(address)
        return _form(request, form.text("next"), "Wrong token, user or password.", 401)
    response = RedirectResponse(_next(request, form.text("next")), 303)
    rules.open_session(request, response, secrets.token_urlsafe(16), user)
    return response


@action(Role.VIEWER)
def log_out(request: Request, form: Form) -> Response:
    """End the session."""
    del form
    response = RedirectResponse(f"{root(request)}/login", 303)
    auth.auth_of(request).authentication.close_session(request, response)
    return response


def _form(request: Request, next_address: str, error: str = "", status: int = 200) -> Response:
    credentials = auth.auth_of(request).authentication.credentials
    return render(
        request,
        "login.html",
        status=status,
        next_address=next_address,
        error=error,
        by_token=bool(credentials.token),
        by_user=bool(credentials.user),
    )


def _next(request: Request, address: str) -> str:
    return address if is_own_address(request, address) else f"{root(request)}/"


ROUTES = [
    Route("/login", login_page, name="login"),
    Route("/login", log_in, name="login_submit", methods=["POST"]),
    Route("/logout", log_out, name="logout", methods=["POST"]),
]

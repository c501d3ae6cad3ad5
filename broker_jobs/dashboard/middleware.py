"""Checks every request (login, CSRF, size), sets security headers, opens the store, and answers errors."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broker_jobs.dashboard import auth
from broker_jobs.dashboard.auth import Authentication, RequestAuth
from broker_jobs.dashboard.local_requests import is_cross_site
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.problem import problem_response
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.store_access import StoreAccess
from broker_jobs.errors import BrokerJobsError, UsageError

PUBLIC_PATHS = ("/login", "/healthz", "/static/")
"""Paths that need no login. If only requests from this machine are accepted, that includes these paths."""
PATHS_WITHOUT_STORE = ("/static/", "/login", "/logout")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "x-csrf-token"
NO_ACCESS = "You have no access to this dashboard."
LOCAL_ONLY = (
    "This dashboard has no login, and accepts only requests from its own machine: from a loopback address, to"
    " localhost or 127.0.0.1, and without a proxy. To open it to others, set BROKER_JOBS_DASHBOARD_TOKEN, or"
    " BROKER_JOBS_DASHBOARD_USER and BROKER_JOBS_DASHBOARD_PASSWORD, or pass your own login to"
    " jobs.dashboard(authorize=…)."
)
TOO_LARGE = "A request has at most 1 MiB."
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With no-referrer, browsers would send "Origin: null" with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Refusal:
    """Status and reason of a refused request."""

    status: int
    reason: str


class SecurityMiddleware:
    """ASGI middleware: authenticates each request, refuses forbidden ones, and sets security headers."""

    def __init__(self, app: ASGIApp, authentication: Authentication) -> None:
        self._app = app
        self._authentication = authentication

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        found = scope[auth.AUTH] = await self._authentication.authenticate(request)
        path = relative_path(scope)
        answer = self._refusal(request, path, found)
        if isinstance(answer, Refusal):
            answer = await run_in_threadpool(refusal_response, request, path, answer)
        app = self._app if answer is None else answer
        await app(scope, _limit_body(receive), self._with_headers(scope, send, found))

    def _refusal(self, request: Request, path: str, found: RequestAuth) -> Response | Refusal | None:
        """The response to a refused request, or None."""
        is_public = (path in PUBLIC_PATHS or path.startswith("/static/")) and not self._authentication.local_only
        if not is_public and found.visitor.role < Role.VIEWER:
            if self._authentication.local_only:
                return Refusal(403, LOCAL_ONLY)
            if self._authentication.credentials and is_page(path):
                back = quote(request.scope["path"] + (f"?{request.url.query}" if request.url.query else ""), safe="")
                login = request.scope.get("root_path", "") + "/login"
                return RedirectResponse(f"{quote(login)}?next={back}" if request.method == "GET" else quote(login), 303)
            return Refusal(401 if self._authentication.credentials else 403, NO_ACCESS)
        if "\x00" in path and is_page(path):
            return Refusal(404, "There is no such page.")
        if request.method in SAFE_METHODS or found.method == "bearer":
            return None
        if is_cross_site(request):
            return Refusal(403, "Another site sent this request. Nothing was done.")
        if path.startswith("/api/") and found.method == "session":
            try:
                auth.require_csrf_token(request, request.headers.get(CSRF_HEADER, ""))
            except HTTPException as error:
                return Refusal(403, error.detail)
        if _length(request) > auth.MAX_BODY_BYTES:
            return Refusal(413, TOO_LARGE)
        return None

    def _with_headers(self, scope: Scope, send: Send, found: RequestAuth) -> Send:
        request = Request(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if found.set_cookie and headers.get("content-type", "").startswith("text/html"):
                    cookie = Response()
                    self._authentication.open_session(request, cookie, found.session)
                    headers.append("set-cookie", cookie.headers["set-cookie"])
            await send(message)

        return send_with_headers


class StoreMiddleware:
    """ASGI middleware: opens the store before each request that reads it."""

    def __init__(self, app: ASGIApp, store_access: StoreAccess) -> None:
        self._app = app
        self._store_access = store_access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not relative_path(scope).startswith(PATHS_WITHOUT_STORE):
            if not self._store_access.is_open:
                try:
                    await run_in_threadpool(self._store_access.open)
                except BrokerJobsError as error:
                    response = await run_in_threadpool(unavailable_response, Request(scope), error)
                    await response(scope, receive, send)
                    return
            scope["app"].state.context = self._store_access.context
        await self._app(scope, receive, send)


def _limit_body(receive: Receive) -> Receive:
    """Limit a body that has no Content-Length."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > auth.MAX_BODY_BYTES:
            raise HTTPException(413, TOO_LARGE)
        return message

    return limited


def is_page(path: str) -> bool:
    """Whether this path is an HTML page."""
    return not path.startswith(("/api/", "/live", "/static/", "/healthz"))


def relative_path(scope: Scope) -> str:
    """The path of a request, relative to the path at which the dashboard is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and (path + "/").startswith(root + "/") else path


def _length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def refusal_response(request: Request, path: str, refusal: Refusal) -> Response:
    """The response to a refused request: a page, or JSON."""
    headers = {"www-authenticate": 'Bearer realm="broker_jobs"'} if refusal.status == 401 else {}
    if path.startswith("/api/"):
        return problem_response(refusal.status, refusal.reason, headers=headers)
    if not is_page(path):
        return JSONResponse({"detail": refusal.reason}, refusal.status, headers)
    return render(request, "error.html", status=refusal.status, code=refusal.status, reason=refusal.reason)


# --- errors ---


def http_error_response(request: Request, error: Exception) -> Response:
    """The response to an HTTPException."""
    assert isinstance(error, HTTPException)
    return _error_response(request, error.status_code, error.detail)


def unavailable_response(request: Request, error: Exception) -> Response:
    """The response to an error of ours: 422 for an invalid address, 503 for a missing store, broker or coordinator."""
    return _error_response(request, 422 if isinstance(error, UsageError) else 503, str(error))


def internal_error_response(request: Request, _error: Exception) -> Response:
    """The response to a defect. Starlette calls it outside of the middleware, and logs the error afterwards."""
    reason = "Internal error of the dashboard. Its log has the details."
    if auth.AUTH in request.scope:
        response = _error_response(request, 500, reason)
    else:  # the program's own login failed, so that no page can be rendered
        response = Response(reason, 500, media_type="text/plain")
    response.headers.update(HEADERS)
    return response


def _error_response(request: Request, status: int, reason: str) -> Response:
    path = relative_path(request.scope)
    if path == "/healthz":
        return JSONResponse({"ok": False}, status)  # public, so without the reason, which the log and the pages have
    return refusal_response(request, path, Refusal(status, reason))

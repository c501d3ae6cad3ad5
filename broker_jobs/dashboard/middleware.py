"""Stands before every request: who asks, from which page, how large; and puts the headers that keep a page safe."""

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
from broker_jobs.dashboard.pages.frame import show
from broker_jobs.dashboard.problem import problem
from broker_jobs.dashboard.role import Role

OPEN_TO_ALL = ("/login", "/healthz", "/static/")
"""What needs no login. Where there is none to log in by, these too are for this machine alone."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "x-csrf-token"
NO_RIGHTS = "You may not see this dashboard."
LOCAL_ONLY = (
    "This dashboard has no login, and is for requests that plainly come from its own machine: from a loopback"
    " address, to localhost or 127.0.0.1, and through no proxy. To open it to others, set BROKER_JOBS_DASHBOARD_TOKEN,"
    " or BROKER_JOBS_DASHBOARD_USER and BROKER_JOBS_DASHBOARD_PASSWORD, or give jobs.dashboard(authorize=…) your own"
    " login."
)
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # no-referrer would make browsers send "Origin: null" with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Refusal:
    """Why a request goes no further."""

    status: int
    why: str


class SecurityMiddleware:
    """An ASGI middleware around the whole dashboard."""

    def __init__(self, app: ASGIApp, access: Authentication) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        found = scope[auth.AUTH] = await self._access.look(request)
        path = below(scope)
        answer = self._refusal(request, path, found)
        if isinstance(answer, Refusal):
            answer = await run_in_threadpool(_drawn, request, path, answer)
        app = self._app if answer is None else answer
        await app(scope, _measured(receive), self._dressed(scope, send, found))

    def _refusal(self, request: Request, path: str, found: RequestAuth) -> Response | Refusal | None:
        """The answer to who may not come in, or None."""
        is_open = (path in OPEN_TO_ALL or path.startswith("/static/")) and not self._access.local_only
        if not is_open and found.visitor.role < Role.VIEWER:
            if self._access.local_only:
                return Refusal(403, LOCAL_ONLY)
            if self._access.credentials and is_page(path):
                back = quote(request.scope["path"] + (f"?{request.url.query}" if request.url.query else ""), safe="")
                login = request.scope.get("root_path", "") + "/login"
                return RedirectResponse(f"{quote(login)}?next={back}" if request.method == "GET" else quote(login), 303)
            can_ask = bool(self._access.credentials)
            return Refusal(401 if can_ask else 403, NO_RIGHTS)
        if "\x00" in path and is_page(path):
            return Refusal(404, "There is nothing of such a name.")
        if request.method in SAFE_METHODS or found.way == "bearer":
            return None
        if auth.from_elsewhere(request):
            return Refusal(403, "This was sent by a page elsewhere, and nothing was done.")
        if path.startswith("/api/") and found.way == "session":
            try:
                auth.demand_token(request, request.headers.get(CSRF_HEADER, ""))
            except HTTPException as error:
                return Refusal(403, error.detail)
        if _length(request) > auth.MAX_BODY_BYTES:
            return Refusal(413, "At most 1 MiB can be sent at once.")
        return None

    def _dressed(self, scope: Scope, send: Send, found: RequestAuth) -> Send:
        request = Request(scope)

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if found.fresh and headers.get("content-type", "").startswith("text/html"):
                    cookie = Response()
                    self._access.open_session(request, cookie, found.session)
                    headers.append("set-cookie", cookie.headers["set-cookie"])
            await send(message)

        return dressed


def _measured(receive: Receive) -> Receive:
    """Counts a body that does not say its length."""
    seen = 0

    async def measured() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > auth.MAX_BODY_BYTES:
            raise HTTPException(413, "At most 1 MiB can be sent at once.")
        return message

    return measured


def is_page(path: str) -> bool:
    """Whether a person looks at what is answered here."""
    return not path.startswith(("/api/", "/live", "/static/", "/healthz"))


def below(scope: Scope) -> str:
    """The path below the one we are mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and (path + "/").startswith(root + "/") else path


def _length(request: Request) -> int:
    text = request.headers.get("content-length", "0")
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def _drawn(request: Request, path: str, refusal: Refusal) -> Response:
    headers = {"www-authenticate": 'Bearer realm="broker_jobs"'} if refusal.status == 401 else {}
    if path.startswith("/api/"):
        return problem(refusal.status, refusal.why, headers=headers)
    if not is_page(path):
        return JSONResponse({"detail": refusal.why}, refusal.status, headers)
    return show(request, "error.html", status=refusal.status, code=refusal.status, why=refusal.why)

"""Authenticates requests, and protects forms: the visitor and role of a request, sessions, CSRF tokens and flashes.

A visitor is identified by the program's own hook, by a token, or by user and password. Without any of these, and if
the dashboard allows it, a request from this machine is an administrator's. The middleware applies this to each request.
Over 300 lines, as sessions, CSRF tokens and flashes share one key and one set of cookies.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import inspect
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from broker_jobs.clock import Clock
from broker_jobs.dashboard.credentials import Credentials, LoginAttempts, same_secret
from broker_jobs.dashboard.local_requests import is_local
from broker_jobs.dashboard.role import Role as Role
from broker_jobs.dashboard.role import Visitor as Visitor
from broker_jobs.errors import UsageError

MAX_BODY_BYTES = 1024 * 1024
SESSION_SECONDS = 12 * 3600.0
SESSION_COOKIE = "broker_jobs_session"
FLASH_COOKIE = "broker_jobs_flash"
MAX_FLASH_CHARS = 1_500
"""A cookie holds 4 KiB."""
AUTH = "broker_jobs.auth"
"""Key of the RequestAuth in the ASGI scope."""

Answer: TypeAlias = Role | Visitor | None
Authorize: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]]
"""The program's own login. Returns a Role, a Visitor (a role and a name), or None: no access."""

Method: TypeAlias = Literal["hook", "session", "bearer", "basic", "local", "none"]


@dataclass
class RequestAuth:
    """The authentication of one request."""

    visitor: Visitor
    method: Method
    authentication: Authentication
    session: str = ""
    """Id of the session; the CSRF token is derived from it."""
    set_cookie: bool = False
    """The session is new, or half of its time is over: send its cookie."""
    flash: dict[str, Any] | None = field(default=None)


class Authentication:
    """The access rules of one dashboard."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        authorize: Authorize | None = None,
        local: bool = False,
        key: Callable[[], bytes],
        clock: Clock,
        read_only: bool = False,
    ) -> None:
        """Args:
        credentials: the configured login.
        authorize: the program's own login. If given, it and the credentials decide, and `local` has no effect.
        local: without credentials and `authorize`, requests from this machine are an administrator's.
        key: returns the key that signs sessions; called once, at the first request.
        clock: decides when a session has expired.
        read_only: every visitor is at most a viewer.
        """
        self.credentials = credentials
        self.read_only = read_only
        self.attempts = LoginAttempts(clock)
        self._authorize = authorize
        self._local = local
        self._key = key
        self._clock = clock
        self._signing_key: bytes | None = None
        self._closed_sessions: dict[str, float] = {}
        """Session id -> when its cookie expires."""

    @property
    def local_only(self) -> bool:
        """Whether only requests from this machine are served."""
        return self._local and self._authorize is None and not self.credentials

    async def authenticate(self, request: Request) -> RequestAuth:
        """The visitor of a request, and how it was identified. Role.NONE without a valid login; raises nothing then."""
        found = await self._identify(request)
        role = min(found.visitor.role, Role.VIEWER) if self.read_only else found.visitor.role
        found.visitor = Visitor(role, found.visitor.name)
        return found

    async def _identify(self, request: Request) -> RequestAuth:
        name, _, value = request.headers.get("authorization", "").partition(" ")
        by_header = self._check_header(request, name.lower(), value.strip()) if name and self.credentials else None
        if by_header is not None and by_header.method == "bearer":
            return by_header
        session = self._session(request)
        if self._authorize is not None:
            answer = await self._call_authorize(request)
            if answer is not None and answer.role > Role.NONE:
                return self._with_session(RequestAuth(answer, "hook", self), session)
        if session is not None and session.get("user") and self.credentials:
            return RequestAuth(Visitor(Role.ADMIN, str(session["user"])), "session", self, session=str(session["id"]))
        if by_header is not None:
            return self._with_session(by_header, session)
        if self.local_only and is_local(request):
            return self._with_session(RequestAuth(Visitor(Role.ADMIN, "local"), "local", self), session)
        return RequestAuth(Visitor(Role.NONE), "none", self)

    def _check_header(self, request: Request, scheme: str, value: str) -> RequestAuth | None:
        """The visitor of an Authorization header; None: it is wrong, or the address has too many failed logins."""
        address = request.client.host if request.client is not None else ""
        if self.attempts.too_many(address):
            return None
        if scheme == "bearer":
            if self.credentials.is_token(value):
                return RequestAuth(Visitor(Role.ADMIN, "token"), "bearer", self)
        elif scheme == "basic":
            pair = _parse_basic(value)
            if pair is not None and self.credentials.is_user(*pair):
                return RequestAuth(Visitor(Role.ADMIN, pair[0]), "basic", self)
        else:
            return None
        if self._authorize is None:  # the program's own login may use this header for its own values
            self.attempts.add_failure(address)
        return None

    async def _call_authorize(self, request: Request) -> Visitor | None:
        assert self._authorize is not None
        if inspect.iscoroutinefunction(self._authorize):
            answer = await self._authorize(request)
        else:
            answer = await run_in_threadpool(self._authorize, request)
            if inspect.isawaitable(answer):
                answer = await answer
        if answer is None or isinstance(answer, Visitor):
            return answer if answer is None or answer.name else Visitor(answer.role, "authorized")
        if not isinstance(answer, Role):
            raise UsageError(f"authorize(request) returned {type(answer).__name__}: return a Role, a Visitor or None")
        return Visitor(answer, "authorized")

    def _with_session(self, found: RequestAuth, session: dict[str, Any] | None) -> RequestAuth:
        if session is not None and not session.get("user"):
            found.session = str(session["id"])
            # This session grants no access; it only carries the CSRF token. Renewing it keeps a long-open page usable.
            found.set_cookie = float(session["until"]) - self._clock.now() < SESSION_SECONDS / 2
        else:
            found.session, found.set_cookie = secrets.token_urlsafe(16), True
        return found

    # --- sessions, CSRF tokens and flashes ---

    def open_session(self, request: HTTPConnection, response: Response, session: str, user: str = "") -> None:
        """Set the session cookie: signed, not readable by scripts, for this dashboard's path only."""
        body = {"id": session, "user": user, "until": self._clock.now() + SESSION_SECONDS}
        _set_cookie(request, response, SESSION_COOKIE, self._signer("session").dumps(body), SESSION_SECONDS)

    def close_session(self, request: Request, response: Response) -> None:
        """End a session, and delete its cookie."""
        session = self._session(request)
        now = self._clock.now()
        self._closed_sessions = {id: until for id, until in self._closed_sessions.items() if until > now}
        if session is not None:
            self._closed_sessions[str(session["id"])] = float(session["until"])
        _drop_cookie(request, response, SESSION_COOKIE)

    def csrf_token(self, session: str) -> str:
        """The CSRF token of a session's forms."""
        return hmac.new(self._secret(), b"form " + session.encode(), hashlib.sha256).hexdigest()

    def _session(self, request: HTTPConnection) -> dict[str, Any] | None:
        body = self._read(request, SESSION_COOKIE, "session")
        if body is None or body.get("id") in self._closed_sessions or float(body.get("until", 0)) < self._clock.now():
            return None
        return body

    def _read(self, request: HTTPConnection, cookie: str, purpose: str) -> dict[str, Any] | None:
        written = request.cookies.get(cookie)
        if not written:
            return None
        try:
            body = self._signer(purpose).loads(written)
        except BadSignature:
            return None
        return body if isinstance(body, dict) else None

    def _signer(self, purpose: str) -> URLSafeSerializer:
        return URLSafeSerializer(
            self._secret(), salt=f"broker_jobs {purpose}", signer_kwargs={"digest_method": hashlib.sha256}
        )

    def _secret(self) -> bytes:
        if self._signing_key is None:
            self._signing_key = self._key()
        return self._signing_key

    def flash(self, request: HTTPConnection) -> dict[str, Any] | None:
        """The flash for this page, or None."""
        return self._read(request, FLASH_COOKIE, "flash")

    def put_flash(self, request: HTTPConnection, response: Response, text: str, *, failed: bool) -> None:
        """Show a flash on the next page."""
        body = {"text": text if len(text) <= MAX_FLASH_CHARS else text[: MAX_FLASH_CHARS - 1] + "…", "failed": failed}
        _set_cookie(request, response, FLASH_COOKIE, self._signer("flash").dumps(body), 60)


# --- one request, for pages and API ---


def auth_of(request: HTTPConnection) -> RequestAuth:
    """The authentication of a request, as the middleware has found it."""
    found: RequestAuth = request.scope[AUTH]
    return found


def visitor_of(request: HTTPConnection) -> Visitor:
    """The visitor of a request."""
    return auth_of(request).visitor


def require_role(request: HTTPConnection, role: Role) -> None:
    """Raise 403 with the missing role unless the visitor has this role."""
    found = auth_of(request)
    if found.visitor.role >= role:
        return
    if found.authentication.read_only:
        raise HTTPException(403, "This dashboard is read-only.")
    raise HTTPException(
        403, f"This needs the role {role.name.lower()}. You are {found.visitor.name or 'not logged in'}"
        f" with the role {found.visitor.role.name.lower()}."
    )  # fmt: skip


def require_csrf_token(request: HTTPConnection, token: str) -> None:
    """Raise 403 unless this is the session's CSRF token. A request with a bearer token needs none."""
    found = auth_of(request)
    if found.method == "bearer":
        return
    if not found.session or not same_secret(token, found.authentication.csrf_token(found.session)):
        raise HTTPException(403, "This form has expired. Go back, reload the page and try again.")


def csrf_token_of(request: HTTPConnection) -> str:
    """The CSRF token for the forms of a page."""
    found = auth_of(request)
    return found.authentication.csrf_token(found.session) if found.session else ""


def can_log_out(request: HTTPConnection) -> bool:
    """Whether the visitor has logged in by the login page."""
    return auth_of(request).method == "session"


def flash_of(request: HTTPConnection) -> dict[str, Any] | None:
    """The flash for this page, or None."""
    found = auth_of(request)
    if found.flash is None:
        found.flash = found.authentication.flash(request)
    return found.flash


def put_flash(request: HTTPConnection, response: Response, text: str, *, failed: bool = False) -> None:
    """Show a flash on the next page."""
    auth_of(request).authentication.put_flash(request, response, text, failed=failed)


def drop_flash(request: HTTPConnection, response: Response) -> None:
    """Delete the flash once it is shown."""
    if FLASH_COOKIE in request.cookies:
        _drop_cookie(request, response, FLASH_COOKIE)


# --- helpers ---


def _parse_basic(value: str) -> tuple[str, str] | None:
    try:
        text = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    user, colon, password = text.partition(":")
    return (user, password) if colon else None


def _cookie_path(request: HTTPConnection) -> str:
    path: str = request.scope.get("root_path", "").rstrip("/")
    return path + "/"


def _set_cookie(request: HTTPConnection, response: Response, name: str, value: str, seconds: float) -> None:
    response.set_cookie(
        name,
        value,
        max_age=int(seconds),
        path=_cookie_path(request),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",  # strict would ask for a login after a click on a link elsewhere
    )


def _drop_cookie(request: HTTPConnection, response: Response, name: str) -> None:
    response.delete_cookie(
        name, path=_cookie_path(request), secure=request.url.scheme == "https", httponly=True, samesite="lax"
    )

"""Tells who asks and what they may do, and that what acts comes from our own page.

Who asks is told by the program's own hook, by a token, by user and password, or, where nothing of that is set and the
dashboard was made for it, by being on this machine. Everything here is about one request; the Guard applies it to each.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import inspect
import ipaddress
import json
import re
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
from broker_jobs.dashboard.login_attempts import LoginAttempts
from broker_jobs.dashboard.role import Role as Role
from broker_jobs.dashboard.role import Visitor as Visitor
from broker_jobs.errors import UsageError

MAX_BODY_BYTES = 1024 * 1024
SESSION_SECONDS = 12 * 3600.0
SESSION_COOKIE = "broker_jobs_session"
FLASH_COOKIE = "broker_jobs_flash"
MAX_FLASH = 1_500
"""Characters; a cookie holds 4 KiB."""
AUTH = "broker_jobs.pass"
PROXY_HEADERS = (
    *("forwarded", "x-forwarded", "x-original-", "x-rewrite-", "x-real-", "x-client-", "x-cluster-", "x-remote-"),
    *("x-host", "x-scheme", "x-proxy", "x-ssl", "x-envoy-", "x-amz", "x-azure-", "x-appengine-", "x-arr-", "x-vercel-"),
    *("x-varnish", "x-nginx-", "x-cloud-trace-", "x-sendfile-", "via", "proxy-", "max-forwards", "true-client-"),
    *("client-ip", "remote-addr", "ssl-client-", "cf-", "cdn-", "fastly-", "fly-", "akamai-", "incap-", "ngrok-"),
)
"""How the headers begin that proxies add. A request that came through one is not from this machine: the proxy's
address is that of the machine, and it brings the requests of everybody."""
HOST = re.compile(r"(\[[0-9a-f]*:[0-9a-f:.]+\]|[a-z0-9.]+)(?::[0-9]{1,5})?", re.ASCII | re.IGNORECASE)
"""A Host header that may be local: a name or address, and a port."""

Answer: TypeAlias = Role | Visitor | None
Authorize: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]]
"""Tells what the one who asks may do, by the program's own login: a role, a Visitor (with a name), or None."""

Way: TypeAlias = Literal["hook", "session", "bearer", "basic", "local", "none"]


@dataclass(frozen=True)
class Credentials:
    """What opens the door: a token, or a user and password, or both, or nothing."""

    token: str = ""
    user: str = ""
    password: str = ""

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.password):
            raise UsageError("the dashboard's user and password go together: set both or none")

    def __bool__(self) -> bool:
        return bool(self.token or self.user)

    def is_token(self, token: str) -> bool:
        """Whether it is the token; takes as long whatever is wrong with it."""
        return bool(self.token) and same(token, self.token)

    def is_user(self, user: str, password: str) -> bool:
        """Whether these are user and password."""
        right = [same(user, self.user), same(password, self.password)]
        return bool(self.user) and all(right)


@dataclass
class RequestAuth:
    """What was found out about one request."""

    visitor: Visitor
    way: Way
    access: Authentication
    session: str = ""
    """What the token of the forms is bound to."""
    fresh: bool = False
    """The session is new, or half over: its cookie has to be set."""
    flash: dict[str, Any] | None = field(default=None)


class Authentication:
    """The rules of one dashboard."""

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
        credentials: what opens the door.
        authorize: the program's own login; where it is given, it and the credentials decide, and being local counts
            for nothing.
        local: where there is neither a login nor credentials, who is on this machine is an administrator.
        key: what sessions are signed with; called once, at the first request.
        clock: tells when a session has ended.
        read_only: nobody is more than a viewer.
        """
        self.credentials = credentials
        self.read_only = read_only
        self.attempts = LoginAttempts(clock)
        self._authorize = authorize
        self._local = local
        self._key = key
        self._clock = clock
        self._made: bytes | None = None
        self._ended: dict[str, float] = {}

    @property
    def local_only(self) -> bool:
        """Whether only requests from this machine are served."""
        return self._local and self._authorize is None and not self.credentials

    async def look(self, request: Request) -> RequestAuth:
        """Who asks, and how they showed it. Never raises for who may not come in: their role is NONE."""
        found = await self._found(request)
        role = min(found.visitor.role, Role.VIEWER) if self.read_only else found.visitor.role
        found.visitor = Visitor(role, found.visitor.name)
        return found

    async def _found(self, request: Request) -> RequestAuth:
        name, _, value = request.headers.get("authorization", "").partition(" ")
        shown = self._shown(request, name.lower(), value.strip()) if name and self.credentials else None
        if shown is not None and shown.way == "bearer":
            return shown
        session = self._session(request)
        if self._authorize is not None:
            answer = await self._ask(request)
            if answer is not None and answer.role > Role.NONE:
                return self._with_session(RequestAuth(answer, "hook", self), session)
        if session is not None and session.get("who") and self.credentials:
            return RequestAuth(Visitor(Role.ADMIN, str(session["who"])), "session", self, session=str(session["id"]))
        if shown is not None:
            return self._with_session(shown, session)
        if self.local_only and is_local(request):
            return self._with_session(RequestAuth(Visitor(Role.ADMIN, "local"), "local", self), session)
        return RequestAuth(Visitor(Role.NONE), "none", self)

    def _shown(self, request: Request, scheme: str, value: str) -> RequestAuth | None:
        """Who a header "authorization" says it is; None: nobody, or one that is no longer listened to."""
        address = request.client.host if request.client is not None else ""
        if self.attempts.too_many(address):
            return None
        if scheme == "bearer":
            if self.credentials.is_token(value):
                return RequestAuth(Visitor(Role.ADMIN, "token"), "bearer", self)
        elif scheme == "basic":
            pair = _basic(value)
            if pair is not None and self.credentials.is_user(*pair):
                return RequestAuth(Visitor(Role.ADMIN, pair[0]), "basic", self)
        else:
            return None
        if self._authorize is None:  # a program's own login may use the same header for its own
            self.attempts.failed(address)
        return None

    async def _ask(self, request: Request) -> Visitor | None:
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
            raise UsageError(f"authorize(request) gave {type(answer).__name__}: give a Role, a Visitor or None")
        return Visitor(answer, "authorized")

    def _with_session(self, found: RequestAuth, session: dict[str, Any] | None) -> RequestAuth:
        if session is not None and not session.get("who"):
            found.session = str(session["id"])
            # It opens nothing, it is only what forms are bound to: a page that stays open all night can still act.
            found.fresh = float(session["until"]) - self._clock.now() < SESSION_SECONDS / 2
        else:
            found.session, found.fresh = secrets.token_urlsafe(16), True
        return found

    # --- sessions, their token, and messages for the next page ---

    def open_session(self, request: HTTPConnection, response: Response, session: str, who: str = "") -> None:
        """Have the browser keep a session: signed, unreadable to scripts, for this dashboard's path alone."""
        body = {"id": session, "who": who, "until": self._clock.now() + SESSION_SECONDS}
        _set_cookie(request, response, SESSION_COOKIE, self._signer("session").dumps(body), SESSION_SECONDS)

    def close_session(self, request: Request, response: Response) -> None:
        """Forget a session, here and in the browser."""
        session = self._session(request)
        now = self._clock.now()
        self._ended = {id: until for id, until in self._ended.items() if until > now}
        if session is not None:
            self._ended[str(session["id"])] = float(session["until"])
        _drop_cookie(request, response, SESSION_COOKIE)

    def token(self, session: str) -> str:
        """What the forms of a session carry, which no other page can know."""
        return hmac.new(self._secret(), b"form " + session.encode(), hashlib.sha256).hexdigest()

    def _session(self, request: HTTPConnection) -> dict[str, Any] | None:
        body = self._read(request, SESSION_COOKIE, "session")
        if body is None or body.get("id") in self._ended or float(body.get("until", 0)) < self._clock.now():
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
        if self._made is None:
            self._made = self._key()
        return self._made

    def flash(self, request: HTTPConnection) -> dict[str, Any] | None:
        """The message for this page, if there is one."""
        return self._read(request, FLASH_COOKIE, "flash")

    def put_flash(self, request: HTTPConnection, response: Response, text: str, *, wrong: bool) -> None:
        """A message for the next page."""
        body = {"text": text if len(text) <= MAX_FLASH else text[: MAX_FLASH - 1] + "…", "wrong": wrong}
        _set_cookie(request, response, FLASH_COOKIE, self._signer("flash").dumps(body), 60)


# --- one request, for pages and API ---


def auth_of(request: HTTPConnection) -> RequestAuth:
    """What the Guard has found out."""
    found: RequestAuth = request.scope[AUTH]
    return found


def visitor_of(request: HTTPConnection) -> Visitor:
    """Who asks."""
    return auth_of(request).visitor


def demand(request: HTTPConnection, role: Role) -> None:
    """Raise 403, saying what is missing, unless the one who asks has this role."""
    found = auth_of(request)
    if found.visitor.role >= role:
        return
    if found.access.read_only:
        raise HTTPException(403, "This dashboard is read-only: nothing can be changed here.")
    raise HTTPException(
        403, f"This needs the role {role.name.lower()}; you are {found.visitor.name or 'nobody'},"
        f" with the role {found.visitor.role.name.lower()}."
    )  # fmt: skip


def demand_token(request: HTTPConnection, token: str) -> None:
    """Raise 403 unless a form carries its session's token. A bearer's request is no browser's, and needs none."""
    found = auth_of(request)
    if found.way == "bearer":
        return
    if not found.session or not same(token, found.access.token(found.session)):
        raise HTTPException(403, "This form is too old or was not ours: go back, load the page again and repeat.")


def csrf_of(request: HTTPConnection) -> str:
    """The token for the forms of a page."""
    found = auth_of(request)
    return found.access.token(found.session) if found.session else ""


def can_log_out(request: HTTPConnection) -> bool:
    """Whether there is a session of ours to end."""
    return auth_of(request).way == "session"


def flash_of(request: HTTPConnection) -> dict[str, Any] | None:
    """The message that the action before has left for this page."""
    found = auth_of(request)
    if found.flash is None:
        found.flash = found.access.flash(request)
    return found.flash


def put_flash(request: HTTPConnection, response: Response, text: str, *, wrong: bool = False) -> None:
    """Leave a message for the next page."""
    auth_of(request).access.put_flash(request, response, text, wrong=wrong)


def forget_flash(request: HTTPConnection, response: Response) -> None:
    """The message has been shown."""
    if FLASH_COOKIE in request.cookies:
        _drop_cookie(request, response, FLASH_COOKIE)


# --- pure ---


def same(given: str, right: str) -> bool:
    """Whether two secrets are the same, in a time that does not tell how much of them is."""
    return hmac.compare_digest(_digest(given), _digest(right))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def signing_key(*secret: str) -> bytes:
    """A key made of what only this installation knows, the same in each of its processes; slow to guess.

    Changing the password changes the key, and ends every session. Without any secret it is random.
    """
    if not any(secret):
        return secrets.token_bytes(32)
    return hashlib.scrypt(json.dumps(secret).encode(), salt=b"broker_jobs dashboard", n=2**14, r=8, p=1, dklen=32)


def is_loopback(host: str) -> bool:
    """Whether a name or address, as bound, is this machine's own."""
    name = host.strip("[]").rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost") or _is_loopback_address(name.partition("%")[0])


def is_local(request: HTTPConnection) -> bool:
    """Whether a request comes from this machine and means this machine, as far as it tells.

    Its address alone does not tell: a page elsewhere may have given its own name our address (DNS rebinding), and a
    proxy on this machine brings everybody's requests. What is left is a proxy that gives our own address as Host, adds
    no header and speaks HTTP/1.1: a program's request through it looks like one from here. A browser's is refused as
    soon as it names the page that it comes from.
    """
    headers, client = request.headers, request.client
    hosts = headers.getlist("host")
    if client is None or not _is_loopback_address(client.host.partition("%")[0]):
        return False
    if len(hosts) != 1 or not is_local_host(hosts[0]):
        return False
    if any(name.lower().replace("_", "-").startswith(PROXY_HEADERS) for name in headers):
        return False
    if str(request.scope.get("http_version", "1.1")) == "1.0":  # what a proxy speaks by default, and no browser
        return False
    # A proxy that says nothing of itself leaves the browser's word as it was: the page that this was sent by.
    pages = headers.getlist("origin")
    if headers.get("sec-fetch-site", "same-origin") == "same-origin":  # else a link elsewhere may have led here
        pages += headers.getlist("referer")
    return all(is_local_host(page.partition("://")[2].partition("/")[0]) for page in pages)


def is_local_host(host: str) -> bool:
    """Whether a Host header is plainly this machine: localhost, or an address of loopback, and at most a port."""
    found = HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower()
    return name == "localhost" or _is_loopback_address(name.removeprefix("[").removesuffix("]"))


def _is_loopback_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def from_elsewhere(request: HTTPConnection) -> bool:
    """Whether a browser says that a request that acts was not sent by a page of ours."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return False
    return origin.partition("://")[2].lower() != request.headers.get("host", "").lower()


def _basic(value: str) -> tuple[str, str] | None:
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
        samesite="lax",  # strict would show the login to who comes by a link from an alert
    )


def _drop_cookie(request: HTTPConnection, response: Response, name: str) -> None:
    response.delete_cookie(
        name, path=_cookie_path(request), secure=request.url.scheme == "https", httponly=True, samesite="lax"
    )

"""The dashboard as a program holds it: an ASGI application to mount anywhere, and the same for WSGI.

Making one opens nothing; the first request does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette

from broker_jobs.clock import Clock
from broker_jobs.dashboard.auth import Authentication, Authorize, Credentials, signing_key
from broker_jobs.dashboard.site import site
from broker_jobs.dashboard.sse import EventStreams
from broker_jobs.dashboard.store_access import StoreAccess
from broker_jobs.dashboard.wsgi import Wsgi
from broker_jobs.errors import UsageError
from broker_jobs.producer.requests import RequestClient
from broker_jobs.settings import Settings
from broker_jobs.store import Store

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


class Dashboard:
    """Pages and API: mount it (`app.mount("/jobs", dashboard)`), or serve it alone (`broker-jobs dashboard`)."""

    def __init__(
        self,
        load: Callable[[], Settings],
        requests: RequestClient,
        clock: Clock,
        *,
        own_store: Callable[[], Store | None] = lambda: None,
        read_only: bool | None = None,
        authorize: Authorize | None = None,
        local: bool = False,
        title: str | None = None,
    ) -> None:
        """Args:
        load: the settings; called by the first request.
        asker: asks the coordinator.
        clock: tells the time.
        own_store: the store of the coordinator that runs in this program, or None.
        read_only: None: the setting.
        authorize: the program's own login.
        local: where the settings have no login, requests from this machine are an administrator's.
        title: None: the setting.

        Raises:
            UsageError: both authorize and local.
        """
        if local and authorize is not None:
            raise UsageError(
                "jobs.dashboard(authorize=…, local=True) says twice who may see it: leave local out, and let"
                " authorize(request) tell who is on this machine"
            )
        self._load = load
        self._requests = requests
        self._clock = clock
        self._own_store = own_store
        self._read_only = read_only
        self._authorize = authorize
        self.local = local
        self._title = title
        self._lock = threading.Lock()
        self._store_access: StoreAccess | None = None
        self._site: Starlette | None = None
        self._live: EventStreams | None = None
        self._wsgi: Wsgi | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await self._made()(scope, receive, send)

    def wsgi(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """WSGI; pages look for changes by themselves there, as a stream would hold a thread of the server each."""
        with self._lock:
            if self._wsgi is None:
                self._wsgi = Wsgi(self)
        return self._wsgi(environ, start_response)

    def end_streams(self) -> None:
        """End the streams of open pages, as a server that ends waits for them. Tolerates twice and never."""
        if (live := self._live) is not None:
            live.close()

    def close(self) -> None:
        """End the streams of open pages and close the store; another request opens it again. Tolerates twice."""
        with self._lock:
            live, house = self._live, self._store_access
            self._site = self._live = self._store_access = None
        if live is not None:
            live.close()
        if house is not None:
            house.close()

    def _made(self) -> Starlette:
        made = self._site
        if made is not None:
            return made
        with self._lock:
            if self._site is None:
                given = self._load()
                settings = given if self._title is None else given.model_copy(update={"dashboard_title": self._title})
                read_only = settings.dashboard_read_only if self._read_only is None else self._read_only
                self._store_access = StoreAccess(
                    settings, self._requests, self._clock, own_store=self._own_store, read_only=read_only
                )
                self._live = EventStreams(lambda house=self._store_access: house.context.queries.pulse())  # type: ignore[misc]
                access = access_of(
                    settings, self._clock, authorize=self._authorize, local=self.local, read_only=read_only
                )
                self._site = site(self._store_access.context, access, house=self._store_access, live=self._live)
            return self._site

    async def _lifespan(self, receive: Any, send: Any) -> None:
        """Served alone by any ASGI server."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def refuse_without_login(settings: Settings) -> None:
    """Raise UsageError unless the settings have a login: a program that mounts a dashboard is reached by others."""
    if not _credentials(settings):
        raise UsageError(
            "jobs.dashboard() does not say who may see it, and would be open to everybody who reaches this program."
            " Write jobs.dashboard(authorize=…) with your own login, or set BROKER_JOBS_DASHBOARD_TOKEN, or"
            " BROKER_JOBS_DASHBOARD_USER and BROKER_JOBS_DASHBOARD_PASSWORD, or write jobs.dashboard(local=True) to"
            " serve requests from this machine alone"
        )


def _credentials(settings: Settings) -> Credentials:
    return Credentials(settings.dashboard_token, settings.dashboard_user, settings.dashboard_password)


def access_of(
    settings: Settings, clock: Clock, *, authorize: Authorize | None, local: bool, read_only: bool
) -> Authentication:
    """The rules of access that settings and program give."""
    credentials = _credentials(settings)

    def key() -> bytes:
        if settings.in_memory and not credentials:
            return signing_key()
        return signing_key(
            credentials.token, credentials.user, credentials.password, settings.url, settings.store_url()
        )

    return Authentication(credentials, authorize=authorize, local=local, key=key, clock=clock, read_only=read_only)

"""Gives request handlers what they need: queries, actions, the visitor's rights, and the addresses of routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request

from broker_jobs.clock import Clock
from broker_jobs.dashboard.actions import Actions
from broker_jobs.dashboard.auth import visitor_of
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.role import Role


@dataclass(frozen=True)
class RequestContext:
    """What every handler uses. Held in `request.app.state.context`; `context(request)` returns it."""

    queries: Queries
    actions: Actions
    clock: Clock
    title: str = "broker_jobs"
    read_only: bool = False
    page_size: int = 50
    """Rows on a page of a list."""


def context(request: Request) -> RequestContext:
    """The queries and actions of this dashboard."""
    found: RequestContext = request.app.state.context
    return found


def visitor_name(request: Request) -> str:
    """The visitor's name, for the audit."""
    return visitor_of(request).name


def has_role(request: Request, role: Role) -> bool:
    """Whether the visitor may do what this role may."""
    return visitor_of(request).role >= role


# --- addresses ---


def url(request: Request, name: str, /, **given: Any) -> str:
    """The address of a route, from the server's root. Arguments that are not in its path become the query string.

    Raises:
        NoMatchFound: there is no such route.
    """
    route = next((each for each in request.app.routes if getattr(each, "name", None) == name), None)
    in_path = set(route.param_convertors) if route is not None else set()
    path = {key: quote(str(given[key]), safe="/:@+~") for key in in_path if key in given}
    query = [
        (key, "" if one is None else one)
        for key, value in given.items()
        if key not in in_path and value is not None
        for one in (value if isinstance(value, list | tuple) else [value])
    ]
    found = root(request) + str(request.app.url_path_for(name, **path))
    return f"{found}?{urlencode(query)}" if query else found


def root(request: Request) -> str:
    """The path at which the dashboard is mounted: empty, or with a leading and no trailing slash."""
    path: str = request.scope.get("root_path", "")
    return quote(path.rstrip("/"), safe="/")


def here(request: Request) -> str:
    """The address of this page, with its query string."""
    query = request.url.query
    return quote(request.scope["path"], safe="/") + (f"?{query}" if query else "")


def is_own_address(request: Request, address: str) -> bool:
    """Whether an address is a path of this dashboard. Redirects accept only these."""
    plain = "\\" not in address and address.isprintable()
    return plain and address.startswith(f"{root(request)}/") and not address.startswith("//")

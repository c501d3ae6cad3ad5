"""Renders templates within the page layout, and gives static files addresses that change with their content.

    def jobs_page(request: Request) -> Response:
        return render(request, "jobs.html", jobs=context(request).queries.jobs.page(query))

Handlers are plain functions: they block, and run in a thread.
"""

from __future__ import annotations

import functools
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard import auth, formatting
from broker_jobs.dashboard.context import context, here, root, url
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import LiveCounts
from broker_jobs.errors import BrokerJobsError

FOLDER = Path(__file__).parents[1]
MENU = (
    ("overview", "Overview"),
    ("jobs", "Jobs"),
    ("retries", "Retries"),
    ("queues", "Queues"),
    ("recurring", "Recurring"),
    ("batches", "Batches"),
    ("workers", "Workers"),
    ("limits", "Limits"),
    ("dead_letters", "Dead letters"),
    ("run", "Run a job"),
    ("audit", "Audit"),
)
"""Route and label of each page."""
ADMIN_PAGES = frozenset({"run"})
"""Pages of the menu that only administrators may open."""


@dataclass(frozen=True)
class StaticFile:
    """A static file."""

    body: bytes
    media_type: str


class StaticFiles:
    """All static files, read once: they are few and small.

    The name of each contains the hash of its content, so that a browser may cache it for ever.
    """

    def __init__(self, folder: Path = FOLDER / "static") -> None:
        self._hashed: dict[str, str] = {}
        self._files: dict[str, StaticFile] = {}
        for file in sorted(folder.iterdir()):
            body = file.read_bytes()
            name = f"{file.stem}.{hashlib.sha256(body).hexdigest()[:12]}{file.suffix}"
            media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self._hashed[file.name] = name
            self._files[name] = StaticFile(body, media_type)

    def hashed_name(self, name: str) -> str:
        """The name with its hash. Raises KeyError for an unknown file."""
        return self._hashed[name]

    def get(self, hashed_name: str) -> StaticFile | None:
        """The file of a name with a hash, or None."""
        return self._files.get(hashed_name)


STATIC_FILES = StaticFiles()


def render(request: Request, template: str, /, *, status: int = 200, **variables: Any) -> Response:
    """A page from a template.

    Args:
        template: a file in templates/.
        variables: of the template, besides those that `_layout` gives to every template.
    """
    response = HTMLResponse(_TEMPLATES.get_template(template).render(_layout(request) | variables), status)
    if variables.get("flash") is None and request.headers.get("x-live") is None:
        auth.drop_flash(request, response)
    return response


def _layout(request: Request) -> dict[str, Any]:
    """The variables of every template."""
    it = context(request)
    visitor = auth.visitor_of(request)
    role = visitor.role
    known = {getattr(route, "name", None) for route in request.app.routes}
    return {
        "request": request,
        "url": functools.partial(url, request),
        "asset": lambda name: url(request, "static", path=STATIC_FILES.hashed_name(name)),
        "root": root(request),
        "here": here(request),
        "now": as_datetime(it.clock.now()),
        "title": it.title,
        "read_only": it.read_only,
        "menu": [
            (name, label) for name, label in MENU if name in known and (role >= Role.ADMIN or name not in ADMIN_PAGES)
        ],
        "page_name": getattr(request.scope.get("route"), "name", ""),
        "live": _live_counts(request) if role >= Role.VIEWER else None,
        "visitor": visitor,
        "role": role,
        "may_see": role >= Role.VIEWER,
        "may_act": role >= Role.OPERATOR,
        "may_admin": role >= Role.ADMIN,
        "csrf": auth.csrf_token_of(request),
        "can_log_out": auth.can_log_out(request),
        "flash": auth.flash_of(request),
    }


def _live_counts(request: Request) -> LiveCounts | None:
    """The counts in the menu; None while the store cannot be read. The page itself then shows the reason."""
    try:
        return context(request).queries.overview.live_counts()
    except BrokerJobsError:
        return None


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for formatter in (
        formatting.exact,
        formatting.iso,
        formatting.relative,
        formatting.duration,
        formatting.size,
        formatting.number,
        formatting.short_number,
    ):
        environment.filters[formatter.__name__] = formatter
    environment.globals["Role"] = Role
    return environment


_TEMPLATES = _environment()

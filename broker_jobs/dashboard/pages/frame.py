"""Draws the frame around a page, and takes what a page's forms send: rights, token, errors, and the way back.

    def page(request: Request) -> Response:
        return show(request, "jobs.html", jobs=desk(request).lookup.jobs(query))

    @acts(Role.OPERATOR)
    def requeue(request: Request, form: Form) -> Done:
        desk(request).actions.requeue_job(who(request), request.path_params["id"])
        return Done("Requeued.")

Handlers are plain functions: they block, and run in a thread.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard import auth, formatting
from broker_jobs.dashboard.assets import ASSETS
from broker_jobs.dashboard.auth import Role, Visitor
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.views import ChangeView
from broker_jobs.errors import BrokerJobsError

logger = logging.getLogger(__name__)

MOST_FIELDS = 2_000
"""Of a form: a page of selected jobs, and more."""

MOST_SOUGHT = 1_000
"""Characters of a text that is looked for."""


class IdConvertor(Convertor[str]):
    """`{id:id}`: the id of a job or batch, which may have slashes in it; they are written as ~, which no id has."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return value.replace("~", "/")

    def to_string(self, value: str) -> str:
        return value.replace("/", "~")


register_url_convertor("id", IdConvertor())

NAV = (
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
"""Route and label of each page of the menu; one without a route is left out."""
FOR_ADMINS = frozenset({"run"})
"""Of these pages: what nobody else may open."""


def context(request: Request) -> RequestContext:
    """Where to read and how to act."""
    found: RequestContext = request.app.state.context
    return found


def visitor(request: Request) -> Visitor:
    """Who asks."""
    return auth.visitor_of(request)


def who(request: Request) -> str:
    """Who asks, for the audit."""
    return visitor(request).name


def may(request: Request, role: Role) -> bool:
    """Whether the one who asks may do what this role may."""
    return visitor(request).role >= role


def url(request: Request, name: str, /, **given: Any) -> str:
    """The address of a route, below the dashboard's root. What is no part of its path becomes the query (None: none).

    Raises:
        NoMatchFound: there is no such route.
    """
    route = next((each for each in request.app.routes if getattr(each, "name", None) == name), None)
    inside = set(route.param_convertors) if route is not None else set()
    path = {key: quote(str(given[key]), safe="/:@+~") for key in inside if key in given}
    query = [
        (key, "" if one is None else one)
        for key, value in given.items()
        if key not in inside and value is not None
        for one in (value if isinstance(value, list | tuple) else [value])
    ]
    found = root(request) + str(request.app.url_path_for(name, **path))
    return f"{found}?{urlencode(query)}" if query else found


def root(request: Request) -> str:
    """The path the dashboard is mounted at: empty, or with a slash before and none after it."""
    path: str = request.scope.get("root_path", "")
    return quote(path.rstrip("/"), safe="/")


def here(request: Request) -> str:
    """The address of this page, with its query."""
    query = request.url.query
    return quote(request.scope["path"], safe="/") + (f"?{query}" if query else "")


def show(request: Request, template: str, /, *, status: int = 200, **context: Any) -> Response:
    """A page drawn in the frame.

    Args:
        template: a file in templates/.
        context: what the template is given, besides what `_frame` gives to each.
    """
    response = HTMLResponse(_TEMPLATES.get_template(template).render(_frame(request) | context), status)
    if context.get("flash") is None and request.headers.get("x-live") is None:
        auth.forget_flash(request, response)
    return response


def _frame(request: Request) -> dict[str, Any]:
    """What every template may use."""
    it = context(request)
    person = visitor(request)
    role = person.role
    known = {getattr(route, "name", None) for route in request.app.routes}
    return {
        "request": request,
        "url": functools.partial(url, request),
        "asset": lambda name: url(request, "static", path=ASSETS.hashed(name)),
        "root": root(request),
        "here": here(request),
        "now": as_datetime(it.clock.now()),
        "title": it.title,
        "read_only": it.read_only,
        "nav": [
            (name, label) for name, label in NAV if name in known and (role >= Role.ADMIN or name not in FOR_ADMINS)
        ],
        "page_name": getattr(request.scope.get("route"), "name", ""),
        "pulse": _pulse(request) if role >= Role.VIEWER else None,
        "visitor": person,
        "role": role,
        "may_see": role >= Role.VIEWER,
        "may_act": role >= Role.OPERATOR,
        "may_admin": role >= Role.ADMIN,
        "csrf": auth.csrf_of(request),
        "can_log_out": auth.can_log_out(request),
        "flash": auth.flash_of(request),
    }


def _pulse(request: Request) -> ChangeView | None:
    """Counts for the menu; none while the store cannot be read, as then the page itself says so."""
    try:
        return context(request).queries.pulse()
    except BrokerJobsError:
        return None


class Form:
    """What a form has sent: text only."""

    def __init__(self, data: FormData) -> None:
        self._data = data

    def text(self, name: str, default: str = "") -> str:
        """One field, without the white space around it; absent: the default."""
        value = self._data.get(name)
        return value.strip() if isinstance(value, str) else default

    def raw(self, name: str, default: str = "") -> str:
        """One field as it was written, with the line ends of a text area as \\n."""
        value = self._data.get(name)
        return value.replace("\r\n", "\n") if isinstance(value, str) else default

    def all(self, name: str) -> list[str]:
        """Every value of a field, as of check boxes."""
        return [value for value in self._data.getlist(name) if isinstance(value, str)]

    def __contains__(self, name: object) -> bool:
        return name in self._data


@dataclass(frozen=True)
class Done:
    """What to say after an action, and where to go; None: back to the page the form was on."""

    text: str
    to: str | None = None
    wrong: bool = False


Deed = Callable[[Request, Form], Done | Response]


def acts(role: Role) -> Callable[[Deed], Callable[[Request], Awaitable[Response]]]:
    """Make a function the answer to a form: only for this role, and only from our own page.

    Our errors (refused, no coordinator answers, broker away) become a message on the page it came from; what has to
    keep what was typed catches UsageError itself and shows its page again.
    """

    def with_rights(do: Deed) -> Callable[[Request], Awaitable[Response]]:
        @functools.wraps(do)
        async def answer(request: Request) -> Response:
            auth.demand(request, role)
            data = await request.form(max_files=0, max_fields=MOST_FIELDS, max_part_size=auth.MAX_BODY_BYTES)
            auth.demand_token(request, str(data.get("csrf", "")))
            form = Form(data)
            try:
                done = await run_in_threadpool(do, request, form)
            except BrokerJobsError as error:
                logger.info("%s: %s was refused: %s", who(request), request.url.path, error)
                done = Done(str(error), wrong=True)
            if isinstance(done, Response):
                return done
            response = RedirectResponse(done.to or way_back(request, form), 303)
            auth.put_flash(request, response, done.text, wrong=done.wrong)
            return response

        return answer

    return with_rights


def sees(role: Role) -> Callable[[Callable[[Request], Response]], Callable[[Request], Response]]:
    """Make a page one for this role only; without it every viewer sees it."""

    def with_rights(draw: Callable[[Request], Response]) -> Callable[[Request], Response]:
        @functools.wraps(draw)
        def answer(request: Request) -> Response:
            auth.demand(request, role)
            return draw(request)

        return answer

    return with_rights


def sought(request: Request, name: str) -> str:
    """What the address says is to be looked for; empty: nothing. Raise 422 for what no store can look for."""
    text = request.query_params.get(name, "").strip()
    if len(text) > MOST_SOUGHT or "\x00" in text:
        raise HTTPException(422, f"Look for at most {MOST_SOUGHT} characters, which a text can have.")
    return text


def not_found(what: str) -> HTTPException:
    """To be raised where a page's subject is not there: `raise not_found("job 0190…")`."""
    return HTTPException(404, f"There is no {what}: it was never here, or is past its retention.")


def way_back(request: Request, form: Form) -> str:
    """The page a form was on, if it is one of ours; else the overview."""
    back = form.text("back")
    return back if is_ours(request, back) else root(request) + "/"


def is_ours(request: Request, address: str) -> bool:
    """Whether an address is a path of this dashboard, so that nobody is led elsewhere."""
    plain = "\\" not in address and address.isprintable()
    return plain and address.startswith(f"{root(request)}/") and not address.startswith("//")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (
        formatting.exact,
        formatting.iso,
        formatting.relative,
        formatting.roughly,
        formatting.lasting,
        formatting.size,
        formatting.number,
    ):
        environment.filters[word.__name__] = word
    environment.filters["short_number"] = formatting.short
    environment.globals["Role"] = Role
    return environment


_TEMPLATES = _environment()

"""The limits of jobs: how much of each is taken and who waits; their numbers can be set while jobs run."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.auth import Role
from broker_jobs.dashboard.pages.frame import Done, Form, acts, context, show, who
from broker_jobs.errors import OptionError


def page(request: Request) -> Response:
    """All limits that hold anything, or whose number a person has set."""
    return show(request, "limits.html", limits=context(request).queries.limits())


@acts(Role.ADMIN)
def change(request: Request, form: Form) -> Done:
    """Set the number of a key, or let the number count again that its jobs come with."""
    key, action = form.raw("key"), form.text("do")
    if action == "unset":
        context(request).actions.set_limit(who(request), key, None)
        return Done(f"The number of {key} is again the one its jobs are enqueued with.")
    number = form.text("limit")
    if not (number.isascii() and number.isdecimal()):
        raise OptionError(f"a limit is a whole number from 1, not {number!r}; to stop its jobs pause their queue")
    context(request).actions.set_limit(who(request), key, int(number))
    return Done(f"{key}: {number} from now on, whatever its jobs are enqueued with.")


ROUTES = [
    Route("/limits", page, name="limits"),
    Route("/limits/set", change, methods=["POST"], name="limits_set"),
]

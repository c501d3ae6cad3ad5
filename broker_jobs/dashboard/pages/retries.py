"""What has failed and waits to run again: when, after which error, which attempt of how many; run now, or give up."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.auth import Role
from broker_jobs.dashboard.forms.job_query import chips_of, query_of, text_of
from broker_jobs.dashboard.pages.frame import Done, Form, acts, context, show, url, way_back, who
from broker_jobs.dashboard.pages.jobs import follow, listed
from broker_jobs.messages.state import State


def retries(request: Request) -> Response:
    """The list, what runs next first."""
    it = context(request)
    sort = {"sort": "due"} if "sort" not in request.query_params else {}
    fixed = {"state": State.SCHEDULED, "why": "retry"}
    asked, page = listed(it.queries, query_of(request.query_params, it.page_size, **fixed, **sort))
    return show(
        request, "retries.html", page=page, query=asked.query, mistakes=asked.mistakes,
        chips=chips_of(asked.query, "state", "why"),
        here_with=lambda **changes: url(request, "retries") + text_of(asked.query, **changes, state=None, why=None),
    )  # fmt: skip


@acts(Role.OPERATOR)
def act_on(request: Request, form: Form) -> Done:
    """Run the selected ones now, or delete them."""
    actions = context(request).actions
    ids = form.all("ids")
    if not ids:
        return Done("Nothing was selected: tick the jobs first.", wrong=True)
    if form.text("action") == "delete":
        return follow(request, actions.delete_many(who(request), ids), "delete", way_back(request, form))
    return follow(request, actions.requeue_many(who(request), ids), "requeue", way_back(request, form))


ROUTES = [
    Route("/retries", retries, name="retries"),
    Route("/retries", act_on, methods=["POST"], name="retries_do"),
]

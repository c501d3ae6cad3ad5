"""Shows the lists of jobs: all jobs by state, searched, filtered and sorted, and the jobs that wait for a retry."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.context import context, url, visitor_name
from broker_jobs.dashboard.forms.form import Form
from broker_jobs.dashboard.forms.job_query import (
    NOT_IN_BULK,
    ParsedQuery,
    active_filters,
    datetime_input_value,
    form_fields,
    parse_query,
    query_string,
)
from broker_jobs.dashboard.pages.bulk import wait_for_bulk
from broker_jobs.dashboard.pages.handlers import Done, action, back_address
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import JobsPage, JobsQuery
from broker_jobs.errors import UsageError
from broker_jobs.messages.state import State

ENDED = tuple(state for state in State if state.is_final)
MAX_SUGGESTIONS = 100
"""Job names suggested in the filter."""


def jobs(request: Request) -> Response:
    """The list of jobs."""
    it = context(request)
    parsed, page = find_page(it.queries, parse_query(request.query_params, it.page_size))
    query = parsed.query
    known = it.queries.functions.all()[:MAX_SUGGESTIONS]
    return render(
        request, "jobs.html", known_jobs=[each.name for each in known],
        known_queues=sorted({each.queue for each in known}), page=page, query=query, mistakes=parsed.mistakes,
        states=list(State), filters=active_filters(query, "state"),
        list_url=lambda **changes: url(request, "jobs") + query_string(query, **changes),
        after=datetime_input_value(query.created_after), before=datetime_input_value(query.created_before),
        bulk_urls=bulk_urls(request, query), not_in_bulk=[name for name in NOT_IN_BULK if getattr(query, name)],
    )  # fmt: skip


def find_page(queries: Queries, parsed: ParsedQuery) -> tuple[ParsedQuery, JobsPage]:
    """The requested page. An unknown cursor gives the first page, and a sort that the state does not allow gives the
    newest first."""
    for name, default in (("cursor", None), ("sort", "newest")):
        try:
            return parsed, queries.jobs.page(parsed.query)
        except UsageError as error:
            if getattr(parsed.query, name) != default:
                query = parsed.query.model_copy(update={name: default})
                parsed = ParsedQuery(query, [*parsed.mistakes, str(error)])
    return parsed, queries.jobs.page(parsed.query)


def bulk_urls(request: Request, query: JobsQuery) -> dict[str, str]:
    """Action -> address of the confirmation of a bulk command for all matching jobs; empty where none is possible."""
    if any(getattr(query, name) for name in NOT_IN_BULK):
        return {}
    fields = form_fields(query, "sort", "limit")
    possible = {
        "requeue": query.state in (None, *ENDED) and not query.unknown,
        "delete": query.state is not State.DELETED,
        "fail": bool(query.unknown),
    }
    return {name: url(request, "bulk", action=name, **fields) for name, allowed in possible.items() if allowed}


# --- retries ---


def retries(request: Request) -> Response:
    """The jobs that wait for a retry, next due first."""
    it = context(request)
    sort = {"sort": "due"} if "sort" not in request.query_params else {}
    fixed = {"state": State.SCHEDULED, "reason_code": "retry"}
    parsed, page = find_page(it.queries, parse_query(request.query_params, it.page_size, **fixed, **sort))
    query = parsed.query
    return render(
        request, "retries.html", page=page, query=query, mistakes=parsed.mistakes,
        filters=active_filters(query, "state", "reason_code"),
        list_url=lambda **changes: url(request, "retries")
        + query_string(query, **changes, state=None, reason_code=None),
    )  # fmt: skip


@action(Role.OPERATOR)
def change_retries(request: Request, form: Form) -> Done:
    """Run the selected jobs now, or delete them."""
    actions = context(request).actions
    ids = form.all("ids")
    if not ids:
        return Done("No job is selected.", failed=True)
    back = back_address(request, form)
    if form.text("action") == "delete":
        return wait_for_bulk(request, actions.delete_many(visitor_name(request), ids), "delete", back)
    return wait_for_bulk(request, actions.requeue_many(visitor_name(request), ids), "requeue", back)


ROUTES = [
    Route("/jobs", jobs, name="jobs"),
    Route("/retries", retries, name="retries"),
    Route("/retries", change_retries, methods=["POST"], name="retries_submit"),
]

"""Requeues or deletes many jobs by one command: the selected ones, or all that match a filter.

The coordinator works through the jobs in batches. A command that does not finish at once has a page with its progress.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.context import context, is_own_address, url, visitor_name
from broker_jobs.dashboard.forms.form import Form
from broker_jobs.dashboard.forms.job_query import NOT_IN_BULK, active_filters, form_fields, parse_query, query_string
from broker_jobs.dashboard.pages.handlers import Done, action, back_address, not_found, visible_to
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import JobsQuery
from broker_jobs.errors import UsageError
from broker_jobs.messages.state import State

NOT_ENDED = tuple(state for state in State if not state.is_final)
MAX_COUNTED = 500
"""Matching jobs counted before a bulk command; beyond that the page says "more than"."""
WAIT_SECONDS = 1.0
"""A command that finishes within this time needs no progress page."""
POLL_SECONDS = 0.05
PARTICIPLES = {"requeue": "requeued", "delete": "deleted", "fail": "failed"}


class MatchCount(NamedTuple):
    """The number of matching jobs in a state."""

    state: State
    n: int
    is_exact: bool
    """False: there are more."""


def affected_states(name: str, state: State | None, *, unknown: bool = False) -> tuple[State, ...]:
    """The states that a bulk command applies to; without a state in the filter, the defaults of the action."""
    if state is not None:
        return (state,)
    if unknown or name == "fail":
        return (State.AWAITING,)
    return NOT_ENDED if name == "delete" else (State.FAILED,)


@visible_to(Role.OPERATOR)
def confirm_bulk(request: Request) -> Response:
    """The confirmation of a bulk command: how many jobs match, and what happens to them. Works without JavaScript."""
    it = context(request)
    parsed = parse_query(request.query_params, MAX_COUNTED)
    query = parsed.query.model_copy(update={"limit": MAX_COUNTED, "sort": "newest", "cursor": None})
    name = _action_name(request)
    if name == "fail":
        query = query.model_copy(update={"unknown": True})
    counts = []
    for state in affected_states(name, query.state, unknown=bool(query.unknown)):
        page = it.queries.jobs.page(query.model_copy(update={"state": state}))
        known = page.total if page.total is not None else len(page.jobs)
        counts.append(MatchCount(state, known, page.total is not None or page.next is None))
    return render(
        request, "bulk_confirm.html", action=name, query=query, counts=counts, mistakes=parsed.mistakes,
        filters=active_filters(query, "state"), fields=form_fields(query, "limit", "sort"),
        not_in_bulk=[field for field in NOT_IN_BULK if getattr(query, field)], n=sum(count.n for count in counts),
        is_exact=all(count.is_exact for count in counts), back=url(request, "jobs") + query_string(query, limit=None),
    )  # fmt: skip


@action(Role.OPERATOR)
def bulk(request: Request, form: Form) -> Done:
    """Requeue, delete or fail the selected jobs, or all matching ones."""
    it, by = context(request), visitor_name(request)
    name = form.text("action")
    if name not in PARTICIPLES:
        raise UsageError("nothing was done: the form has no action; use requeue, delete or fail")
    if form.text("all") == "1":
        parsed = parse_query({field: form.text(field) for field in JobsQuery.model_fields}, it.page_size)
        if parsed.mistakes:  # dropping an invalid filter would select more jobs
            raise UsageError(f"nothing was done: {'; '.join(parsed.mistakes)}")
        query = parsed.query.model_copy(update={"sort": "newest", "cursor": None})
        apply_to_all = {
            "delete": it.actions.delete_matching,
            "fail": it.actions.fail_held,
            "requeue": it.actions.requeue_matching,
        }[name]
        back = url(request, "jobs") + query_string(query, limit=None)
        return wait_for_bulk(request, apply_to_all(by, query), name, back)
    ids = form.all("ids")
    if not ids:
        return Done("No job is selected.", failed=True)
    apply_to = {
        "delete": it.actions.delete_many, "fail": it.actions.fail_held, "requeue": it.actions.requeue_many,
    }[name]  # fmt: skip
    return wait_for_bulk(request, apply_to(by, ids), name, back_address(request, form))


def wait_for_bulk(request: Request, command: str, name: str, back: str) -> Done:
    """The result of a bulk command if it finishes within a second; otherwise its progress page.

    Args:
        command: its id.
        name: requeue, delete or fail.
        back: the page to show when it has finished.
    """
    it = context(request)
    until = it.clock.monotonic() + WAIT_SECONDS
    while True:
        progress = it.actions.bulk_progress(visitor_name(request), command)
        if progress.get("finished"):
            failed = not progress.get("done") and bool(progress.get("refused"))
            return Done(result_text(name, progress), to=back, failed=failed)
        if it.clock.monotonic() >= until:
            to = url(request, "bulk_progress", id=command, action=name, back=back)
            return Done("The command is in progress.", to=to)
        time.sleep(POLL_SECONDS)


def result_text(name: str, progress: dict[str, Any]) -> str:
    """The result of a bulk command in words."""
    done, refused = int(progress.get("done", 0)), int(progress.get("refused", 0))
    text = f"{done} job{'' if done == 1 else 's'} {PARTICIPLES[name]}."
    if refused:
        reason = "its state does not allow it" if refused == 1 else "their state does not allow it"
        text += f" {refused} refused: {reason}."
    return text


@visible_to(Role.OPERATOR)
def bulk_progress(request: Request) -> Response:
    """The progress of a bulk command."""
    id = request.path_params["id"]
    name = _action_name(request)
    if context(request).queries.system.bulk(id) is None:
        raise not_found(f"bulk command {id}")
    progress = context(request).actions.bulk_progress(visitor_name(request), id)
    back = request.query_params.get("back", "")
    back = back if is_own_address(request, back) else url(request, "jobs")
    return render(
        request, "bulk_progress.html", command=id, action=name, progress=progress, text=result_text(name, progress),
        back=back,
    )  # fmt: skip


def _action_name(request: Request) -> str:
    asked = request.query_params.get("action", "")
    return asked if asked in PARTICIPLES else "requeue"


ROUTES = [
    Route("/jobs/bulk", confirm_bulk, name="bulk"),
    Route("/jobs/bulk", bulk, methods=["POST"], name="bulk_submit"),
    Route("/jobs/bulk/{id}", bulk_progress, name="bulk_progress"),
]

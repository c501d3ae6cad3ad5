"""The list of jobs: by state, searched, filtered, sorted; and commands about those selected, or about all that match.

A command about many is one command of the coordinator, which works it off page by page; what does not end at once has
a page that shows how far it is.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.auth import Role
from broker_jobs.dashboard.forms.job_query import (
    NOT_FOR_ALL,
    JobQuery,
    chips_of,
    fields_of,
    input_value,
    query_of,
    text_of,
)
from broker_jobs.dashboard.pages.frame import (
    Done,
    Form,
    acts,
    context,
    is_ours,
    not_found,
    sees,
    show,
    url,
    way_back,
    who,
)
from broker_jobs.dashboard.pages.job import OF_ONE
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.views import JobsPage, JobsQuery
from broker_jobs.errors import UsageError
from broker_jobs.messages.state import State

NOT_ENDED = tuple(state for state in State if not state.is_final)
ENDED = tuple(state for state in State if state.is_final)
SUGGESTED = 100
"""Names of jobs that are offered where one is to be typed."""
COUNTED = 500
"""Jobs that are counted before a command about all that match; more are "more than"."""
WAIT_SECONDS = 1.0
"""What a command may take to be told as done on the list itself."""
LOOK_SECONDS = 0.05
DONE = {"requeue": "requeued", "delete": "deleted"}


def jobs(request: Request) -> Response:
    """The list."""
    it = context(request)
    asked, page = listed(it.queries, query_of(request.query_params, it.page_size))
    query = asked.query
    known = it.queries.functions()[:SUGGESTED]
    return show(
        request, "jobs.html", known_jobs=[one.name for one in known], known_queues=sorted({one.queue for one in known}),
        page=page, query=query, mistakes=asked.mistakes, states=list(State),
        chips=chips_of(query, "state"), here_with=lambda **changes: url(request, "jobs") + text_of(query, **changes),
        after=input_value(query.created_after), before=input_value(query.created_before),
        for_all=bulk_links(request, query), not_for_all=[name for name in NOT_FOR_ALL if getattr(query, name)],
    )  # fmt: skip


def listed(queries: Queries, asked: JobQuery) -> tuple[JobQuery, JobsPage]:
    """The page that is asked for; the first one where the place it is to go on from is not known any more, and the
    newest first where the sort is none of this state, as after a click on the tab of another."""
    for name, plain in (("cursor", None), ("sort", "newest")):
        try:
            return asked, queries.jobs(asked.query)
        except UsageError as error:
            if getattr(asked.query, name) != plain:
                asked = JobQuery(asked.query.model_copy(update={name: plain}), [*asked.mistakes, str(error)])
    return asked, queries.jobs(asked.query)


def bulk_links(request: Request, query: JobsQuery) -> dict[str, str]:
    """Where to ask for a command about all that match, by action; empty where it cannot be one command."""
    if any(getattr(query, name) for name in NOT_FOR_ALL):
        return {}
    fields = fields_of(query, "sort", "limit")
    possible = {"requeue": query.state in (None, *ENDED), "delete": query.state is not State.DELETED}
    return {
        action: url(request, "jobs_bulk", action=action, **fields)
        for action, is_possible in possible.items()
        if is_possible
    }


# --- all that match ---


class Count(NamedTuple):
    """How many jobs of a state match."""

    state: State
    n: int
    is_all: bool
    """Whether there are no more than these."""


def meant(action: str, state: State | None) -> tuple[State, ...]:
    """The states a command about all that match is about, where the list is of any state."""
    if state is not None:
        return (state,)
    return NOT_ENDED if action == "delete" else (State.FAILED,)


@sees(Role.OPERATOR)
def ask_bulk(request: Request) -> Response:
    """Before a command about all that match: what will happen to how many. Needs no JavaScript."""
    it = context(request)
    asked = query_of(request.query_params, COUNTED)
    query = asked.query.model_copy(update={"limit": COUNTED, "sort": "newest", "cursor": None})
    action = "delete" if request.query_params.get("action") == "delete" else "requeue"
    states = meant(action, query.state)
    counts = []
    for state in states:
        page = it.queries.jobs(query.model_copy(update={"state": state}))
        known = page.total if page.total is not None else len(page.jobs)
        counts.append(Count(state, known, page.total is not None or page.next is None))
    return show(
        request, "jobs_bulk.html", action=action, query=query, counts=counts, mistakes=asked.mistakes,
        chips=chips_of(query, "state"), fields=fields_of(query, "limit", "sort"),
        in_vain=[name for name in NOT_FOR_ALL if getattr(query, name)], n=sum(count.n for count in counts),
        is_all=all(count.is_all for count in counts), back=url(request, "jobs") + text_of(query, limit=None),
    )  # fmt: skip


@acts(Role.OPERATOR)
def bulk(request: Request, form: Form) -> Done:
    """Requeue or delete the selected jobs, or all that match."""
    it = context(request)
    action = form.text("action")
    if action not in DONE:
        raise UsageError("nothing was done: the form did not say whether to requeue or to delete")
    if form.text("all") == "1":
        asked = query_of({name: form.text(name) for name in JobsQuery.model_fields}, it.page_size)
        if asked.mistakes:  # fewer filters would mean more jobs
            raise UsageError(f"nothing was done: {'; '.join(asked.mistakes)}")
        query = asked.query.model_copy(update={"sort": "newest", "cursor": None})
        do_all = it.actions.delete_matching if action == "delete" else it.actions.requeue_matching
        back = url(request, "jobs") + text_of(query, limit=None)
        return follow(request, do_all(who(request), query), action, back)
    ids = form.all("ids")
    if not ids:
        return Done("Nothing was selected: tick the jobs first.", wrong=True)
    do_many = it.actions.delete_many if action == "delete" else it.actions.requeue_many
    return follow(request, do_many(who(request), ids), action, way_back(request, form))


def follow(request: Request, command: str, action: str, back: str) -> Done:
    """What to say of a bulk command: how it ended, if it has in a moment; else where to see how far it is.

    Args:
        command: its id.
        back: the page to go to where it has ended.
    """
    it = context(request)
    until = it.clock.monotonic() + WAIT_SECONDS
    while True:
        seen = it.actions.bulk(who(request), command)
        if seen.get("finished"):
            return Done(ended_text(action, seen), to=back, wrong=not seen.get("done") and bool(seen.get("refused")))
        if it.clock.monotonic() >= until:
            return Done("It is being worked off.", to=url(request, "bulk", id=command, action=action, back=back))
        time.sleep(LOOK_SECONDS)


def ended_text(action: str, seen: dict[str, Any]) -> str:
    """How a bulk command has ended, in words."""
    done, refused = int(seen.get("done", 0)), int(seen.get("refused", 0))
    text = f"{done} job{'' if done == 1 else 's'} {DONE[action]}." if done or not refused else "None was."
    if refused:
        which = "it was not in a state for it" if refused == 1 else "they were not in a state for it"
        text += f" {refused} refused: {which}."
    return text


@sees(Role.OPERATOR)
def bulk_progress(request: Request) -> Response:
    """How far a command about many has come."""
    id = request.path_params["id"]
    action = "delete" if request.query_params.get("action") == "delete" else "requeue"
    if context(request).queries.bulk(id) is None:
        raise not_found(f"command {id} about many jobs")
    seen = context(request).actions.bulk(who(request), id)
    back = request.query_params.get("back", "")
    back = back if is_ours(request, back) else url(request, "jobs")
    return show(request, "bulk.html", command=id, action=action, seen=seen, text=ended_text(action, seen), back=back)


ROUTES = [
    Route("/jobs", jobs, name="jobs"),
    Route("/jobs/bulk", ask_bulk, name="jobs_bulk"),
    Route("/jobs/bulk", bulk, methods=["POST"], name="jobs_bulk_do"),
    Route("/jobs/bulk/{id}", bulk_progress, name="bulk"),
    *OF_ONE,
]
"""With those of one job behind them, as an id may be any path."""

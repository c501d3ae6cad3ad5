"""The recurring jobs: their times, last runs and next ones; run now, paused, changed, added and removed."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.auth import Role
from broker_jobs.dashboard.forms.cron_form import NOTHING, CronFields, Preview, planned, preview, times_of, typed, zones
from broker_jobs.dashboard.forms.fields import Input, blamed, filled, inputs_of
from broker_jobs.dashboard.pages.frame import Done, Form, acts, context, not_found, sees, show, url, who
from broker_jobs.dashboard.pages.run import sent, signature
from broker_jobs.dashboard.views import FunctionView, ScheduleView
from broker_jobs.errors import OptionError, UsageError

MOST_SHOWN = 200
"""Of the list; the others are found by a part of their name."""


def page(request: Request) -> Response:
    """The recurring jobs, or those with a text in them."""
    text = request.query_params.get("text", "").strip()
    found = [
        one
        for one in context(request).queries.schedules()
        if text.casefold() in f"{one.name}\n{one.call}\n{one.cron}\n{one.tz}\n{one.origin}".casefold()
    ]
    more = max(0, len(found) - MOST_SHOWN)
    return show(request, "recurring.html", schedules=found[:MOST_SHOWN], more=more, text=text)


def one(request: Request) -> Response:
    """One recurring job."""
    schedule = _schedule(request)
    return _one(request, schedule, times_of(schedule), NOTHING)


@acts(Role.OPERATOR)
def change(request: Request, form: Form) -> Done | Response:
    """Change its times and rules, or show what they would be."""
    schedule = _schedule(request)
    times = typed(form)
    seen = preview(times.cron, times.tz, context(request).queries.preview)
    if form.text("do") == "preview" or seen.mistake:
        return _one(request, schedule, times, seen, status=422 if seen.mistake else 200)
    context(request).actions.change_schedule(
        who(request), schedule.name, times.cron, tz=times.tz, misfire=times.misfire, overlap=times.overlap
    )
    until = f", until a beat of {schedule.origin} starts again" if schedule.origin else ""
    return Done(f"Changed{until}. The next time: {seen.times[0].local}.")


@acts(Role.OPERATOR)
def do(request: Request, form: Form) -> Done:
    """Run one now, pause, resume or remove it; the name is a field, as it may hold anything."""
    name, actions, by = form.raw("name"), context(request).actions, who(request)
    match form.text("do"):
        case "trigger":
            id = actions.trigger_schedule(by, name)
            return Done(f"{name} runs now, as job {id}.", to=url(request, "job", id=id))
        case "pause":
            actions.pause_schedule(by, name)
            return Done(f"{name} is paused: its times pass unused until it is resumed.")
        case "resume":
            actions.resume_schedule(by, name)
            return Done(f"{name} goes on with its next time.")
        case "remove":
            actions.remove_schedule(by, name)
            return Done(f"{name} is removed; the jobs it has made stay.", to=url(request, "recurring"))
        case other:
            raise OptionError(f"nothing is called {other!r} here")


@sees(Role.ADMIN)
def new(request: Request) -> Response:
    """The form of a new one, when its job is chosen; before that the jobs to choose from."""
    name, text = request.query_params.get("job", ""), request.query_params.get("text", "").strip()
    if name:
        function = _function(request, name)
        return _new(request, function, inputs_of(function.parameters))
    found = [
        one for one in context(request).queries.functions() if text.casefold() in f"{one.name} {one.doc}".casefold()
    ]
    more = max(0, len(found) - MOST_SHOWN)
    return show(
        request, "recurring_choose.html", functions=found[:MOST_SHOWN], more=more, text=text, signature=signature,
        page_name="recurring",
    )  # fmt: skip


@acts(Role.ADMIN)  # as it takes to run a job from its form: this runs it again and again
def add(request: Request, form: Form) -> Done | Response:
    """Add it, or show its times, or what is wrong."""
    it = context(request)
    function = _function(request, request.query_params.get("job", ""))
    name, queue, times = form.text("name"), form.text("queue"), typed(form)
    seen = preview(times.cron, times.tz, it.queries.preview)
    call = filled(function.parameters, sent(function, form))
    again: dict[str, Any] = {"name": name, "queue": queue, "times": times, "seen": seen}
    if form.text("do") == "preview":
        return _new(request, function, call.inputs, **again)
    mistake = ""
    if not name:
        mistake = "Give it a name."
    elif it.queries.schedule(name) is not None:
        mistake = f"There is a recurring job {name} already: change that one, or choose another name."
    if mistake or seen.mistake or not call.is_right:
        return _new(request, function, call.inputs, mistake=mistake, status=422, **again)
    try:
        it.actions.put_schedule(
            who(request), name, times.cron, tz=times.tz, misfire=times.misfire, overlap=times.overlap,
            job=function.name, args=call.args, kwargs=call.kwargs, queue=queue or None,
        )  # fmt: skip
    except UsageError as error:
        inputs, rest = blamed(call.inputs, str(error))
        return _new(request, function, inputs, mistake=rest, status=422, **again)
    return Done(f"Added. The next time: {seen.times[0].local}.", to=url(request, "recurring_one", name=name))


def next_times(request: Request) -> Response:
    """The next times of what is being typed, as a piece of a page."""
    asked = request.query_params
    seen = preview(asked.get("cron", ""), asked.get("tz", "UTC"), context(request).queries.preview)
    return show(request, "parts/preview.html", seen=seen)


def _schedule(request: Request) -> ScheduleView:
    name = request.path_params["name"]
    schedule = context(request).queries.schedule(name)
    if schedule is None:
        raise not_found(f"recurring job {name}")
    return schedule


def _function(request: Request, name: str) -> FunctionView:
    function = context(request).queries.function(name)
    if function is None:
        raise not_found(f"function {name[:200]}")
    return function


def _one(request: Request, schedule: ScheduleView, form: CronFields, seen: Preview, status: int = 200) -> Response:
    coming = planned(schedule.next_times, schedule.tz)
    return show(
        request, "recurring_one.html", status=status, one=schedule, times=coming, form=form, seen=seen, zones=zones(),
        page_name="recurring",
    )  # fmt: skip


def _new(
    request: Request,
    function: FunctionView,
    inputs: list[Input],
    *,
    name: str = "",
    queue: str = "",
    times: CronFields | None = None,
    seen: Preview = NOTHING,
    mistake: str = "",
    status: int = 200,
) -> Response:
    return show(
        request, "recurring_new.html", status=status, function=function, inputs=inputs, name=name, queue=queue,
        form=times or CronFields(), seen=seen, mistake=mistake, zones=zones(), page_name="recurring",
    )  # fmt: skip


ROUTES = [
    Route("/recurring", page, name="recurring"),
    Route("/recurring-new", new, name="recurring_new"),
    Route("/recurring-new", add, methods=["POST"], name="recurring_add"),
    Route("/recurring-do", do, methods=["POST"], name="recurring_do"),
    Route("/recurring-times", next_times, name="recurring_times"),
    Route("/recurring/{name:path}", one, name="recurring_one"),
    Route("/recurring/{name:path}", change, methods=["POST"], name="recurring_change"),
]

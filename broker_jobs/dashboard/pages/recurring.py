"""Shows recurring jobs with their next and last runs; runs, pauses, changes, adds and removes them."""

from __future__ import annotations

from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.context import context, url, visitor_name
from broker_jobs.dashboard.forms.cron_form import (
    NO_PREVIEW,
    CronFields,
    CronPreview,
    fields_of_schedule,
    local_times,
    preview_times,
    read_cron_fields,
    zones,
)
from broker_jobs.dashboard.forms.form import Form
from broker_jobs.dashboard.forms.parameter_form import Input, attach_error, inputs_of, read_call
from broker_jobs.dashboard.pages.handlers import Done, action, not_found, visible_to
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.pages.run import parameter_fields, signature
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import FunctionView, ScheduleView
from broker_jobs.errors import OptionError, UsageError
from broker_jobs.messages.priority import Priority

MAX_LISTED = 200
"""Entries on a page; a search finds the others."""


def page(request: Request) -> Response:
    """All recurring jobs, or those that contain the search text."""
    text = request.query_params.get("text", "").strip()
    found = [
        one
        for one in context(request).queries.schedules.all()
        if text.casefold() in f"{one.name}\n{one.call}\n{one.cron}\n{one.schedule}\n{one.tz}\n{one.service}".casefold()
    ]
    more = max(0, len(found) - MAX_LISTED)
    return render(request, "recurring.html", schedules=found[:MAX_LISTED], more=more, text=text)


def one(request: Request) -> Response:
    """One recurring job."""
    schedule = _schedule(request)
    return _one(request, schedule, fields_of_schedule(schedule), NO_PREVIEW)


@action(Role.OPERATOR)
def change(request: Request, form: Form) -> Done | Response:
    """Save its schedule and rules, or preview them."""
    schedule = _schedule(request)
    times = read_cron_fields(form)
    preview = preview_times(times.cron, times.tz, context(request).queries.schedules.preview)
    if form.text("do") == "preview" or preview.mistake:
        return _one(request, schedule, times, preview, status=422 if preview.mistake else 200)
    context(request).actions.schedules.change(
        visitor_name(request), schedule.name, times.cron, tz=times.tz, misfire=times.misfire, overlap=times.overlap
    )
    until = f" until a beat of {schedule.service} starts" if schedule.service else ""
    return Done(f"Changed{until}. Next run: {preview.times[0].local}.")


@action(Role.OPERATOR)
def do(request: Request, form: Form) -> Done:
    """Run one now, pause, resume or remove it. The name is a form field, as it may contain any character."""
    name, actions, by = form.raw("name"), context(request).actions, visitor_name(request)
    match form.text("do"):
        case "trigger":
            id = actions.schedules.trigger(by, name)
            return Done(f"{name} runs now, as job {id}.", to=url(request, "job", id=id))
        case "pause":
            actions.schedules.pause(by, name)
            return Done(f"{name} is paused. Its runs are skipped until you resume it.")
        case "resume":
            actions.schedules.resume(by, name)
            return Done(f"{name} is resumed. It continues with its next run.")
        case "remove":
            actions.schedules.remove(by, name)
            return Done(f"{name} is removed. Its jobs stay.", to=url(request, "recurring"))
        case other:
            raise OptionError(f"there is no action {other!r}: use trigger, pause, resume or remove")


@visible_to(Role.ADMIN)
def new(request: Request) -> Response:
    """The functions to choose from; once one is chosen, the form of a new recurring job."""
    name, text = request.query_params.get("job", ""), request.query_params.get("text", "").strip()
    if name:
        function = _function(request, name)
        return _new(request, function, inputs_of(function.parameters))
    found = [
        one for one in context(request).queries.functions.all() if text.casefold() in f"{one.name} {one.doc}".casefold()
    ]
    more = max(0, len(found) - MAX_LISTED)
    return render(
        request, "recurring_choose.html", functions=found[:MAX_LISTED], more=more, text=text, signature=signature,
        page_name="recurring",
    )  # fmt: skip


@action(Role.ADMIN)  # as for running a job from a form
def add(request: Request, form: Form) -> Done | Response:
    """Add it, preview its schedule, or show the mistakes."""
    it = context(request)
    function = _function(request, request.query_params.get("job", ""))
    name, queue, times = form.text("name"), form.text("queue"), read_cron_fields(form)
    priority = form.text("priority")
    preview = preview_times(times.cron, times.tz, it.queries.schedules.preview)
    call = read_call(function.parameters, parameter_fields(function, form))
    typed: dict[str, Any] = {"name": name, "queue": queue, "priority": priority, "times": times, "preview": preview}
    if form.text("do") == "preview":
        return _new(request, function, call.inputs, **typed)
    mistake = ""
    if not name:
        mistake = "Enter a name."
    elif it.queries.schedules.get(name) is not None:
        mistake = f"There is already a recurring job {name}. Change that one, or choose another name."
    if mistake or preview.mistake or not call.is_valid:
        return _new(request, function, call.inputs, mistake=mistake, status=422, **typed)
    try:
        it.actions.schedules.put(
            visitor_name(request), name, times.cron, tz=times.tz, misfire=times.misfire, overlap=times.overlap,
            job=function.name, args=call.args, kwargs=call.kwargs, queue=queue or None,
            priority=cast("Priority | None", priority or None),
        )  # fmt: skip
    except UsageError as error:
        inputs, rest = attach_error(call.inputs, str(error))
        return _new(request, function, inputs, mistake=rest, status=422, **typed)
    return Done(f"Added. Next run: {preview.times[0].local}.", to=url(request, "recurring_one", name=name))


def next_times(request: Request) -> Response:
    """The next times of a schedule that is being typed, as an HTML fragment."""
    params = request.query_params
    preview = preview_times(params.get("cron", ""), params.get("tz", "UTC"), context(request).queries.schedules.preview)
    return render(request, "parts/preview.html", preview=preview)


def _schedule(request: Request) -> ScheduleView:
    name = request.path_params["name"]
    schedule = context(request).queries.schedules.get(name)
    if schedule is None:
        raise not_found(f"recurring job {name}")
    return schedule


def _function(request: Request, name: str) -> FunctionView:
    function = context(request).queries.functions.get(name)
    if function is None:
        raise not_found(f"function {name[:200]}")
    return function


def _one(
    request: Request, schedule: ScheduleView, form: CronFields, preview: CronPreview, status: int = 200
) -> Response:
    times = local_times(schedule.next_times, schedule.tz)
    return render(
        request, "recurring_one.html", status=status, one=schedule, times=times, form=form, preview=preview,
        zones=zones(), page_name="recurring",
    )  # fmt: skip


def _new(
    request: Request,
    function: FunctionView,
    inputs: list[Input],
    *,
    name: str = "",
    queue: str = "",
    priority: str = "",
    times: CronFields | None = None,
    preview: CronPreview = NO_PREVIEW,
    mistake: str = "",
    status: int = 200,
) -> Response:
    return render(
        request, "recurring_new.html", status=status, function=function, inputs=inputs, name=name, queue=queue,
        priority=priority, form=times or CronFields(), preview=preview, mistake=mistake, zones=zones(),
        page_name="recurring",
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

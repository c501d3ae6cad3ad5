"""Runs a job from a form that is built from the parameters of its function."""

from __future__ import annotations

from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.context import context, url, visitor_name
from broker_jobs.dashboard.forms.form import Form, RunTime
from broker_jobs.dashboard.forms.parameter_form import (
    NULL_PREFIX,
    PREFIX,
    Input,
    attach_error,
    inputs_of,
    read_call,
)
from broker_jobs.dashboard.pages.handlers import Done, action, not_found, visible_to
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import FunctionView
from broker_jobs.errors import OptionError, UsageError
from broker_jobs.messages.priority import Priority

MAX_FUNCTIONS = 200
"""Functions on the page; a search finds the others."""


@visible_to(Role.ADMIN)
def functions(request: Request) -> Response:
    """The declared functions."""
    text = request.query_params.get("text", "").strip()
    known = context(request).queries.functions.all()
    search = text.casefold()
    found = [one for one in known if search in f"{one.name} {one.queue} {one.service} {one.doc}".casefold()]
    return render(
        request, "run.html", functions=found[:MAX_FUNCTIONS], more=max(0, len(found) - MAX_FUNCTIONS), text=text,
        total=len(known), signature=signature,
    )  # fmt: skip


def signature(one: FunctionView) -> str:
    """A function with its parameters, on one line."""
    marks = {"args": "*", "kwargs": "**"}
    parts = [
        f"{marks.get(p.kind, '')}{p.name}" + ("" if p.required or p.kind in marks else "=…") for p in one.parameters
    ]
    return f"{one.name}({', '.join(parts)})"


@visible_to(Role.ADMIN)
def form(request: Request) -> Response:
    """The form of a function."""
    one = _function(request)
    return _show(request, one, inputs_of(one.parameters), RunTime())


@action(Role.ADMIN)
def run(request: Request, form: Form) -> Done | Response:
    """Enqueue the job, or show the form again with its mistakes."""
    it = context(request)
    one = _function(request)
    read = read_call(one.parameters, parameter_fields(one, form))
    when, queue, priority = RunTime.read(form), form.text("queue"), form.text("priority")
    typed = {"queue": queue, "priority": priority}
    if not read.is_valid:
        return _show(request, one, read.inputs, when, **typed, status=422)
    try:
        due_at = when.due_at(it.clock.now())
    except OptionError as error:
        return _show(request, one, read.inputs, when, **typed, time_error=str(error), status=422)
    try:
        id = it.actions.enqueue(
            visitor_name(request),
            one.name,
            read.args,
            read.kwargs,
            queue=queue or None,
            priority=cast("Priority | None", priority or None),
            due_at=due_at,
        )
    except UsageError as error:
        inputs, rest = attach_error(read.inputs, str(error))
        return _show(request, one, inputs, when, **typed, error=rest, status=422)
    return Done("Enqueued." if due_at is None else "Scheduled.", to=url(request, "job", id=id))


def parameter_fields(one: FunctionView, form: Form) -> dict[str, str]:
    """The submitted fields of a function's parameters."""
    names = [name for p in one.parameters for name in (PREFIX + p.name, NULL_PREFIX + p.name)]
    return {name: form.raw(name) for name in names if name in form}


def _function(request: Request) -> FunctionView:
    name = request.path_params["name"]
    one = context(request).queries.functions.get(name)
    if one is None:
        raise not_found(f"function {name[:200]}")
    return one


def _show(
    request: Request,
    one: FunctionView,
    inputs: list[Input],
    when: RunTime,
    *,
    queue: str = "",
    priority: str = "",
    status: int = 200,
    **errors: Any,
) -> Response:
    all_errors = {"error": "", "time_error": ""} | errors
    return render(
        request, "run_form.html", status=status, one=one, inputs=inputs, when=when, queue=queue,
        priority=priority,        signature=signature(one), **all_errors,
    )  # fmt: skip


ROUTES = [
    Route("/run", functions, name="run"),
    Route("/run/{name:path}", form, name="run_one"),
    Route("/run/{name:path}", run, methods=["POST"], name="run_one_submit"),
]

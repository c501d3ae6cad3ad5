"""Runs a job from a form: the functions programs have told of, and for each a form made of its signature."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.auth import Role
from broker_jobs.dashboard.forms.fields import NULL_PREFIX, PREFIX, Input, blamed, filled, inputs_of
from broker_jobs.dashboard.forms.when import When, due_of
from broker_jobs.dashboard.pages.frame import Done, Form, acts, context, not_found, sees, show, url, who
from broker_jobs.dashboard.views import FunctionView
from broker_jobs.errors import OptionError, UsageError

SHOWN = 200
"""Functions on the page; the others are found by a part of their name."""


@sees(Role.ADMIN)
def functions(request: Request) -> Response:
    """What can be run."""
    text = request.query_params.get("text", "").strip()
    known = context(request).queries.functions()
    wanted = text.casefold()
    found = [one for one in known if wanted in f"{one.name} {one.queue} {one.origin} {one.doc}".casefold()]
    return show(
        request, "run.html", functions=found[:SHOWN], more=max(0, len(found) - SHOWN), text=text, of=len(known),
        signature=signature,
    )  # fmt: skip


def signature(one: FunctionView) -> str:
    """A function's parameters as its code has them, at most a line."""
    marks = {"args": "*", "kwargs": "**"}
    parts = [
        f"{marks.get(p.kind, '')}{p.name}" + ("" if p.required or p.kind in marks else "=…") for p in one.parameters
    ]
    return f"{one.name}({', '.join(parts)})"


@sees(Role.ADMIN)
def form(request: Request) -> Response:
    """The form of a function."""
    one = _function(request)
    return _show(request, one, inputs_of(one.parameters), When(), "")


@acts(Role.ADMIN)
def run(request: Request, form: Form) -> Done | Response:
    """Enqueue what the form says; what is wrong is told beside what was typed."""
    it = context(request)
    one = _function(request)
    read = filled(one.parameters, sent(one, form))
    when, queue = When.of(form), form.text("queue")
    if not read.is_right:
        return _show(request, one, read.inputs, when, queue, status=422)
    try:
        due_at = due_of(when, it.clock.now())
    except OptionError as error:
        return _show(request, one, read.inputs, when, queue, wrong_time=str(error), status=422)
    try:
        id = it.actions.enqueue(who(request), one.name, read.args, read.kwargs, queue=queue or None, due_at=due_at)
    except UsageError as error:
        inputs, rest = blamed(read.inputs, str(error))
        return _show(request, one, inputs, when, queue, refused=rest, status=422)
    return Done("Enqueued." if due_at is None else "Scheduled.", to=url(request, "job", id=id))


def sent(one: FunctionView, form: Form) -> dict[str, str]:
    """The fields of a function's parameters in a form."""
    names = [name for p in one.parameters for name in (PREFIX + p.name, NULL_PREFIX + p.name)]
    return {name: form.raw(name) for name in names if name in form}


def _function(request: Request) -> FunctionView:
    name = request.path_params["name"]
    one = context(request).queries.function(name)
    if one is None:
        raise not_found(f"function {name[:200]}")
    return one


def _show(
    request: Request, one: FunctionView, inputs: list[Input], when: When, queue: str, *, status: int = 200, **wrong: Any
) -> Response:
    known = {"refused": "", "wrong_time": ""} | wrong
    return show(
        request, "run_form.html", status=status, one=one, inputs=inputs, when=when, queue=queue,
        signature=signature(one), **known,
    )  # fmt: skip


ROUTES = [
    Route("/run", functions, name="run"),
    Route("/run/{name:path}", form, name="run_one"),
    Route("/run/{name:path}", run, methods=["POST"], name="run_one_do"),
]

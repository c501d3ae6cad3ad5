"""Shows one job: call, result or error, log, history and relations; requeues, deletes, reschedules and edits it."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.context import context, has_role, url, visitor_name
from broker_jobs.dashboard.forms.argument_form import FURTHER, ArgumentForm, argument_inputs, read_arguments
from broker_jobs.dashboard.forms.form import Form, RunTime
from broker_jobs.dashboard.pages.charts import relation_graph
from broker_jobs.dashboard.pages.handlers import Done, action, back_address, visible_to
from broker_jobs.dashboard.pages.rendering import render
from broker_jobs.dashboard.role import Role
from broker_jobs.dashboard.views import JobView, StackFrame
from broker_jobs.errors import ArgumentsError, UsageError
from broker_jobs.messages import error_fingerprint

MAX_TEXT_CHARS = 12_000
"""Longer texts are cut on the page; the API returns all of them."""
MAX_LOG_LINES = 300
"""Log lines on the page: the last ones."""
MAX_FRAMES = 40
"""Stack frames of one exception on the page: the first and last ones. The traceback text has all."""


def job(request: Request) -> Response:
    """The page of a job."""
    id = request.path_params["id"]
    it = context(request)
    found = it.queries.jobs.get(id)
    if found is None:
        return render(request, "job_not_found.html", status=404, id=id)
    creator = it.queries.jobs.get(found.created_by) if found.created_by else None  # None: created for an event
    return render(
        request, "job.html", job=found, graph=relation_graph(found, creator), creator=creator, as_json=as_json, cut=cut,
        result=None if found.result is None else indented(found.result), frames=visible_frames, is_own_code=is_own_code,
        log_lines=found.log_lines[-MAX_LOG_LINES:], hidden_lines=max(0, len(found.log_lines) - MAX_LOG_LINES),
    )  # fmt: skip


def as_json(value: Any) -> str:
    """A value as indented JSON."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "…"


def indented(text: str) -> str:
    """A JSON text, indented; other text is unchanged."""
    try:
        return as_json(json.loads(text))
    except (ValueError, RecursionError):
        return text


def cut(text: str, most: int = MAX_TEXT_CHARS) -> str:
    """A text, cut to the length that the page shows."""
    return text if len(text) <= most else f"{text[:most]}…"


def visible_frames(frames: list[StackFrame]) -> list[StackFrame | int]:
    """The frames to show; a number stands for the frames left out of a deep recursion."""
    if len(frames) <= MAX_FRAMES:
        return list(frames)
    half = MAX_FRAMES // 2
    return [*frames[:half], len(frames) - 2 * half, *frames[-half:]]


def is_own_code(frame: StackFrame) -> bool:
    """Whether a frame belongs to the program itself, not to a library."""
    return error_fingerprint.is_own_code(frame.file)


# --- actions ---


@action(Role.OPERATOR)
def requeue(request: Request, form: Form) -> Done:  # noqa: ARG001
    """Run an ended job again."""
    context(request).actions.requeue_job(visitor_name(request), request.path_params["id"])
    return Done("Requeued: the job runs again from the beginning.", to=_page(request))


@action(Role.OPERATOR)
def run_now(request: Request, form: Form) -> Done:  # noqa: ARG001
    """Run a waiting job now."""
    context(request).actions.requeue_job(visitor_name(request), request.path_params["id"])
    return Done("The job runs as soon as a worker is free.", to=_page(request))


@action(Role.OPERATOR)
def delete(request: Request, form: Form) -> Done:
    """Delete a job, or ask a running job to stop."""
    deleted = context(request).actions.delete_job(visitor_name(request), request.path_params["id"])
    if form.text("cancel"):
        return Done(
            "The job was asked to stop. Its outcome counts." if deleted else "The job had already ended.",
            back_address(request, form),
        )
    text = "Deleted." if deleted else "The job had already ended. It is now in the state deleted."
    return Done(text, back_address(request, form))


@action(Role.OPERATOR)
def reschedule(request: Request, form: Form) -> Done:
    """Change the due time of a job."""
    it = context(request)
    due_at = RunTime.read(form).due_at(it.clock.now())
    if due_at is None:
        raise UsageError("nothing was changed: enter a delay or a time")
    it.actions.reschedule_job(visitor_name(request), request.path_params["id"], due_at)
    return Done("Rescheduled.", to=_page(request))


def _page(request: Request) -> str:
    return url(request, "job", id=request.path_params["id"])


# --- new arguments ---


@visible_to(Role.OPERATOR)
def edit_form(request: Request) -> Response:
    """The form to edit the arguments of a job."""
    found, form = _form_of(request)
    if found is None:
        return render(request, "job_not_found.html", status=404, id=request.path_params["id"])
    return _show_form(request, found, form)


@action(Role.OPERATOR)
def edit(request: Request, form: Form) -> Done | Response:
    """Requeue a job with new arguments, or show the form again with its mistakes."""
    found, empty = _form_of(request)
    if found is None or empty is None:
        raise UsageError("nothing was changed: the arguments of this job are not known")
    typed = {each.field: form.raw(each.field) for each in empty.inputs if each.field in form}
    read = read_arguments(empty.inputs, typed | {FURTHER: form.raw(FURTHER)})
    if not read.is_valid:
        return _show_form(request, found, read, status=422)
    try:
        context(request).actions.requeue_with(visitor_name(request), found.id, read.args, read.kwargs)
    except ArgumentsError as error:
        return _show_form(request, found, read, str(error), status=422)
    except UsageError as error:
        return _show_form(request, found, read, str(error), status=409)
    return Done("Requeued with these arguments.", to=_page(request))


def _form_of(request: Request) -> tuple[JobView | None, ArgumentForm | None]:
    jobs = context(request).queries.jobs
    id = request.path_params["id"]
    found = jobs.get(id)
    raw = None if found is None else jobs.raw_arguments(id)
    if found is None or raw is None:
        return found, None
    return found, ArgumentForm(argument_inputs(found.arguments, *raw), "", "", *raw)


def _show_form(
    request: Request, found: JobView, form: ArgumentForm | None, error: str = "", status: int = 200
) -> Response:
    return render(
        request,
        "job_edit.html",
        status=status,
        job=found,
        form=form,
        error=error,
        may_edit=has_role(request, Role.OPERATOR),
    )


def _action_route(name: str, handler: Any) -> Route:
    return Route(f"/jobs/{{id:path}}/{name}", handler, methods=["POST"], name=f"job_{name.replace('-', '_')}")


ROUTES = [
    _action_route("requeue", requeue),
    _action_route("run-now", run_now),
    _action_route("delete", delete),
    _action_route("reschedule", reschedule),
    Route("/jobs/{id:path}/edit", edit_form, name="job_edit"),
    Route("/jobs/{id:path}/edit", edit, methods=["POST"], name="job_edit_submit"),
    Route("/jobs/{id:path}", job, name="job"),
]
"""The page of a job comes last, as an id may contain slashes; see pages/__init__.py."""

"""One job: its call, its result or error, how it came to stand where it stands, its relatives, and what may be done."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from broker_jobs.dashboard.auth import Role
from broker_jobs.dashboard.forms.argument_form import ArgumentForm, boxes_of, edited
from broker_jobs.dashboard.forms.when import When, due_of
from broker_jobs.dashboard.pages.frame import Done, Form, acts, context, may, sees, show, url, way_back, who
from broker_jobs.dashboard.pages.graph import family_of
from broker_jobs.dashboard.views import Frame, JobView
from broker_jobs.errors import ArgumentsError, UsageError

MOST_CHARS = 12_000
"""Of one text on the page; the API has the whole."""
MOST_LINES = 300
"""Log lines on the page, the last ones."""
MOST_FRAMES = 40
"""Frames of one error on the page: the first and last ones; the text behind them has all."""


def job(request: Request) -> Response:
    """The page of a job."""
    id = request.path_params["id"]
    it = context(request)
    found = it.queries.job(id)
    if found is None:
        return show(request, "job_unknown.html", status=404, id=id)
    maker = it.queries.job(found.made_by) if found.made_by else None  # none: an event made it
    return show(
        request, "job.html", job=found, family=family_of(found, maker), maker=maker, as_json=as_json, cut=cut,
        result=None if found.result is None else indented(found.result), frames=frames, is_ours=is_ours,
        lines=found.lines[-MOST_LINES:], earlier=max(0, len(found.lines) - MOST_LINES),
    )  # fmt: skip


def as_json(value: Any) -> str:
    """A value as JSON, indented for reading."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return "…"


def indented(text: str) -> str:
    """A JSON text, indented for reading; what is none stays as it is."""
    try:
        return as_json(json.loads(text))
    except (ValueError, RecursionError):
        return text


def cut(text: str, most: int = MOST_CHARS) -> str:
    """A text as long as a page can take it."""
    return text if len(text) <= most else f"{text[:most]}…"


def frames(of: list[Frame]) -> list[Frame | int]:
    """The frames to show; a number stands for so many left out (a recursion without an end has hundreds)."""
    if len(of) <= MOST_FRAMES:
        return list(of)
    half = MOST_FRAMES // 2
    return [*of[:half], len(of) - 2 * half, *of[-half:]]


_THEIRS = frozenset(("site-packages", "dist-packages", "broker_jobs"))


def is_ours(frame: Frame) -> bool:
    """Whether a frame is of the program itself, not of a library: where the reader's eye belongs."""
    parts = PurePosixPath(frame.file.replace("\\", "/")).parts
    return not (_THEIRS & set(parts) or frame.file.startswith("<") or any(part.startswith("python3") for part in parts))


# --- actions ---


@acts(Role.OPERATOR)
def requeue(request: Request, form: Form) -> Done:  # noqa: ARG001
    """Run an ended job again."""
    context(request).actions.requeue_job(who(request), request.path_params["id"])
    return Done("Requeued: it runs again from the beginning.", to=_page(request))


@acts(Role.OPERATOR)
def run_now(request: Request, form: Form) -> Done:  # noqa: ARG001
    """Run a waiting job now."""
    context(request).actions.requeue_job(who(request), request.path_params["id"])
    return Done("It runs as soon as a worker is free.", to=_page(request))


@acts(Role.OPERATOR)
def delete(request: Request, form: Form) -> Done:
    """Delete a job, or ask a running one to stop."""
    deleted = context(request).actions.delete_job(who(request), request.path_params["id"])
    if form.text("cancel"):
        return Done(
            "It was asked to stop; its outcome decides." if deleted else "It had already ended.",
            way_back(request, form),
        )
    return Done("Deleted." if deleted else "It had already ended; it is now shown as deleted.", way_back(request, form))


@acts(Role.OPERATOR)
def reschedule(request: Request, form: Form) -> Done:
    """Give a job another time."""
    it = context(request)
    due_at = due_of(When.of(form), it.clock.now())
    if due_at is None:
        raise UsageError("nothing was changed: choose after how long, or at what time, it is to run")
    it.actions.reschedule_job(who(request), request.path_params["id"], due_at)
    return Done("It has its new time.", to=_page(request))


def _page(request: Request) -> str:
    return url(request, "job", id=request.path_params["id"])


# --- other arguments ---


@sees(Role.OPERATOR)
def edit_form(request: Request) -> Response:
    """The arguments of a job, to be changed."""
    found, form = _form_of(request)
    if found is None:
        return show(request, "job_unknown.html", status=404, id=request.path_params["id"])
    return _show_form(request, found, form)


@acts(Role.OPERATOR)
def edit(request: Request, form: Form) -> Done | Response:
    """Run a job again with other arguments; what is wrong is told beside what was typed."""
    found, empty = _form_of(request)
    if found is None or empty is None:
        raise UsageError("nothing was changed: the arguments of this job are not known")
    typed = {box.field: form.raw(box.field) for box in empty.boxes if box.field in form}
    read = edited(empty.boxes, typed | {"more": form.raw("more")})
    if not read.is_right:
        return _show_form(request, found, read, status=422)
    try:
        context(request).actions.requeue_with(who(request), found.id, read.args, read.kwargs)
    except ArgumentsError as error:
        return _show_form(request, found, read, str(error), status=422)
    except UsageError as error:
        return _show_form(request, found, read, str(error), status=409)
    return Done("Requeued with these arguments.", to=_page(request))


def _form_of(request: Request) -> tuple[JobView | None, ArgumentForm | None]:
    queries = context(request).queries
    id = request.path_params["id"]
    found = queries.job(id)
    raw = None if found is None else queries.raw_arguments(id)
    if found is None or raw is None:
        return found, None
    return found, ArgumentForm(boxes_of(found.arguments, *raw), "", "", *raw)


def _show_form(
    request: Request, found: JobView, form: ArgumentForm | None, refused: str = "", status: int = 200
) -> Response:
    return show(
        request,
        "job_edit.html",
        status=status,
        job=found,
        form=form,
        refused=refused,
        may_edit=may(request, Role.OPERATOR),
    )


def _action(name: str, handler: Any) -> Route:
    return Route(f"/jobs/{{id:path}}/{name}", handler, methods=["POST"], name=f"job_{name.replace('-', '_')}")


OF_ONE = [
    _action("requeue", requeue),
    _action("run-now", run_now),
    _action("delete", delete),
    _action("reschedule", reschedule),
    Route("/jobs/{id:path}/edit", edit_form, name="job_edit"),
    Route("/jobs/{id:path}/edit", edit, methods=["POST"], name="job_edit_do"),
    Route("/jobs/{id:path}", job, name="job"),
]
"""In this order: an id may hold slashes, so the page of a job comes last, after those of the list too (jobs.py)."""

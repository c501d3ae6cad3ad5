"""Answers the GET requests of the API with the views of the pages."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.api.errors import NotFound, error_responses
from broker_jobs.dashboard.api.request_models import (
    ArgumentsView,
    Context,
    CronPreviewView,
    Cursor,
    DeadLetterIdPath,
    JobIdPath,
    Limit,
    NamePath,
    Operator,
    Text,
)
from broker_jobs.dashboard.views import (
    AuditPage,
    BatchesPage,
    BatchView,
    BulkView,
    ComponentView,
    DeadLettersPage,
    DeadLetterView,
    FunctionView,
    History,
    JobsPage,
    JobsQuery,
    JobView,
    LimitView,
    LiveCounts,
    Overview,
    QueueView,
    ScheduleSummary,
    ScheduleView,
    WorkerView,
)
from broker_jobs.errors import OptionError, UsageError
from broker_jobs.messages.state import State

router = APIRouter(responses=error_responses(422))
MISSING = error_responses(404, 422)


@router.get("/overview", tags=["overview"])
def get_overview(context: Context) -> Overview:
    """The state of the system, with its alerts."""
    return context.queries.overview.get()


@router.get("/history", tags=["overview"])
def get_history(context: Context, span: Literal["hour", "day", "week"] = "hour") -> History:
    """Ended jobs per interval: an hour by minutes, a day or a week by hours."""
    return context.queries.overview.history(span)


@router.get("/counts", tags=["overview"])
def get_counts(context: Context) -> LiveCounts:
    """The live counters. You may poll them every second."""
    return context.queries.overview.live_counts()


@router.get("/jobs", tags=["jobs"])
def list_jobs(context: Context, query: Annotated[JobsQuery, Query()]) -> JobsPage:
    """A page of the matching jobs."""
    try:
        return context.queries.jobs.page(query)
    except UsageError as error:
        raise OptionError(str(error)) from None


@router.get("/jobs/{id:path}/arguments", tags=["jobs"], responses=MISSING)
def get_arguments(context: Context, by: Operator, id: JobIdPath) -> ArgumentsView:
    """The arguments of a job, to change them and requeue the job. If you send a masked value (`***`) back unchanged,
    the job keeps the hidden value. For operators."""
    del by
    found = context.queries.jobs.masked_arguments(id)
    if found is None:
        raise NotFound(f"the arguments of job {id} are not known")
    return ArgumentsView(args=found[0], kwargs=found[1])


@router.get("/jobs/{id:path}", tags=["jobs"], responses=MISSING)
def get_job(context: Context, id: JobIdPath) -> JobView:
    """Everything about one job. Send a slash in an id as / or as %2F."""
    found = context.queries.jobs.get(id)
    if found is None:
        raise NotFound(f"there is no job {id}")
    return found


@router.get("/bulk/{id:path}", tags=["jobs"], responses=MISSING)
def get_bulk(context: Context, id: JobIdPath) -> BulkView:
    """The progress of a bulk command."""
    found = context.queries.system.bulk(id)
    if found is None:
        raise NotFound(f"there is no bulk command {id}")
    return found


@router.get("/queues", tags=["queues"])
def list_queues(context: Context) -> list[QueueView]:
    """Every known queue, by name."""
    return context.queries.system.queues()


@router.get("/recurring", tags=["recurring"])
def list_recurring(context: Context) -> list[ScheduleSummary]:
    """All recurring jobs, by name."""
    return context.queries.schedules.all()


@router.get("/recurring/{name:path}", tags=["recurring"], responses=MISSING)
def get_recurring(context: Context, name: NamePath) -> ScheduleView:
    """Everything about one recurring job."""
    found = context.queries.schedules.get(name)
    if found is None:
        raise NotFound(f"there is no recurring job {name!r}")
    return found


@router.get("/cron-preview", tags=["recurring"])
def get_cron_preview(
    context: Context,
    cron: Annotated[str, Query(min_length=1, max_length=200, examples=["0 9 * * MON"])],
    tz: Annotated[str, Query(min_length=1, max_length=100)] = "UTC",
    count: Annotated[int, Query(ge=1, le=50)] = 5,
) -> CronPreviewView:
    """The next times of a cron expression; 422 names the mistake in it."""
    return CronPreviewView(times=[as_datetime(at) for at in context.queries.schedules.preview(cron, tz, count)])


@router.get("/batches", tags=["batches"])
def list_batches(
    context: Context, state: State | None = None, text: Text = None, cursor: Cursor = None, limit: Limit = 50
) -> BatchesPage:
    """A page of batches, newest first."""
    try:
        return context.queries.batches.page(state=state, text=text, cursor=cursor, limit=limit)
    except UsageError as error:
        raise OptionError(str(error)) from None


@router.get("/batches/{id:path}", tags=["batches"], responses=MISSING)
def get_batch(context: Context, id: JobIdPath) -> BatchView:
    """One batch with its inner batches, its failures grouped by error, and its first jobs."""
    found = context.queries.batches.get(id)
    if found is None:
        raise NotFound(f"there is no batch {id}")
    return found


@router.get("/workers", tags=["processes"])
def list_workers(context: Context) -> list[WorkerView]:
    """Workers with their running jobs."""
    return context.queries.system.workers()


@router.get("/components", tags=["processes"])
def list_components(context: Context) -> list[ComponentView]:
    """Coordinators and beats."""
    return context.queries.system.components()


@router.get("/limits", tags=["limits"])
def list_limits(context: Context) -> list[LimitView]:
    """Limits that jobs use or wait for, and limits set by a person."""
    return context.queries.system.limits()


@router.get("/dead-letters", tags=["dead-letters"])
def list_dead_letters(context: Context, cursor: Cursor = None, limit: Limit = 50) -> DeadLettersPage:
    """A page of dead letters, newest first: messages that could not be decoded, routed or applied."""
    try:
        return context.queries.system.dead_letters(cursor=cursor, limit=limit)
    except UsageError as error:
        raise OptionError(str(error)) from None


@router.get("/dead-letters/{id:path}", tags=["dead-letters"], responses=MISSING)
def get_dead_letter(context: Context, id: DeadLetterIdPath) -> DeadLetterView:
    """One dead letter with its body."""
    found = context.queries.system.dead_letter(id)
    if found is None:
        raise NotFound(f"there is no dead letter {id}")
    return found


@router.get("/functions", tags=["functions"])
def list_functions(context: Context) -> list[FunctionView]:
    """Functions that programs have declared as jobs."""
    return context.queries.functions.all()


@router.get("/functions/{name:path}", tags=["functions"], responses=MISSING)
def get_function(context: Context, name: NamePath) -> FunctionView:
    """One function with its parameters."""
    found = context.queries.functions.get(name)
    if found is None:
        raise NotFound(f"no program has declared a function {name!r}")
    return found


@router.get("/audit", tags=["audit"])
def list_audit(
    context: Context,
    by: Annotated[str | None, Query(max_length=300, description="only commands of this person or program")] = None,
    text: Text = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> AuditPage:
    """A page of the commands that were applied or refused, newest first."""
    try:
        return context.queries.system.audit(by=by, text=text, cursor=cursor, limit=limit)
    except UsageError as error:
        raise OptionError(str(error)) from None

"""What can be looked at: the views of the pages."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.api.problem import NotFound, described
from broker_jobs.dashboard.api.request_models import (
    ArgumentsView,
    Cursor,
    DeadLetterIdPath,
    InContext,
    JobIdPath,
    Limit,
    NamePath,
    Operator,
    PlannedTimes,
    Text,
)
from broker_jobs.dashboard.views import (
    AuditPage,
    BatchesPage,
    BatchView,
    BulkView,
    ChangeView,
    ComponentView,
    DeadLettersPage,
    DeadLetterView,
    FunctionView,
    Graph,
    JobsPage,
    JobsQuery,
    JobView,
    LimitView,
    Overview,
    QueueView,
    ScheduleLine,
    ScheduleView,
    WorkerView,
)
from broker_jobs.errors import OptionError, UsageError
from broker_jobs.messages.state import State

router = APIRouter(responses=described(422))
MISSING = described(404, 422)


@router.get("/overview", tags=["overview"])
def get_overview(context: InContext) -> Overview:
    """The state of the house, and what is wrong with it."""
    return context.queries.overview()


@router.get("/graph", tags=["overview"])
def get_graph(context: InContext, span: Literal["hour", "day", "week"] = "hour") -> Graph:
    """Jobs that came to an end: an hour by minutes, a day or a week by hours."""
    return context.queries.graph(span)


@router.get("/pulse", tags=["overview"])
def get_pulse(context: InContext) -> ChangeView:
    """The counters, cheap enough to be asked for every second."""
    return context.queries.pulse()


@router.get("/jobs", tags=["jobs"])
def list_jobs(context: InContext, query: Annotated[JobsQuery, Query()]) -> JobsPage:
    """A page of the jobs that match; `next` is the cursor of the one after it."""
    try:
        return context.queries.jobs(query)
    except UsageError as error:
        raise OptionError(str(error)) from None


@router.get("/jobs/{id:path}/arguments", tags=["jobs"], responses=MISSING)
def get_arguments(context: InContext, who: Operator, id: JobIdPath) -> ArgumentsView:
    """What a job was called with, to change it and requeue the job: where `***` stands for what is hidden and is sent
    back as it stood, the job keeps the value it has. For operators."""
    del who
    found = context.queries.shown_arguments(id)
    if found is None:
        raise NotFound(f"the arguments of job {id} are not known")
    return ArgumentsView(args=found[0], kwargs=found[1])


@router.get("/jobs/{id:path}", tags=["jobs"], responses=MISSING)
def get_job(context: InContext, id: JobIdPath) -> JobView:
    """All that is known of one job. A slash in an id is sent as it is, or as %2F."""
    found = context.queries.job(id)
    if found is None:
        raise NotFound(f"no job {id} is known")
    return found


@router.get("/bulk/{id:path}", tags=["jobs"], responses=MISSING)
def get_bulk(context: InContext, id: JobIdPath) -> BulkView:
    """How far a command about many jobs has come."""
    found = context.queries.bulk(id)
    if found is None:
        raise NotFound(f"no command {id} about many jobs is known")
    return found


@router.get("/queues", tags=["queues"])
def list_queues(context: InContext) -> list[QueueView]:
    """Every known queue, by name."""
    return context.queries.queues()


@router.get("/recurring", tags=["recurring"])
def list_recurring(context: InContext) -> list[ScheduleLine]:
    """All recurring jobs, by name."""
    return context.queries.schedules()


@router.get("/recurring/{name:path}", tags=["recurring"], responses=MISSING)
def get_recurring(context: InContext, name: NamePath) -> ScheduleView:
    """All that is known of one recurring job."""
    found = context.queries.schedule(name)
    if found is None:
        raise NotFound(f"no recurring job is named {name!r}")
    return found


@router.get("/times", tags=["recurring"])
def get_times(
    context: InContext,
    cron: Annotated[str, Query(min_length=1, max_length=200, examples=["0 9 * * MON"])],
    tz: Annotated[str, Query(min_length=1, max_length=100)] = "UTC",
    count: Annotated[int, Query(ge=1, le=50)] = 5,
) -> PlannedTimes:
    """The next times of a cron expression; 422 says what is wrong in it."""
    return PlannedTimes(times=[as_datetime(at) for at in context.queries.preview(cron, tz, count)])


@router.get("/batches", tags=["batches"])
def list_batches(
    context: InContext, state: State | None = None, text: Text = None, cursor: Cursor = None, limit: Limit = 50
) -> BatchesPage:
    """A page of batches, the newest first."""
    try:
        return context.queries.batches(state=state, text=text, cursor=cursor, limit=limit)
    except UsageError as error:
        raise OptionError(str(error)) from None


@router.get("/batches/{id:path}", tags=["batches"], responses=MISSING)
def get_batch(context: InContext, id: JobIdPath) -> BatchView:
    """One batch: the batches inside it, its failures by their errors, its first jobs."""
    found = context.queries.batch(id)
    if found is None:
        raise NotFound(f"no batch {id} is known")
    return found


@router.get("/workers", tags=["processes"])
def list_workers(context: InContext) -> list[WorkerView]:
    """Workers, with what they run now."""
    return context.queries.workers()


@router.get("/components", tags=["processes"])
def list_components(context: InContext) -> list[ComponentView]:
    """Coordinators and beats."""
    return context.queries.components()


@router.get("/limits", tags=["limits"])
def list_limits(context: InContext) -> list[LimitView]:
    """Limits that jobs use or wait for, and those a person has set."""
    return context.queries.limits()


@router.get("/dead-letters", tags=["dead-letters"])
def list_dead_letters(context: InContext, cursor: Cursor = None, limit: Limit = 50) -> DeadLettersPage:
    """A page of the messages that could not be read, routed or decided, the newest first."""
    try:
        return context.queries.dead_letters(cursor=cursor, limit=limit)
    except UsageError as error:
        raise OptionError(str(error)) from None


@router.get("/dead-letters/{id:path}", tags=["dead-letters"], responses=MISSING)
def get_dead_letter(context: InContext, id: DeadLetterIdPath) -> DeadLetterView:
    """One dead letter with its body."""
    found = context.queries.dead_letter(id)
    if found is None:
        raise NotFound(f"no message {id} is dead-lettered")
    return found


@router.get("/functions", tags=["functions"])
def list_functions(context: InContext) -> list[FunctionView]:
    """What can be run as a job, as programs have declared it."""
    return context.queries.functions()


@router.get("/functions/{name:path}", tags=["functions"], responses=MISSING)
def get_function(context: InContext, name: NamePath) -> FunctionView:
    """One of them, with its parameters."""
    found = context.queries.function(name)
    if found is None:
        raise NotFound(f"no program has declared {name!r}")
    return found


@router.get("/audit", tags=["audit"])
def list_audit(
    context: InContext,
    by: Annotated[str | None, Query(max_length=300, description="only of this person or program")] = None,
    text: Text = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> AuditPage:
    """A page of who did what, the newest first."""
    try:
        return context.queries.audit(by=by, text=text, cursor=cursor, limit=limit)
    except UsageError as error:
        raise OptionError(str(error)) from None

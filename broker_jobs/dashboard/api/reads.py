"""What can be looked at: the views of the pages."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from broker_jobs.clock import as_datetime
from broker_jobs.dashboard.api.asked import (
    AName,
    AnId,
    AParkedId,
    Arguments,
    AtDesk,
    Cursor,
    Limit,
    Operator,
    Planned,
    Text,
)
from broker_jobs.dashboard.api.problem import Unknown, described
from broker_jobs.dashboard.views import (
    AuditPage,
    BatchesPage,
    BatchView,
    BulkView,
    FunctionView,
    Graph,
    JobsPage,
    JobsQuery,
    JobView,
    LimitView,
    Overview,
    ParkedPage,
    ParkedView,
    PartView,
    Pulse,
    QueueView,
    ScheduleLine,
    ScheduleView,
    WorkerView,
)
from broker_jobs.errors import OptionError, UsageError
from broker_jobs.job.state import State

router = APIRouter(responses=described(422))
MISSING = described(404, 422)


@router.get("/overview", tags=["overview"])
def get_overview(desk: AtDesk) -> Overview:
    """The state of the house, and what is wrong with it."""
    return desk.lookup.overview()


@router.get("/graph", tags=["overview"])
def get_graph(desk: AtDesk, span: Literal["hour", "day", "week"] = "hour") -> Graph:
    """Jobs that came to an end: an hour by minutes, a day or a week by hours."""
    return desk.lookup.graph(span)


@router.get("/pulse", tags=["overview"])
def get_pulse(desk: AtDesk) -> Pulse:
    """The counters, cheap enough to be asked for every second."""
    return desk.lookup.pulse()


@router.get("/jobs", tags=["jobs"])
def list_jobs(desk: AtDesk, query: Annotated[JobsQuery, Query()]) -> JobsPage:
    """A page of the jobs that match; `next` is the cursor of the one after it."""
    try:
        return desk.lookup.jobs(query)
    except UsageError as error:
        raise OptionError(str(error)) from None


@router.get("/jobs/{id:path}/arguments", tags=["jobs"], responses=MISSING)
def get_arguments(desk: AtDesk, who: Operator, id: AnId) -> Arguments:
    """What a job was called with, to change it and requeue the job: where `***` stands for what is hidden and is sent
    back as it stood, the job keeps the value it has. For operators."""
    del who
    found = desk.lookup.shown_arguments(id)
    if found is None:
        raise Unknown(f"the arguments of job {id} are not known")
    return Arguments(args=found[0], kwargs=found[1])


@router.get("/jobs/{id:path}", tags=["jobs"], responses=MISSING)
def get_job(desk: AtDesk, id: AnId) -> JobView:
    """All that is known of one job. A slash in an id is sent as it is, or as %2F."""
    found = desk.lookup.job(id)
    if found is None:
        raise Unknown(f"no job {id} is known")
    return found


@router.get("/bulk/{id:path}", tags=["jobs"], responses=MISSING)
def get_bulk(desk: AtDesk, id: AnId) -> BulkView:
    """How far a command about many jobs has come."""
    found = desk.lookup.bulk(id)
    if found is None:
        raise Unknown(f"no command {id} about many jobs is known")
    return found


@router.get("/queues", tags=["queues"])
def list_queues(desk: AtDesk) -> list[QueueView]:
    """Every known queue, by name."""
    return desk.lookup.queues()


@router.get("/recurring", tags=["recurring"])
def list_recurring(desk: AtDesk) -> list[ScheduleLine]:
    """All recurring jobs, by name."""
    return desk.lookup.schedules()


@router.get("/recurring/{name:path}", tags=["recurring"], responses=MISSING)
def get_recurring(desk: AtDesk, name: AName) -> ScheduleView:
    """All that is known of one recurring job."""
    found = desk.lookup.schedule(name)
    if found is None:
        raise Unknown(f"no recurring job is named {name!r}")
    return found


@router.get("/times", tags=["recurring"])
def get_times(
    desk: AtDesk,
    cron: Annotated[str, Query(min_length=1, max_length=200, examples=["0 9 * * MON"])],
    tz: Annotated[str, Query(min_length=1, max_length=100)] = "UTC",
    count: Annotated[int, Query(ge=1, le=50)] = 5,
) -> Planned:
    """The next times of a cron expression; 422 says what is wrong in it."""
    return Planned(times=[as_datetime(at) for at in desk.lookup.preview(cron, tz, count)])


@router.get("/batches", tags=["batches"])
def list_batches(
    desk: AtDesk, state: State | None = None, text: Text = None, cursor: Cursor = None, limit: Limit = 50
) -> BatchesPage:
    """A page of batches, the newest first."""
    try:
        return desk.lookup.batches(state=state, text=text, cursor=cursor, limit=limit)
    except UsageError as error:
        raise OptionError(str(error)) from None


@router.get("/batches/{id:path}", tags=["batches"], responses=MISSING)
def get_batch(desk: AtDesk, id: AnId) -> BatchView:
    """One batch: the batches inside it, its failures by their errors, its first jobs."""
    found = desk.lookup.batch(id)
    if found is None:
        raise Unknown(f"no batch {id} is known")
    return found


@router.get("/workers", tags=["processes"])
def list_workers(desk: AtDesk) -> list[WorkerView]:
    """Workers, with what they run now."""
    return desk.lookup.workers()


@router.get("/parts", tags=["processes"])
def list_parts(desk: AtDesk) -> list[PartView]:
    """Coordinators and beats."""
    return desk.lookup.parts()


@router.get("/limits", tags=["limits"])
def list_limits(desk: AtDesk) -> list[LimitView]:
    """Limits that jobs use or wait for, and those a person has set."""
    return desk.lookup.limits()


@router.get("/parked", tags=["parked"])
def list_parked(desk: AtDesk, cursor: Cursor = None, limit: Limit = 50) -> ParkedPage:
    """A page of the messages that could not be read, routed or decided, the newest first."""
    try:
        return desk.lookup.parked(cursor=cursor, limit=limit)
    except UsageError as error:
        raise OptionError(str(error)) from None


@router.get("/parked/{id:path}", tags=["parked"], responses=MISSING)
def get_parked(desk: AtDesk, id: AParkedId) -> ParkedView:
    """One parked message with its body."""
    found = desk.lookup.parked_message(id)
    if found is None:
        raise Unknown(f"no message {id} is parked")
    return found


@router.get("/functions", tags=["functions"])
def list_functions(desk: AtDesk) -> list[FunctionView]:
    """What can be run as a job, as programs have declared it."""
    return desk.lookup.functions()


@router.get("/functions/{name:path}", tags=["functions"], responses=MISSING)
def get_function(desk: AtDesk, name: AName) -> FunctionView:
    """One of them, with its parameters."""
    found = desk.lookup.function(name)
    if found is None:
        raise Unknown(f"no program has declared {name!r}")
    return found


@router.get("/audit", tags=["audit"])
def list_audit(
    desk: AtDesk,
    by: Annotated[str | None, Query(max_length=300, description="only of this person or program")] = None,
    text: Text = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> AuditPage:
    """A page of who did what, the newest first."""
    try:
        return desk.lookup.audit(by=by, text=text, cursor=cursor, limit=limit)
    except UsageError as error:
        raise OptionError(str(error)) from None

"""Answers the requests of the API that change something. Each is recorded in the audit with the visitor's name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from broker_jobs.dashboard.api.errors import NotFound, error_responses
from broker_jobs.dashboard.api.request_models import (
    Admin,
    BulkBody,
    ChangedWorkers,
    ChangeWorkersBody,
    Context,
    Created,
    DeadLetterIdPath,
    DeleteResult,
    FilterBody,
    JobIdPath,
    NamePath,
    Operator,
    QueuePath,
    RecurringBody,
    RequeueBody,
    RescheduleBody,
    RunJobBody,
    ScheduleBody,
    SetLimitBody,
)
from broker_jobs.dashboard.argument_validation import check_json
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.forms.argument_form import restore_hidden
from broker_jobs.dashboard.views import JobsQuery
from broker_jobs.errors import ArgumentsError

router = APIRouter(responses=error_responses(409, 422))
MISSING = error_responses(404, 409, 422)
LARGE = error_responses(404, 409, 413, 422)


# --- jobs ---


@router.post("/jobs", tags=["jobs"], status_code=201, responses=LARGE)
def run_job(context: Context, by: Admin, body: RunJobBody) -> Created:
    """Run a job. Its arguments are checked against the declared parameters, if a program has declared it."""
    due_at = None if body.due_at is None else body.due_at.timestamp()
    id = context.actions.enqueue(
        by, body.job, body.args, body.kwargs, queue=body.queue, priority=body.priority, due_at=due_at
    )
    return Created(id=id)


@router.delete("/jobs/{id:path}", tags=["jobs"], responses=MISSING)
def delete_job(context: Context, by: Operator, id: JobIdPath) -> DeleteResult:
    """Delete a job. A running job is asked to stop; its outcome counts."""
    _require_job(context, id)
    return DeleteResult(had_ended=not context.actions.delete_job(by, id))


@router.post("/jobs/{id:path}/requeue", tags=["jobs"], responses=LARGE)
def requeue_job(context: Context, by: Operator, id: JobIdPath, body: RequeueBody | None = None) -> Created:
    """Run an ended job again, or a waiting job now; with new arguments if you give them."""
    _require_job(context, id)
    if body is None or body.args is None or body.kwargs is None:
        context.actions.requeue_job(by, id)
    else:
        context.actions.requeue_with(by, id, *_restored(context, id, body.args, body.kwargs))
    return Created(id=id)


@router.post("/jobs/{id:path}/reschedule", tags=["jobs"], responses=MISSING)
def reschedule_job(context: Context, by: Operator, id: JobIdPath, body: RescheduleBody) -> Created:
    """Change the due time of a job; a past time means now."""
    _require_job(context, id)
    context.actions.reschedule_job(by, id, body.due_at.timestamp())
    return Created(id=id)


@router.post("/bulk/delete", tags=["jobs"], status_code=202)
def delete_jobs(context: Context, by: Operator, body: BulkBody) -> Created:
    """Delete many jobs by one command. `GET /bulk/{id}` returns its progress."""
    if body.ids is not None:
        return Created(id=context.actions.delete_many(by, body.ids))
    return Created(id=context.actions.delete_matching(by, _query(body.matching)))


@router.post("/bulk/requeue", tags=["jobs"], status_code=202)
def requeue_jobs(context: Context, by: Operator, body: BulkBody) -> Created:
    """Requeue many jobs by one command. `GET /bulk/{id}` returns its progress."""
    if body.ids is not None:
        return Created(id=context.actions.requeue_many(by, body.ids))
    return Created(id=context.actions.requeue_matching(by, _query(body.matching)))


@router.post("/bulk/fail", tags=["jobs"], status_code=202)
def fail_jobs(context: Context, by: Operator, body: BulkBody) -> Created:
    """Fail many held jobs, which no living worker knows, by one command. `GET /bulk/{id}` returns its progress."""
    if body.ids is not None:
        return Created(id=context.actions.fail_held(by, body.ids))
    return Created(id=context.actions.fail_held(by, _query(body.matching)))


# --- queues, limits ---


@router.post("/queues/{name}/pause", tags=["queues"], status_code=204)
def pause_queue(context: Context, by: Operator, name: QueuePath) -> None:
    """Stop starting jobs of a queue. Running jobs continue, and jobs can still be enqueued."""
    context.actions.pause_queue(by, name)


@router.post("/queues/{name}/resume", tags=["queues"], status_code=204)
def resume_queue(context: Context, by: Operator, name: QueuePath) -> None:
    """Start jobs of a queue again."""
    context.actions.resume_queue(by, name)


@router.put("/limits", tags=["limits"], status_code=204)
def set_limit(context: Context, by: Admin, body: SetLimitBody) -> None:
    """Override a concurrency or rate limit; null removes the override."""
    context.actions.set_limit(by, body.key, body.limit)


@router.post("/workers/change", tags=["workers"])
def change_workers(context: Context, by: Admin, body: ChangeWorkersBody) -> ChangedWorkers:
    """Change what a worker, or each worker of a host, does until it restarts. What is absent stays."""
    return ChangedWorkers(changed=context.actions.change_workers(by, **body.model_dump()))


# --- recurring jobs ---


@router.post("/recurring/{name:path}/pause", tags=["recurring"], status_code=204, responses=MISSING)
def pause_recurring(context: Context, by: Operator, name: NamePath) -> None:
    """Skip its runs until it is resumed."""
    _require_schedule(context, name)
    context.actions.schedules.pause(by, name)


@router.post("/recurring/{name:path}/resume", tags=["recurring"], status_code=204, responses=MISSING)
def resume_recurring(context: Context, by: Operator, name: NamePath) -> None:
    """Continue with its next run."""
    _require_schedule(context, name)
    context.actions.schedules.resume(by, name)


@router.post("/recurring/{name:path}/trigger", tags=["recurring"], status_code=201, responses=MISSING)
def trigger_recurring(context: Context, by: Operator, name: NamePath) -> Created:
    """Run it now, in addition to its schedule. Returns the id of the job."""
    _require_schedule(context, name)
    return Created(id=context.actions.schedules.trigger(by, name))


@router.put("/recurring/{name:path}", tags=["recurring"], status_code=204, responses=LARGE)
def put_recurring(context: Context, by: Admin, name: NamePath, body: RecurringBody) -> None:
    """Add a recurring job, or replace the one of this name. Needs admin, as `POST /jobs` does."""
    context.actions.schedules.put(
        by, name, body.cron, tz=body.tz, misfire=body.misfire, overlap=body.overlap, job=body.job,
        args=body.args, kwargs=body.kwargs, queue=body.queue, priority=body.priority,
    )  # fmt: skip


@router.patch("/recurring/{name:path}", tags=["recurring"], status_code=204, responses=MISSING)
def change_recurring(context: Context, by: Operator, name: NamePath, body: ScheduleBody) -> None:
    """Change its schedule and rules; its call stays. If code declares it, the next start of that program reverts the
    change."""
    _require_schedule(context, name)
    context.actions.schedules.change(
        by, name, body.cron, tz=body.tz, misfire=body.misfire, overlap=body.overlap
    )  # fmt: skip


@router.delete("/recurring/{name:path}", tags=["recurring"], status_code=204, responses=MISSING)
def remove_recurring(context: Context, by: Operator, name: NamePath) -> None:
    """Remove it; its jobs stay."""
    _require_schedule(context, name)
    context.actions.schedules.remove(by, name)


# --- batches, dead letters ---


@router.delete("/batches/{id:path}", tags=["batches"], responses=MISSING)
def delete_batch(context: Context, by: Operator, id: JobIdPath) -> DeleteResult:
    """Delete all jobs of a batch and its inner batches that have not ended."""
    _require_batch(context, id)
    return DeleteResult(had_ended=not context.actions.delete_batch(by, id))


@router.post("/batches/{id:path}/requeue-failures", tags=["batches"], status_code=202, responses=MISSING)
def requeue_failures(context: Context, by: Operator, id: JobIdPath) -> Created:
    """Requeue all failed jobs of a batch by one command. `GET /bulk/{id}` returns its progress."""
    _require_batch(context, id)
    return Created(id=context.actions.requeue_failures(by, id))


@router.post("/dead-letters/{id:path}/replay", tags=["dead-letters"], status_code=204, responses=MISSING)
def replay_dead_letter(context: Context, by: Admin, id: DeadLetterIdPath) -> None:
    """Process a dead letter again, for example after an upgrade of the program that could not read it."""
    _require_dead_letter(context, id)
    context.actions.replay_dead_letter(by, id)


@router.delete("/dead-letters/{id:path}", tags=["dead-letters"], status_code=204, responses=MISSING)
def delete_dead_letter(context: Context, by: Admin, id: DeadLetterIdPath) -> None:
    """Delete a dead letter permanently."""
    _require_dead_letter(context, id)
    context.actions.delete_dead_letter(by, id)


# --- the subject must exist ---


def _require_job(context: RequestContext, id: str) -> None:
    if not context.queries.jobs.exists(id):
        raise NotFound(f"there is no job {id}")


def _require_schedule(context: RequestContext, name: str) -> None:
    if context.queries.schedules.row(name) is None:
        raise NotFound(f"there is no recurring job {name!r}")


def _require_batch(context: RequestContext, id: str) -> None:
    if not context.queries.batches.exists(id):
        raise NotFound(f"there is no batch {id}")


def _require_dead_letter(context: RequestContext, id: str) -> None:
    if context.queries.system.dead_letter(id) is None:
        raise NotFound(f"there is no dead letter {id}")


def _restored(
    context: RequestContext, id: str, args: list[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments, with hidden values restored where the mask is unchanged."""
    check_json(args, kwargs)
    jobs = context.queries.jobs
    shown, raw = jobs.masked_arguments(id) or ([], {}), jobs.raw_arguments(id) or ([], {})
    try:
        return restore_hidden(args, shown[0], raw[0]), restore_hidden(kwargs, shown[1], raw[1])
    except ValueError as error:
        raise ArgumentsError(f"an argument {error}") from None


def _query(matching: FilterBody | None) -> JobsQuery:
    assert matching is not None
    return JobsQuery(**matching.model_dump())

"""What can be done: the actions of the pages. Each stands in the audit with the name of who asked for it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from broker_jobs.dashboard.api.problem import NotFound, described
from broker_jobs.dashboard.api.request_models import (
    Admin,
    BulkBody,
    CreatedId,
    CronBody,
    DeadLetterIdPath,
    EndedBefore,
    FilterBody,
    InContext,
    JobIdPath,
    NamePath,
    Operator,
    QueuePath,
    RecurringBody,
    RequeueBody,
    RescheduleBody,
    RunBody,
    SetLimitBody,
)
from broker_jobs.dashboard.argument_validation import check_json
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.forms.argument_form import restored
from broker_jobs.dashboard.views import JobsQuery
from broker_jobs.errors import ArgumentsError

router = APIRouter(responses=described(409, 422))
MISSING = described(404, 409, 422)
LARGE = described(404, 409, 413, 422)


# --- jobs ---


@router.post("/jobs", tags=["jobs"], status_code=201, responses=LARGE)
def run_job(context: InContext, who: Admin, asked: RunBody) -> CreatedId:
    """Run a job. Its arguments are checked against what its program declared, where that is known."""
    due_at = None if asked.due_at is None else asked.due_at.timestamp()
    return CreatedId(
        id=context.actions.enqueue(who, asked.job, asked.args, asked.kwargs, queue=asked.queue, due_at=due_at)
    )


@router.delete("/jobs/{id:path}", tags=["jobs"], responses=MISSING)
def delete_job(context: InContext, who: Operator, id: JobIdPath) -> EndedBefore:
    """Delete a job; one that runs is asked to stop, and its end decides."""
    _known_job(context, id)
    return EndedBefore(ended_before=not context.actions.delete_job(who, id))


@router.post("/jobs/{id:path}/requeue", tags=["jobs"], responses=LARGE)
def requeue_job(context: InContext, who: Operator, id: JobIdPath, asked: RequeueBody | None = None) -> CreatedId:
    """Run a job again, or a waiting one now; with other arguments if they are given."""
    _known_job(context, id)
    if asked is None or asked.args is None or asked.kwargs is None:
        context.actions.requeue_job(who, id)
    else:
        context.actions.requeue_with(who, id, *_put_back(context, id, asked.args, asked.kwargs))
    return CreatedId(id=id)


@router.post("/jobs/{id:path}/reschedule", tags=["jobs"], responses=MISSING)
def reschedule_job(context: InContext, who: Operator, id: JobIdPath, asked: RescheduleBody) -> CreatedId:
    """Give a job another time; a past one means now."""
    _known_job(context, id)
    context.actions.reschedule_job(who, id, asked.due_at.timestamp())
    return CreatedId(id=id)


@router.post("/bulk/delete", tags=["jobs"], status_code=202)
def delete_jobs(context: InContext, who: Operator, asked: BulkBody) -> CreatedId:
    """Delete many jobs by one command; `GET /bulk/{id}` tells how far it has come."""
    if asked.ids is not None:
        return CreatedId(id=context.actions.delete_many(who, asked.ids))
    return CreatedId(id=context.actions.delete_matching(who, _query(asked.matching)))


@router.post("/bulk/requeue", tags=["jobs"], status_code=202)
def requeue_jobs(context: InContext, who: Operator, asked: BulkBody) -> CreatedId:
    """Run many jobs again by one command; `GET /bulk/{id}` tells how far it has come."""
    if asked.ids is not None:
        return CreatedId(id=context.actions.requeue_many(who, asked.ids))
    return CreatedId(id=context.actions.requeue_matching(who, _query(asked.matching)))


# --- queues, limits ---


@router.post("/queues/{name}/pause", tags=["queues"], status_code=204)
def pause_queue(context: InContext, who: Operator, name: QueuePath) -> None:
    """Have no more jobs of a queue started; running ones go on, and jobs may be enqueued."""
    context.actions.pause_queue(who, name)


@router.post("/queues/{name}/resume", tags=["queues"], status_code=204)
def resume_queue(context: InContext, who: Operator, name: QueuePath) -> None:
    """Have jobs of a queue started again."""
    context.actions.resume_queue(who, name)


@router.put("/limits", tags=["limits"], status_code=204)
def set_limit(context: InContext, who: Admin, asked: SetLimitBody) -> None:
    """Have a number count for a concurrency or rate limit; null: the one its jobs are enqueued with."""
    context.actions.set_limit(who, asked.key, asked.limit)


# --- recurring jobs ---


@router.post("/recurring/{name:path}/pause", tags=["recurring"], status_code=204, responses=MISSING)
def pause_recurring(context: InContext, who: Operator, name: NamePath) -> None:
    """Plan no more times of it."""
    _known_schedule(context, name)
    context.actions.pause_schedule(who, name)


@router.post("/recurring/{name:path}/resume", tags=["recurring"], status_code=204, responses=MISSING)
def resume_recurring(context: InContext, who: Operator, name: NamePath) -> None:
    """Plan its times again."""
    _known_schedule(context, name)
    context.actions.resume_schedule(who, name)


@router.post("/recurring/{name:path}/trigger", tags=["recurring"], status_code=201, responses=MISSING)
def trigger_recurring(context: InContext, who: Operator, name: NamePath) -> CreatedId:
    """Run it now, beside its schedule; the id is of the job it makes."""
    _known_schedule(context, name)
    return CreatedId(id=context.actions.trigger_schedule(who, name))


@router.put("/recurring/{name:path}", tags=["recurring"], status_code=204, responses=LARGE)
def put_recurring(context: InContext, who: Admin, name: NamePath, asked: RecurringBody) -> None:
    """Add a recurring job, or replace the one of this name: it runs a job, as `POST /jobs` does."""
    context.actions.put_schedule(
        who, name, asked.cron, tz=asked.tz, misfire=asked.misfire, overlap=asked.overlap, job=asked.job,
        args=asked.args, kwargs=asked.kwargs, queue=asked.queue,
    )  # fmt: skip


@router.patch("/recurring/{name:path}", tags=["recurring"], status_code=204, responses=MISSING)
def change_recurring(context: InContext, who: Operator, name: NamePath, asked: CronBody) -> None:
    """Give it other times and rules; what it calls stays. One that code declares has its own again with the next start
    of its program."""
    _known_schedule(context, name)
    context.actions.change_schedule(
        who, name, asked.cron, tz=asked.tz, misfire=asked.misfire, overlap=asked.overlap
    )  # fmt: skip


@router.delete("/recurring/{name:path}", tags=["recurring"], status_code=204, responses=MISSING)
def remove_recurring(context: InContext, who: Operator, name: NamePath) -> None:
    """Forget it; its jobs stay."""
    _known_schedule(context, name)
    context.actions.remove_schedule(who, name)


# --- batches, dead letters ---


@router.delete("/batches/{id:path}", tags=["batches"], responses=MISSING)
def delete_batch(context: InContext, who: Operator, id: JobIdPath) -> EndedBefore:
    """Delete all jobs of a batch, and of those inside it, that have not ended."""
    _known_batch(context, id)
    return EndedBefore(ended_before=not context.actions.delete_batch(who, id))


@router.post("/batches/{id:path}/requeue-failures", tags=["batches"], status_code=202, responses=MISSING)
def requeue_failures(context: InContext, who: Operator, id: JobIdPath) -> CreatedId:
    """Run all failed jobs of a batch again, by one command; `GET /bulk/{id}` tells how far it has come."""
    _known_batch(context, id)
    return CreatedId(id=context.actions.requeue_failures(who, id))


@router.post("/dead-letters/{id:path}/replay", tags=["dead-letters"], status_code=204, responses=MISSING)
def replay_dead_letter(context: InContext, who: Admin, id: DeadLetterIdPath) -> None:
    """Decide a dead letter again, as after an upgrade of the program that could not read it."""
    _known_dead_letter(context, id)
    context.actions.replay_dead_letter(who, id)


@router.delete("/dead-letters/{id:path}", tags=["dead-letters"], status_code=204, responses=MISSING)
def delete_dead_letter(context: InContext, who: Admin, id: DeadLetterIdPath) -> None:
    """Forget a dead letter for good."""
    _known_dead_letter(context, id)
    context.actions.delete_dead_letter(who, id)


# --- what must be there ---


def _known_job(context: RequestContext, id: str) -> None:
    if not context.queries.knows(id):
        raise NotFound(f"no job {id} is known")


def _known_schedule(context: RequestContext, name: str) -> None:
    if context.queries.schedule_row(name) is None:
        raise NotFound(f"no recurring job is named {name!r}")


def _known_batch(context: RequestContext, id: str) -> None:
    if not context.queries.knows_batch(id):
        raise NotFound(f"no batch {id} is known")


def _known_dead_letter(context: RequestContext, id: str) -> None:
    if context.queries.dead_letter(id) is None:
        raise NotFound(f"no message {id} is dead-lettered")


def _put_back(
    context: RequestContext, id: str, args: list[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments with what is hidden in them put back where its mark was left as it stood."""
    check_json(args, kwargs)
    shown, raw = context.queries.shown_arguments(id) or ([], {}), context.queries.raw_arguments(id) or ([], {})
    try:
        return restored(args, shown[0], raw[0]), restored(kwargs, shown[1], raw[1])
    except ValueError as error:
        raise ArgumentsError(f"an argument {error}") from None


def _query(meant: FilterBody | None) -> JobsQuery:
    assert meant is not None
    return JobsQuery(**meant.model_dump())

"""What can be done: the actions of the pages. Each stands in the audit with the name of who asked for it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from broker_jobs.dashboard.api.asked import (
    Admin,
    AName,
    AnId,
    AParkedId,
    AQueue,
    AtDesk,
    Ended,
    Id,
    Many,
    Meant,
    Operator,
    Put,
    Requeue,
    Reschedule,
    Run,
    SetLimit,
    Times,
)
from broker_jobs.dashboard.api.problem import Unknown, described
from broker_jobs.dashboard.desk import Desk
from broker_jobs.dashboard.pages.edited import restored
from broker_jobs.dashboard.runnable import check_json
from broker_jobs.dashboard.views import JobsQuery
from broker_jobs.errors import ArgumentsError

router = APIRouter(responses=described(409, 422))
MISSING = described(404, 409, 422)
LARGE = described(404, 409, 413, 422)


# --- jobs ---


@router.post("/jobs", tags=["jobs"], status_code=201, responses=LARGE)
def run_job(desk: AtDesk, who: Admin, asked: Run) -> Id:
    """Run a job. Its arguments are checked against what its program declared, where that is known."""
    due_at = None if asked.due_at is None else asked.due_at.timestamp()
    return Id(id=desk.actions.enqueue(who, asked.job, asked.args, asked.kwargs, queue=asked.queue, due_at=due_at))


@router.delete("/jobs/{id:path}", tags=["jobs"], responses=MISSING)
def delete_job(desk: AtDesk, who: Operator, id: AnId) -> Ended:
    """Delete a job; one that runs is asked to stop, and its end decides."""
    _known_job(desk, id)
    return Ended(ended_before=not desk.actions.delete_job(who, id))


@router.post("/jobs/{id:path}/requeue", tags=["jobs"], responses=LARGE)
def requeue_job(desk: AtDesk, who: Operator, id: AnId, asked: Requeue | None = None) -> Id:
    """Run a job again, or a waiting one now; with other arguments if they are given."""
    _known_job(desk, id)
    if asked is None or asked.args is None or asked.kwargs is None:
        desk.actions.requeue_job(who, id)
    else:
        desk.actions.requeue_with(who, id, *_put_back(desk, id, asked.args, asked.kwargs))
    return Id(id=id)


@router.post("/jobs/{id:path}/reschedule", tags=["jobs"], responses=MISSING)
def reschedule_job(desk: AtDesk, who: Operator, id: AnId, asked: Reschedule) -> Id:
    """Give a job another time; a past one means now."""
    _known_job(desk, id)
    desk.actions.reschedule_job(who, id, asked.due_at.timestamp())
    return Id(id=id)


@router.post("/bulk/delete", tags=["jobs"], status_code=202)
def delete_jobs(desk: AtDesk, who: Operator, asked: Many) -> Id:
    """Delete many jobs by one command; `GET /bulk/{id}` tells how far it has come."""
    if asked.ids is not None:
        return Id(id=desk.actions.delete_many(who, asked.ids))
    return Id(id=desk.actions.delete_matching(who, _query(asked.matching)))


@router.post("/bulk/requeue", tags=["jobs"], status_code=202)
def requeue_jobs(desk: AtDesk, who: Operator, asked: Many) -> Id:
    """Run many jobs again by one command; `GET /bulk/{id}` tells how far it has come."""
    if asked.ids is not None:
        return Id(id=desk.actions.requeue_many(who, asked.ids))
    return Id(id=desk.actions.requeue_matching(who, _query(asked.matching)))


# --- queues, limits ---


@router.post("/queues/{name}/pause", tags=["queues"], status_code=204)
def pause_queue(desk: AtDesk, who: Operator, name: AQueue) -> None:
    """Have no more jobs of a queue started; running ones go on, and jobs may be enqueued."""
    desk.actions.pause_queue(who, name)


@router.post("/queues/{name}/resume", tags=["queues"], status_code=204)
def resume_queue(desk: AtDesk, who: Operator, name: AQueue) -> None:
    """Have jobs of a queue started again."""
    desk.actions.resume_queue(who, name)


@router.put("/limits", tags=["limits"], status_code=204)
def set_limit(desk: AtDesk, who: Admin, asked: SetLimit) -> None:
    """Have a number count for a concurrency or rate limit; null: the one its jobs are enqueued with."""
    desk.actions.set_limit(who, asked.key, asked.limit)


# --- recurring jobs ---


@router.post("/recurring/{name:path}/pause", tags=["recurring"], status_code=204, responses=MISSING)
def pause_recurring(desk: AtDesk, who: Operator, name: AName) -> None:
    """Plan no more times of it."""
    _known_schedule(desk, name)
    desk.actions.pause_schedule(who, name)


@router.post("/recurring/{name:path}/resume", tags=["recurring"], status_code=204, responses=MISSING)
def resume_recurring(desk: AtDesk, who: Operator, name: AName) -> None:
    """Plan its times again."""
    _known_schedule(desk, name)
    desk.actions.resume_schedule(who, name)


@router.post("/recurring/{name:path}/trigger", tags=["recurring"], status_code=201, responses=MISSING)
def trigger_recurring(desk: AtDesk, who: Operator, name: AName) -> Id:
    """Run it now, beside its schedule; the id is of the job it makes."""
    _known_schedule(desk, name)
    return Id(id=desk.actions.trigger_schedule(who, name))


@router.put("/recurring/{name:path}", tags=["recurring"], status_code=204, responses=LARGE)
def put_recurring(desk: AtDesk, who: Admin, name: AName, asked: Put) -> None:
    """Add a recurring job, or replace the one of this name: it runs a job, as `POST /jobs` does."""
    desk.actions.put_schedule(
        who, name, asked.cron, tz=asked.tz, misfire=asked.misfire, overlap=asked.overlap, job=asked.job,
        args=asked.args, kwargs=asked.kwargs, queue=asked.queue,
    )  # fmt: skip


@router.patch("/recurring/{name:path}", tags=["recurring"], status_code=204, responses=MISSING)
def change_recurring(desk: AtDesk, who: Operator, name: AName, asked: Times) -> None:
    """Give it other times and rules; what it calls stays. One that code declares has its own again with the next start
    of its program."""
    _known_schedule(desk, name)
    desk.actions.change_schedule(
        who, name, asked.cron, tz=asked.tz, misfire=asked.misfire, overlap=asked.overlap
    )  # fmt: skip


@router.delete("/recurring/{name:path}", tags=["recurring"], status_code=204, responses=MISSING)
def remove_recurring(desk: AtDesk, who: Operator, name: AName) -> None:
    """Forget it; its jobs stay."""
    _known_schedule(desk, name)
    desk.actions.remove_schedule(who, name)


# --- batches, parked messages ---


@router.delete("/batches/{id:path}", tags=["batches"], responses=MISSING)
def delete_batch(desk: AtDesk, who: Operator, id: AnId) -> Ended:
    """Delete all jobs of a batch, and of those inside it, that have not ended."""
    _known_batch(desk, id)
    return Ended(ended_before=not desk.actions.delete_batch(who, id))


@router.post("/batches/{id:path}/requeue-failures", tags=["batches"], status_code=202, responses=MISSING)
def requeue_failures(desk: AtDesk, who: Operator, id: AnId) -> Id:
    """Run all failed jobs of a batch again, by one command; `GET /bulk/{id}` tells how far it has come."""
    _known_batch(desk, id)
    return Id(id=desk.actions.requeue_failures(who, id))


@router.post("/parked/{id:path}/replay", tags=["parked"], status_code=204, responses=MISSING)
def replay_parked(desk: AtDesk, who: Admin, id: AParkedId) -> None:
    """Decide a parked message again, as after an upgrade of the program that could not read it."""
    _known_parked(desk, id)
    desk.actions.replay_parked(who, id)


@router.delete("/parked/{id:path}", tags=["parked"], status_code=204, responses=MISSING)
def delete_parked(desk: AtDesk, who: Admin, id: AParkedId) -> None:
    """Forget a parked message for good."""
    _known_parked(desk, id)
    desk.actions.delete_parked(who, id)


# --- what must be there ---


def _known_job(desk: Desk, id: str) -> None:
    if not desk.lookup.knows(id):
        raise Unknown(f"no job {id} is known")


def _known_schedule(desk: Desk, name: str) -> None:
    if desk.lookup.schedule_row(name) is None:
        raise Unknown(f"no recurring job is named {name!r}")


def _known_batch(desk: Desk, id: str) -> None:
    if not desk.lookup.knows_batch(id):
        raise Unknown(f"no batch {id} is known")


def _known_parked(desk: Desk, id: str) -> None:
    if desk.lookup.parked_message(id) is None:
        raise Unknown(f"no message {id} is parked")


def _put_back(desk: Desk, id: str, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments with what is hidden in them put back where its mark was left as it stood."""
    check_json(args, kwargs)
    shown, raw = desk.lookup.shown_arguments(id) or ([], {}), desk.lookup.raw_arguments(id) or ([], {})
    try:
        return restored(args, shown[0], raw[0]), restored(kwargs, shown[1], raw[1])
    except ValueError as error:
        raise ArgumentsError(f"an argument {error}") from None


def _query(meant: Meant | None) -> JobsQuery:
    assert meant is not None
    return JobsQuery(**meant.model_dump())

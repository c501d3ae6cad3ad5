"""Finds problems of the running system, each with what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard.programs import Programs, find_problems
from broker_jobs.dashboard.views import Alert, ComponentView, QueueView, WorkerView

COORDINATOR_SILENT_SECONDS = 10.0
"""A tick comes every second, and a coordinator without ticks for five seconds steps down."""
BEHIND_SECONDS = 30.0
OVERDUE_SECONDS = 60.0
"""A due job is released at once. After this long, something prevents the coordinator from doing it."""
FAILURES_SECONDS = 300.0
FAILURES_FROM = 5
FAILURES_SHARE = 0.1
MAX_NAMES = 5
"""Names listed in one alert."""


@dataclass(frozen=True)
class SystemStatus:
    """The facts from which alerts are derived."""

    now: Instant
    queues: Sequence[QueueView]
    workers: Sequence[WorkerView]
    components: Sequence[ComponentView]
    last_tick_at: Instant | None = None
    """When the newest applied tick was sent; None: no coordinator has run yet."""
    schedules: int = 0
    """Recurring jobs that are not paused."""
    dead_letters: int = 0
    overdue_since: Instant | None = None
    """Due time of the job that waits longest for its release."""
    succeeded: int = 0
    """Jobs of the last five minutes."""
    failed: int = 0
    """Jobs of the last five minutes."""
    programs: Programs | None = None


def find_alerts(status: SystemStatus) -> list[Alert]:
    """The current problems, errors first."""
    found = [
        *_coordinator(status),
        *_workers(status),
        *_queues(status),
        *_beat(status),
        *_outcomes(status),
        *_programs(status),
    ]
    return sorted(found, key=lambda alert: alert.severity != "error")


def _coordinator(status: SystemStatus) -> Iterator[Alert]:
    lag = None if status.last_tick_at is None else status.now - status.last_tick_at
    if lag is None or lag > COORDINATOR_SILENT_SECONDS:
        alive = [each for each in status.components if each.kind == "coordinator" and not each.silent]
        since = "" if status.last_tick_at is None else f" since {_at(status.last_tick_at)}"
        if alive and lag is not None:
            severity = "error" if lag > BEHIND_SECONDS else "warning"
            yield Alert(
                severity=severity,  # type: ignore[arg-type]  # one of the two
                what=f"The coordinator is {lag:.0f} seconds behind: the dashboard shows the state of that moment.",
                do="It catches up by itself after a burst or an outage. If the lag grows, check its log, its CPU and "
                "the disk of its store.",
                page="workers",
            )
            return
        yield Alert(
            severity="error",
            what=f"No coordinator is running{since}: no job is scheduled, retried or counted.",
            do="Start one (broker-jobs coordinator, or broker-jobs run), and check the log of the last one. Nothing is "
            "lost meanwhile: events wait in RabbitMQ.",
            page="workers",
        )
    elif status.overdue_since is not None and status.now - status.overdue_since > OVERDUE_SECONDS:
        yield Alert(
            severity="error",
            what=f"Jobs have been due since {_at(status.overdue_since)} and are not released.",
            do="Check the coordinator's log. If the store was restored from a backup, confirm it: broker-jobs store "
            "accept. If RabbitMQ has raised a memory or disk alarm, free that resource.",
            page="jobs?state=scheduled&sort=due",
        )


def _workers(status: SystemStatus) -> Iterator[Alert]:
    silent = [worker for worker in status.workers if worker.silent and not worker.lost]
    if silent:
        names = _list_names([f"{worker.host}:{worker.pid}" for worker in silent])
        yield Alert(
            severity="warning",
            what=f"{_count(len(silent), 'worker')} without a heartbeat for 15 seconds: {names}.",
            do="If the worker was killed, its jobs are requeued half a minute after its last heartbeat. If its process "
            "still runs, check its log and its connection to RabbitMQ.",
            page="workers",
        )
    for worker in status.workers:
        if worker.problem and not worker.silent and not worker.lost:
            yield Alert(
                severity="error",
                what=f"Worker {worker.host}:{worker.pid} does not take all jobs: {worker.problem}.",
                do="Remove the cause; the worker tries again by itself every few seconds.",
                page="workers",
            )


def _queues(status: SystemStatus) -> Iterator[Alert]:
    unserved = [queue for queue in status.queues if queue.enqueued and not queue.workers and not queue.paused]
    if unserved:
        total = sum(queue.enqueued for queue in unserved)
        names = _list_names([queue.name for queue in unserved])
        yield Alert(
            severity="error",
            what=f"{_count(total, 'job')} in {names}, and no worker consumes it.",
            do="Start a worker for that queue: broker-jobs worker APP --queues "
            + ",".join(queue.name for queue in unserved[:MAX_NAMES]),
            page="queues",
        )
    paused = [queue for queue in status.queues if queue.paused and queue.enqueued]
    if paused:
        total = sum(queue.enqueued for queue in paused)
        yield Alert(
            severity="warning",
            what=f"{_count(total, 'job')} in {_list_names([queue.name for queue in paused])}, which is paused.",
            do="Resume the queue when the reason for the pause is gone.",
            page="queues",
        )


def _beat(status: SystemStatus) -> Iterator[Alert]:
    beats = [each for each in status.components if each.kind == "beat"]
    if status.components and status.schedules and not any(not beat.silent for beat in beats):
        last = max((beat.seen_at for beat in beats), default=None)
        since = "" if last is None else f" since {last:%Y-%m-%d %H:%M:%S} UTC"
        yield Alert(
            severity="error",
            what=f"{_count(status.schedules, 'recurring job')} and no beat{since}: their runs are missed.",
            do="Start one (broker-jobs beat, or broker-jobs run). It then handles the missed runs by the misfire rule "
            "of each recurring job.",
            page="recurring",
        )


def _outcomes(status: SystemStatus) -> Iterator[Alert]:
    if status.failed > FAILURES_FROM and status.failed > FAILURES_SHARE * (status.failed + status.succeeded):
        share = 100.0 * status.failed / (status.failed + status.succeeded)
        yield Alert(
            severity="warning",
            what=f"{_count(status.failed, 'job')} failed for good in the last five minutes, {share:.0f} % of all.",
            do="Check the newest failures. While a dependency is down, pause the queue; then requeue the failed jobs "
            "together.",
            page="jobs?state=failed&sort=changed",
        )
    if status.dead_letters:
        dead_letters = _count(status.dead_letters, "dead letter")
        yield Alert(
            severity="warning",
            what=f"{dead_letters}: messages that could not be decoded, routed or applied.",
            do="Read the reason. If the program that could not read the message has been upgraded, replay it; "
            "otherwise delete it.",
            page="dead-letters",
        )


def _programs(status: SystemStatus) -> Iterator[Alert]:
    for problem in find_problems(status.programs) if status.programs is not None else ():
        yield Alert(
            severity="error" if problem.is_error else "warning",
            what=f"{problem.what[:1].upper()}{problem.what[1:]}.",
            do=f"{problem.do[:1].upper()}{problem.do[1:]}.",
            page=problem.page,
        )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _list_names(names: Sequence[str]) -> str:
    listed = ", ".join(names[:MAX_NAMES])
    return listed if len(names) <= MAX_NAMES else f"{listed} and {len(names) - MAX_NAMES} more"


def _at(instant: Instant) -> str:
    return f"{as_datetime(instant):%Y-%m-%d %H:%M:%S} UTC"

"""Finds what is wrong with the house now, and says of each what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard.views import Alert, ComponentView, QueueView, WorkerView

COORDINATOR_SILENT_SECONDS = 10.0
"""A tick comes every second, and whoever is without for five steps down."""
BEHIND_SECONDS = 30.0
OVERDUE_SECONDS = 60.0
"""A due job is released at once; after so long something keeps the coordinator from it."""
FAILURES_SECONDS = 300.0
FAILURES_FROM = 5
FAILURES_SHARE = 0.1
NAMED = 5
"""Of many with the same trouble so many are named."""


@dataclass(frozen=True)
class SystemStatus:
    """What is looked at."""

    now: Instant
    queues: Sequence[QueueView]
    workers: Sequence[WorkerView]
    components: Sequence[ComponentView]
    last_tick_at: Instant | None = None
    """When the log's newest tick was sent; None: there never was a coordinator."""
    schedules: int = 0
    """Recurring jobs that are not paused."""
    dead_letters: int = 0
    overdue_since: Instant | None = None
    """When the job was due that waits longest for its release."""
    succeeded: int = 0
    """In the last five minutes, as all of these."""
    failed: int = 0


def alerts(house: SystemStatus) -> list[Alert]:
    """What is wrong now, the worst first."""
    found = [*_coordinator(house), *_workers(house), *_queues(house), *_beat(house), *_outcomes(house)]
    return sorted(found, key=lambda alert: alert.severity != "error")


def _coordinator(house: SystemStatus) -> Iterator[Alert]:
    lag = None if house.last_tick_at is None else house.now - house.last_tick_at
    if lag is None or lag > COORDINATOR_SILENT_SECONDS:
        living = [part for part in house.components if part.kind == "coordinator" and not part.silent]
        since = "" if house.last_tick_at is None else f" since {_at(house.last_tick_at)}"
        if living and lag is not None:
            severity = "error" if lag > BEHIND_SECONDS else "warning"
            yield Alert(
                severity=severity,  # type: ignore[arg-type]  # one of the two
                what=f"The coordinator is {lag:.0f} seconds behind: what is shown is as old as that.",
                do="It catches up by itself after a burst or an outage. If the lag grows, look at its log, its CPU "
                "and the disk of its store.",
                page="workers",
            )
            return
        yield Alert(
            severity="error",
            what=f"No coordinator is at work{since}: nothing is scheduled, retried or counted.",
            do="Start one (broker-jobs coordinator, or broker-jobs run), and look at the log of the one that ran. "
            "Nothing is lost meanwhile: what is told waits in RabbitMQ.",
            page="workers",
        )
    elif house.overdue_since is not None and house.now - house.overdue_since > OVERDUE_SECONDS:
        yield Alert(
            severity="error",
            what=f"Jobs have been due since {_at(house.overdue_since)} and are not released.",
            do="Look at the coordinator's log. If the store was restored from a backup, it waits for a person's word: "
            "broker-jobs store accept. If RabbitMQ raised an alarm (memory, disk), free what it lacks.",
            page="jobs?state=scheduled&sort=due",
        )


def _workers(house: SystemStatus) -> Iterator[Alert]:
    silent = [worker for worker in house.workers if worker.silent and not worker.lost]
    if silent:
        names = _named([f"{worker.host}:{worker.pid}" for worker in silent])
        yield Alert(
            severity="warning",
            what=f"{_count(len(silent), 'worker')} not heard of for three heartbeats: {names}.",
            do="If it was killed, its jobs go to others half a minute after its last word. If its process is there, "
            "look at its log and its way to RabbitMQ.",
            page="workers",
        )


def _queues(house: SystemStatus) -> Iterator[Alert]:
    alone = [queue for queue in house.queues if queue.enqueued and not queue.workers and not queue.paused]
    if alone:
        total = sum(queue.enqueued for queue in alone)
        yield Alert(
            severity="error",
            what=f"{_count(total, 'job')} in {_named([queue.name for queue in alone])}, and no worker serves it.",
            do="Start a worker with that queue: broker-jobs worker your.module --queues "
            + ",".join(queue.name for queue in alone[:NAMED]),
            page="queues",
        )
    paused = [queue for queue in house.queues if queue.paused and queue.enqueued]
    if paused:
        total = sum(queue.enqueued for queue in paused)
        yield Alert(
            severity="warning",
            what=f"{_count(total, 'job')} in {_named([queue.name for queue in paused])}, which is paused.",
            do="Resume the queue when what it was paused for is over.",
            page="queues",
        )


def _beat(house: SystemStatus) -> Iterator[Alert]:
    beats = [part for part in house.components if part.kind == "beat"]
    if house.components and house.schedules and not any(not beat.silent for beat in beats):
        last = max((beat.seen_at for beat in beats), default=None)
        since = "" if last is None else f" since {last:%Y-%m-%d %H:%M:%S} UTC"
        yield Alert(
            severity="error",
            what=f"{_count(house.schedules, 'recurring job')} and no beat{since}: their times are missed.",
            do="Start one (broker-jobs beat, or broker-jobs run). What was missed is then run or skipped by the "
            "misfire rule of each.",
            page="recurring",
        )


def _outcomes(house: SystemStatus) -> Iterator[Alert]:
    if house.failed > FAILURES_FROM and house.failed > FAILURES_SHARE * (house.failed + house.succeeded):
        share = 100.0 * house.failed / (house.failed + house.succeeded)
        yield Alert(
            severity="warning",
            what=f"{_count(house.failed, 'job')} failed for good in the last five minutes, {share:.0f} % of all.",
            do="Look at the newest failures; pause the queue while what they need is down, then requeue them together.",
            page="jobs?state=failed&sort=changed",
        )
    if house.dead_letters:
        yield Alert(
            severity="warning",
            what=f"{_count(house.dead_letters, 'message')} dead-lettered: not to be read, routed or decided.",
            do="Read the reason. After an upgrade of the program that could not read it: replay. Otherwise delete.",
            page="dead_letters",
        )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


def _at(instant: Instant) -> str:
    return f"{as_datetime(instant):%Y-%m-%d %H:%M:%S} UTC"

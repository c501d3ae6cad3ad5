"""Checks broker, queues, coordinator, store, workers and clocks, and prints for each problem what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.broker.work_depth import WorkDepth, work_depth
from broker_jobs.cli.connections import open_broker, open_jobs, open_reader
from broker_jobs.cli.options import AsJson, StoreUrl, Url, load_settings
from broker_jobs.cli.output import print_json
from broker_jobs.clock import Instant, SystemClock
from broker_jobs.dashboard.programs import find_problems, programs_of
from broker_jobs.errors import BrokerError, BrokerJobsError, ResultTimeout, StoreError, UsageError
from broker_jobs.settings import Settings, mask, unknown_environment

if TYPE_CHECKING:
    from broker_jobs.store import Reader

STALE_SECONDS = 10.0
"""A store written longer ago than this has no running coordinator: one writes it once a second."""
SKEW_SECONDS = 1.0
BACKLOG = 10_000
"""More messages than this in a queue of the coordinator mean that it is behind."""
REQUEST_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """One result of a check. `level`: ok, warning or error; `message`: what was found; `fix`: what to do about it."""

    level: str
    subject: str
    message: str
    fix: str = ""


def doctor(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Check the system, and print each problem with its fix.

    Checks broker, queues, coordinator, store, workers and clocks. The exit code is 1 if there is an error.
    """
    settings = load_settings(url=url, store=store)
    findings = list(check(settings, SystemClock().now()))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        colours = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "error": typer.colors.RED}
        for finding in findings:
            typer.secho(f"{finding.level:<8}", fg=colours[finding.level], nl=False)
            typer.echo(f"{finding.subject}: {finding.message}")
            if finding.fix:
                typer.echo(f"        → {finding.fix}")
    raise typer.Exit(1 if any(finding.level == "error" for finding in findings) else 0)


def check(settings: Settings, now: Instant) -> Iterator[Finding]:
    """Yield the findings of all checks, as they are made."""
    for warning in unknown_environment(os.environ):
        yield Finding("warning", "settings", warning, "correct or remove the variable")
    if settings.in_memory:
        yield Finding("ok", "broker", "memory://: in the memory of one process, which cannot be checked from another")
        return
    queues: list[str] = []
    yield from _check_store(settings, now, queues)
    try:
        with open_broker(settings, "doctor") as broker:
            yield Finding("ok", "broker", f"connected to {mask(settings.url)}")
            yield from _check_broker(settings, broker, queues or list(settings.queue_names))
    except BrokerError as error:
        yield Finding("error", "broker", str(error), "fix this first; the other checks need it")
        return
    yield from _check_coordinator(settings)


def _check_store(settings: Settings, now: Instant, queues: list[str]) -> Iterator[Finding]:
    """Check the store, and add the names of the queues in it to `queues`."""
    try:
        with open_reader(settings) as reader:
            queues += reader.queues.all()
            yield from _check_rows(reader, now)
    except (StoreError, UsageError) as error:
        yield Finding(
            "warning", "store", str(error), "without the store the commands list and show do not work on this host"
        )


def _check_rows(reader: Reader, now: Instant) -> Iterator[Finding]:
    age = now - reader.meta().last_tick_at
    if age > STALE_SECONDS:
        yield Finding(
            "error",
            "store",
            f"last written {age:.0f} s ago" if age < now / 2 else "never written by a coordinator",
            "start broker-jobs coordinator, with this same --store",
        )
    elif age < -SKEW_SECONDS:
        yield Finding(
            "warning",
            "clocks",
            f"the coordinator's clock is {-age:.1f} s ahead of this one",
            "run NTP on both hosts: delays are measured by the coordinator's clock",
        )
    else:
        yield Finding("ok", "store", f"last written {max(age, 0.0):.1f} s ago")
    if dead_letters := reader.dead_letters.count():
        reason = reader.dead_letters.oldest(1)[0].reason
        yield Finding(
            "warning", "dead letters",
            f"{dead_letters} messages could not be decoded, routed or applied; the oldest: {reason}",
            "fix the cause, then: broker-jobs dead-letters replay ID",
        )  # fmt: skip
    paused = [name for name, is_paused in reader.queues.all().items() if is_paused]
    if paused:
        yield Finding("warning", "queues", f"paused: {', '.join(paused)}", "broker-jobs queues resume NAME")
    workers = reader.processes.workers()
    for worker in workers:
        if worker.problem:
            yield Finding(
                "error",
                f"worker {worker.host}:{worker.pid}",
                worker.problem,
                "it tries again by itself when this is fixed",
            )
        if worker.silent_since is not None:
            yield Finding(
                "warning",
                f"worker {worker.host}:{worker.pid}",
                f"busy: it has not answered for {max(0.0, now - worker.silent_since):.0f} s",
                f"one of them keeps Python's GIL: broker-jobs jobs list --worker {worker.id} --state processing",
            )
    for problem in find_problems(programs_of(reader, now)):
        yield Finding("error" if problem.is_error else "warning", problem.subject, problem.what, problem.do)
    if lost := [worker for worker in workers if worker.lost]:
        hosts = ", ".join(sorted({worker.host for worker in lost}))
        yield Finding(
            "warning", "workers", f"{len(lost)} lost: their heartbeats stopped (hosts: {hosts})", "see their logs"
        )


def _check_broker(settings: Settings, broker: Broker, queues: list[str]) -> Iterator[Finding]:
    if broker.blocked:
        yield Finding(
            "error",
            "broker",
            "RabbitMQ accepts no messages because of a memory or disk alarm",
            "free memory or disk of RabbitMQ (rabbitmq-diagnostics alarms), or let workers empty long queues",
        )
        return
    if settings.declare:
        try:
            broker.apply(fixed_topology())
            yield Finding("ok", "topology", "complete")
        except BrokerError as error:
            yield Finding("error", "topology", str(error), "see broker-jobs topology show; 403: grant permissions")
    for queue, what in ((names.LOG, "the log"), (names.COMMAND, "commands"), (names.DUE, "due notices")):
        yield from _check_coordinator_queue(queue, what, broker.depth(queue))
    for name in queues:
        depth = work_depth(broker, name)
        if depth is not None:
            yield from _check_queue(name, depth)


def _check_queue(name: str, depth: WorkDepth) -> Iterator[Finding]:
    subject = f"queue {name}"
    if depth.missing:
        does, fix = "does" if len(depth.missing) == 1 else "do", f"run broker-jobs topology apply -Q {name}"
        yield Finding("error", subject, f"{' and '.join(depth.missing)} {does} not exist", fix)
    parts = ", ".join(f"{depth.ready[priority]} {priority}" for priority in ("high", "low") if depth.ready[priority])
    parts = f" ({parts})" if parts else ""
    if depth.total and not depth.consumers:
        yield Finding(
            "error",
            subject,
            f"{depth.total} ready jobs{parts} and no worker",
            f"start a worker: broker-jobs worker APP -Q {name}",
        )
    else:
        yield Finding("ok", subject, f"{depth.total} ready{parts}, {depth.consumers} consumers")


def _check_coordinator_queue(queue: str, what: str, depth: tuple[int, int] | None) -> Iterator[Finding]:
    if depth is None:
        yield Finding("error", queue, "does not exist", "run broker-jobs topology apply, or start a coordinator")
    elif not depth[1]:
        yield Finding(
            "error", queue, f"no coordinator reads {what} ({depth[0]} waiting)", "start broker-jobs coordinator"
        )
    elif depth[0] > BACKLOG:
        yield Finding(
            "warning",
            queue,
            f"{depth[0]} waiting: the coordinator is behind",
            "nothing is lost; check broker_jobs_coordinator_commit_seconds and the disk of the store",
        )
    else:
        yield Finding("ok", queue, f"{depth[0]} waiting")


def _check_coordinator(settings: Settings) -> Iterator[Finding]:
    """Request the state of a job that does not exist: the reply "unknown" shows that the coordinator answers."""
    try:
        with open_jobs(settings.model_copy(update={"publish_timeout": REQUEST_SECONDS})) as jobs:
            jobs.receipt("doctor").state()
    except ResultTimeout as error:
        if "unknown to the coordinator" not in str(error):
            yield Finding("error", "coordinator", str(error), "start a coordinator, or see the log of the running one")
            return
    except BrokerJobsError as error:
        yield Finding("error", "coordinator", str(error), "see its log")
        return
    yield Finding("ok", "coordinator", "answers requests")

"""`broker-jobs doctor`: looks at everything an operator would look at, and says of each trouble what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.cli.connections import asking, connected, reading
from broker_jobs.cli.options import AsJson, StoreUrl, Url, settings_of
from broker_jobs.cli.output import print_json
from broker_jobs.clock import Instant, SystemClock
from broker_jobs.errors import BrokerError, BrokerJobsError, ResultTimeout, StoreError, UsageError
from broker_jobs.settings import Settings, mask, unknown_environment

if TYPE_CHECKING:
    from broker_jobs.store import Reader

STALE_SECONDS = 10.0
"""A coordinator marks the log and the store once a second."""
SKEW_SECONDS = 1.0
BACKLOG = 10_000
QUESTION_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `level`: ok, warning or error; `do`: what mends it."""

    level: str
    subject: str
    says: str
    do: str = ""


def doctor(url: Url = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Say what is wrong and what mends it.

    Looks at broker, queues, coordinator, store, workers and clocks. Exit code 1 when something is wrong.
    """
    settings = settings_of(url=url, store=store)
    findings = list(examine(settings, SystemClock().now()))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        colours = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "error": typer.colors.RED}
        for finding in findings:
            typer.secho(f"{finding.level:<8}", fg=colours[finding.level], nl=False)
            typer.echo(f"{finding.subject}: {finding.says}")
            if finding.do:
                typer.echo(f"        → {finding.do}")
    raise typer.Exit(1 if any(finding.level == "error" for finding in findings) else 0)


def examine(settings: Settings, now: Instant) -> Iterator[Finding]:
    """Everything there is to say, as it is found out."""
    for warning in unknown_environment(os.environ):
        yield Finding("warning", "settings", warning, "correct or remove the variable")
    if settings.embedded:
        yield Finding(
            "ok", "broker", "memory://, inside one process; nothing is kept and there is nothing to look at from here"
        )
        return
    queues: list[str] = []
    yield from _examine_store(settings, now, queues)
    try:
        with connected(settings, "doctor") as broker:
            yield Finding("ok", "broker", f"connected to {mask(settings.url)}")
            yield from _examine_broker(settings, broker, queues or list(settings.queues))
    except BrokerError as error:
        yield Finding("error", "broker", str(error), "mend this first; all else needs it")
        return
    yield from _examine_coordinator(settings)


def _examine_store(settings: Settings, now: Instant, queues: list[str]) -> Iterator[Finding]:
    try:
        with reading(settings) as reader:
            queues += reader.queues()
            yield from _examine_rows(reader, now)
    except (StoreError, UsageError) as error:
        yield Finding("warning", "store", str(error), "without it list and show cannot work from this host")


def _examine_rows(reader: Reader, now: Instant) -> Iterator[Finding]:
    age = now - reader.meta().last_tick_at
    if age > STALE_SECONDS:
        yield Finding(
            "error",
            "store",
            f"last written {age:.0f} s ago" if age < now / 2 else "never written by a coordinator",
            "start a coordinator (broker-jobs coordinator); is it given this same --store?",
        )
    elif age < -SKEW_SECONDS:
        yield Finding(
            "warning",
            "clocks",
            f"the coordinator's clock is {-age:.1f} s ahead of this one",
            "run NTP on both hosts: delays are measured by the coordinator's clock",
        )
    else:
        yield Finding("ok", "store", f"fresh ({max(age, 0.0):.1f} s old)")
    if dead_letters := reader.dead_letter_count():
        reason = reader.dead_letters(1)[0].reason
        yield Finding(
            "warning", "dead", f"{dead_letters} messages nobody could read or decide; the oldest: {reason}",
            "mend the cause, then: broker-jobs dead-letters replay ID",
        )  # fmt: skip
    paused = [name for name, is_paused in reader.queues().items() if is_paused]
    if paused:
        yield Finding("warning", "queues", f"paused: {', '.join(paused)}", "broker-jobs queues resume NAME")
    if lost := [worker for worker in reader.workers() if worker.lost]:
        hosts = ", ".join(sorted({worker.host for worker in lost}))
        yield Finding("warning", "workers", f"{len(lost)} lost without a word (hosts: {hosts})", "look at their logs")


def _examine_broker(settings: Settings, broker: Broker, queues: list[str]) -> Iterator[Finding]:
    if broker.blocked:
        yield Finding(
            "error",
            "broker",
            "an alarm holds back everything that is published",
            "free memory or disk of RabbitMQ (rabbitmq-diagnostics alarms), or let workers empty long queues",
        )
        return
    if settings.declare:
        try:
            broker.apply(fixed_topology())
            yield Finding("ok", "topology", "stands as it must")
        except BrokerError as error:
            yield Finding("error", "topology", str(error), "see broker-jobs topology show; 403: give permissions")
    for queue, what in ((names.LOG, "the log"), (names.COMMAND, "commands"), (names.DUE, "bells")):
        yield from _examine_inbox(queue, what, broker.depth(queue))
    for name in queues:
        depth = broker.depth(names.work_queue(name))
        if depth is not None and depth[0] and not depth[1]:
            yield Finding(
                "error",
                f"queue {name}",
                f"{depth[0]} ready jobs and no worker",
                f"start one: broker-jobs worker APP -Q {name}",
            )
        elif depth is not None:
            yield Finding("ok", f"queue {name}", f"{depth[0]} ready, {depth[1]} workers")


def _examine_inbox(queue: str, what: str, depth: tuple[int, int] | None) -> Iterator[Finding]:
    if depth is None:
        yield Finding("error", queue, "does not exist", "broker-jobs topology apply, or start a coordinator")
    elif not depth[1]:
        yield Finding("error", queue, f"nobody reads {what} ({depth[0]} waiting)", "start broker-jobs coordinator")
    elif depth[0] > BACKLOG:
        yield Finding(
            "warning",
            queue,
            f"{depth[0]} waiting: the coordinator is behind",
            "nothing is lost; look at coordinator_commit_seconds and the store's disk",
        )
    else:
        yield Finding("ok", queue, f"{depth[0]} waiting")


def _examine_coordinator(settings: Settings) -> Iterator[Finding]:
    """Ask about a job that does not exist: an answer that says so is an answer."""
    try:
        with asking(settings.model_copy(update={"publish_timeout": QUESTION_SECONDS})) as jobs:
            jobs.receipt("doctor").state()
    except ResultTimeout as error:
        if "unknown to the coordinator" not in str(error):
            yield Finding("error", "coordinator", str(error), "start one, or look at the log of the one that runs")
            return
    except BrokerJobsError as error:
        yield Finding("error", "coordinator", str(error), "look at its log")
        return
    yield Finding("ok", "coordinator", "answers")

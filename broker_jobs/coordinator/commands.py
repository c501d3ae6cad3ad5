"""Applies what people and beats ask, inside the engine's transaction: schedules, queues, and the audit of each command.

Commands about one job are decided by `transition`; here is the rest. Each function returns the refusal, or None.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from broker_jobs.beat import cron as cron
from broker_jobs.clock import Instant
from broker_jobs.coordinator import recurring
from broker_jobs.coordinator.records import Fired
from broker_jobs.errors import OptionError
from broker_jobs.messages import codec
from broker_jobs.messages.commands import (
    BeatHeartbeat,
    DeclareFunctions,
    DeclareRecurring,
    DeclareSubscriptions,
    Fire,
    PauseRecurring,
    PutRecurring,
    RemoveRecurring,
    RunJob,
    Schedule,
    ScheduleReply,
    TriggerRecurring,
)
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.store.records import SubscriptionRow
from broker_jobs.store.views import ComponentRow, FunctionRow
from broker_jobs.store.write import Transaction

logger = logging.getLogger(__name__)

MOST_SHOWN = 10
"""Names that a log line lists."""
MOST_WAITING_RUNS = 1_000
"""Runs of one recurring job that may wait for each other; further ones are skipped."""


def put(tx: Transaction, command: PutRecurring, now: Instant) -> str | None:
    """Add or replace one recurring job."""
    return _put(tx, command.schedule, now)


def declare(tx: Transaction, command: DeclareRecurring, now: Instant) -> str | None:
    """Put what the code of a service declares and remove what it no longer declares."""
    tx.schedules.know(schedule.name for schedule in command.schedules)
    before = {row.name: row.service for row in tx.schedules.all() if row.service}
    own = {name for name, service in before.items() if service == command.service}
    refusals = [refused for schedule in command.schedules if (refused := _put(tx, schedule, now))]
    declared = {schedule.name for schedule in command.schedules}
    for name in own - declared:
        tx.schedules.remove(name)
        tx.meta.schedules_version += 1
    removed = tx.declarations.note_removed(command.service, "recurring job", own, declared, now)
    _say_removed(command, "recurring job", removed)
    for name in sorted(declared & before.keys() - own):
        tx.declarations.note_removed(before[name], "recurring job", {name}, set(), now)
        logger.warning("recurring job %s of program %s now belongs to program %s", name, before[name], command.service)
    return "; ".join(refusals) or None


def _say_removed(command: DeclareRecurring | DeclareSubscriptions, kind: str, removed: set[str]) -> None:
    if removed:
        names = sorted(removed)
        more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
        logger.warning(
            "%s %s%s of program %s removed: its code, as %s has it, does not declare it any more; if it should, "
            "another program has this name, or an old version was started",
            kind, ", ".join(names[:MOST_SHOWN]), more, command.service, command.by or "the sender",
        )  # fmt: skip


def _put(tx: Transaction, schedule: Schedule, now: Instant) -> str | None:
    try:
        cron.check(schedule.cron, schedule.tz)
        refused = _waits(codec.decode(schedule.call))
    except (OptionError, codec.Undecodable) as error:
        refused = str(error)
    if refused is not None:
        return f"recurring {schedule.name!r}: {refused}"
    old = tx.schedules.get(schedule.name)
    new = recurring.put(old, schedule, now)
    if new is not old:
        tx.schedules.save(new)
        tx.meta.schedules_version += 1
    return None


def remove(tx: Transaction, command: RemoveRecurring) -> str | None:
    """Remove one recurring job; jobs it has made stay."""
    if not tx.schedules.remove(command.name):
        return _unknown(command.name)
    tx.meta.schedules_version += 1
    return None


def pause(tx: Transaction, command: PauseRecurring, now: Instant) -> str | None:
    """Pause or resume one recurring job; times that pass during a pause are not missed."""
    row = tx.schedules.get(command.name)
    if row is None:
        return _unknown(command.name)
    if row.paused != command.paused:
        row.paused = command.paused
        row.changed_at = now
        if not command.paused:
            row.last_planned_at = max(now, row.last_planned_at or now)
        tx.schedules.save(row)
        tx.meta.schedules_version += 1
    return None


def trigger(
    tx: Transaction,
    command: TriggerRecurring,
    now: Instant,
    *,
    open_runs: Callable[[str], int],
    waiting_runs: Callable[[str], int],
) -> Fired | str:
    """One job of a recurring job now, beside its schedule; or why it is refused. It obeys the overlap rule."""
    row = tx.schedules.get(command.name)
    if row is None:
        return _unknown(command.name)
    if row.overlap == "skip" and open_runs(row.name) > 0:
        return f"a run of {row.name!r} has not ended, and its overlap is skip: wait for its end, or delete it"
    if row.overlap == "queue" and waiting_runs(row.name) > MOST_WAITING_RUNS:
        return f"{MOST_WAITING_RUNS:_} runs of {row.name!r} wait already"
    return recurring.fired(row, now, now, id=command.job_id)


def run(command: RunJob) -> tuple[str, Fired | str]:
    """(the id, the job a person describes), or (empty or its id, why it is refused)."""
    try:
        envelope = codec.decode(command.call)
    except codec.Undecodable as error:
        return "", f"the call cannot be read: {error}"
    refused = _waits(envelope)
    if refused is not None:
        return envelope.id, refused
    envelope = envelope.evolve(epoch=0, attempt=1, parent=None, recurring=None)
    return envelope.id, Fired(envelope, codec.encode(envelope).decode())


def _waits(template: Envelope) -> str | None:
    """Why no jobs can be made of a call; None: they can. Its arguments may be others than those it was checked with."""
    if template.after is not None or template.result_args or template.batch is not None:
        return "such a job waits for its time and for nothing else: leave out after, result_args and batch"
    return None


def fire(
    tx: Transaction,
    command: Fire,
    now: Instant,
    *,
    open_runs: Callable[[str], int],
    waiting_runs: Callable[[str], int],
    page: int = recurring.PAGE,
) -> tuple[list[Fired], bool]:
    """(the jobs of the planned times that are due and not decided yet, whether more are left than `page`).

    Misfire and overlap are decided here.

    Args:
        tx: the transaction.
        command: the fire of a beat.
        now: wall time.
        open_runs: how many runs of a recurring job are neither gone nor aliases.
        waiting_runs: how many stand in its line.
        page: the most jobs to make.
    """
    row = tx.schedules.get(command.name)
    if row is None or not recurring.takes(row, command):
        return [], False
    times, cursor, more = recurring.decided(row, command, now, page)
    if cursor == row.last_planned_at:
        return [], False
    row.last_planned_at = cursor
    if row.overlap == "skip":
        times = times[:1] if open_runs(row.name) <= 0 else []
    elif row.overlap == "queue":
        times = times[: max(0, MOST_WAITING_RUNS + 1 - waiting_runs(row.name))]
    made = [recurring.fired(row, planned_at, now) for planned_at in times]
    if made:
        row.last_job_id = made[-1].envelope.id
    tx.schedules.save(row)
    return made, more


def subscribe(tx: Transaction, command: DeclareSubscriptions, now: Instant) -> str | None:
    """Keep what the code of a service subscribes to, and nothing else of it."""
    rows = []
    for subscription in command.subscriptions:
        try:
            template = codec.decode(subscription.call)
        except codec.Undecodable as error:
            return f"subscription to {subscription.event!r}: {error}"
        refused = _waits(template)
        if refused is not None:
            return f"subscription to {subscription.event!r}: {refused}"
        rows.append(SubscriptionRow(command.service, subscription.event, template.job, subscription.call))
    declared = {f"{row.event} → {row.job}" for row in rows}
    before = tx.declarations.subscriptions_of(command.service)
    tx.declarations.save_subscriptions(command.service, rows)
    removed = tx.declarations.note_removed(command.service, "subscription", before, declared, now)
    _say_removed(command, "subscription", removed)
    return None


def declare_functions(tx: Transaction, command: DeclareFunctions) -> None:
    """Keep what the code of a service can run; a form is made of it."""
    rows = [
        FunctionRow(
            one.name,
            command.service,
            one.queue,
            one.doc,
            [p.model_dump(mode="json") for p in one.parameters],
            options=one.model_dump(mode="json", include={"priority", "policy", "tags", "unique", "limits"}),
        )
        for one in command.functions
    ]
    tx.declarations.save_functions(command.service, rows, at=command.at, last=command.last)


def beat_heartbeat(tx: Transaction, command: BeatHeartbeat) -> None:
    """Keep that a beat lives."""
    row = ComponentRow(command.by, "beat", command.host, command.pid, command.version, active=True, seen_at=command.at)
    tx.processes.save_component(row)


def published(tx: Transaction, event: PublishedEvent) -> list[Fired]:
    """The jobs of an event, one for each subscription."""
    return [recurring.answered(row, event) for row in tx.declarations.subscriptions(event.event)]


def views(tx: Transaction, after: str = "") -> list[ScheduleReply]:
    """What beats are told of the schedules, by name; of those after a name."""
    return [
        ScheduleReply(
            name=row.name,
            cron=row.cron,
            tz=row.tz,
            version=row.version,
            paused=row.paused,
            last_planned_at=row.last_planned_at,
        )
        for row in sorted(tx.schedules.all(), key=lambda row: row.name)
        if row.name > after
    ]


def _unknown(name: str) -> str:
    return f"no recurring job is named {name!r}"

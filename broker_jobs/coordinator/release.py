"""Turns rows into the messages the coordinator publishes: releases, and copies for the next delay level."""

from __future__ import annotations

from datetime import datetime

from broker_jobs.broker import names
from broker_jobs.broker.delay import delay_level
from broker_jobs.broker.interface import Message
from broker_jobs.clock import Instant, as_datetime
from broker_jobs.coordinator.inputs import CHECKPOINT, LOOK
from broker_jobs.messages import codec
from broker_jobs.messages.control import Control
from broker_jobs.messages.envelope import Envelope, new_id
from broker_jobs.messages.events import Tick
from broker_jobs.messages.process_info import ProcessInfo
from broker_jobs.store.row import Row

LOOKED_AT = 1_000
"""Jobs one message names."""


def release(row: Row, envelope: Envelope | None = None) -> Message:
    """The message that puts a `publishing` row's job into its work queue; `envelope`: the row's, if it is decoded."""
    envelope = envelope or codec.decode(row.envelope)
    until_started = envelope.unique is not None and envelope.unique.scope == "queued"
    envelope = envelope.evolve(
        epoch=row.epoch,
        attempt=row.attempt,
        careful=row.crashes + row.returns > 0 or until_started,
        due_at=_due_at(row, envelope),
    )
    key = names.work_key(row.queue, envelope.priority)
    return Message(names.WORK, key, codec.encode(envelope), type="job", message_id=row.id)


def delay_copy(row: Row, now: Instant) -> tuple[Message, int] | None:
    """The message for the delay queues's next step and the step; None when what is left is for the timer alone."""
    step = None if row.due_at is None else delay_level(row.due_at - now)
    if step is None or not row.envelope or row.due_at is None:
        return None
    envelope = codec.decode(row.envelope).evolve(epoch=row.epoch, attempt=row.attempt, due_at=as_datetime(row.due_at))
    key = names.delay_key(step)
    return Message(names.DELAY, key, codec.encode(envelope), type="job", message_id=row.id), step


def tick(coordinator: str, store: str, serial: int, now: Instant, process_info: ProcessInfo) -> Message:
    """The coordinator's mark in the log."""
    host, pid, version = process_info
    checkpoint = Tick(
        coordinator=coordinator, store=store, serial=serial, sent_at=now, host=host, pid=pid, version=version
    )  # fmt: skip
    body = checkpoint.model_dump_json().encode()
    return Message(names.TICK, names.LOG_KEY, body, type="tick", message_id=new_id())


def checkpoint(tick: Message) -> Message:
    """A tick that the command queue keeps: with its coordinator it is not read away, as those in the log are."""
    return tick._replace(key=names.COMMAND_KEY, type=CHECKPOINT, message_id=new_id())


def broadcast(control: Control) -> Message:
    """News for all workers and beats."""
    body = control.model_dump_json(exclude_none=True).encode()
    return Message(names.CONTROL, "", body, type="control", message_id=new_id())


def looks(ids: list[str]) -> list[Message]:
    """A standby's words to the active coordinator: these jobs may be due."""
    return [
        Message(names.TICK, names.LOG_KEY, LOOK.dump_json(ids[start : start + LOOKED_AT]), "look", message_id=new_id())
        for start in range(0, len(ids), LOOKED_AT)
    ]


def _due_at(row: Row, envelope: Envelope) -> datetime | None:
    """Since when it may start. `expires` counts from it, so pauses between tries to find a worker do not move it."""
    if row.unknowns and row.attempt == 1:
        return envelope.due_at
    return None if row.due_at is None else as_datetime(row.due_at)

"""Turns deliveries of the coordinator's queues into inputs it can decide upon; what cannot be read says why. Pure.

A message may carry many records. Each is read by itself: one that cannot be read is set aside alone. The jobs of a
batch's chunk are one record, as a batch is enqueued as a whole or not at all. A message is believed only from the
exchange of the role that may send it (broker/roles.py).

Over 300 lines: one reader for each type of message, and the values that they make.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeGuard

from pydantic import Field, TypeAdapter, ValidationError

from broker_jobs.broker import names
from broker_jobs.broker.delay import LEVELS, level_seconds
from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.roles import disbelieved, disbelieved_command, is_of_a_newer_version
from broker_jobs.clock import Instant
from broker_jobs.coordinator.records import DueNotice, FromWorker, JobRecord, ReadyCopy, Repeat, TimerDue, WaitingCopy
from broker_jobs.messages import codec
from broker_jobs.messages.batch import CHUNK, COMMIT, BatchCommit, Chunk
from broker_jobs.messages.commands import COMMAND, Command
from broker_jobs.messages.envelope import MAX_KEY_CHARS, MAX_RECORDS, JobId
from broker_jobs.messages.events import (
    BUNDLE,
    TICK,
    Bundle,
    Event,
    Heartbeat,
    Returned,
    Supervised,
    Tick,
    WorkerRef,
    event_json,
)
from broker_jobs.messages.published import PUBLISHED, PublishedEvent
from broker_jobs.store.due import LINE_PREFIX
from broker_jobs.store.records import DeadLetterRow, DependencyRow

COPY_SLACK_SECONDS = 30 * 86_400.0
"""How late a due notice may still come (the broker was down); the row of its job is kept until then."""


CHECKPOINT = "checkpoint"
"""The type of a tick that is kept in the command queue."""
LineId = Annotated[str, Field(pattern=rf"^{LINE_PREFIX}[a-z]+:[^\x00]*$", max_length=100 + MAX_KEY_CHARS)]
"""The line of a limit, in the place of a job: its kind and its key."""
LOOK = TypeAdapter(Annotated[list[JobId | LineId], Field(max_length=MAX_RECORDS, fail_fast=True)])
"""A coordinator that is not the active one asks the active one to look at these jobs, and to call these lines."""
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_ID: TypeAdapter[str] = TypeAdapter(JobId | LineId)
OFFERED_ELSEWHERE = (
    f"{names.OFFER} has no queue for its routing key {{key!r}}: publish with {names.LOG_KEY!r}; replay it to apply it"
)
DEAD_LETTERED = "dead-lettered:"
"""Before the reason, in the type of a worker's dead letter."""
NEWER = "newer:"
"""In the id of a dead letter that a newer version may have written."""


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """A worker's heartbeat."""

    worker: WorkerRef
    heartbeat: Heartbeat
    sent_at: Instant


@dataclass(frozen=True, slots=True)
class SupervisedReceived:
    """What a supervisor says of one of its worker processes."""

    worker: WorkerRef
    event: Supervised
    sent_at: Instant


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """A command or a question, where its answer goes, and the user of the broker that sent it."""

    command: Command
    reply_to: str | None
    correlation_id: str | None
    user_id: str = ""
    until: float | None = None
    """By this coordinator's monotonic clock: it is applied before, or never."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that cannot be read or decided, and why. `delivery` is a message that says this record alone.

    `newer`: a newer version may have written it, so that one may decide it without a person.
    """

    origin: str
    reason: str
    delivery: Delivery
    newer: bool = False

    @property
    def id(self) -> str:
        """A hash of what was received, and of no id that its sender chose: equal bytes have one id."""
        delivery = self.delivery
        way = () if self.origin == "dead" else (delivery.exchange, delivery.key, delivery.type)
        digest = hashlib.sha256("\0".join(way).encode("utf-8", "surrogateescape") + b"\0" + delivery.body)
        return f"{self.origin}:{NEWER if self.newer else ''}{digest.hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """Decide this dead letter now: a newer version may have written it."""

    dead_letter_id: str


@dataclass(frozen=True, slots=True)
class ChunkReceived:
    """Some jobs of a batch's submission, held."""

    chunk: Chunk
    members: list[WaitingCopy]


@dataclass(frozen=True, slots=True)
class WorkItemsWaiting:
    """Go on with the work items."""


@dataclass(frozen=True, slots=True)
class UnknownParents:
    """Dependencies on parents that are not known and will probably never come."""

    dependencies: list[DependencyRow]


@dataclass(frozen=True, slots=True)
class CheckpointRead:
    """A tick that the broker kept. It tells the next coordinator how far the store had come."""

    tick: Tick


@dataclass(frozen=True, slots=True)
class MarkRemoved:
    """The message with this mark of poison is decided, or kept."""

    hash: str


Input = (
    ReadAgain
    | MarkRemoved
    | CheckpointRead
    | UnknownParents
    | JobRecord
    | HeartbeatReceived
    | SupervisedReceived
    | CommandReceived
    | Tick
    | Unreadable
    | ChunkReceived
    | BatchCommit
    | PublishedEvent
    | WorkItemsWaiting
)


class QueuedInput(NamedTuple):
    """One input and the delivery it came in (None: the coordinator's own)."""

    input: Input
    delivery: Delivery | None


def read_log(delivery: Delivery) -> list[Input]:
    """What a delivery of the log says: an envelope, a bundle of events, or a tick."""
    refusal = _disbelieved(names.LOG, delivery)
    if refusal is not None:
        moved = delivery.dead_lettered
        newer = is_of_a_newer_version(names.LOG, delivery.exchange, delivery.type, dead_lettered=moved)
        return [Unreadable("log", refusal, delivery, newer)]
    try:
        match delivery.type:
            case "events":
                return _events(delivery)
            case "tick":
                return [TICK.validate_json(delivery.body)]
            case "chunk":
                return [_chunk(delivery)]
            case "commit":
                return [COMMIT.validate_json(delivery.body)]
            case "published":
                return [PUBLISHED.validate_json(delivery.body)]
            case "look":
                return _look(delivery)
            case "repeat":
                return [_repeat(delivery)]
            case _:
                return [_envelope(delivery)]
    except (codec.Undecodable, ValidationError, UnicodeDecodeError) as error:
        return [_unread("log", error, delivery)]


def _chunk(delivery: Delivery) -> ChunkReceived:
    chunk = CHUNK.validate_json(delivery.body)
    members = []
    for body in chunk.jobs:
        envelope = codec.decode(body)
        if envelope.batch != chunk.batch:
            raise codec.Undecodable(f"job {envelope.id} in a chunk of batch {chunk.batch} is of batch {envelope.batch}")
        members.append(WaitingCopy(envelope, body, member=True))
    return ChunkReceived(chunk, members)


def _envelope(delivery: Delivery) -> Input:
    envelope = codec.decode(delivery.body)
    body = delivery.body.decode()
    if delivery.exchange == names.SUBMIT:
        return ReadyCopy(envelope, body)
    if delivery.exchange == names.RETURNED:  # more often than its work queue allows
        at = envelope.created_at.timestamp()
        event = Returned(
            id=envelope.id, epoch=envelope.epoch, at=at, reason="delivery limit", redelivered=True, envelope=body
        )
        return FromWorker("", event)
    return WaitingCopy(envelope, body, _copied_for(delivery))


def _repeat(delivery: Delivery) -> Input:
    envelope = codec.decode(delivery.body)
    if envelope.after is not None or envelope.unique is not None or envelope.limits:
        return _envelope(delivery)  # no message of it was ever in a work queue: the coordinator releases it
    return Repeat(envelope, delivery.body.decode())


def _copied_for(delivery: Delivery) -> float | None:
    if delivery.exchange != names.OFFER or not delivery.key.isdecimal():
        return None
    return level_seconds(min(int(delivery.key), LEVELS - 1)) + COPY_SLACK_SECONDS


def _events(delivery: Delivery) -> list[Input]:
    try:
        return _told(BUNDLE.validate_json(delivery.body))
    except ValidationError as error:
        head = _json(delivery)
        events = head.get("events") if isinstance(head, dict) else None
        if not _is_list(events):
            raise
        try:
            bundle = BUNDLE.validate_python(head | {"events": []})
        except ValidationError:
            raise error from None

    def read(event: Any) -> Input:
        return _told(bundle.model_copy(update={"events": [_EVENT.validate_python(event)]}))[0]

    return _one_by_one(delivery, events, read, lambda event: head | {"events": [event]})


def _look(delivery: Delivery) -> list[Input]:
    try:
        return [TimerDue(id) for id in LOOK.validate_json(delivery.body)]
    except ValidationError:
        ids = _json(delivery)
        if not _is_list(ids):
            raise
    return _one_by_one(delivery, ids, lambda id: TimerDue(_ID.validate_python(id)), lambda id: [id])


def _json(delivery: Delivery) -> Any:
    """The JSON of a body that does not fit; None: it is no JSON."""
    try:
        return json.loads(delivery.body)
    except (ValueError, RecursionError):
        return None


def _is_list(records: object) -> TypeGuard[list[Any]]:
    """Whether these can be read one by one: a list (a text can be iterated too), and not too long for a transaction."""
    return isinstance(records, list) and len(records) <= MAX_RECORDS


def _one_by_one(
    delivery: Delivery, records: Iterable[Any], read: Callable[[Any], Input], message: Callable[[Any], object]
) -> list[Input]:
    """The records of a message of which one at least does not fit: that is set aside, its neighbours are decided."""
    inputs: list[Input] = []
    for record in records:
        try:
            inputs.append(read(record))
        except ValidationError as error:
            inputs.append(_unread("log", error, _with_body(delivery, message(record))))
    return inputs


def alone(delivery: Delivery, one: Input) -> Delivery:
    """A message that says this input alone, of those a delivery said."""
    match one:
        case Unreadable():
            return one.delivery
        case FromWorker(event=event) | HeartbeatReceived(heartbeat=event) | SupervisedReceived(event=event) if (
            delivery.type == "events"
        ):
            return _with_body(delivery, json.loads(delivery.body) | {"events": [json.loads(event_json(event))]})
        case TimerDue() if delivery.type == "look":
            return _with_body(delivery, [one.id])
        case _:
            return delivery


def _with_body(delivery: Delivery, body: object) -> Delivery:
    return delivery._replace(body=json.dumps(body, separators=(",", ":")).encode(), message_id="")


def _told(bundle: Bundle) -> list[Input]:
    return [_told_by(bundle, event) for event in bundle.events]


def _told_by(bundle: Bundle, event: Event) -> Input:
    match event:
        case Heartbeat():
            return HeartbeatReceived(bundle.worker, event, bundle.sent_at)
        case Supervised():
            return SupervisedReceived(bundle.worker, event, bundle.sent_at)
        case _:
            return FromWorker(bundle.worker.id, event, bundle.worker.host)


def read_command(delivery: Delivery) -> Input:
    """The command in a delivery of the command queue, or the checkpoint that is kept there."""
    refusal = _disbelieved(names.COMMAND, delivery)
    if refusal is None and delivery.reply_to and not names.is_reply_queue(delivery.reply_to):
        refusal = f"its reply would go to {delivery.reply_to[:100]!r}, which is no reply queue (jobs.v1.reply.<32 hex>)"
    if refusal is not None:
        return Unreadable("command", refusal, delivery)
    try:
        if delivery.type == CHECKPOINT:
            return CheckpointRead(TICK.validate_json(delivery.body))
        command = COMMAND.validate_json(delivery.body)
    except ValidationError as error:
        return _unread("command", error, delivery)
    refusal = disbelieved_command(delivery.exchange, command.kind)
    if refusal is not None:
        return Unreadable("command", refusal, delivery)
    return CommandReceived(command, delivery.reply_to, delivery.correlation_id, delivery.user_id)


def _disbelieved(queue: str, delivery: Delivery) -> str | None:
    return disbelieved(queue, delivery.exchange, delivery.type, dead_lettered=delivery.dead_lettered)


def read_due_notice(delivery: Delivery) -> Input:
    """The due notice in a delivery that came out of the delay queues."""
    refusal = _disbelieved(names.DUE, delivery)
    if refusal is not None:
        return Unreadable("due", refusal, delivery)
    try:
        return DueNotice(codec.decode(delivery.body), delivery.body.decode())
    except (codec.Undecodable, UnicodeDecodeError) as error:
        return _unread("due", error, delivery)


def read_dead_letter(delivery: Delivery) -> Input:
    """An unroutable envelope comes back as returned (its queue is declared by then); a person looks at all others."""
    if delivery.exchange == names.DEAD and not delivery.dead_lettered:
        return Unreadable("dead", _worker_reason(delivery), delivery)
    if delivery.exchange == names.OFFER:
        return Unreadable("dead", OFFERED_ELSEWHERE.format(key=delivery.key[:100]), delivery)
    refusal = _disbelieved(names.DEAD_LETTERS, delivery)
    return _without_queue(delivery) if refusal is None else Unreadable("dead", refusal, delivery)


def _worker_reason(delivery: Delivery) -> str:
    """Why a worker could not decode a message."""
    if delivery.type.startswith(DEAD_LETTERED):
        return delivery.type.removeprefix(DEAD_LETTERED).strip()
    unread = _without_queue(delivery)
    return unread.reason if isinstance(unread, Unreadable) else "its worker gave no reason"


def _without_queue(delivery: Delivery) -> Input:
    try:
        envelope = codec.decode(delivery.body)
        body = delivery.body.decode()
    except (codec.Undecodable, UnicodeDecodeError) as error:
        return _unread("dead", error, delivery)
    at = envelope.created_at.timestamp()
    return FromWorker("", Returned(id=envelope.id, epoch=envelope.epoch, at=at, reason="no queue", envelope=body))


def read_again(row: DeadLetterRow) -> list[Input]:
    """The inputs in a dead letter: an `Unreadable` if it still cannot be read."""
    queue = {"log": names.LOG, "command": names.COMMAND, "due": names.DUE}.get(row.origin, names.DEAD_LETTERS)
    delivery = Delivery(
        channel=0, tag=0, queue=queue, body=row.body, redelivered=False, exchange=row.exchange, key=row.key,
        type=row.type, message_id=row.message_id, reply_to=None, correlation_id=None, delivery_count=0,
        user_id=row.user_id, dead_lettered=row.dead_lettered,
    )  # fmt: skip
    match row.origin:
        case "log":
            return read_log(delivery)
        case "command":
            return [read_command(delivery)]
        case "due":
            return [read_due_notice(delivery)]
        case _ if row.exchange == names.OFFER:
            return read_log(delivery._replace(queue=names.LOG))
        case _:
            return [_without_queue(delivery)]  # as a person looked at it, and decided that


def _unread(origin: str, error: Exception, delivery: Delivery) -> Unreadable:
    match error:
        case ValidationError():
            first = codec.first_error(error)
            reason = f"{first.location}: {first.message}" if first.location else first.message
            return Unreadable(origin, reason, delivery, newer=first.kind in codec.NEWER_ERRORS)
        case codec.Undecodable():
            return Unreadable(origin, str(error), delivery, newer=error.newer)
        case _:
            return Unreadable(origin, str(error), delivery)

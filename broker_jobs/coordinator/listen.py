"""Turns deliveries of the coordinator's queues into inputs it can decide upon; what cannot be read says why. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from broker_jobs.clock import Instant
from broker_jobs.coordinator.record import Bell, Due, Held, JobRecord, Ready, Repeat, Told
from broker_jobs.exchange import names
from broker_jobs.exchange.delay import STEPS, step_seconds
from broker_jobs.exchange.port import Delivery
from broker_jobs.job import codec
from broker_jobs.outcome.batch import CHUNK, SEAL, Chunk, Seal
from broker_jobs.outcome.command import COMMAND, Command
from broker_jobs.outcome.event import BUNDLE, TICK, Bundle, HandedBack, Heartbeat, Tick, WorkerRef
from broker_jobs.outcome.published import PUBLISHED, Published
from broker_jobs.store.kept import HoldRow, ParkedRow

COPY_SLACK_SECONDS = 30 * 86_400.0
"""How long after its time a copy in the ladder may still ring (a broker that was down); its row is kept until then."""


MARK = "mark"
"""The type of a tick that is kept in the command queue."""
LOOK = TypeAdapter(list[str])
"""A coordinator that is not the active one asks the active one to look at these jobs."""


@dataclass(frozen=True, slots=True)
class Beaten:
    """A worker's heartbeat."""

    worker: WorkerRef
    heartbeat: Heartbeat
    sent_at: Instant


@dataclass(frozen=True, slots=True)
class Asked:
    """A command or a question, and where its answer goes."""

    command: Command
    reply_to: str | None
    correlation_id: str | None


@dataclass(frozen=True, slots=True)
class Unread:
    """A message that cannot be decided, and why."""

    origin: str
    reason: str
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Chunked:
    """Some jobs of a batch's addition, held."""

    chunk: Chunk
    members: list[Held]


@dataclass(frozen=True, slots=True)
class Work:
    """Go on with what is marked to be worked off."""


@dataclass(frozen=True, slots=True)
class Orphaned:
    """What waits for a parent that was not known a moment ago, and hardly comes any more."""

    holds: list[HoldRow]


@dataclass(frozen=True, slots=True)
class Marked:
    """How far a store had come a moment ago: kept by the broker, for whoever decides next."""

    tick: Tick


Input = Marked | Orphaned | JobRecord | Beaten | Asked | Tick | Unread | Chunked | Seal | Published | Work


def read_log(delivery: Delivery) -> list[Input]:
    """What a delivery of the log says: an envelope, a bundle of events, or a tick."""
    try:
        match delivery.type:
            case "events":
                return _events(delivery)
            case "tick":
                return [TICK.validate_json(delivery.body)]
            case "chunk":
                return [_chunk(delivery)]
            case "seal":
                return [SEAL.validate_json(delivery.body)]
            case "published":
                return [PUBLISHED.validate_json(delivery.body)]
            case "look":
                return [Due(id) for id in LOOK.validate_json(delivery.body)]
            case "repeat":
                return [Repeat(codec.decode(delivery.body), delivery.body.decode())]
            case _:
                return [_envelope(delivery)]
    except (codec.Undecodable, ValidationError, UnicodeDecodeError) as error:
        return [Unread("log", _why(error), delivery)]


def _chunk(delivery: Delivery) -> Chunked:
    chunk = CHUNK.validate_json(delivery.body)
    members = []
    for body in chunk.jobs:
        envelope = codec.decode(body)
        if envelope.batch != chunk.batch:
            raise codec.Undecodable(f"job {envelope.id} in a chunk of batch {chunk.batch} is of batch {envelope.batch}")
        members.append(Held(envelope, body, waits=True))
    return Chunked(chunk, members)


def _envelope(delivery: Delivery) -> Input:
    envelope = codec.decode(delivery.body)
    body = delivery.body.decode()
    if delivery.exchange == names.SUBMIT:
        return Ready(envelope, body)
    if delivery.exchange == "" or (delivery.queue == names.LOG and delivery.exchange == names.WORK):
        # dead-lettered by its work queue: it was returned more often than the delivery limit allows
        at = envelope.created_at.timestamp()
        event = HandedBack(
            id=envelope.id, epoch=envelope.epoch, at=at, reason="delivery limit", redelivered=True, envelope=body
        )
        return Told("", event)
    copied_until = _copied_until(delivery, envelope.created_at.timestamp())
    return Held(envelope, body, copied_until, waits=envelope.hold is not None)


def _copied_until(delivery: Delivery, created_at: Instant) -> Instant | None:
    if delivery.exchange != names.DELAY:
        return None
    step = delivery.key.removesuffix(".new")
    seconds = step_seconds(int(step)) if step.isdigit() and int(step) < STEPS else step_seconds(STEPS - 1)
    return created_at + seconds + COPY_SLACK_SECONDS


def _events(delivery: Delivery) -> list[Input]:
    try:
        return _told(BUNDLE.validate_json(delivery.body))
    except ValidationError as error:
        return _one_by_one(delivery, error)


def _one_by_one(delivery: Delivery, error: ValidationError) -> list[Input]:
    """A newer worker may tell what this program does not understand: it waits for one that does, alone."""
    try:
        bundle = json.loads(delivery.body)
        BUNDLE.validate_python(bundle | {"events": []})
        events = list(bundle["events"])
    except (ValueError, TypeError, KeyError, RecursionError):  # its head is wrong, or it is no bundle at all
        raise error from None
    inputs: list[Input] = []
    for event in events:
        body = json.dumps(bundle | {"events": [event]}).encode()
        try:
            inputs += _told(BUNDLE.validate_json(body))
        except ValidationError as why:
            inputs.append(Unread("log", _why(why), delivery._replace(body=body, message_id="")))
    return inputs


def _told(bundle: Bundle) -> list[Input]:
    worker = bundle.worker
    return [
        Beaten(worker, event, bundle.sent_at) if isinstance(event, Heartbeat) else Told(worker.id, event)
        for event in bundle.events
    ]


def read_command(delivery: Delivery) -> Input:
    """What a delivery of the command queue asks, or the mark that is kept there."""
    try:
        if delivery.type == MARK:
            return Marked(TICK.validate_json(delivery.body))
        return Asked(COMMAND.validate_json(delivery.body), delivery.reply_to, delivery.correlation_id)
    except ValidationError as error:
        return Unread("command", _why(error), delivery)


def read_bell(delivery: Delivery) -> Input:
    """The bell in a delivery that came out of the ladder."""
    try:
        return Bell(codec.decode(delivery.body), delivery.body.decode())
    except (codec.Undecodable, UnicodeDecodeError) as error:
        return Unread("due", _why(error), delivery)


def read_parked(delivery: Delivery) -> Input:
    """An unroutable envelope comes back as handed back (its queue is declared by then); all else is for a person."""
    if delivery.type.startswith("parked:"):
        return Unread("parked", delivery.type.removeprefix("parked:").strip(), delivery)
    try:
        envelope = codec.decode(delivery.body)
        body = delivery.body.decode()
    except (codec.Undecodable, UnicodeDecodeError) as error:
        return Unread("parked", _why(error), delivery)
    at = envelope.created_at.timestamp()
    return Told("", HandedBack(id=envelope.id, epoch=envelope.epoch, at=at, reason="no queue", envelope=body))


def read_again(row: ParkedRow) -> list[Input]:
    """What a parked message says to this program: an `Unread` when it still cannot be read."""
    queue = {"log": names.LOG, "command": names.COMMAND, "due": names.DUE}.get(row.origin, names.PARKED)
    delivery = Delivery(
        channel=0, tag=0, queue=queue, body=row.body, redelivered=False, exchange=row.exchange, key=row.key,
        type=row.type, message_id=row.message_id, reply_to=None, correlation_id=None, delivery_count=0,
    )  # fmt: skip
    match row.origin:
        case "log":
            return read_log(delivery)
        case "command":
            return [read_command(delivery)]
        case "due":
            return [read_bell(delivery)]
        case _:
            return [read_parked(delivery._replace(type=""))]


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]
    return str(error)

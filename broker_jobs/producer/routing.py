"""Decides where an envelope is published: work queue, delay queue, or the log alone. Pure.

a job that is ready           the submit exchange, routing key = work key: it reaches the work queue and the log
due in less than 2 s          the log alone: the coordinator's timer is more exact than a delay queue
due later                     the log, and the longest delay queue that is not longer than the delay
with parents                  the log alone: the coordinator holds it
with a unique key or limits   the log alone; a delayed one by its delay, as above
with the caller's own id      the log alone: the coordinator releases it once, however often it arrives
with a generated id given     the log alone, as a repeat: its first message may be in the work queue
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic_core import PydanticSerializationError

from broker_jobs.broker import names
from broker_jobs.broker.delay import delay_level
from broker_jobs.broker.interface import Message
from broker_jobs.clock import Instant
from broker_jobs.errors import ArgumentsError, EnqueueError
from broker_jobs.messages.codec import encode
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS, Envelope, is_generated_id


class ScheduledTime(NamedTuple):
    """The time of a scheduled job. A timedelta also gives a `delay`: after parents it counts from their end."""

    due_at: Instant | None
    delay: float | None


def scheduled_time(when: object, now: Instant) -> ScheduledTime:
    """The time that `schedule(when, …)` means. Raises as `due_at_of`."""
    due_at = due_at_of(when, now)
    return ScheduledTime(due_at, max(0.0, when.total_seconds()) if isinstance(when, timedelta) else None)


def due_at_of(when: object, now: Instant, method: str = "schedule") -> Instant | None:
    """The instant of a `When`; None if it has passed, which means now.

    Raises:
        ArgumentsError: `when` is a bare number, a datetime without a time zone, or more than ten years ahead.
    """
    match when:
        case timedelta():
            seconds = when.total_seconds()
        case datetime():
            if when.tzinfo is None or when.utcoffset() is None:
                raise ArgumentsError(
                    f"{when:%Y-%m-%d %H:%M} has no time zone; "
                    'write datetime(…, tzinfo=ZoneInfo("Europe/Istanbul")), or a timedelta'
                )
            seconds = when.timestamp() - now
        case int() | float() if not isinstance(when, bool):
            raise ArgumentsError(
                f"{method}() takes a timedelta or an aware datetime first; "
                f"for {when:g} seconds write timedelta(seconds={when:g})"
            )
        case _:
            raise ArgumentsError(f"{method}() takes a timedelta or an aware datetime first, not {when!r}")
    if seconds > MAX_DELAY_SECONDS:
        raise ArgumentsError(f"{method}() takes at most 10 years, not {when}; for longer use a recurring job")
    return now + seconds if seconds > 0 else None


def message_for(envelope: Envelope, now: Instant, max_body: int, *, own_id: bool) -> Message:
    """The message of an envelope. Its epoch depends on where it is published, so it is set here.

    Raises:
        ArgumentsError: an argument has no JSON form.
        EnqueueError: the body has more than `max_body` bytes.
    """
    if envelope.after is not None:
        return _message(envelope.evolve(epoch=0), max_body, names.OFFER, names.LOG_KEY)
    if envelope.due_at is not None:
        level = delay_level(envelope.due_at.timestamp() - now)
        if level is None:
            return _message(envelope.evolve(epoch=0), max_body, names.OFFER, names.LOG_KEY)
        return _message(envelope.evolve(epoch=0), max_body, names.OFFER, names.delay_key(level))
    if envelope.unique is not None or envelope.limits:
        return _message(envelope.evolve(epoch=0), max_body, names.OFFER, names.LOG_KEY)
    if own_id:
        if is_generated_id(envelope.id):
            return _message(envelope, max_body, names.OFFER, names.LOG_KEY, "repeat")
        return _message(envelope.evolve(epoch=0), max_body, names.OFFER, names.LOG_KEY)
    return _message(envelope, max_body, names.SUBMIT, names.work_key(envelope.queue, envelope.priority))


def encode_limited(envelope: Envelope, max_body: int) -> bytes:
    """The body of an envelope's message.

    Raises:
        ArgumentsError: an argument has no JSON form.
        EnqueueError: the body has more than `max_body` bytes.
    """
    try:
        body = encode(envelope)
    except PydanticSerializationError as error:  # half a surrogate pair in a value without an annotation
        raise ArgumentsError(f"{envelope.job}: its arguments cannot be sent as JSON: {error}") from None
    if len(body) > max_body:
        raise EnqueueError(
            f"{envelope.job} {envelope.id} was not enqueued: its message has {len(body):_} bytes, the limit is "
            f"{max_body:_} (BROKER_JOBS_MAX_BODY); store it elsewhere and pass a reference"
        )
    return body


def _message(envelope: Envelope, max_body: int, exchange: str, key: str, kind: str = "job") -> Message:
    return Message(exchange, key, encode_limited(envelope, max_body), kind, envelope.id)

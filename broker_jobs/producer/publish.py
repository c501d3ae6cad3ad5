"""Publishes events: whoever has subscribed to their name gets a job for each; the publisher knows none of them.

An event has an id, and the coordinator makes its jobs once however often it comes, so one whose confirm does not come
is simply sent again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from broker_jobs.broker import names
from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.clock import as_datetime
from broker_jobs.errors import ArgumentsError, EnqueueError
from broker_jobs.function.pending import Pending
from broker_jobs.function.secret import holds_secret, revealed
from broker_jobs.function.template import unkeepable
from broker_jobs.messages.envelope import MAX_NAME_CHARS, new_id
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.producer.connection import Connection

TRIES = 3
"""How often an event is sent whose confirm does not come, each for the publish timeout."""


def publish(connection: Connection, event: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Publish an event; its id. See `BrokerJobs.publish`."""
    message = _message(connection, event, args, kwargs)
    failure: PublishFailure | None = None
    for _ in range(TRIES):
        failure = connection.send([message])[0]
        if failure is None or failure.kind is Unconfirmed.NOT_SENT:
            break
    return _taken(event, message, failure)


async def publish_async(connection: Connection, event: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """As `publish`; the event loop goes on meanwhile."""
    message = _message(connection, event, args, kwargs)
    failure: PublishFailure | None = None
    for _ in range(TRIES):
        failure = (await connection.send_async([message]))[0]
        if failure is None or failure.kind is Unconfirmed.NOT_SENT:
            break
    return _taken(event, message, failure)


def check_event(event: object) -> None:
    """Raise ArgumentsError unless events can have this name."""
    if not isinstance(event, str) or not 1 <= len(event) <= MAX_NAME_CHARS or unkeepable(event) is not None:
        shown = repr(event)[:MAX_NAME_CHARS]
        raise ArgumentsError(f"the name of an event is a str of 1 to {MAX_NAME_CHARS} characters, not {shown}")


def _message(connection: Connection, event: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Message:
    check_event(event)
    published = PublishedEvent(
        id=new_id(),
        event=event,
        created_at=_now(connection),
        args=[_json(event, f"argument {place}", value) for place, value in enumerate(args, 1)],
        kwargs={name: _json(event, name, value) for name, value in kwargs.items()},
    )
    try:
        body = published.model_dump_json().encode()
    except (PydanticSerializationError, UnicodeEncodeError) as error:  # half a surrogate pair
        raise ArgumentsError(f"{event}: its arguments cannot travel as JSON: {error}. Nothing was published.") from None
    most = connection.settings.max_body
    if len(body) > most:
        raise EnqueueError(
            f"{event} was not published: its message has {len(body):_} bytes, the limit is {most:_} "
            "(BROKER_JOBS_MAX_BODY); store it elsewhere and pass a reference"
        )
    return Message(names.REPORT, names.LOG_KEY, body, "published", published.id)


def _now(connection: Connection) -> datetime:
    return as_datetime(connection.clock.now())


def _json(event: str, name: str, value: object) -> Any:
    """An argument as JSON; who subscribes says by annotations what it becomes again."""
    if type(value) is Pending:
        raise ArgumentsError(f"{event}: {name} is a result to come; publish where it is known. Nothing was published.")
    try:
        plain = to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="constants")
        if not isinstance(value, str | int | float | None) and holds_secret(value):
            plain = revealed(plain, value)
        _check_survives(plain)
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise ArgumentsError(f"{event}: {name} cannot travel as JSON: {error}. Nothing was published.") from None
    return plain


def _check_survives(value: object) -> None:
    """Raise ValueError for what JSON has no word for."""
    match value:
        case float() if not math.isfinite(value):
            raise ValueError("it has no NaN and no infinity")
        case list():
            for item in value:
                _check_survives(item)
        case dict():
            for item in value.values():
                _check_survives(item)
        case _:
            pass


def _taken(event: str, message: Message, failure: PublishFailure | None) -> str:
    if failure is None:
        return message.message_id
    if failure.kind is Unconfirmed.NOT_SENT:
        raise EnqueueError(f"{event} {message.message_id} was not published: {failure.reason}")
    raise EnqueueError(f"{event} {message.message_id} may be published or not: {failure.reason}")

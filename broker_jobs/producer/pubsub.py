"""Publishes events, and keeps the subscriptions of a program: `jobs.publish(…)` and `@jobs.subscribe(…)`.

Each subscription to an event's name gets a job for each event; a publisher does not know the subscribers. An event has
an id, and the coordinator makes its jobs once, however often the event arrives. So an event without a confirm is
simply sent again.

Subscribing sends nothing, as it happens at import. Each worker and each beat of the program declares the subscriptions
of its code when it starts; a subscription that is no longer in the code ends then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import PydanticSerializationError

from broker_jobs.broker import names
from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.clock import as_datetime
from broker_jobs.errors import ArgumentsError, DefinitionError, EnqueueError
from broker_jobs.function.keys import template_of, text_error
from broker_jobs.function.pending import Pending
from broker_jobs.function.value_codec import ValueCodec
from broker_jobs.messages.codec import encode
from broker_jobs.messages.commands import Subscription
from broker_jobs.messages.envelope import MAX_NAME_CHARS, MAX_RECORDS, new_id
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.job import Job
from broker_jobs.producer.recurring import TEMPLATE_CREATED_AT, TEMPLATE_ID
from broker_jobs.producer.requests import RequestClient

TRIES = 3
"""How often an event without a confirm is sent, each time for the publish timeout."""
_ANY = ValueCodec(Any)


def publish(connection: Connection, event: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Publish an event; its id. See `BrokerJobs.publish`."""
    message = _message(connection, event, args, kwargs)
    failure: PublishFailure | None = None
    for _ in range(TRIES):
        failure = connection.send([message])[0]
        if failure is None or failure.kind is Unconfirmed.NOT_SENT:
            break
    return _id_or_error(event, message, failure)


async def publish_async(connection: Connection, event: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """As `publish`, without blocking the event loop."""
    message = _message(connection, event, args, kwargs)
    failure: PublishFailure | None = None
    for _ in range(TRIES):
        failure = (await connection.send_async([message]))[0]
        if failure is None or failure.kind is Unconfirmed.NOT_SENT:
            break
    return _id_or_error(event, message, failure)


def check_event_name(event: object) -> None:
    """Raise ArgumentsError unless this can be the name of an event."""
    if not isinstance(event, str) or not 1 <= len(event) <= MAX_NAME_CHARS or text_error(event) is not None:
        shown = repr(event)[:MAX_NAME_CHARS]
        raise ArgumentsError(f"the name of an event is a str of 1 to {MAX_NAME_CHARS} characters, not {shown}")


class Subscriptions:
    """The subscriptions that a program declares."""

    def __init__(self, requests: RequestClient, on_declared: Callable[[], None]) -> None:
        self._requests = requests
        self._on_declared = on_declared
        self._declared: dict[tuple[str, str], Job[..., Any]] = {}

    def add(self, event: str, job: Job[..., Any]) -> None:
        """Subscribe a job to all events of this name.

        Raises:
            DefinitionError: the job belongs to another program, waits for other jobs, or has a key that is made of
                arguments, which the coordinator does not read.
        """
        if not job.belongs_to(self._requests):
            raise DefinitionError(f"{job.name} belongs to another BrokerJobs; subscribe it there")
        if job.has_parents:
            raise DefinitionError(f"{job.name} subscribes to {event!r} and cannot wait for jobs: leave out .after(…)")
        for key in job.key_templates:
            if template_of(key).placeholders:
                raise DefinitionError(
                    f"{job.name} subscribes to {event!r} and cannot have the key {key!r}: a key that is made of "
                    "arguments works only for jobs that are enqueued. Let the subscribed job enqueue another one"
                )
        if len(self._declared) >= MAX_RECORDS and (event, job.name) not in self._declared:
            raise DefinitionError(f"the code of a program has at most {MAX_RECORDS:_} subscriptions")
        self._declared[event, job.name] = job
        self._on_declared()

    def declared(self) -> list[Subscription]:
        """The subscriptions of the code, as they are sent. The arguments of a job come with the event."""
        return [Subscription(event=event, call=_template(job)) for (event, _), job in self._declared.items()]


def _template(job: Job[..., Any]) -> str:
    return encode(job.envelope(([], {}), TEMPLATE_ID, TEMPLATE_CREATED_AT).evolve(epoch=0)).decode()


def _message(connection: Connection, event: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Message:
    check_event_name(event)
    published = PublishedEvent(
        id=new_id(),
        event=event,
        created_at=as_datetime(connection.clock.now()),
        args=[_json(event, f"argument {place}", value) for place, value in enumerate(args, 1)],
        kwargs={name: _json(event, name, value) for name, value in kwargs.items()},
    )
    try:
        body = published.model_dump_json().encode()
    except (PydanticSerializationError, UnicodeEncodeError) as error:  # half a surrogate pair
        raise ArgumentsError(
            f"{event}: its arguments cannot be sent as JSON: {error}. Nothing was published."
        ) from None
    limit = connection.settings.max_body
    if len(body) > limit:
        raise EnqueueError(
            f"{event} was not published: its message has {len(body):_} bytes, the limit is {limit:_} "
            "(BROKER_JOBS_MAX_BODY); store it elsewhere and pass a reference"
        )
    return Message(names.OFFER, names.LOG_KEY, body, "published", published.id)


def _json(event: str, name: str, value: object) -> Any:
    """An argument as JSON. The annotations of the subscribed job decide its type there."""
    if type(value) is Pending:
        raise ArgumentsError(
            f"{event}: {name} is the result of a job that has not ended; publish it when it is known. "
            "Nothing was published."
        )
    try:
        return _ANY.encode_loosely(value, name)
    except ArgumentsError as error:
        raise ArgumentsError(f"{event}: {error}. Nothing was published.") from None


def _id_or_error(event: str, message: Message, failure: PublishFailure | None) -> str:
    if failure is None:
        return message.message_id
    if failure.kind is Unconfirmed.NOT_SENT:
        raise EnqueueError(f"{event} {message.message_id} was not published: {failure.reason}")
    raise EnqueueError(f"{event} {message.message_id} may be published or not: {failure.reason}")

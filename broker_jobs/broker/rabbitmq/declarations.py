"""Declares topologies, reads the depth of queues and purges them, each operation on a channel of its own.

A refused declaration closes its channel, so these operations never use a channel that is needed for something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import pika
from pika import exceptions
from pika.channel import Channel

from broker_jobs.broker.rabbitmq.connection import describe_error
from broker_jobs.broker.rabbitmq.io_loop import run_safely
from broker_jobs.broker.topology import Topology
from broker_jobs.errors import BrokerError, BrokerRefused

Finish: TypeAlias = Callable[[Any], None]
"""Called once with the result of an operation, or with the exception that ended it."""


class QueueMissingError(BrokerError):
    """The queue of the operation does not exist."""


def run_on_channel(
    connection: pika.SelectConnection, operation: Callable[[Channel, Finish], None], done: Finish
) -> None:
    """Run `operation(channel, finish)` on a new channel and close it. `done` receives the result or an error."""
    finished = False

    def finish(result: Any) -> None:
        nonlocal finished
        if not finished:
            finished = True
            if channel.is_open:
                channel.close()
            run_safely(done, result)

    def opened(channel: Channel) -> None:
        try:
            operation(channel, finish)
        except Exception as error:  # noqa: BLE001  # passed to `done`
            finish(error)

    try:
        channel = connection.channel(on_open_callback=opened)
    except exceptions.AMQPError as error:
        run_safely(done, error)
        return
    channel.add_on_close_callback(lambda _, error: finish(error))


def declare(topology: Topology) -> Callable[[Channel, Finish], None]:
    """Return the operation that declares a topology.

    The declarations are written without waiting for replies. The reply to one last call shows that all succeeded.
    """

    def operation(channel: Channel, finish: Finish) -> None:
        for exchange in topology.exchanges:
            arguments = None if exchange.alternate is None else {"alternate-exchange": exchange.alternate}
            channel.exchange_declare(
                exchange.name, exchange.kind, durable=True, internal=exchange.internal, arguments=arguments
            )
        for queue in topology.queues:
            channel.queue_declare(queue.name, durable=True, arguments=queue.arguments())
        for binding in topology.bindings:
            bind = channel.exchange_bind if binding.to_exchange else channel.queue_bind
            bind(binding.target, binding.source, binding.key)
        channel.basic_qos(prefetch_count=1, callback=lambda _: finish(None))

    return operation


def measure(queue: str) -> Callable[[Channel, Finish], None]:
    """Return the operation that reads (ready messages, consumers) of a queue, by a passive declaration."""

    def operation(channel: Channel, finish: Finish) -> None:
        channel.queue_declare(
            queue,
            passive=True,
            callback=lambda frame: finish((frame.method.message_count, frame.method.consumer_count)),
        )

    return operation


def purge(queue: str) -> Callable[[Channel, Finish], None]:
    """Return the operation that deletes the ready messages of a queue and counts them."""

    def operation(channel: Channel, finish: Finish) -> None:
        channel.queue_purge(queue, callback=lambda frame: finish(frame.method.message_count))

    return operation


def is_missing(error: object) -> bool:
    """Whether an operation ended because the queue does not exist."""
    return isinstance(error, exceptions.ChannelClosedByBroker) and error.reply_code == 404


def is_outage(error: object) -> bool:
    """Whether an operation ended because the connection was lost, so that it can be repeated."""
    return isinstance(error, exceptions.AMQPConnectionError | exceptions.ChannelWrongStateError)


def explain(error: BaseException, address: str, user: str) -> BrokerError:
    """Return the error for a refused declaration: what it means and what to do."""
    if not isinstance(error, exceptions.ChannelClosedByBroker):
        return BrokerError(f"RabbitMQ at {address}: {describe_error(error)}")
    reply = error.reply_text
    found = re.search(r"for (queue|exchange) '([^']*)'", reply)
    if error.reply_code == 406 and found:
        kind, name = found.groups()
        remedy = "move its messages and delete it" if kind == "queue" else "delete it"
        return BrokerRefused(
            f"{kind} {name} exists with other arguments (broker says: {reply}). Another program or version declared "
            f"it; {remedy}, or use another vhost"
        )
    if error.reply_code == 403:
        return BrokerRefused(
            f"the user {user!r} lacks a permission at {address} (broker says: {reply}); declare as an administrator "
            "(broker-jobs topology apply) and set BROKER_JOBS_DECLARE=false, or give the user the permission to "
            "configure, write and read ^jobs\\.v1\\."
        )
    return BrokerRefused(f"RabbitMQ at {address} refused: {error.reply_code} {reply}")

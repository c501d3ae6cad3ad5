"""Declares what a topology says, and asks queues how long they are: errands, each on a channel of its own.

A refused declaration closes its channel, so none of these run on a channel that somebody needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import pika
from pika import exceptions
from pika.channel import Channel

from broker_jobs.broker.rabbitmq.connection import in_words
from broker_jobs.broker.rabbitmq.io_loop import guarded
from broker_jobs.broker.topology import Topology
from broker_jobs.errors import BrokerError, BrokerRefused

Finish: TypeAlias = Callable[[Any], None]
"""Told once: what an errand has found, or the exception that ended it."""


class QueueMissingError(BrokerError):
    """The queue that an errand was about does not exist."""


def run_errand(connection: pika.SelectConnection, work: Callable[[Channel, Finish], None], done: Finish) -> None:
    """Open a channel, do `work(channel, finish)` on it, close it; `done` hears what `finish` was given, or an error."""
    finished = False

    def finish(result: Any) -> None:
        nonlocal finished
        if not finished:
            finished = True
            if channel.is_open:
                channel.close()
            guarded(done, result)

    def opened(channel: Channel) -> None:
        try:
            work(channel, finish)
        except Exception as error:  # noqa: BLE001  # handed to whoever waits
            finish(error)

    try:
        channel = connection.channel(on_open_callback=opened)
    except exceptions.AMQPError as error:
        guarded(done, error)
        return
    channel.add_on_close_callback(lambda _, error: finish(error))


def declare(topology: Topology) -> Callable[[Channel, Finish], None]:
    """The errand that declares everything. All declarations are written without waiting for answers; one answered call
    behind them tells that all went well."""

    def work(channel: Channel, finish: Finish) -> None:
        for exchange in topology.exchanges:
            arguments = None if exchange.alternate is None else {"alternate-exchange": exchange.alternate}
            channel.exchange_declare(exchange.name, exchange.kind, durable=True, arguments=arguments)
        for queue in topology.queues:
            channel.queue_declare(queue.name, durable=True, arguments=queue.arguments())
        for binding in topology.bindings:
            bind = channel.exchange_bind if binding.to_exchange else channel.queue_bind
            bind(binding.target, binding.source, binding.key)
        channel.basic_qos(prefetch_count=1, callback=lambda _: finish(None))

    return work


def measure(queue: str) -> Callable[[Channel, Finish], None]:
    """The errand that finds (messages ready, consumers) of a queue, by a passive declaration."""

    def work(channel: Channel, finish: Finish) -> None:
        channel.queue_declare(
            queue,
            passive=True,
            callback=lambda frame: finish((frame.method.message_count, frame.method.consumer_count)),
        )

    return work


def purge(queue: str) -> Callable[[Channel, Finish], None]:
    """The errand that drops what is ready in a queue and finds how many that were."""

    def work(channel: Channel, finish: Finish) -> None:
        channel.queue_purge(queue, callback=lambda frame: finish(frame.method.message_count))

    return work


def is_missing(error: object) -> bool:
    """Whether an errand ended because the queue does not exist."""
    return isinstance(error, exceptions.ChannelClosedByBroker) and error.reply_code == 404


def is_outage(error: object) -> bool:
    """Whether an errand ended because the connection did, so that it is worth doing again."""
    return isinstance(error, exceptions.AMQPConnectionError | exceptions.ChannelWrongStateError)


def explain(error: BaseException, address: str, user: str) -> BrokerError:
    """What a refused declaration means and what to do about it."""
    if not isinstance(error, exceptions.ChannelClosedByBroker):
        return BrokerError(f"RabbitMQ at {address}: {in_words(error)}")
    said = error.reply_text
    found = re.search(r"for (queue|exchange) '([^']*)'", said)
    if error.reply_code == 406 and found:
        kind, name = found.groups()
        mend = "move its messages away and delete it" if kind == "queue" else "delete it"
        return BrokerRefused(
            f"{kind} {name} exists with other arguments (broker says: {said}): it was declared by somebody else or "
            f"another version; {mend}, or use another vhost"
        )
    if error.reply_code == 403:
        return BrokerRefused(
            f"the user {user!r} lacks a permission at {address} (broker says: {said}); declare as an administrator "
            "(broker-jobs topology apply) and set BROKER_JOBS_DECLARE=false, or give the user the permission to "
            "configure, write and read ^jobs\\.v1\\."
        )
    return BrokerRefused(f"RabbitMQ at {address} refused: {error.reply_code} {said}")

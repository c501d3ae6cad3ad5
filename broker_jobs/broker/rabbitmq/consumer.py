"""Consumes queues, acknowledges deliveries, and opens a new channel after every loss.

Prefetch: `basic.qos` (global=false) applies to consumers that start later, not to existing ones, and to cancel and
restart a consumer closes the channel on RabbitMQ 3.10.8 if deliveries are in flight (its bug 5927). So a queue may have
several consumers here, whose prefetches add up: to raise the prefetch, one more is started with the difference; to
lower it, the newest are cancelled. No consumer tag is used twice. Deliveries of a cancelled consumer stay valid and are
no longer counted, so after lowering, more may be unacknowledged for a while. (On a queue with a single active consumer
only the first of them is served: there the prefetch stays what it was at the start.)

When a consumer is cancelled, RabbitMQ takes back what it is about to deliver to it, and delivers it again as
`redelivered`, which here means "a worker may have died with it" (seen on 3.10 and 4.0: an acknowledgement just before
the cancel is enough). So acknowledgements are deferred before a cancel and sent after it: a consumer that has used up
its prefetch has no deliveries in flight. If the queue has too few messages for that, we wait half a second for
deliveries in flight.

Over 300 lines: prefetch, pause, cancel and recovery change the same set of consumers on one channel.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from broker_jobs.broker.interface import Delivery, prefetch_by_queue
from broker_jobs.broker.rabbitmq import declarations
from broker_jobs.broker.rabbitmq.connection import describe_error, pause_seconds
from broker_jobs.broker.rabbitmq.consume_problems import ConsumeProblems
from broker_jobs.broker.rabbitmq.deliveries import ChannelDeliveries
from broker_jobs.broker.rabbitmq.io_loop import IoLoop, run_safely
from broker_jobs.broker.rabbitmq.receiving import ReceivingConnection

logger = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
"""Without a new consumer, an acknowledgement or a delivery for this long, no delivery is in flight."""
CHECK_SECONDS = 0.01
"""Pause between two checks of that."""
MAX_DEFER_SECONDS = 3.0
"""After this long the consumer is cancelled anyway: rare deliveries may never use up a large prefetch, nor stop."""

_tags = itertools.count(1)


class RabbitConsumer:
    """Consumes some queues on one channel. Public methods are for any thread; the others run in the I/O thread."""

    _needs_acks = True
    """Whether deliveries are acknowledged."""

    def __init__(
        self,
        loop: IoLoop,
        numbers: Iterator[int],
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int | Mapping[str, int],
        on_lost: Callable[[int], None] | None,
        on_ready: Callable[[int], None] | None,
    ) -> None:
        self._loop = loop
        self._numbers = numbers
        self._queues = tuple(queues)
        self._prefetch = prefetch_by_queue(prefetch, self._queues)
        self._on_lost = on_lost
        self._on_ready = on_ready
        self._connection: ReceivingConnection | None = None
        self._channel: Channel | None = None
        self._deliveries = ChannelDeliveries(loop, 0, on_deliveries, needs_acks=self._needs_acks)
        """Of the open channel."""
        self._ready = False  # whether `on_ready` was called for it
        self._consumers: dict[str, list[tuple[str, int]]] = {}  # queue → (tag, prefetch), oldest first
        self._paused: set[str] = set()
        self._deferred_acks: list[Callable[[], None]] | None = None  # acknowledgements that wait for a cancel, in order
        self._failures = 0
        self._problems = ConsumeProblems()
        self._unconfirmed: set[str] = set()  # queues whose consumer RabbitMQ has not confirmed
        self._was_lost = False
        self._cancelled = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it is closed for good."""
        return self._closed

    # --- for any thread ---

    @property
    def consuming(self) -> bool:
        """Whether deliveries may still arrive: after `cancel`, until RabbitMQ has confirmed it."""
        return not self._cancelled or self._deferred_acks is not None or any(list(self._consumers.values()))

    @property
    def problem(self) -> str | None:
        """Why it does not consume one of its queues; None: it does, is paused, or the connection is lost."""
        return self._problems.first

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge one delivery, or with `multiple` all deliveries of the channel up to it."""
        self._loop.call_soon(partial(self._ack, channel, tag, multiple))

    def requeue(self, channel: int, tag: int) -> None:
        """Return a delivery to its queue."""
        self._loop.call_soon(partial(self._requeue, channel, tag))

    def set_prefetch(self, count: int | Mapping[str, int]) -> None:
        """Change the number of unacknowledged deliveries allowed for each queue, or for those named (1..65535)."""
        self._loop.call_soon(partial(self._set_prefetch, count))

    def pause(self, queue: str, *, paused: bool) -> None:
        """Stop or resume consuming one queue, also one that was not consumed before; see `Consumer.pause`."""
        self._loop.call_soon(partial(self._pause, queue, paused))

    def has_stopped(self, queue: str) -> bool:
        """Whether RabbitMQ has confirmed that a paused queue is not consumed any more."""
        return queue in self._paused and self._deferred_acks is None and not self._consumers.get(queue)

    def cancel(self) -> None:
        """Stop consuming. Received deliveries can still be acknowledged."""
        if not self._loop.call_soon(self._cancel):
            self._cancelled = True

    def close(self) -> None:
        """Cancel and close the channel. Unacknowledged deliveries return to their queues."""
        self._loop.call_soon(self._close)

    # --- opening and losing the channel ---

    def open(self, connection: ReceivingConnection) -> None:
        """Start on an open connection."""
        self._connection = connection
        if self._cancelled or self._channel is not None or not connection.is_open:
            return
        channel = connection.channel(on_open_callback=lambda opened: run_safely(self._opened, opened))
        channel.add_on_close_callback(lambda closed, error: run_safely(self._channel_closed, closed, error))
        channel.add_on_cancel_callback(lambda frame: run_safely(self._cancelled_by_broker, frame))
        self._channel = channel
        self._deliveries = self._deliveries.of_channel(next(self._numbers))
        self._ready = False

    def _opened(self, channel: Channel) -> None:
        if channel is not self._channel or self._connection is None:
            return
        self._connection.receive(channel, self._deliveries)
        self._unconfirmed = {queue for queue in self._queues if queue not in self._paused}
        for queue in self._queues:
            if queue not in self._paused:
                self._consume_when_declared(channel, queue)

    def _consume_when_declared(self, channel: Channel, queue: str, tries: int = 0) -> None:
        """Consume a queue once it exists. It is checked on another channel, as a 404 reply closes its channel."""
        if channel is not self._channel or self._cancelled or queue in self._paused or self._consumers.get(queue):
            return
        assert self._connection is not None

        def found(depth: object) -> None:
            if not declarations.is_missing(depth):
                self._problems.found(queue)
                if not declarations.is_outage(depth) and channel is self._channel:
                    self._adjust(channel, queue)
                return
            self._problems.missing(queue)
            self._loop.call_later(
                pause_seconds(tries + 1), lambda: self._consume_when_declared(channel, queue, tries + 1)
            )

        declarations.run_on_channel(self._connection, declarations.measure(queue), found)

    def _adjust(self, channel: Channel, queue: str) -> None:
        """Start a consumer of a queue, or begin to cancel some, so that their prefetches add up to the wanted one."""
        missing = self._wanted(queue) - sum(prefetch for _, prefetch in self._consumers.setdefault(queue, []))
        if missing > 0:
            tag = f"{queue}.{next(_tags)}"
            self._consumers[queue].append((tag, missing))
            channel.basic_qos(prefetch_count=missing)
            channel.basic_consume(
                queue,
                self._deliveries.add_consumer(queue, tag),
                consumer_tag=tag,
                callback=lambda _: run_safely(self._consume_ok, channel, queue),
            )
        elif missing < 0 and self._deferred_acks is None:
            self._deferred_acks = []
            self._lower(channel, time.monotonic() + MAX_DEFER_SECONDS)

    def _lower(self, channel: Channel, until_monotonic: float) -> None:
        """Cancel consumers of all queues until the prefetch fits, the newest first, then send the deferred acks."""
        if channel is not self._channel or not channel.is_open:
            return
        if not self._nothing_in_flight() and time.monotonic() < until_monotonic:
            self._loop.call_later(CHECK_SECONDS, lambda: self._lower(channel, until_monotonic))
            return
        for queue, consumers in self._consumers.items():
            while sum(prefetch for _, prefetch in consumers) > self._wanted(queue):
                _cancel(channel, consumers.pop()[0])
            self._adjust(channel, queue)
        # The reply comes after those to the cancels, as pika sends one request at a time. Each consumer sets its own.
        channel.basic_qos(prefetch_count=1, callback=lambda _: run_safely(self._lowered, channel))

    def _nothing_in_flight(self) -> bool:
        """Whether the consumers to be cancelled have used up their prefetch, or nothing has happened for a while."""
        if time.monotonic() - self._deliveries.active_at >= QUIET_SECONDS:
            return True
        out = self._deliveries.unacknowledged()
        for queue, consumers in self._consumers.items():
            excess = sum(prefetch for _, prefetch in consumers) - self._wanted(queue)
            for tag, prefetch in reversed(consumers):
                if excess <= 0:
                    break
                if out[tag] < prefetch:
                    return False
                excess -= prefetch
        return True

    def _lowered(self, channel: Channel) -> None:
        if channel is self._channel:
            self._deliveries.hand_on()
            self._send_deferred_acks()
            for queue in self._consumers:  # apply changes made meanwhile
                self._adjust(channel, queue)

    def _wanted(self, queue: str) -> int:
        return 0 if self._cancelled or queue in self._paused else self._prefetch[queue]

    def _send_deferred_acks(self) -> None:
        deferred, self._deferred_acks = self._deferred_acks, None
        for acknowledge in deferred or ():
            acknowledge()

    def _consume_ok(self, channel: Channel, queue: str) -> None:
        if channel is not self._channel:
            return
        self._unconfirmed.discard(queue)
        if not self._unconfirmed:
            self._failures = 0
            self._problems.consuming()
        if self._ready:
            return
        self._ready = True
        if self._was_lost:
            self._was_lost = False
            logger.info("consuming %s again", ", ".join(self._queues))
        if self._on_ready is not None:
            run_safely(self._on_ready, self._deliveries.number)

    def _cancelled_by_broker(self, frame: Any) -> None:
        """The queue was deleted, or the broker cancelled us. Handled like a lost channel."""
        channel = self._channel
        if channel is None:
            return
        self._channel_lost(f"the broker cancelled consumer {frame.method.consumer_tag}, as when its queue is deleted")
        if channel.is_open:
            channel.close()
        self._reopen_later()

    def _channel_closed(self, channel: Channel, error: BaseException) -> None:
        if channel is not self._channel:
            return
        reason = describe_error(error)
        if isinstance(error, ChannelClosedByBroker) and error.reply_code in {403, 404}:
            self._problems.refused(reason)
        self._channel_lost(reason)
        self._reopen_later()

    def _channel_lost(self, reason: str) -> None:
        number, live = self._deliveries.number, self._ready
        if self._channel is not None and self._connection is not None:
            self._connection.receive_no_more(self._channel)
        self._channel = None
        self._deliveries.forget()
        self._deliveries = self._deliveries.of_channel(0)
        self._ready = False
        self._consumers.clear()
        self._deferred_acks = None
        if self._closed:
            return
        if live and not self._problems.is_refused and self._connection is not None and self._connection.is_open:
            logger.warning("lost the channel that consumes %s: %s; opening a new one", ", ".join(self._queues), reason)
        if live:
            self._was_lost = True
            if self._on_lost is not None:
                run_safely(self._on_lost, number)

    def _reopen_later(self) -> None:
        connection = self._connection
        if connection is None or not connection.is_open or self._cancelled:
            return  # `open` is called after the reconnect
        self._failures += 1
        self._loop.call_later(
            pause_seconds(self._failures), lambda: self.open(connection) if connection.is_open else None
        )

    # --- calls from other threads ---

    def _ack(self, number: int, tag: int, multiple: bool) -> None:
        if self._deferred_acks is not None:
            self._deferred_acks.append(partial(self._ack, number, tag, multiple))
        elif number == self._deliveries.number and self._channel is not None and self._channel.is_open:
            self._channel.basic_ack(tag, multiple)
            self._deliveries.acknowledged(tag, multiple=multiple)

    def _requeue(self, number: int, tag: int) -> None:
        if self._deferred_acks is not None:
            self._deferred_acks.append(partial(self._requeue, number, tag))
        elif number == self._deliveries.number and self._channel is not None and self._channel.is_open:
            self._channel.basic_nack(tag, requeue=True)
            self._deliveries.acknowledged(tag, multiple=False)

    def _set_prefetch(self, count: int | Mapping[str, int]) -> None:
        self._prefetch |= prefetch_by_queue(count, self._queues)
        for queue, consumers in list(self._consumers.items()):
            if consumers:
                self._adjust_if_open(queue)

    def _pause(self, queue: str, paused: bool) -> None:
        if paused:
            self._paused.add(queue)
            self._unconfirmed.discard(queue)
            self._problems.found(queue)
            self._adjust_if_open(queue)
        elif queue in self._paused or queue not in self._queues:
            if queue not in self._queues:
                self._queues = (*self._queues, queue)
            self._paused.discard(queue)
            if self._channel is not None and self._channel.is_open:
                self._consume_when_declared(self._channel, queue)

    def _cancel(self) -> None:
        self._cancelled = True
        for queue in list(self._consumers):
            self._adjust_if_open(queue)

    def _close(self) -> None:
        self._send_deferred_acks()
        self._cancelled = self._closed = True
        channel = self._channel
        self._channel_lost("closed")
        if channel is not None and channel.is_open:
            _close_whole(channel)

    def _adjust_if_open(self, queue: str) -> None:
        if self._channel is not None and self._channel.is_open:
            self._adjust(self._channel, queue)


class PrivateConsumer(RabbitConsumer):
    """Consumes an exclusive queue of its connection. After a loss it is declared again with the same name."""

    _needs_acks = False

    def __init__(
        self,
        loop: IoLoop,
        numbers: Iterator[int],
        queue: str,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None,
        on_ready: Callable[[int], None] | None,
    ) -> None:
        super().__init__(loop, numbers, (queue,), on_deliveries, prefetch=1, on_lost=None, on_ready=on_ready)
        self._bind_to = bind_to

    def _consume_when_declared(self, channel: Channel, queue: str, tries: int = 0) -> None:
        channel.queue_declare(queue, exclusive=True, auto_delete=True, callback=_ignore)
        if self._bind_to is not None:
            channel.queue_bind(queue, self._bind_to, callback=_ignore)
        self._adjust(channel, queue)

    def _adjust(self, channel: Channel, queue: str) -> None:
        consumers = self._consumers.setdefault(queue, [])
        wanted = not self._cancelled and queue not in self._paused
        if wanted and not consumers:
            tag = f"{queue}.{next(_tags)}"
            consumers.append((tag, 0))
            channel.basic_consume(
                queue,
                self._deliveries.add_consumer(queue, tag),
                auto_ack=True,
                consumer_tag=tag,
                callback=lambda _: run_safely(self._consume_ok, channel, queue),
            )
        while consumers and not wanted:
            _cancel(channel, consumers.pop()[0])

    def _ack(self, number: int, tag: int, multiple: bool) -> None:
        """Do nothing: there are no acknowledgements."""

    def _requeue(self, number: int, tag: int) -> None:
        """Do nothing: there are no acknowledgements."""


def _cancel(channel: Channel, tag: str) -> None:
    """Cancel a consumer, and still receive its deliveries in flight.

    pika rejects deliveries to the tags in this private set of its channels. If pika removes the set one day, they are
    redelivered: slower, not wrong.
    """
    channel.basic_cancel(tag, callback=_ignore)
    getattr(channel, "_cancelled", set()).discard(tag)


def _close_whole(channel: Channel) -> None:
    """Close a channel with its consumers, which pika would cancel first.

    Where one consumer is active at a time, a cancel lets the next one read on before it has back what this one had: it
    would read the log in another order. pika cancels no tags of this private set of its channels.
    """
    getattr(channel, "_cancelled", set()).update(getattr(channel, "_consumers", ()))
    channel.close()


def _ignore(_: object) -> None:
    """Ignore a reply. The callback makes pika send the next request only after this reply."""

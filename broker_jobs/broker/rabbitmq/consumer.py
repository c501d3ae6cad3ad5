"""Takes deliveries from queues, acknowledges them, and comes back after every loss on a new channel.

Prefetch: `basic.qos` (global=false) counts for consumers that start later, never for living ones, and cancelling a
consumer to start it anew closes the channel on RabbitMQ 3.10.8 when deliveries are under way (its bug 5927). So a
queue may have several consumers here, whose prefetches add up: raising it starts one more with the difference,
lowering it cancels the newest. No tag is used twice. What is out stays out and can be acknowledged; what a cancelled
consumer has out is not counted any more, so after lowering more may be out until that is acknowledged. (On a queue
with a single active consumer only the first of them is served: there the prefetch is what it was at the start.)

What RabbitMQ is about to deliver to a consumer that is cancelled it takes back, and it comes again as `redelivered`,
which here means "a worker may have died with it" (seen on 3.10 and 4.0: an acknowledgement just before the cancel is
enough). So acknowledgements are held back before a cancel, and sent when it is done: a consumer whose prefetch is used
up has nothing under way. Where a queue has too little for that, what is under way is given half a second to arrive.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pika
from pika.channel import Channel

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.rabbitmq import declarations
from broker_jobs.broker.rabbitmq.connection import in_words, pause_seconds
from broker_jobs.broker.rabbitmq.io_loop import IoLoop, guarded

logger = logging.getLogger(__name__)

QUIET_SECONDS = 0.5
"""When no consumer began, nothing was acknowledged and nothing came for so long, nothing is under way."""
LOOK_SECONDS = 0.01
"""Between two looks whether that is so."""
LONGEST_HOLD_SECONDS = 3.0
"""After so long it is cancelled all the same: what comes now and then need not use up a large prefetch, nor end."""

_tags = itertools.count(1)


class RabbitConsumer:
    """Consumers of some queues on one channel. Public methods are for any thread; the rest runs in the I/O thread."""

    _needs_acks = True
    """Whether deliveries are acknowledged one day."""

    def __init__(
        self,
        loop: IoLoop,
        numbers: Iterator[int],
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int,
        on_lost: Callable[[int], None] | None,
        on_ready: Callable[[int], None] | None,
    ) -> None:
        self._loop = loop
        self._numbers = numbers
        self._queues = tuple(queues)
        self._on_deliveries = on_deliveries
        self._prefetch = prefetch
        self._on_lost = on_lost
        self._on_ready = on_ready
        self._connection: pika.SelectConnection | None = None
        self._channel: Channel | None = None
        self._number = 0  # of the living channel, unique over the life of the exchange
        self._live = False  # whether `on_ready` was told of it
        self._consumers: dict[str, list[tuple[str, int]]] = {}  # queue → (tag, prefetch), oldest first
        self._paused: set[str] = set()
        self._arrived: list[Delivery] = []
        self._out: dict[int, str] = {}  # tags not acknowledged, oldest first → the consumer they came to
        self._stirred = 0.0  # when a consumer began, or something was acknowledged or came: monotonic
        self._held: list[Callable[[], None]] | None = None  # what is acknowledged around a cancel, in order
        self._failures = 0
        self._lost_before = False
        self._cancelled = False
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it was closed for good."""
        return self._closed

    # --- for any thread ---

    @property
    def consuming(self) -> bool:
        """Whether deliveries may still come: after `cancel` until RabbitMQ knows of it and all that came was taken."""
        return not self._cancelled or self._held is not None or any(list(self._consumers.values()))

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge one delivery, or with `multiple` all of the channel up to it."""
        self._loop.call(partial(self._ack, channel, tag, multiple))

    def requeue(self, channel: int, tag: int) -> None:
        """Give a delivery back to its queue."""
        self._loop.call(partial(self._requeue, channel, tag))

    def set_prefetch(self, count: int) -> None:
        """Change how many unacknowledged deliveries each queue may have out here (1..65535)."""
        self._loop.call(partial(self._set_prefetch, count))

    def pause(self, queue: str, *, paused: bool) -> None:
        """Stop or resume taking deliveries of one queue; what is out stays out."""
        self._loop.call(partial(self._pause, queue, paused))

    def cancel(self) -> None:
        """Take no more deliveries; what is out can still be acknowledged."""
        if not self._loop.call(self._cancel):
            self._cancelled = True

    def close(self) -> None:
        """Cancel and close the channel; what is unacknowledged goes back to its queue."""
        self._loop.call(self._close)

    # --- the connection and the channel come and go ---

    def open(self, connection: pika.SelectConnection) -> None:
        """Start on a connection that is up."""
        self._connection = connection
        if self._cancelled or self._channel is not None or not connection.is_open:
            return
        channel = connection.channel(on_open_callback=lambda opened: guarded(self._opened, opened))
        channel.add_on_close_callback(lambda closed, error: guarded(self._lost, closed, error))
        channel.add_on_cancel_callback(lambda frame: guarded(self._cancelled_by_broker, frame))
        self._channel = channel
        self._number = next(self._numbers)
        self._live = False

    def _opened(self, channel: Channel) -> None:
        if channel is not self._channel:
            return
        for queue in self._queues:
            if queue not in self._paused:
                self._attach(channel, queue)

    def _attach(self, channel: Channel, queue: str, tries: int = 0) -> None:
        """Consume a queue once it exists. Asked on another channel: the answer 404 closes the channel it comes on."""
        if channel is not self._channel or self._cancelled or queue in self._paused or self._consumers.get(queue):
            return
        assert self._connection is not None

        def found(depth: object) -> None:
            if not declarations.is_missing(depth):
                if not declarations.is_outage(depth) and channel is self._channel:
                    self._adjust(channel, queue)
                return
            if tries == 0:
                logger.info("queue %s does not exist yet; it is looked for every 0.1 to 5 s", queue)
            self._loop.later(pause_seconds(tries + 1), lambda: self._attach(channel, queue, tries + 1))

        declarations.run_errand(self._connection, declarations.measure(queue), found)

    def _adjust(self, channel: Channel, queue: str) -> None:
        """Start a consumer of a queue, or see to it that some are cancelled, until their prefetches are as wanted."""
        missing = self._wanted(queue) - sum(prefetch for _, prefetch in self._consumers.setdefault(queue, []))
        if missing > 0:
            tag = f"{queue}.{next(_tags)}"
            self._consumers[queue].append((tag, missing))
            self._stirred = time.monotonic()
            channel.basic_qos(prefetch_count=missing)
            channel.basic_consume(
                queue,
                partial(self._on_message, queue),
                consumer_tag=tag,
                callback=lambda _: guarded(self._attached, channel),
            )
        elif missing < 0 and self._held is None:
            self._held = []
            self._lower(channel, time.monotonic() + LONGEST_HOLD_SECONDS)

    def _lower(self, channel: Channel, until_monotonic: float) -> None:
        """Cancel what is too much of all queues, the newest first, then acknowledge what was held back."""
        if channel is not self._channel or not channel.is_open:
            return
        if not self._nothing_is_under_way() and time.monotonic() < until_monotonic:
            self._loop.later(LOOK_SECONDS, lambda: self._lower(channel, until_monotonic))
            return
        for queue, consumers in self._consumers.items():
            while sum(prefetch for _, prefetch in consumers) > self._wanted(queue):
                _cancel(channel, consumers.pop()[0])
            self._adjust(channel, queue)
        # Answered after the cancels, as pika asks one thing at a time.
        channel.basic_qos(prefetch_count=self._prefetch, callback=lambda _: guarded(self._lowered, channel))

    def _nothing_is_under_way(self) -> bool:
        """Of the consumers that are to be cancelled: their prefetch is used up, or all has been quiet for long."""
        if time.monotonic() - self._stirred >= QUIET_SECONDS:
            return True
        out = Counter(self._out.values())
        for queue, consumers in self._consumers.items():
            too_much = sum(prefetch for _, prefetch in consumers) - self._wanted(queue)
            for tag, prefetch in reversed(consumers):
                if too_much <= 0:
                    break
                if out[tag] < prefetch:
                    return False
                too_much -= prefetch
        return True

    def _lowered(self, channel: Channel) -> None:
        if channel is self._channel:
            self._hand_over()
            self._acknowledge_held()
            for queue in self._consumers:  # what was asked for in between
                self._adjust(channel, queue)

    def _wanted(self, queue: str) -> int:
        return 0 if self._cancelled or queue in self._paused else self._prefetch

    def _acknowledge_held(self) -> None:
        held, self._held = self._held, None
        for acknowledge in held or ():
            acknowledge()

    def _attached(self, channel: Channel) -> None:
        if channel is not self._channel or self._live:
            return
        self._live = True
        self._failures = 0
        if self._lost_before:
            self._lost_before = False
            logger.info("taking %s again", ", ".join(self._queues))
        if self._on_ready is not None:
            guarded(self._on_ready, self._number)

    def _cancelled_by_broker(self, frame: Any) -> None:
        """The queue was deleted, or the broker has given us up: the same as a lost channel."""
        channel = self._channel
        if channel is None:
            return
        self._lose(f"the broker cancelled consumer {frame.method.consumer_tag}; was its queue deleted?")
        if channel.is_open:
            channel.close()
        self._come_back()

    def _lost(self, channel: Channel, error: BaseException) -> None:
        if channel is not self._channel:
            return
        self._lose(in_words(error))
        self._come_back()

    def _lose(self, reason: str) -> None:
        number, live = self._number, self._live
        self._channel = None
        self._number = 0
        self._live = False
        self._consumers.clear()
        self._arrived.clear()
        self._out.clear()
        self._held = None
        if self._closed:
            return
        if live and self._connection is not None and self._connection.is_open:
            logger.warning("lost the channel that takes %s: %s; opening another", ", ".join(self._queues), reason)
        if live:
            self._lost_before = True
            if self._on_lost is not None:
                guarded(self._on_lost, number)

    def _come_back(self) -> None:
        connection = self._connection
        if connection is None or not connection.is_open or self._cancelled:
            return  # `open` is called when there is a connection again
        self._failures += 1
        self._loop.later(pause_seconds(self._failures), lambda: self.open(connection) if connection.is_open else None)

    # --- deliveries ---

    def _on_message(self, queue: str, _: Channel, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        arrived = self._arrived
        if not arrived:
            self._loop.later(0, self._hand_over)  # at the end of this turn: when the socket is read empty
        if self._needs_acks:
            self._out[method.delivery_tag] = method.consumer_tag
        headers = properties.headers
        arrived.append(
            Delivery(
                self._number,
                method.delivery_tag,
                queue,
                body,
                method.redelivered,
                method.exchange,
                method.routing_key,
                properties.type or "",
                properties.message_id or "",
                properties.reply_to,
                properties.correlation_id,
                _delivery_count(headers) if headers else 0,
            )
        )

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        if arrived:
            self._stirred = time.monotonic()
            guarded(self._on_deliveries, arrived)

    # --- what other threads asked for ---

    def _ack(self, number: int, tag: int, multiple: bool) -> None:
        if self._held is not None:
            self._held.append(partial(self._ack, number, tag, multiple))
        elif number == self._number and self._channel is not None and self._channel.is_open:
            self._channel.basic_ack(tag, multiple)
            self._acknowledged(tag, multiple)

    def _requeue(self, number: int, tag: int) -> None:
        if self._held is not None:
            self._held.append(partial(self._requeue, number, tag))
        elif number == self._number and self._channel is not None and self._channel.is_open:
            self._channel.basic_nack(tag, requeue=True)
            self._acknowledged(tag, multiple=False)

    def _acknowledged(self, tag: int, multiple: bool) -> None:
        self._stirred = time.monotonic()
        for each in list(itertools.takewhile(lambda out: out <= tag, self._out)) if multiple else [tag]:
            self._out.pop(each, None)

    def _set_prefetch(self, count: int) -> None:
        self._prefetch = count
        for queue, consumers in list(self._consumers.items()):
            if consumers:
                self._adjust_if_open(queue)

    def _pause(self, queue: str, paused: bool) -> None:
        if queue not in self._queues:
            return
        if paused:
            self._paused.add(queue)
            self._adjust_if_open(queue)
        elif queue in self._paused:
            self._paused.discard(queue)
            if self._channel is not None and self._channel.is_open:
                self._attach(self._channel, queue)

    def _cancel(self) -> None:
        self._cancelled = True
        for queue in list(self._consumers):
            self._adjust_if_open(queue)

    def _close(self) -> None:
        self._acknowledge_held()
        self._cancelled = self._closed = True
        channel = self._channel
        self._lose("closed")
        if channel is not None and channel.is_open:
            channel.close()

    def _adjust_if_open(self, queue: str) -> None:
        if self._channel is not None and self._channel.is_open:
            self._adjust(self._channel, queue)


class PrivateConsumer(RabbitConsumer):
    """An exclusive queue that lives as long as its connection and is declared again, by the same name, after a loss."""

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

    def _attach(self, channel: Channel, queue: str, tries: int = 0) -> None:
        channel.queue_declare(queue, exclusive=True, auto_delete=True, callback=_ignored)
        if self._bind_to is not None:
            channel.queue_bind(queue, self._bind_to, callback=_ignored)
        self._adjust(channel, queue)

    def _adjust(self, channel: Channel, queue: str) -> None:
        consumers = self._consumers.setdefault(queue, [])
        wanted = not self._cancelled and queue not in self._paused
        if wanted and not consumers:
            tag = f"{queue}.{next(_tags)}"
            consumers.append((tag, 0))
            channel.basic_consume(
                queue,
                partial(self._on_message, queue),
                auto_ack=True,
                consumer_tag=tag,
                callback=lambda _: guarded(self._attached, channel),
            )
        while consumers and not wanted:
            _cancel(channel, consumers.pop()[0])

    def _ack(self, number: int, tag: int, multiple: bool) -> None:
        """Nothing to acknowledge here."""

    def _requeue(self, number: int, tag: int) -> None:
        """Nothing to give back here."""


def _cancel(channel: Channel, tag: str) -> None:
    """Cancel a consumer, and take what is still under way to it.

    pika rejects deliveries for the tags in this private set of its channels. Should it lose the set one day, they come
    again as redelivered: slower, not wrong.
    """
    channel.basic_cancel(tag, callback=_ignored)
    getattr(channel, "_cancelled", set()).discard(tag)


def _delivery_count(headers: Mapping[str, Any]) -> int:
    count = headers.get("x-delivery-count", 0)
    return int(count) if isinstance(count, int) else 0  # pika has an int of its own, which prints as 1L


def _ignored(_: object) -> None:
    """An answer that only has to be waited for: what follows on the channel comes after it."""

"""Publishes with confirms, pipelined: each message is matched by its tag to the batch that waits for it.

A batch is what one call publishes: one future, one deadline. Messages are written in order while the channel is open,
the broker has not blocked us, and not too much is unconfirmed; what is not written waits. When the deadline comes, what
was never written is "not sent" for certain, and what was written is "unknown". So nothing arrives after its caller was
told that it was not sent.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

import pika
from pika import exceptions
from pika.channel import Channel

from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.broker.rabbitmq.connection import in_words, pause_seconds
from broker_jobs.broker.rabbitmq.io_loop import IoLoop, Timer, guarded
from broker_jobs.clock import Clock

logger = logging.getLogger(__name__)

WINDOW_MESSAGES = 8_000
WINDOW_BYTES = 8 * 1024 * 1024
"""The most that may be written and unconfirmed; pika buffers without bound what the socket does not take."""
TURN_MESSAGES = 250
"""Written in one turn of the loop, so that deliveries and acknowledgements are not kept waiting."""
DEADLINE_TICK_SECONDS = 0.05
NACKED = PublishFailure(Unconfirmed.UNKNOWN, "refused by a queue; it may be in another")
ABANDONED = PublishFailure(Unconfirmed.NOT_SENT, "its caller has given it up")
NOT_OPEN = PublishFailure(Unconfirmed.NOT_SENT, "this exchange is not connected: it was not started, or it was stopped")

_OPEN: Any = object()  # stands in a batch's results where nothing is known yet


class PublishBatch:
    """The messages of one call, what became of them, and the future that tells."""

    __slots__ = ("deadline", "future", "messages", "open", "results", "timeout", "written")

    def __init__(self, messages: Sequence[Message], timeout: float, deadline: float) -> None:
        self.messages = messages
        self.results: list[PublishFailure | None] = [_OPEN] * len(messages)
        self.open = len(messages)
        self.written = 0
        self.timeout = timeout
        self.deadline = deadline
        self.future: SignalSafeFuture[list[PublishFailure | None]] = SignalSafeFuture()

    def resolve(self, index: int, result: PublishFailure | None) -> None:
        """Note what became of one message; the future ends with the last."""
        if self.results[index] is _OPEN:
            self.results[index] = result
            self.open -= 1
            if self.open == 0:
                self.future.set_result(self.results)

    def resolve_unwritten(self, failure: PublishFailure) -> None:
        """Give up what was never written."""
        first, self.written = self.written, len(self.messages)
        for index in range(first, len(self.messages)):
            self.resolve(index, failure)

    def resolve_written(self, failure: PublishFailure) -> None:
        """Give up what was written and is not confirmed."""
        for index in range(self.written):
            self.resolve(index, failure)


class Publisher:
    """The publishing side. All methods run in the I/O thread."""

    def __init__(self, loop: IoLoop, clock: Clock) -> None:
        self.blocked = False
        self.address = ""
        self._loop = loop
        self._clock = clock
        self._channel: Channel | None = None
        self._ready = False
        self._failures = 0
        self._waiting: deque[PublishBatch] = deque()  # batches not wholly written, in order
        self._batches: set[PublishBatch] = set()  # all that are not acknowledged
        self._written: dict[int, tuple[PublishBatch, int]] = {}  # tag → message
        self._written_bytes = 0
        self._returned: dict[int, PublishFailure] = {}  # tag → why it came back; its ack follows
        self._confirmed_any = False
        self._lowest_tag = 1
        self._next_tag = 1
        self._last_returned_tag = 0
        self._turn: Timer | None = None
        self._tick: Timer | None = None
        self._closing = False

    @property
    def idle(self) -> bool:
        """Whether nothing waits for anything."""
        return not self._batches

    def publish(self, batch: PublishBatch) -> None:
        """Take over a batch: write it as soon as that is allowed."""
        if batch.future.done():
            return  # its caller has given it up
        if self._closing:
            batch.resolve_unwritten(NOT_OPEN)
            return
        self._batches.add(batch)
        self._waiting.append(batch)
        if self._tick is None:
            self._tick = self._loop.later(DEADLINE_TICK_SECONDS, self._look_at_deadlines)
        if self._turn is None:
            self._write()

    def withdraw(self, batch: PublishBatch) -> None:
        """Its caller has given it up: what is not written never will be, and nothing of it is kept."""
        if batch in self._batches:
            batch.resolve_unwritten(ABANDONED)
            self._batches.discard(batch)
            self._forget_settled()

    def resume(self) -> None:
        """Take batches (again)."""
        self._closing = False

    def refuse(self) -> None:
        """Take no more batches; those taken go on."""
        self._closing = True

    def give_up(self, failure: PublishFailure) -> None:
        """Settle all that waits: unwritten with `failure`, written as unknown."""
        self._lose(failure.reason)
        for batch in self._waiting:
            batch.resolve_unwritten(failure)
        self._waiting.clear()
        self._batches.clear()

    # --- the channel comes and goes ---

    def open(self, connection: pika.SelectConnection, address: str) -> None:
        """Open the channel on a connection that is up."""
        self.address = address
        connection.channel(on_open_callback=lambda channel: guarded(self._opened, channel))

    def lose(self, reason: str) -> None:
        """The connection is lost: what was written is unknown at once, the rest waits."""
        self.blocked = False
        self._lose(reason)

    def set_blocked(self, blocked: bool, reason: str = "") -> None:
        """The broker has blocked or unblocked publishing."""
        if blocked and not self.blocked:
            logger.warning("%s has blocked publishing (%s); messages wait until their deadlines", self.address, reason)
        elif self.blocked and not blocked:
            logger.info("%s takes messages again", self.address)
        self.blocked = blocked
        self._write()

    def _opened(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(lambda closed, error: guarded(self._closed, closed, error))
        channel.add_on_return_callback(
            lambda _, method, properties, body: guarded(self._on_return, method, properties, body)
        )
        channel.confirm_delivery(self._on_confirm, callback=lambda _: guarded(self._selected))

    def _selected(self) -> None:
        self._ready = True
        self._write()

    def _closed(self, channel: Channel, error: BaseException) -> None:
        if channel is not self._channel:
            return
        connection = channel.connection
        if isinstance(error, exceptions.ChannelClosedByBroker):
            self._lose_refused(error)
        else:
            self._lose(in_words(error))
        if connection.is_open:
            self._failures += 1
            self._loop.later(pause_seconds(self._failures) / 2, lambda: self._reopen(connection))

    def _reopen(self, connection: Any) -> None:
        if connection.is_open and self._channel is None:
            self.open(connection, self.address)

    def _lose_refused(self, error: exceptions.ChannelClosedByBroker) -> None:
        """The broker closes the channel over one message: an exchange that is missing, or forbidden.

        Where nothing was confirmed on this channel before, no message to that exchange was taken over.
        """
        reason = in_words(error)
        logger.warning("%s refused a message: %s", self.address, reason)
        if not self._confirmed_any and error.reply_code in {403, 404}:
            for batch, index in self._written.values():
                if f"exchange '{batch.messages[index].exchange}'" in error.reply_text:
                    self._resolve(batch, index, PublishFailure(Unconfirmed.NOT_SENT, reason))
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        self._channel = None
        self._ready = False
        failure = PublishFailure(Unconfirmed.UNKNOWN, f"no confirm came before the channel was lost: {reason}")
        written, self._written = self._written, {}
        for tag, (batch, index) in written.items():
            self._resolve(batch, index, self._returned.get(tag, failure))
        self._returned.clear()
        self._written_bytes = 0
        self._confirmed_any = False
        self._lowest_tag = self._next_tag = 1
        self._last_returned_tag = 0

    # --- writing ---

    def _write(self) -> None:
        """Write what may be written, a turn at a time."""
        self._turn = None
        channel, waiting, written = self._channel, self._waiting, self._written
        if not self._ready or self.blocked or channel is None:
            return
        left = TURN_MESSAGES
        while waiting and left and len(written) < WINDOW_MESSAGES and self._written_bytes < WINDOW_BYTES:
            batch = waiting[0]
            index = batch.written
            if batch.future.cancelled():
                batch.written = index = len(batch.messages)
            if index >= len(batch.messages):
                waiting.popleft()
                continue
            message = batch.messages[index]
            try:
                channel.basic_publish(message.exchange, message.key, message.body, _properties(message), mandatory=True)
            except exceptions.ChannelWrongStateError:
                return  # it is closing; `_closed` follows, and the message waits
            except Exception as error:  # noqa: BLE001  # it cannot be encoded (a name over 255 bytes); only it fails
                batch.written += 1
                self._resolve(batch, index, PublishFailure(Unconfirmed.NOT_SENT, f"it cannot be sent: {error!r}"))
                continue
            batch.written += 1
            written[self._next_tag] = (batch, index)
            self._next_tag += 1
            self._written_bytes += len(message.body)
            left -= 1
        if not left:
            self._turn = self._loop.later(0, self._write)

    # --- what comes back ---

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tag: int = method.delivery_tag
        failure = None if isinstance(method, pika.spec.Basic.Ack) else NACKED
        tags = range(self._lowest_tag, tag + 1) if method.multiple else (tag,)
        if method.multiple:
            self._lowest_tag = tag + 1
        self._confirmed_any = True
        self._failures = 0
        written, returned = self._written, self._returned
        for each in tags:
            entry = written.pop(each, None)
            if entry is None:
                continue
            batch, index = entry
            self._written_bytes -= len(batch.messages[index].body)
            self._resolve(batch, index, returned.pop(each, failure) if returned else failure)
        if self._waiting and self._turn is None:
            self._turn = self._loop.later(0, self._write)

    def _on_return(self, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        """Find the message that came back; returns come in the order of publishing, each before its ack."""
        for tag in range(max(self._last_returned_tag + 1, self._lowest_tag), self._next_tag):
            entry = self._written.get(tag)
            if entry is None:
                continue
            message = entry[0].messages[entry[1]]
            if (message.message_id, message.exchange, message.key, message.body) == (
                properties.message_id or "",
                method.exchange,
                method.routing_key,
                body,
            ):
                self._last_returned_tag = tag
                reason = f"no queue takes it: {method.reply_code} {method.reply_text} (key {message.key!r})"
                self._returned[tag] = PublishFailure(Unconfirmed.NOT_SENT, reason)
                return

    def _resolve(self, batch: PublishBatch, index: int, result: PublishFailure | None) -> None:
        batch.resolve(index, result)
        if batch.open == 0:
            self._batches.discard(batch)

    # --- deadlines ---

    def _look_at_deadlines(self) -> None:
        self._tick = None
        now = self._clock.monotonic()
        for batch in [batch for batch in self._batches if batch.deadline <= now]:
            batch.resolve_written(
                PublishFailure(
                    Unconfirmed.UNKNOWN, f"RabbitMQ at {self.address} did not confirm it in {batch.timeout:g} s"
                )
            )
            batch.resolve_unwritten(self._why_unwritten(batch))
            self._batches.discard(batch)
        if any(batch.written >= len(batch.messages) for batch in self._waiting):
            self._forget_settled()
        if self._batches:
            self._tick = self._loop.later(DEADLINE_TICK_SECONDS, self._look_at_deadlines)

    def _forget_settled(self) -> None:
        """Keep nothing of batches that have nothing left to write, also while nothing can be written."""
        self._waiting = deque(batch for batch in self._waiting if batch.written < len(batch.messages))

    def _why_unwritten(self, batch: PublishBatch) -> PublishFailure:
        if self.blocked:
            return PublishFailure(Unconfirmed.NOT_SENT, "RabbitMQ has blocked publishing: memory or disk alarm")
        return PublishFailure(Unconfirmed.NOT_SENT, f"RabbitMQ at {self.address} did not answer in {batch.timeout:g} s")


def _properties(message: Message) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        type=message.type or None,
        message_id=message.message_id or None,
        reply_to=message.reply_to,
        correlation_id=message.correlation_id,
    )

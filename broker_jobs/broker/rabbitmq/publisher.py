"""Publishes with confirms, pipelined: the delivery tag of each confirm identifies the message.

A batch is the messages of one call: one future, one deadline. Messages are written in order while the channel is open,
RabbitMQ does not block us, and not too much is unconfirmed; the others wait. At the deadline, messages that were never
written are "not sent" for certain, and written ones are "unknown". So no message arrives after it was reported as not
sent.

Over 300 lines: writing, confirms, returns and deadlines share the state of one channel.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Sequence
from typing import Any

import pika
from pika import exceptions
from pika.channel import Channel
from pika.spec import Basic

from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.broker.rabbitmq.connection import describe_error, pause_seconds
from broker_jobs.broker.rabbitmq.io_loop import IoLoop, Timer, run_safely
from broker_jobs.clock import Clock

logger = logging.getLogger(__name__)

WINDOW_MESSAGES = 8_000
WINDOW_BYTES = 8 * 1024 * 1024
"""Limits of written and unconfirmed messages. Without them pika would buffer without bound."""
TURN_MESSAGES = 250
"""Messages written in one iteration of the loop, so that deliveries and acknowledgements do not wait long."""
DEADLINE_TICK_SECONDS = 0.05
NACKED = PublishFailure(Unconfirmed.UNKNOWN, "refused by a queue; it may be in another")
CANCELLED = PublishFailure(Unconfirmed.NOT_SENT, "the caller has cancelled it")
NOT_OPEN = PublishFailure(Unconfirmed.NOT_SENT, "the broker is not connected: it was not started, or it was stopped")

_OTHER_USER = re.compile("but authenticated user was '([^']*)'")
"""In RabbitMQ's refusal of a message with the name of another user."""
_PENDING: Any = object()  # in the results of a batch: no outcome yet


class PublishBatch:
    """The messages of one call, their results, and the future of the call."""

    __slots__ = ("deadline", "future", "messages", "pending", "results", "timeout", "written")

    def __init__(self, messages: Sequence[Message], timeout: float, deadline: float) -> None:
        self.messages = messages
        self.results: list[PublishFailure | None] = [_PENDING] * len(messages)
        self.pending = len(messages)
        self.written = 0
        self.timeout = timeout
        self.deadline = deadline
        self.future: SignalSafeFuture[list[PublishFailure | None]] = SignalSafeFuture()

    def resolve(self, index: int, result: PublishFailure | None) -> None:
        """Set the result of one message. The last one completes the future."""
        if self.results[index] is _PENDING:
            self.results[index] = result
            self.pending -= 1
            if self.pending == 0:
                self.future.set_result(self.results)

    def fail_unwritten(self, failure: PublishFailure) -> None:
        """Fail all messages that were not written."""
        first, self.written = self.written, len(self.messages)
        for index in range(first, len(self.messages)):
            self.resolve(index, failure)

    def fail_written(self, failure: PublishFailure) -> None:
        """Fail all messages that were written and are not confirmed."""
        for index in range(self.written):
            self.resolve(index, failure)


class Publisher:
    """Publishes on one channel. All methods run in the I/O thread."""

    def __init__(self, loop: IoLoop, clock: Clock) -> None:
        self.blocked = False
        self.address = ""
        self._loop = loop
        self._clock = clock
        self._channel: Channel | None = None
        self._user = ""
        self._real_users: dict[str, str] = {}  # what RabbitMQ calls the user of a login, where that is another name
        self._ready = False
        self._failures = 0
        self._waiting: deque[PublishBatch] = deque()  # batches that are not completely written, in order
        self._batches: set[PublishBatch] = set()  # all batches without a complete result
        self._written: dict[int, tuple[PublishBatch, int]] = {}  # tag → message
        self._written_bytes = 0
        self._returned: dict[int, PublishFailure] = {}  # tag → why it was returned; its ack follows
        self._confirmed_any = False
        self._lowest_tag = 1
        self._next_tag = 1
        self._last_returned_tag = 0
        self._turn: Timer | None = None
        self._tick: Timer | None = None
        self._drop: Timer | None = None
        self._closing = False

    @property
    def idle(self) -> bool:
        """Whether no batch is pending."""
        return not self._batches

    def publish(self, batch: PublishBatch) -> None:
        """Accept a batch and write it as soon as that is allowed."""
        if batch.future.done():
            return  # the caller has cancelled it
        if self._closing:
            batch.fail_unwritten(NOT_OPEN)
            return
        self._batches.add(batch)
        self._waiting.append(batch)
        if self._tick is None:
            self._tick = self._loop.call_later(DEADLINE_TICK_SECONDS, self._check_deadlines)
        if self._turn is None:
            self._write()

    def cancel(self, batch: PublishBatch) -> None:
        """Drop the messages of a batch that are not written, as its caller has cancelled it."""
        if batch in self._batches:
            batch.fail_unwritten(CANCELLED)
            self._batches.discard(batch)
            if self._drop is None:  # once for all that are cancelled in this turn, as it walks over all that wait
                self._drop = self._loop.call_later(0, self._drop_written)

    def accept(self) -> None:
        """Accept batches."""
        self._closing = False
        self._turn = self._tick = self._drop = None  # a loop that was stopped has dropped its timers

    def stop_accepting(self) -> None:
        """Accept no more batches. Accepted ones go on."""
        self._closing = True

    def fail_all(self, failure: PublishFailure) -> None:
        """Fail all batches: unwritten messages with `failure`, written ones as unknown."""
        self._channel_lost(failure.reason)
        for batch in self._waiting:
            batch.fail_unwritten(failure)
        self._waiting.clear()
        self._batches.clear()

    # --- opening and losing the channel ---

    def open(self, connection: pika.SelectConnection, address: str) -> None:
        """Open the channel on an open connection."""
        self.address = address
        login: str = getattr(connection.params.credentials, "username", "")  # a certificate has none
        self._user = self._real_users.get(login, login)
        connection.channel(on_open_callback=lambda channel: run_safely(self._opened, channel))

    def connection_lost(self, reason: str) -> None:
        """The connection is lost: written messages are unknown at once, the others wait."""
        self.blocked = False
        self._channel_lost(reason)

    def set_blocked(self, blocked: bool, reason: str = "") -> None:
        """RabbitMQ has blocked or unblocked publishing."""
        if blocked and not self.blocked:
            logger.warning("%s has blocked publishing (%s); messages wait until their deadlines", self.address, reason)
        elif self.blocked and not blocked:
            logger.info("%s has unblocked publishing", self.address)
        self.blocked = blocked
        self._write()

    def _opened(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(lambda closed, error: run_safely(self._closed, closed, error))
        channel.add_on_return_callback(
            lambda _, method, properties, body: run_safely(self._on_return, method, properties, body)
        )
        channel.confirm_delivery(self._on_confirm, callback=lambda _: run_safely(self._confirms_enabled))

    def _confirms_enabled(self) -> None:
        self._ready = True
        self._write()

    def _closed(self, channel: Channel, error: BaseException) -> None:
        if channel is not self._channel:
            return
        connection = channel.connection
        if isinstance(error, exceptions.ChannelClosedByBroker):
            self._channel_refused(error)
        else:
            self._channel_lost(describe_error(error))
        if connection.is_open:
            self._failures += 1
            self._loop.call_later(pause_seconds(self._failures) / 2, lambda: self._reopen(connection))

    def _reopen(self, connection: Any) -> None:
        if connection.is_open and self._channel is None:
            self.open(connection, self.address)

    def _channel_refused(self, error: exceptions.ChannelClosedByBroker) -> None:
        """RabbitMQ closes the channel because of one message: its exchange does not exist or is not permitted.

        If nothing was confirmed on this channel before, no message to that exchange was accepted.
        """
        reason = describe_error(error)
        other = _OTHER_USER.search(error.reply_text)
        if other is not None and not self._confirmed_any:
            self._real_users[self._user] = other[1]
            self._user = other[1]
            self._write_again()
            self._channel_lost(reason)
            return
        logger.warning("%s refused a message: %s", self.address, reason)
        if not self._confirmed_any and error.reply_code in {403, 404}:
            for batch, index in self._written.values():
                if f"exchange '{batch.messages[index].exchange}'" in error.reply_text:
                    self._resolve(batch, index, PublishFailure(Unconfirmed.NOT_SENT, reason))
        self._channel_lost(reason)

    def _write_again(self) -> None:
        """RabbitMQ knows us by another name (a login by token): no message of this channel was accepted."""
        written, self._written = self._written, {}
        for batch, index in reversed(written.values()):
            batch.written = index
        again = dict.fromkeys(batch for batch, _ in written.values())
        self._waiting = deque([*again, *(batch for batch in self._waiting if batch not in again)])

    def _channel_lost(self, reason: str) -> None:
        self._channel = None
        self._ready = False
        failure = PublishFailure(Unconfirmed.UNKNOWN, f"the channel was lost before a confirm: {reason}")
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
        """Write the messages that may be written now, a limited number per iteration of the loop."""
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
                channel.basic_publish(
                    message.exchange, message.key, message.body, _properties(message, self._user), mandatory=True
                )
            except exceptions.ChannelWrongStateError:
                return  # the channel closes: `_closed` follows, and the message waits
            except Exception as error:  # noqa: BLE001  # not encodable (a name over 255 bytes): only this message fails
                batch.written += 1
                self._resolve(batch, index, PublishFailure(Unconfirmed.NOT_SENT, f"it cannot be encoded: {error!r}"))
                continue
            batch.written += 1
            written[self._next_tag] = (batch, index)
            self._next_tag += 1
            self._written_bytes += len(message.body)
            left -= 1
        if not left:
            self._turn = self._loop.call_later(0, self._write)

    # --- confirms and returns ---

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tag: int = method.delivery_tag
        failure = None if isinstance(method, Basic.Ack) else NACKED
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
            self._turn = self._loop.call_later(0, self._write)

    def _on_return(self, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        """Find the returned message. Returns arrive in the order of publishing, each before its ack."""
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
                reason = f"no queue accepts it: {method.reply_code} {method.reply_text} (key {message.key!r})"
                self._returned[tag] = PublishFailure(Unconfirmed.NOT_SENT, reason)
                return

    def _resolve(self, batch: PublishBatch, index: int, result: PublishFailure | None) -> None:
        batch.resolve(index, result)
        if batch.pending == 0:
            self._batches.discard(batch)

    # --- deadlines ---

    def _check_deadlines(self) -> None:
        self._tick = None
        now = self._clock.monotonic()
        for batch in [batch for batch in self._batches if batch.deadline <= now]:
            batch.fail_written(
                PublishFailure(
                    Unconfirmed.UNKNOWN, f"RabbitMQ at {self.address} did not confirm it in {batch.timeout:g} s"
                )
            )
            batch.fail_unwritten(self._unwritten_failure(batch))
            self._batches.discard(batch)
        if any(batch.written >= len(batch.messages) for batch in self._waiting):
            self._drop_written()
        if self._batches:
            self._tick = self._loop.call_later(DEADLINE_TICK_SECONDS, self._check_deadlines)

    def _drop_written(self) -> None:
        """Remove the batches that have nothing left to write, also while nothing can be written."""
        self._drop = None
        self._waiting = deque(batch for batch in self._waiting if batch.written < len(batch.messages))

    def _unwritten_failure(self, batch: PublishBatch) -> PublishFailure:
        if self.blocked:
            return PublishFailure(Unconfirmed.NOT_SENT, "RabbitMQ blocks publishing: memory or disk alarm")
        return PublishFailure(Unconfirmed.NOT_SENT, f"RabbitMQ at {self.address} did not answer in {batch.timeout:g} s")


def _properties(message: Message, user: str) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        type=message.type or None,
        message_id=message.message_id or None,
        reply_to=message.reply_to,
        correlation_id=message.correlation_id,
        expiration=None if message.expiration is None else str(max(0, int(message.expiration * 1_000))),
        user_id=user or None,
    )

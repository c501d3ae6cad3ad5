"""Reads deliveries from the bytes of a connection, without pika's objects: an eighth of the price of its own way.

pika makes a frame object and looks for callbacks three times for each delivery. Here a delivery is read from its three
frames (AMQP 0-9-1, section 4.2.3: method, header, body) in one go, if all of it is here, it has one body frame, and it
is for a consumer that was announced. pika reads all else, and everything where its inside is not as expected.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

import pika
from pika.channel import Channel

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.rabbitmq.deliveries import ChannelDeliveries, Properties, properties_of, seconds

MOST_WAITING_BYTES = 65_536
"""Of a delivery that is not here completely, so much is kept; of a larger one pika keeps the frames."""
RECEIVE_BYTES = 65_536
"""Read at once from the socket; each read lets other threads run, which may take 5 ms. pika reads 4,096."""

_HEAD = Struct(">BHI").unpack_from  # of a frame: type, channel, size of its payload
_METHOD = Struct(">I").unpack_from
_TAG = Struct(">QB").unpack_from  # delivery tag, redelivered
_SIZE = Struct(">Q").unpack_from
_FLAGS = Struct(">H").unpack_from  # which properties follow
_METHOD_FRAME, _HEADER_FRAME, _BODY_FRAME, _END = 1, 2, 3, 0xCE
_DELIVER = 60 << 16 | 60
_CONTENT_TYPE, _ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY = 0x8000, 0x4000, 0x2000, 0x1000, 0x0800
_CORRELATION_ID, _REPLY_TO, _EXPIRATION, _MESSAGE_ID = 0x0400, 0x0200, 0x0100, 0x0080
_TIMESTAMP, _TYPE, _USER_ID = 0x0040, 0x0020, 0x0010
_LEFT_TO_PIKA = _HEADERS | 1
"""Headers are rare and of any type; 1 says that more flags follow."""

_NEEDED = ("_frame_buffer", "_read_frame", "_trim_frame_buffer", "_process_frame", "bytes_received", "frames_received")


class ReceivingConnection(pika.SelectConnection):
    """A connection of pika that reads deliveries itself for the channels that ask for it."""

    # Of pika, which its types leave out.
    _frame_buffer: bytes
    bytes_received: int
    frames_received: int
    _read_frame: Callable[[], tuple[int, Any]]
    _trim_frame_buffer: Callable[[int], None]
    _process_frame: Callable[[Any], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._receivers: dict[int, ChannelDeliveries] = {}
        self._taken = 0
        """Up to where the buffer was taken."""
        super().__init__(*args, **kwargs)

    def receive(self, channel: Channel, deliveries: ChannelDeliveries) -> None:
        """Let these take the deliveries of a channel, for their consumers; nothing where pika has changed inside."""
        if all(hasattr(self, name) for name in _NEEDED) and isinstance(getattr(self, "_frame_buffer", None), bytes):
            self._receivers[channel.channel_number] = deliveries
            transport = getattr(self, "_transport", None)
            if isinstance(getattr(transport, "_MAX_RECV_BYTES", None), int):
                setattr(transport, "_MAX_RECV_BYTES", RECEIVE_BYTES)  # noqa: B010  # private, and not there for mypy

    def receive_no_more(self, channel: Channel) -> None:
        """Leave the deliveries of a channel to pika."""
        self._receivers.pop(channel.channel_number, None)

    def _on_data_available(self, data_in: bytes) -> None:
        """Called by pika with what the socket had."""
        if not self._receivers:
            super()._on_data_available(data_in)  # type: ignore[misc]  # as above
            return
        buffer = self._frame_buffer + data_in
        while True:
            self._taken = 0
            try:
                waits = self._take(buffer)
            finally:
                self._frame_buffer = buffer[self._taken :]
                self.bytes_received += self._taken
            if waits or not self._frame_buffer:
                return
            consumed, frame = self._read_frame()
            if not frame:
                return
            self._trim_frame_buffer(consumed)
            self._process_frame(frame)
            buffer = self._frame_buffer

    def _take(self, buffer: bytes) -> bool:
        """Take the deliveries that `buffer` begins with; whether one is left of which a part is to come.

        `_taken` says where they end.
        """
        receivers, place, end = self._receivers, 0, len(buffer)
        while place + 8 <= end:
            kind, number, size = _HEAD(buffer, place)
            receiver = receivers.get(number)
            if kind != _METHOD_FRAME or receiver is None:
                return False
            header = place + 8 + size
            if header + 8 > end:
                return _is_deliver(buffer, place)
            if _METHOD(buffer, place + 7)[0] != _DELIVER or buffer[header - 1] != _END:
                return False
            at = place + 12 + buffer[place + 11]
            consumer = receiver.consumers.get(buffer[place + 12 : at])
            kind, same, size = _HEAD(buffer, header)
            if consumer is None or kind != _HEADER_FRAME or same != number:
                return False
            body = header + 8 + size
            if body > end:
                return end - place < MOST_WAITING_BYTES
            (body_size,) = _SIZE(buffer, header + 11)
            if body_size:
                if body + 8 > end:
                    return end - place < MOST_WAITING_BYTES
                kind, same, size = _HEAD(buffer, body)
                if kind != _BODY_FRAME or same != number or size != body_size:
                    return False
                after = body + 8 + size
                if after > end:
                    return end - place < MOST_WAITING_BYTES and size < MOST_WAITING_BYTES
                content = buffer[body + 7 : after - 1]
            else:
                after, content = body, b""
            if buffer[body - 1] != _END or buffer[after - 1] != _END:
                return False

            try:
                tag, redelivered, exchange, key = _envelope(buffer, at)
                named = _properties(buffer, header + 19, body - 1)
            except UnicodeDecodeError:  # pika has a way to say it
                return False
            self._taken = place = after  # before it is taken: an error must not let it come twice
            self.frames_received += 3 if body_size else 2
            receiver.take(
                Delivery(receiver.number, tag, consumer[0], content, redelivered, exchange, key, *named), consumer[1]
            )
        return False


def _is_deliver(buffer: bytes, place: int) -> bool:
    """Whether a delivery begins here, of which not even the method frame may be complete."""
    return len(buffer) >= place + 11 and _METHOD(buffer, place + 7)[0] == _DELIVER


def _envelope(buffer: bytes, at: int) -> tuple[int, bool, str, str]:
    """Delivery tag, redelivered, exchange, routing key, which begin at `at`."""
    tag, redelivered = _TAG(buffer, at)
    at += 9
    key = at + 1 + buffer[at]
    return tag, bool(redelivered), buffer[at + 1 : key].decode(), buffer[key + 1 : key + 1 + buffer[key]].decode()


def _text(buffer: bytes, at: int) -> tuple[str, int]:
    """The short text that lies there, and where it ends."""
    end = at + 1 + buffer[at]
    return buffer[at + 1 : end].decode(), end


def _properties(buffer: bytes, at: int, end: int) -> Properties:
    """The properties that lie there."""
    (flags,) = _FLAGS(buffer, at)
    if flags & _LEFT_TO_PIKA:
        properties = pika.BasicProperties()
        properties.decode(buffer[at:end])
        return properties_of(properties)
    at += 2
    reply_to = correlation_id = expiration = None
    message_id = type_ = user_id = ""
    if flags & _CONTENT_TYPE:
        at += 1 + buffer[at]
    if flags & _ENCODING:
        at += 1 + buffer[at]
    if flags & _DELIVERY_MODE:
        at += 1
    if flags & _PRIORITY:
        at += 1
    if flags & _CORRELATION_ID:
        correlation_id, at = _text(buffer, at)
    if flags & _REPLY_TO:
        reply_to, at = _text(buffer, at)
    if flags & _EXPIRATION:
        milliseconds, at = _text(buffer, at)
        expiration = seconds(milliseconds)
    if flags & _MESSAGE_ID:
        message_id, at = _text(buffer, at)
    if flags & _TIMESTAMP:
        at += 8
    if flags & _TYPE:
        type_, at = _text(buffer, at)
    if flags & _USER_ID:
        user_id, at = _text(buffer, at)
    return type_, message_id, reply_to, correlation_id, 0, user_id, False, expiration

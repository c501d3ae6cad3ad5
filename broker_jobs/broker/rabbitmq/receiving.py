"""Reads deliveries from the bytes of a connection, without pika's objects: an eighth of the price of its own way.

pika makes a frame object and looks for callbacks three times for each delivery. Here a delivery is read from its three
frames (AMQP 0-9-1, section 4.2.3: method, header, body) in one go, if all of it is here, it has one body frame, and it
is for a consumer that was announced. pika reads all else, and everything where its inside is not as expected; but the
header of a message, and text that is not UTF-8, are read here in any case (broker/rabbitmq/properties.py).
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

import pika
from pika import frame
from pika.channel import Channel

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.rabbitmq.deliveries import ChannelDeliveries
from broker_jobs.broker.rabbitmq.properties import ReadProperties, as_text, read_properties, text

MOST_WAITING_BYTES = 65_536
"""Of a delivery that is not here completely, so much is kept; of a larger one pika keeps the frames."""
RECEIVE_BYTES = 65_536
"""Read at once from the socket; each read lets other threads run, which may take 5 ms. pika reads 4,096."""

_HEAD = Struct(">BHI").unpack_from  # of a frame: type, channel, size of its payload
_METHOD = Struct(">I").unpack_from
_TAG = Struct(">QB").unpack_from  # delivery tag, redelivered
_SIZE = Struct(">Q").unpack_from
_CLASS = Struct(">H").unpack_from
_METHOD_FRAME, _HEADER_FRAME, _BODY_FRAME, _END = 1, 2, 3, 0xCE
_DELIVER = 60 << 16 | 60
_CONTENT = 60
"""The class of all messages."""
_TEXTS = frozenset({"reply_text", "reason", "exchange", "routing_key", "consumer_tag", "queue"})
"""Of the methods that RabbitMQ sends. It cuts an explanation after 255 bytes, be it within a character."""

_NEEDED = ("_frame_buffer", "_read_frame", "_trim_frame_buffer", "_process_frame", "bytes_received", "frames_received")


class ReceivingConnection(pika.SelectConnection):
    """A connection of pika that reads deliveries itself for the channels that ask for it."""

    # Of pika, which its types leave out.
    _frame_buffer: bytes
    bytes_received: int
    frames_received: int
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

    def _read_frame(self) -> tuple[int, Any]:
        """Called by pika for its next frame: how long it is, and the frame; (0, None): it is not here completely."""
        read = _content_header(getattr(self, "_frame_buffer", b""))
        if read is not None:
            return read
        size, other = super()._read_frame()  # type: ignore[misc]  # as above
        if isinstance(other, frame.Method):
            for name, value in vars(other.method).items():
                if type(value) is bytes and name in _TEXTS:
                    setattr(other.method, name, as_text(value))
        return size, other

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

            tag, redelivered, exchange, key = _envelope(buffer, at)
            named = read_properties(buffer, header + 19, body - 1)
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
    return tag, bool(redelivered), text(buffer[at + 1 : key]), text(buffer[key + 1 : key + 1 + buffer[key]])


def _content_header(buffer: bytes) -> tuple[int, frame.Header] | None:
    """The header of a message, if the buffer begins with all of one, and where it ends."""
    if buffer[:1] != b"\x02" or len(buffer) < 8:
        return None
    _, number, size = _HEAD(buffer, 0)
    end = size + 8
    if size < 14 or len(buffer) < end or buffer[end - 1] != _END or _CLASS(buffer, 7)[0] != _CONTENT:
        return None
    return end, frame.Header(number, _SIZE(buffer, 11)[0], ReadProperties(read_properties(buffer, 19, end - 1)))

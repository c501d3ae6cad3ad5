"""Connections to nothing, which are fed with the bytes of a stream; and such bytes."""

from __future__ import annotations

import atexit
import struct
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel

from broker_jobs.broker.interface import Delivery
from broker_jobs.broker.rabbitmq.deliveries import ChannelDeliveries
from broker_jobs.broker.rabbitmq.io_loop import IoLoop
from broker_jobs.broker.rabbitmq.properties import as_text, properties_of
from broker_jobs.broker.rabbitmq.receiving import ReceivingConnection

LOOP = IOLoop()
"""Nothing of it runs: pika wants one, and would make one for each connection."""
atexit.register(LOOP.close)

Seen = list[tuple[int, str, Delivery]]
"""Channel, consumer tag, delivery."""


class _Unconnected(pika.SelectConnection):
    """A connection that is open, to nothing."""

    # Of pika, which its types leave out.
    _channels: dict[int, Any]
    _on_data_available: Any
    bytes_received: int
    frames_received: int
    _create_channel: Any
    _set_connection_state: Any
    _transport: Any

    def _create_tcp_connection_workflow(self, *_: Any) -> None: ...
    def _adapter_connect_stream(self) -> None: ...
    def _adapter_disconnect_stream(self) -> None: ...
    def _output_marshaled_frames(self, _: Any) -> None: ...
    def _send_method(self, *_: Any, **__: Any) -> None: ...

    def fed(self, data: bytes, size: int) -> None:
        """Give it what the socket had, in pieces."""
        for start in range(0, len(data), size):
            self._on_data_available(data[start : start + size])


class PlainPika(_Unconnected):
    """pika reads everything, in its own way."""


class Unconnected(_Unconnected, ReceivingConnection):
    """What this project makes of pika's connection."""


class Taking(ChannelDeliveries):
    """The deliveries of consumer "a" of a channel."""

    def __init__(self, number: int, seen: Callable[[tuple[int, str, Delivery]], None]) -> None:
        super().__init__(IoLoop("unused"), number, lambda _: None, needs_acks=True)
        self.add_consumer("aa", "a")
        self._seen = seen

    def take(self, delivery: Delivery, consumer_tag: str) -> None:
        self._seen((self.number - 6, consumer_tag, delivery))


def plain_pika(seen: Seen) -> PlainPika:
    """As `connected`, without anything of ours."""
    connection = PlainPika(pika.ConnectionParameters(), custom_ioloop=LOOP)
    _open(connection, seen)
    return connection


def connected(seen: Seen, *, receives: bool) -> Unconnected:
    """A connection with channels 1 and 2, consumers "a" and "b" of both, of which "b" is not announced."""
    connection = Unconnected(pika.ConnectionParameters(), custom_ioloop=LOOP)
    for channel in _open(connection, seen):
        if receives:
            connection.receive(channel, Taking(channel.channel_number + 6, seen.append))
    return connection


def _open(connection: _Unconnected, seen: Seen) -> list[Channel]:
    channels = []
    connection._set_connection_state(connection.CONNECTION_OPEN)
    for number in (1, 2):
        channel = connection._create_channel(number, lambda _: None)
        connection._channels[number] = channel
        channel._set_state(Channel.OPEN)
        channels.append(channel)

        def read_by_pika(channel: Channel, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
            number, tag = channel.channel_number, method.consumer_tag
            exchange, key = as_text(method.exchange), as_text(method.routing_key)
            named = properties_of(properties)
            read = Delivery(number + 6, method.delivery_tag, tag * 2, body, method.redelivered, exchange, key, *named)
            seen.append((number, tag, read))

        channel._consumers.update(a=read_by_pika, b=read_by_pika)
    return channels


def frames_of(
    number: int, consumer: str, tag: int, properties: bytes, bodies: list[bytes], *, exchange: bytes, key: bytes
) -> bytes:
    """A delivery of which each part is as told, sound or not."""
    method = struct.pack(">I", 60 << 16 | 60) + _short(consumer.encode()) + struct.pack(">QB", tag, 0)
    header = struct.pack(">HHQ", 60, 0, sum(map(len, bodies))) + properties
    parts = [(1, method + _short(exchange) + _short(key)), (2, header), *((3, body) for body in bodies)]
    return b"".join(struct.pack(">BHI", kind, number, len(part)) + part + b"\xce" for kind, part in parts)


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text

"""Bare pika: publishes pipelined, and consumes with an acknowledgement for every hundredth message.

It is the upper limit for Python on this broker, and fills queues before a round.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from benchmarks import stamps

QUEUE, COPY, FANOUT = "bench", "bench.copy", "bench.fanout"
BODY = (
    b'{"v":1,"id":"01890000-0000-7000-8000-000000000000","job":"empty","args":[],"kwargs":{},"queue":"default",'
    b'"epoch":1,"attempt":1,"careful":false,"created_at":"2026-01-01T00:00:00.000000Z","policy":{"retries":10},"tags":[]}'
)
PERSISTENT = pika.BasicProperties(delivery_mode=2, content_type="application/json")
WINDOW = 4_000
PER_TURN = 200
ACK_EVERY = 100
PREFETCH = 500


def declare(channel: BlockingChannel, kind: str, *, fanout: bool = False) -> None:
    """Declare the queue; with `fanout` two queues behind an exchange, as for a submitted job."""
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": kind})
    if fanout:
        channel.queue_declare(COPY, durable=True, arguments={"x-queue-type": kind})
        channel.exchange_declare(FANOUT, "fanout", durable=True)
        channel.queue_bind(QUEUE, FANOUT, QUEUE)
        channel.queue_bind(COPY, FANOUT, QUEUE)


def publish_pipelined(
    url: str, exchange: str, key: str, messages: Iterable[tuple[bytes, pika.BasicProperties]]
) -> None:
    """Publish all with confirms, thousands unconfirmed at a time; returns when the last is confirmed."""
    _Pipeline(url, exchange, key, messages).run()


class _Pipeline:
    """One connection for one call."""

    def __init__(
        self, url: str, exchange: str, key: str, messages: Iterable[tuple[bytes, pika.BasicProperties]]
    ) -> None:
        self._exchange = exchange
        self._key = key
        self._messages = iter(messages)
        self._written = 0
        self._open: dict[int, None] = {}
        """Unconfirmed tags, lowest first."""
        self._exhausted = False
        self._write_planned = False
        self._channel: Any = None
        self._error: BaseException | None = None
        self._connection = pika.SelectConnection(
            pika.URLParameters(url), on_open_callback=self._opened, on_open_error_callback=self._failed,
            on_close_callback=self._failed,
        )  # fmt: skip

    def run(self) -> None:
        """Publish and end."""
        self._connection.ioloop.start()
        if not self._exhausted or self._open:
            raise RuntimeError(f"publishing ended early: {self._error!r}")

    def _opened(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._channel_opened)

    def _channel_opened(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._write())

    def _write(self) -> None:
        self._write_planned = False
        for _ in range(PER_TURN):
            if self._exhausted or len(self._open) >= WINDOW:
                return
            message = next(self._messages, None)
            if message is None:
                self._exhausted = True
                self._close_if_done()
                return
            self._channel.basic_publish(self._exchange, self._key, *message)
            self._written += 1
            self._open[self._written] = None
        self._plan_write()

    def _plan_write(self) -> None:
        if not self._write_planned:
            self._write_planned = True
            self._connection.ioloop.call_later(0, self._write)

    def _on_confirm(self, frame: Any) -> None:
        if not isinstance(frame.method, pika.spec.Basic.Ack):
            raise TypeError("a publish was refused")
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            for each in range(next(iter(self._open), tag), tag + 1):
                self._open.pop(each, None)
        else:
            self._open.pop(tag, None)
        self._close_if_done()
        if not self._exhausted:
            self._plan_write()

    def _close_if_done(self) -> None:
        if self._exhausted and not self._open and self._connection.is_open:
            self._connection.close()

    def _failed(self, _: object, error: object) -> None:
        self._error = error if isinstance(error, BaseException) else None
        self._connection.ioloop.stop()


def consume(url: str, kind: str, *, stamping: bool = False) -> None:
    """Consume until this process is ended; with `stamping` each body is an instant, and its arrival is recorded."""

    def on_message(channel: Any, method: Any, _: object, body: bytes) -> None:
        if stamping:
            stamps.stamp(float(body))
            channel.basic_ack(method.delivery_tag)
        elif method.delivery_tag % ACK_EVERY == 0:
            channel.basic_ack(method.delivery_tag, multiple=True)

    def on_channel(channel: Any) -> None:
        channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": kind})
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(QUEUE, on_message)

    connection = pika.SelectConnection(
        pika.URLParameters(url), on_open_callback=lambda opened: opened.channel(on_open_callback=on_channel)
    )
    connection.ioloop.start()

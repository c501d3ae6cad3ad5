"""Carries bytes: kombu's memory transport as named queues. The one file that knows kombu.

kombu keeps its queues for the whole process, so ours carry the name of their broker and are deleted with it.
"""

from __future__ import annotations

from typing import Any

from kombu.connection import Connection

from broker_jobs.broker.interface import Message


class KombuTransport:
    """kombu's memory transport as queues of bytes. For the I/O thread alone."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        make: Any = Connection  # kombu's own functions carry no types
        self._connection = make("memory://", transport_options={"body_encoding": None})
        self._channel = self._connection.channel()

    def open(self, queue: str) -> None:
        self._channel.queue_declare(self._full(queue))

    def put(self, queue: str, message: Message) -> None:
        properties = {
            "type": message.type,
            "message_id": message.message_id,
            "reply_to": message.reply_to,
            "correlation_id": message.correlation_id,
        }
        prepared = self._channel.prepare_message(
            message.body,
            content_type="application/json",
            headers={"exchange": message.exchange, "key": message.key},
            properties=properties,
        )
        self._channel.basic_publish(prepared, exchange="", routing_key=self._full(queue))

    def get(self, queue: str) -> Message | None:
        got = self._channel.basic_get(self._full(queue), no_ack=True)
        if got is None:
            return None
        properties, headers = got.properties, got.headers
        return Message(
            headers["exchange"],
            headers["key"],
            got.body,
            properties["type"],
            properties["message_id"],
            properties["reply_to"],
            properties["correlation_id"],
        )

    def size(self, queue: str) -> int:
        size: int = self._channel.queue_declare(self._full(queue)).message_count
        return size

    def purge(self, queue: str) -> None:
        self._channel.queue_purge(self._full(queue))

    def delete(self, queue: str) -> None:
        self._channel.queues.pop(self._full(queue), None)  # queue_delete deletes what is bound in kombu alone

    def close(self) -> None:
        self._connection.close()

    def _full(self, queue: str) -> str:
        return f"{self._broker}/{queue}"

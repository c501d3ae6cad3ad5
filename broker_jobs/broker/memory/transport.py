"""Wraps kombu's memory transport as named queues of messages. The only file that uses kombu.

kombu's queues belong to the whole process, so ours have the name of their server in front and are deleted with it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kombu.connection import Connection

from broker_jobs.broker.interface import Message


class QueuedMessage(NamedTuple):
    """A message in a queue, or delivered to a consumer."""

    message: Message
    returns: int = 0
    """How often it was returned."""
    user_id: str = ""
    dead_lettered: bool = False
    expires_at: float | None = None
    """When it is dropped, on the monotonic clock."""


class KombuTransport:
    """Named queues in kombu's memory transport. For the I/O thread only."""

    def __init__(self, server: str) -> None:
        self._server = server
        make: Any = Connection  # kombu has no type annotations
        self._connection = make("memory://", transport_options={"body_encoding": None})
        self._channel = self._connection.channel()

    def open(self, queue: str) -> None:
        self._channel.queue_declare(self._full_name(queue))

    def put(self, queue: str, queued: QueuedMessage) -> None:
        message = queued.message
        prepared = self._channel.prepare_message(
            message.body,
            content_type="application/json",
            headers={"queued": queued._replace(message=message._replace(body=b""))},
            properties={"type": message.type, "message_id": message.message_id},
        )
        self._channel.basic_publish(prepared, exchange="", routing_key=self._full_name(queue))

    def get(self, queue: str) -> QueuedMessage | None:
        got = self._channel.basic_get(self._full_name(queue), no_ack=True)
        if got is None:
            return None
        queued: QueuedMessage = got.headers["queued"]
        return queued._replace(message=queued.message._replace(body=got.body))

    def size(self, queue: str) -> int:
        size: int = self._channel.queue_declare(self._full_name(queue)).message_count
        return size

    def purge(self, queue: str) -> None:
        self._channel.queue_purge(self._full_name(queue))

    def delete(self, queue: str) -> None:
        self._channel.queues.pop(
            self._full_name(queue), None
        )  # queue_delete deletes only queues that are bound in kombu

    def close(self) -> None:
        self._connection.close()

    def _full_name(self, queue: str) -> str:
        return f"{self._server}/{queue}"

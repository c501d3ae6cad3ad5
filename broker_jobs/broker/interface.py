"""Says what a message exchange must do; RabbitMQ (on pika) and the embedded one (on kombu's memory) both do it.

Nothing here knows a client library. Callbacks run on the exchange's own I/O thread: they must be quick, must not
block and must not call the blocking methods of the exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import Enum
from typing import NamedTuple, Protocol

from broker_jobs.broker.topology import Topology


class Message(NamedTuple):
    """What is published: always persistent, always confirmed, headers fresh (none are copied)."""

    exchange: str
    key: str
    body: bytes
    type: str = ""
    message_id: str = ""
    reply_to: str | None = None
    correlation_id: str | None = None


class Delivery(NamedTuple):
    """What is received.

    (`channel`, `tag`) acknowledge it; a tag of a lost channel is ignored when it is acknowledged.
    """

    channel: int
    tag: int
    queue: str
    body: bytes
    redelivered: bool
    exchange: str
    key: str
    type: str
    message_id: str
    reply_to: str | None
    correlation_id: str | None
    delivery_count: int


class Unconfirmed(Enum):
    """The two ways a publish can end without a confirm."""

    NOT_SENT = "not sent"
    """It was certainly not taken over: never written, or returned as unroutable."""
    UNKNOWN = "unknown"
    """It may have been taken over: no confirm in time, connection lost, or refused by one of several queues."""


class PublishFailure(NamedTuple):
    """Why a message has no confirm."""

    kind: Unconfirmed
    reason: str


class Consumer(Protocol):
    """A consumer of one or several queues on one channel. All methods are thread-safe and return at once."""

    @property
    def consuming(self) -> bool:
        """Whether deliveries may still come: after `cancel` for as long as that takes."""

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge one delivery, or with `multiple` all of the channel up to it."""

    def requeue(self, channel: int, tag: int) -> None:
        """Give a delivery back to its queue."""

    def set_prefetch(self, count: int) -> None:
        """Change how many unacknowledged deliveries each queue may have out here (1..65535)."""

    def pause(self, queue: str, *, paused: bool) -> None:
        """Stop or resume taking deliveries of one queue; what is out stays out."""

    def cancel(self) -> None:
        """Take no more deliveries; what is out can still be acknowledged."""

    def close(self) -> None:
        """Cancel and close the channel; what is unacknowledged goes back to its queue."""


class Broker(Protocol):
    """The broker, as one process sees it. Thread-safe; reconnects by itself for ever, and says so in the log."""

    @property
    def connected(self) -> bool:
        """Whether both connections are up now."""

    @property
    def reconnects(self) -> int:
        """How often a connection was lost and made again since the start."""

    @property
    def blocked(self) -> bool:
        """Whether the broker has blocked publishing (an alarm)."""

    def start(self, timeout: float = 10.0) -> None:
        """Connect; tolerates being called twice. Raises BrokerError (unreachable, wrong password, no such vhost)."""

    def stop(self, timeout: float = 5.0) -> None:
        """Close; tolerates twice and never-started. Publishes still waiting end as failures."""

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        """Declare exchanges, queues and bindings; remembered and repeated at each reconnect.

        Raises BrokerError that explains: 406 (queue exists with other arguments), 403 (no permission), unreachable.
        """

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        """Publish persistently with confirms. The future always ends within about `timeout` seconds and never raises:
        one entry a message, None where it is confirmed. While the connection is down or blocked messages wait unsent.
        A future that is cancelled is given up: what is not written yet never is.
        """

    def subscribe(
        self,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int,
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> Consumer:
        """Consume queues on one channel. `on_deliveries` gets all deliveries of one socket read as a list.

        `on_lost(channel)`: that channel is gone, its unacknowledged deliveries belong to the broker again; the
        subscription comes back by itself on a new channel, `on_ready(channel)`. A server-sent cancel counts as lost. A
        queue that does not exist is waited for: retried until it does.
        """

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Consumer]:
        """An exclusive queue of this process (no acknowledgements), bound to a fanout exchange if given.

        Returns its name (usable as reply_to) and the subscription. It keeps its name over reconnects.
        """

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        """(messages ready, consumers) of a queue, None when it does not exist. Raises BrokerError when unreachable."""

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        """Drop what is ready in a queue; the number dropped."""

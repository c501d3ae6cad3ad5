"""Defines what a broker must do. RabbitMQ (pika) and the broker in memory (kombu) implement it.

Nothing here depends on a client library. Callbacks run on the broker's I/O thread: they must be quick, must not block,
and must not call the blocking methods of the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from enum import Enum
from typing import NamedTuple, Protocol

from broker_jobs.broker.topology import Topology

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The bound that all limits of what travels assume: that of RabbitMQ 4, and of deploy/rabbitmq for older versions. It
closes the channel over a larger message."""


class Message(NamedTuple):
    """A message to publish: always persistent and confirmed, without headers, in the name of the connection's user.

    `expiration`: seconds after which the broker drops it from its queue.
    """

    exchange: str
    key: str
    body: bytes
    type: str = ""
    message_id: str = ""
    reply_to: str | None = None
    correlation_id: str | None = None
    expiration: float | None = None


class Delivery(NamedTuple):
    """A received message.

    (`channel`, `tag`) identify it for the acknowledgement. An acknowledgement for a lost channel is ignored.
    `user_id`: the broker's user that published it, where the publisher named it; the broker refuses a false one.
    `dead_lettered`: the broker has moved it here out of another queue. `expiration`: as it was published.
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
    user_id: str = ""
    dead_lettered: bool = False
    expiration: float | None = None


class Unconfirmed(Enum):
    """The two ways in which a publish can end without a confirm."""

    NOT_SENT = "not sent"
    """The broker certainly does not have it: it was never written, or returned as unroutable."""
    UNKNOWN = "unknown"
    """The broker may have it: no confirm in time, connection lost, or refused by one of several queues."""


class PublishFailure(NamedTuple):
    """Why a message has no confirm."""

    kind: Unconfirmed
    reason: str


class Consumer(Protocol):
    """A consumer of one or several queues on one channel. All methods are thread-safe and return at once."""

    @property
    def consuming(self) -> bool:
        """Whether deliveries may still arrive. True for a while after `cancel`, until the broker has cancelled."""
        ...

    @property
    def problem(self) -> str | None:
        """Why it does not consume one of its queues: a permission or the queue is missing. None: it does, or it is
        paused or not connected.
        """
        ...

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge one delivery, or with `multiple` all deliveries of the channel up to it."""

    def requeue(self, channel: int, tag: int) -> None:
        """Return a delivery to its queue."""

    def set_prefetch(self, count: int | Mapping[str, int]) -> None:
        """Change the number of unacknowledged deliveries allowed for each queue, or for those named (1..65535)."""

    def pause(self, queue: str, *, paused: bool) -> None:
        """Stop or resume consuming one queue; a resume may name a queue that was not consumed before.

        Deliveries received before a stop stay valid, and no longer count for the prefetch.
        """

    def has_stopped(self, queue: str) -> bool:
        """Whether the broker has stopped a paused queue, so that nothing of it comes any more."""
        ...

    def cancel(self) -> None:
        """Stop consuming. Received deliveries can still be acknowledged."""

    def close(self) -> None:
        """Cancel and close the channel. Unacknowledged deliveries return to their queues."""


def prefetch_by_queue(prefetch: int | Mapping[str, int], queues: Sequence[str]) -> dict[str, int]:
    """Queue -> its prefetch: one number for all queues, or one for each that is named."""
    return dict.fromkeys(queues, prefetch) if isinstance(prefetch, int) else dict(prefetch)


class Broker(Protocol):
    """A message broker, as one process uses it. Thread-safe. Reconnects by itself without limit, and logs it."""

    @property
    def connected(self) -> bool:
        """Whether both connections are open."""
        ...

    @property
    def problem(self) -> str | None:
        """Why it is not connected, in a few words; None: it is, or nothing was tried yet."""
        ...

    @property
    def reconnects(self) -> int:
        """Number of reconnects since the start."""
        ...

    @property
    def blocked(self) -> bool:
        """Whether the broker blocks publishing (an alarm)."""
        ...

    def start(self, timeout: float = 10.0) -> None:
        """Connect. A second call does nothing. Raises BrokerError (unreachable, wrong password, no such vhost)."""

    def stop(self, timeout: float = 5.0) -> None:
        """Close. Does nothing if not started. Publishes that still wait end as failures."""

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        """Declare exchanges, queues and bindings, now and after each reconnect.

        Raises BrokerError with the reason: 406 (queue exists with other arguments), 403 (no permission), unreachable.
        """

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        """Publish persistent messages with confirms.

        The future ends within about `timeout` seconds and never raises. Its result has one entry per message, None if
        it is confirmed. While the connection is lost or blocked, messages wait unsent. Cancelling the future drops the
        messages that are not written yet.
        """
        ...

    def subscribe(
        self,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int | Mapping[str, int],
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> Consumer:
        """Consume queues on one channel. `on_deliveries` receives all deliveries of one socket read as a list.

        `prefetch`: of each queue, or by queue (1..65535).

        `on_lost(channel)`: the channel is lost, and its unacknowledged deliveries are back in their queues. The
        consumer opens a new channel by itself and calls `on_ready(channel)`. A cancel by the server counts as a loss.
        A queue that does not exist is tried again until it does.
        """
        ...

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Consumer]:
        """Consume an exclusive queue of this process without acknowledgements, bound to a fanout exchange if given.

        Returns its name, which can be used as reply_to, and the consumer. It keeps its name after a reconnect.
        """
        ...

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        """Return (ready messages, consumers) of a queue, or None if it does not exist."""
        ...

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        """Delete the ready messages of a queue. Returns their number."""
        ...

"""A broker for tests: it routes messages into queues like the real one, and delivers only when the test asks.

It uses the real codec and the real topology. It has no threads: a publish is confirmed before it returns, and a message
stays in its queue until it is taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.routing import Routes
from broker_jobs.broker.topology import Topology, fixed_topology, work_topology
from broker_jobs.messages import codec


class ManualBroker:
    """A `Broker` for one thread. `on_published` is called after each publish."""

    def __init__(self) -> None:
        self.connected = True
        self.problem: str | None = None
        self.blocked = False
        self.reconnects = 0
        self.published: list[Message] = []
        """All messages that producers and coordinators have published, in order."""
        self.on_published: Callable[[Message], None] = _nothing
        self._routes = Routes()
        self._queues: dict[str, deque[Delivery]] = {}
        self._private: dict[str, Callable[[list[Delivery]], None]] = {}
        self._tags = 0
        self.apply(fixed_topology())

    def start(self, timeout: float = 10.0) -> None:
        """Do nothing: there is no connection."""

    def stop(self, timeout: float = 5.0) -> None:
        """Do nothing: there is no connection."""

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        """Declare exchanges, queues and bindings."""
        del timeout
        for spec in self._routes.declare(topology):
            self._queues[spec.name] = deque()

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        """Route the messages, and confirm them at once."""
        del timeout
        done: Future[list[PublishFailure | None]] = Future()
        done.set_result([self._publish(message) for message in messages])
        for message in messages:
            self.on_published(message)
        return done

    def _publish(self, message: Message) -> PublishFailure | None:
        self.published.append(message)
        if message.exchange in (names.SUBMIT, names.WORK):
            self.apply(work_topology(codec.decode(message.body).queue))
        if message.exchange == "" and message.key in self._private:
            self._private[message.key]([self.delivery(message, message.key)])
            return None
        reached = self._routes.queues_for(message.exchange, message.key)
        for queue in reached:
            if not queue.startswith(f"{names.DELAY}."):  # the Tester goes by the times in the store
                self._queues[queue].append(self.delivery(message, queue))
        return (
            None
            if reached or message.exchange == names.CONTROL
            else PublishFailure(Unconfirmed.NOT_SENT, "no such queue")
        )

    def delivery(self, message: Message, queue: str) -> Delivery:
        """The delivery of a message from a queue."""
        self._tags += 1
        return Delivery(
            channel=1, tag=self._tags, queue=queue, body=message.body, redelivered=False, exchange=message.exchange,
            key=message.key, type=message.type, message_id=message.message_id, reply_to=message.reply_to,
            correlation_id=message.correlation_id, delivery_count=0, user_id="tester",
        )  # fmt: skip

    def take(self, queue: str) -> list[Delivery]:
        """Remove and return all messages of a queue."""
        waiting = self._queues.get(queue)
        if not waiting:
            return []
        received = list(waiting)
        waiting.clear()
        return received

    def take_first(self, paused: frozenset[str]) -> Delivery | None:
        """Remove and return the next message for a worker; None if there is none.

        Of each queue that is not paused, the oldest message of the highest priority; of those, the oldest.
        """
        heads: dict[str, deque[Delivery]] = {}
        for name, waiting in self._queues.items():  # a queue's work queues stand in the order of their priority
            if waiting and name.startswith(names.work_queue("")) and names.queue_of(name) not in paused:
                heads.setdefault(names.queue_of(name), waiting)
        return min(heads.values(), key=lambda waiting: waiting[0].tag).popleft() if heads else None

    def subscribe(
        self,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int | Mapping[str, int],
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> Consumer:
        """Not supported: the Tester takes messages itself."""
        raise NotImplementedError("a ManualBroker has no consumers: take messages with take()")

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Consumer]:
        """A private queue; each message is delivered inside its publish."""
        del bind_to
        name = names.new_reply_queue()
        self._private[name] = on_deliveries
        if on_ready is not None:
            on_ready(1)
        return name, _ManualConsumer()

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        """(messages, 0) of a queue; None if it does not exist."""
        del timeout
        return (len(self._queues[queue]), 0) if queue in self._queues else None

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        """Remove all messages of a queue; the number of them."""
        del timeout
        return len(self.take(queue))


class _ManualConsumer:
    """The consumer of a private queue. All methods do nothing."""

    @property
    def consuming(self) -> bool:
        """It takes no messages from work queues."""
        return False

    @property
    def problem(self) -> str | None:
        """None: it has no queue that could be missing."""
        return None

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        """Do nothing: private deliveries are not acknowledged."""

    def requeue(self, channel: int, tag: int) -> None:
        """Do nothing: private deliveries are not requeued."""

    def set_prefetch(self, count: int | Mapping[str, int]) -> None:
        """Do nothing: there is no prefetch."""

    def pause(self, queue: str, *, paused: bool) -> None:
        """Do nothing: it consumes from no queue that could be paused."""

    def has_stopped(self, queue: str) -> bool:
        """True: nothing comes of any queue."""
        del queue
        return True

    def cancel(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: there is no connection."""


def _nothing(message: Message) -> None:
    del message

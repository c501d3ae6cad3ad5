"""A broker that stands still: it routes and keeps messages as the real one, and moves only when it is told to.

Bytes go through the real codec and the real topology. There are no threads: a publish is confirmed before it returns,
and what reached a queue stays there until somebody takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.routing import Routes
from broker_jobs.broker.topology import Topology, fixed_topology, work_topology
from broker_jobs.messages import codec


class ManualBroker:
    """A `Broker` for one thread; `taken_over` is called after each publish."""

    def __init__(self) -> None:
        self.connected = True
        self.blocked = False
        self.reconnects = 0
        self.published: list[Message] = []
        """What producers and coordinators have published, in order."""
        self.taken_over: Callable[[Message], None] = _nothing
        self._routes = Routes()
        self._queues: dict[str, deque[Delivery]] = {}
        self._private: dict[str, Callable[[list[Delivery]], None]] = {}
        self._tags = 0
        self.apply(fixed_topology())

    def start(self, timeout: float = 10.0) -> None:
        """Nothing is to be connected."""

    def stop(self, timeout: float = 5.0) -> None:
        """Nothing is to be closed."""

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        """Declare exchanges, queues and bindings."""
        del timeout
        for spec in self._routes.declare(topology):
            self._queues[spec.name] = deque()

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        """Route the messages; confirmed at once."""
        del timeout
        done: Future[list[PublishFailure | None]] = Future()
        done.set_result([self._publish(message) for message in messages])
        for message in messages:
            self.taken_over(message)
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
            if not queue.startswith(names.delay_queue(0)[:-2]):  # the delay queues: here the row's time decides alone
                self._queues[queue].append(self.delivery(message, queue))
        return (
            None
            if reached or message.exchange == names.CONTROL
            else PublishFailure(Unconfirmed.NOT_SENT, "no such queue")
        )

    def delivery(self, message: Message, queue: str) -> Delivery:
        """A message as it stands in a queue."""
        self._tags += 1
        return Delivery(
            channel=1, tag=self._tags, queue=queue, body=message.body, redelivered=False, exchange=message.exchange,
            key=message.key, type=message.type, message_id=message.message_id, reply_to=message.reply_to,
            correlation_id=message.correlation_id, delivery_count=0,
        )  # fmt: skip

    def take(self, queue: str) -> list[Delivery]:
        """All that waits in a queue; it is empty then."""
        waiting = self._queues.get(queue)
        if not waiting:
            return []
        received = list(waiting)
        waiting.clear()
        return received

    def first_ready(self, paused: frozenset[str]) -> Delivery | None:
        """The next delivery of the work queues that are not paused, the one that was published first."""
        work = [(name, queue) for name, queue in self._queues.items() if name.startswith(names.work_queue(""))]
        heads = [queue for name, queue in work if queue and names.queue_of(name) not in paused]
        return min(heads, key=lambda queue: queue[0].tag).popleft() if heads else None

    def subscribe(
        self,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int,
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> Consumer:
        """Nobody consumes here: the tester takes."""
        raise NotImplementedError("a still exchange is stepped, not subscribed to")

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Consumer]:
        """A private queue whose deliveries are handed over while they are published."""
        del bind_to
        name = f"jobs.v1.reply.{len(self._private)}"
        self._private[name] = on_deliveries
        if on_ready is not None:
            on_ready(1)
        return name, _ManualConsumer()

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        """(messages, 0) of a queue, None when it does not exist."""
        del timeout
        return (len(self._queues[queue]), 0) if queue in self._queues else None

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        """Drop what waits in a queue."""
        del timeout
        return len(self.take(queue))


class _ManualConsumer:
    """The subscription of a private queue: there is nothing to acknowledge."""

    @property
    def consuming(self) -> bool:
        """Nothing comes by itself."""
        return False

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        """Private deliveries are not acknowledged."""

    def requeue(self, channel: int, tag: int) -> None:
        """Private deliveries do not come back."""

    def set_prefetch(self, count: int) -> None:
        """There is no prefetch."""

    def pause(self, queue: str, *, paused: bool) -> None:
        """Nothing flows."""

    def cancel(self) -> None:
        """Nothing is to be cancelled."""

    def close(self) -> None:
        """Nothing is to be closed."""


def _nothing(message: Message) -> None:
    del message

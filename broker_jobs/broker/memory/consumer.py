"""A consumer of the broker in memory: deliveries, acknowledgements, and recovery after a loss."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from broker_jobs.broker.interface import Delivery, PublishFailure, prefetch_by_queue
from broker_jobs.broker.memory.io_thread import run_safely
from broker_jobs.broker.memory.transport import QueuedMessage
from broker_jobs.clock import Clock

if TYPE_CHECKING:
    from broker_jobs.broker.memory.server import MemoryServer


class MemoryConnection:
    """The connection of a `MemoryBroker` to its server: whether it is up, and the failures requested by a test."""

    def __init__(self, clock: Clock, user: str = "") -> None:
        self.user = user
        self.clock = clock
        self.up = True
        self.reconnects = 0
        self.closed = False
        self.failures: deque[tuple[PublishFailure, bool]] = deque()

    def next_failure(self) -> tuple[PublishFailure | None, bool]:
        """Return the failure of the next message, and whether it reaches its queues."""
        return self.failures.popleft() if self.failures else (None, True)


class MemoryConsumer:
    """Consumes some queues. The methods of the interface are for any thread; the others run in the I/O thread."""

    def __init__(
        self,
        connection: MemoryConnection,
        server: MemoryServer,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int | Mapping[str, int] | None,
        bind_to: str | None = None,
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> None:
        self.connection = connection
        self.queues = tuple(queues)
        self._on_deliveries = on_deliveries
        self.private = prefetch is None
        """Whether its queue is exclusive and without acknowledgements."""
        self.bind_to = bind_to
        self.paused: set[str] = set()
        self._server = server
        self._prefetch = {} if prefetch is None else prefetch_by_queue(prefetch, self.queues)
        self._on_lost = on_lost
        self._on_ready = on_ready
        self._channel = 0  # 0: no channel
        self._tags = itertools.count(1)
        self._unacknowledged: dict[int, tuple[str, QueuedMessage]] = {}  # by tag, oldest first
        self._counted: dict[str, set[int]] = {queue: set() for queue in self.queues}
        """Queue -> the tags that count for its prefetch: of what came since it was last paused."""
        self._cancelled = False

    # --- for any thread ---

    @property
    def consuming(self) -> bool:
        """Whether deliveries may still arrive."""
        return not self._cancelled

    @property
    def problem(self) -> str | None:
        """Why it does not consume one of its queues, which exist as soon as they are declared."""
        missing = [] if self._cancelled else self._server.missing(self.queues)
        return f"queue {missing[0]} does not exist; declare it" if missing else None

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge one delivery, or with `multiple` all deliveries of the channel up to it."""
        self._server.thread.call_soon(partial(self._ack, channel, tag, multiple))

    def requeue(self, channel: int, tag: int) -> None:
        """Return a delivery to the front of its queue."""
        self._server.thread.call_soon(partial(self._requeue, channel, tag))

    def set_prefetch(self, count: int | Mapping[str, int]) -> None:
        """Change the number of unacknowledged deliveries allowed for each queue, or for those named (1..65535)."""
        self._server.thread.call_soon(partial(self._set_prefetch, count))

    def pause(self, queue: str, *, paused: bool) -> None:
        """Stop or resume consuming one queue, also one that was not consumed before; see `Consumer.pause`."""
        self._server.thread.call_soon(partial(self._pause, queue, paused))

    def has_stopped(self, queue: str) -> bool:
        """Whether a paused queue is not consumed any more."""
        return queue in self.paused

    def cancel(self) -> None:
        """Stop consuming. Received deliveries can still be acknowledged."""
        self._server.thread.call_soon(self._cancel)

    def close(self) -> None:
        """Cancel and close the channel. Unacknowledged deliveries return to their queues."""
        self._server.thread.call_soon(self.close_now)

    # --- in the I/O thread ---

    @property
    def wants_to_consume(self) -> bool:
        return not self._cancelled and self.connection.up

    def has_room(self, queue: str) -> bool:
        return self.private or len(self._counted[queue]) < self._prefetch[queue]

    def now(self) -> float:
        return self.connection.clock.monotonic()

    def deliver(self, queue: str, queued: QueuedMessage) -> Delivery:
        tag = next(self._tags)
        if not self.private:
            self._unacknowledged[tag] = (queue, queued)
            self._counted[queue].add(tag)
        message, returns = queued.message, queued.returns
        return Delivery(
            self._channel,
            tag,
            queue,
            message.body,
            returns > 0,
            message.exchange,
            message.key,
            message.type,
            message.message_id,
            message.reply_to,
            message.correlation_id,
            returns,
            queued.user_id,
            queued.dead_lettered,
            message.expiration,
        )

    def receive(self, deliveries: list[Delivery]) -> None:
        """Pass on deliveries as one list."""
        self._on_deliveries(deliveries)

    def became_ready(self, channels: itertools.count[int]) -> None:
        """Call `on_ready` when the first of its queues is consumed, once per channel."""
        if self._channel == 0:
            self._channel = next(channels)
            self._tags = itertools.count(1)
            if self._on_ready is not None:
                run_safely(partial(self._on_ready, self._channel))

    def take_unacknowledged(self) -> list[tuple[str, QueuedMessage]]:
        unacknowledged, self._unacknowledged = list(self._unacknowledged.values()), {}
        self._counted = {queue: set() for queue in self.queues}
        return unacknowledged

    def lose(self) -> None:
        """The connection is lost. The consumer stays and continues after a reconnect."""
        channel, self._channel = self._channel, 0
        self._server.drop(self, for_good=False)
        if channel and self._on_lost is not None:
            run_safely(partial(self._on_lost, channel))

    def close_now(self) -> None:
        self._cancelled = True
        self._channel = 0
        self._server.drop(self, for_good=True)

    def _ack(self, channel: int, tag: int, multiple: bool) -> None:
        if channel != self._channel:
            return
        tags = list(itertools.takewhile(lambda each: each <= tag, self._unacknowledged)) if multiple else [tag]
        for each in tags:
            if (entry := self._unacknowledged.pop(each, None)) is not None:
                self._counted[entry[0]].discard(each)
        self._server.wake(self.queues)

    def _requeue(self, channel: int, tag: int) -> None:
        if channel == self._channel and (entry := self._unacknowledged.pop(tag, None)) is not None:
            self._counted[entry[0]].discard(tag)
            self._server.return_message(*entry)

    def _set_prefetch(self, count: int | Mapping[str, int]) -> None:
        if not self.private:
            self._prefetch |= prefetch_by_queue(count, self.queues)
            self._server.wake(self.queues)

    def _pause(self, queue: str, paused: bool) -> None:
        if queue not in self.queues:
            self.queues = (*self.queues, queue)
            self._counted[queue] = set()
        if paused:
            self.paused.add(queue)
            self._counted[queue].clear()
            self._server.detach(self, [queue])
        else:
            self.paused.discard(queue)
            self._server.attach(self)

    def _cancel(self) -> None:
        self._cancelled = True
        self._server.detach(self, self.queues)

"""A consumer of the embedded broker: what is out there, how it is acknowledged, how it is lost and comes back."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from broker_jobs.broker.interface import Delivery, PublishFailure
from broker_jobs.broker.memory.io_thread import guarded
from broker_jobs.broker.memory.queue import QueuedMessage
from broker_jobs.clock import Clock

if TYPE_CHECKING:
    from broker_jobs.broker.memory.server import MemoryServer


class MemoryConnection:
    """One exchange's connection to its broker: up or not, closed for good, and the failures a test has ordered."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.up = True
        self.reconnects = 0
        self.closed = False
        self.failures: deque[tuple[PublishFailure, bool]] = deque()

    def next_failure(self) -> tuple[PublishFailure | None, bool]:
        """How the next message fails, and whether it is taken over although it does."""
        return self.failures.popleft() if self.failures else (None, True)


class MemoryConsumer:
    """A consumer of some queues. The methods of the port are for any thread; the rest runs on the I/O thread."""

    def __init__(
        self,
        link: MemoryConnection,
        broker: MemoryServer,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int | None,
        bind_to: str | None = None,
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> None:
        self.link = link
        self.queues = tuple(queues)
        self._on_deliveries = on_deliveries
        self.private = prefetch is None
        """An exclusive queue without acknowledgements."""
        self.bind_to = bind_to
        self.paused: set[str] = set()
        self._broker = broker
        self._prefetch = prefetch
        self._on_lost = on_lost
        self._on_ready = on_ready
        self._channel = 0  # 0: none
        self._tags = itertools.count(1)
        self._unsettled: dict[int, tuple[str, QueuedMessage]] = {}  # by tag, so oldest first
        self._out = dict.fromkeys(self.queues, 0)
        self._cancelled = False

    # --- for any thread ---

    @property
    def consuming(self) -> bool:
        """Whether deliveries may still come."""
        return not self._cancelled

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        """Acknowledge one delivery, or with `multiple` all of the channel up to it."""
        self._broker.thread.call(partial(self._ack, channel, tag, multiple))

    def requeue(self, channel: int, tag: int) -> None:
        """Give a delivery back to the front of its queue."""
        self._broker.thread.call(partial(self._requeue, channel, tag))

    def set_prefetch(self, count: int) -> None:
        """Change how many unacknowledged deliveries each queue may have out here (1..65535)."""
        self._broker.thread.call(partial(self._set_prefetch, count))

    def pause(self, queue: str, *, paused: bool) -> None:
        """Stop or resume taking deliveries of one queue; what is out stays out."""
        self._broker.thread.call(partial(self._pause, queue, paused))

    def cancel(self) -> None:
        """Take no more deliveries; what is out can still be acknowledged."""
        self._broker.thread.call(self._cancel)

    def close(self) -> None:
        """Cancel and close the channel; what is unacknowledged goes back to its queue."""
        self._broker.thread.call(self.close_now)

    # --- on the I/O thread ---

    @property
    def wants_to_consume(self) -> bool:
        return not self._cancelled and self.link.up

    def has_room(self, queue: str) -> bool:
        return self._prefetch is None or self._out[queue] < self._prefetch

    def deliver(self, queue: str, held: QueuedMessage) -> Delivery:
        tag = next(self._tags)
        if not self.private:
            self._unsettled[tag] = (queue, held)
            self._out[queue] += 1
        message, returns = held
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
        )

    def receive(self, deliveries: list[Delivery]) -> None:
        """Hand over what was put out, as one list."""
        self._on_deliveries(deliveries)

    def became_ready(self, channels: itertools.count[int]) -> None:
        """The first of its queues is consumed: tell, once for each channel."""
        if self._channel == 0:
            self._channel = next(channels)
            self._tags = itertools.count(1)
            if self._on_ready is not None:
                guarded(partial(self._on_ready, self._channel))

    def take_unsettled(self) -> list[tuple[str, QueuedMessage]]:
        unsettled, self._unsettled = list(self._unsettled.values()), {}
        self._out = dict.fromkeys(self.queues, 0)
        return unsettled

    def lose(self) -> None:
        """The connection is gone; the subscription is not."""
        channel, self._channel = self._channel, 0
        self._broker.drop(self, for_good=False)
        if channel and self._on_lost is not None:
            guarded(partial(self._on_lost, channel))

    def close_now(self) -> None:
        self._cancelled = True
        self._channel = 0
        self._broker.drop(self, for_good=True)

    def _ack(self, channel: int, tag: int, multiple: bool) -> None:
        if channel != self._channel:
            return
        tags = list(itertools.takewhile(lambda each: each <= tag, self._unsettled)) if multiple else [tag]
        for each in tags:
            if (settled := self._unsettled.pop(each, None)) is not None:
                self._out[settled[0]] -= 1
        self._broker.wake(self.queues)

    def _requeue(self, channel: int, tag: int) -> None:
        if channel == self._channel and (settled := self._unsettled.pop(tag, None)) is not None:
            self._out[settled[0]] -= 1
            self._broker.give_back(*settled)

    def _set_prefetch(self, count: int) -> None:
        if not self.private:
            self._prefetch = count
            self._broker.wake(self.queues)

    def _pause(self, queue: str, paused: bool) -> None:
        if queue not in self.queues:
            return
        if paused:
            self.paused.add(queue)
            self._broker.detach(self, [queue])
        else:
            self.paused.discard(queue)
            self._broker.attach(self)

    def _cancel(self) -> None:
        self._cancelled = True
        self._broker.detach(self, self.queues)

"""Acknowledges deliveries: the one place that does, and only after what must come first was confirmed.

Acknowledgements go as one `multiple` up to the highest unbroken tag of a channel; a tag beyond a gap (a long job holds
the tags before it open) goes singly when it has waited 100 ms, or when half of what its work queue may have out is
done, as the broker delivers no more of that queue until then. Tags of a lost channel are forgotten: their deliveries
belong to the broker again.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from broker_jobs.broker.interface import Consumer, Delivery
from broker_jobs.clock import Clock
from broker_jobs.consumer.event_sender import DeliveryTag

GAP_SECONDS = 0.1


class _Channel:
    """What is unacknowledged on one channel; tags grow, so the first key is the lowest."""

    __slots__ = ("done", "open")

    def __init__(self) -> None:
        self.open: dict[int, str] = {}
        """Tags, and the work queue of each."""
        self.done: dict[int, tuple[float, str]] = {}
        """Tags that may be acknowledged, since when (monotonic), and the work queue of each."""


class Acknowledger:
    """Knows every delivery that is not acknowledged; thread-safe."""

    def __init__(self, clock: Clock, prefetch: Callable[[], int] | None = None) -> None:
        self._clock = clock
        self._prefetch = prefetch
        self._lock = threading.Lock()
        self._channels: dict[int, _Channel] = {}
        self._subscription: Consumer | None = None
        self._out: Counter[str] = Counter()
        """Deliveries of each work queue that are not acknowledged."""
        self._done: Counter[str] = Counter()
        """Those of them that may be."""
        self._freed_at: dict[str, float] = {}

    def use(self, subscription: Consumer) -> None:
        """Acknowledge through this subscription from now on."""
        with self._lock:
            self._subscription = subscription
            self._acknowledge_all(beyond_gaps=False)

    def took(self, deliveries: Sequence[Delivery]) -> None:
        """Deliveries came in; called before anything else is done with them."""
        with self._lock:
            for delivery in deliveries:
                channel = self._channels.get(delivery.channel)
                if channel is None:
                    channel = self._channels[delivery.channel] = _Channel()
                channel.open[delivery.tag] = delivery.queue
                if delivery.queue not in self._out:  # the first of several, maybe
                    self._freed_at[delivery.queue] = self._clock.monotonic()
                self._out[delivery.queue] += 1

    def acknowledge(self, places: Iterable[DeliveryTag]) -> None:
        """What must come before has been confirmed: acknowledge. Twice, or on a lost channel, does nothing."""
        now = self._clock.monotonic()
        queues: set[str] = set()
        with self._lock:
            for place in places:
                channel = self._channels.get(place.channel)
                if channel is not None and place.tag in channel.open:
                    queue = channel.open.pop(place.tag)
                    channel.done[place.tag] = now, queue
                    self._done[queue] += 1
                    queues.add(queue)
            self._acknowledge_all(beyond_gaps=False)
            for queue in queues:
                if self._done[queue] and self.is_full(queue) and 2 * self._done[queue] >= self._out[queue]:
                    self._acknowledge_singly(queue)

    def look(self) -> None:
        """Acknowledge singly what has waited beyond a gap. Called a few times a second."""
        with self._lock:
            self._acknowledge_all(beyond_gaps=True)

    def acknowledge_rest(self) -> None:
        """Acknowledge at once whatever may be, beyond gaps too; at the end."""
        with self._lock:
            self._acknowledge_all(beyond_gaps=True, gap_seconds=0.0)

    def lost(self, channel: int) -> None:
        """The channel is gone: forget its tags."""
        with self._lock:
            lost = self._channels.pop(channel, None)
            if lost is not None:
                done = [queue for _, queue in lost.done.values()]
                self._out.subtract([*lost.open.values(), *done])
                self._done.subtract(done)

    def has_had(self, work_queue: str) -> bool:
        """Whether something of a work queue was delivered."""
        return work_queue in self._out

    def is_full(self, work_queue: str) -> bool:
        """Whether the broker may have more of a work queue, which it delivers when something is acknowledged."""
        return self._prefetch is not None and self._out[work_queue] >= self._prefetch()

    def freed_at(self, work_queue: str) -> float | None:
        """When the broker was last given room for more of a work queue than it could deliver at once (monotonic)."""
        return self._freed_at.get(work_queue)

    def is_open(self, place: DeliveryTag) -> bool:
        """Whether the delivery is still ours to acknowledge."""
        channel = self._channels.get(place.channel)
        return channel is not None and place.tag in channel.open

    @property
    def unacknowledged(self) -> int:
        """How many deliveries are not acknowledged."""
        with self._lock:
            return sum(len(channel.open) + len(channel.done) for channel in self._channels.values())

    def _acknowledge_all(self, *, beyond_gaps: bool, gap_seconds: float = GAP_SECONDS) -> None:
        subscription = self._subscription
        if subscription is None:
            return
        for number, channel in self._channels.items():
            if not channel.done:
                continue
            gap = next(iter(channel.open), None)
            unbroken = list(channel.done) if gap is None else [tag for tag in channel.done if tag < gap]
            if unbroken:
                subscription.ack(number, max(unbroken), multiple=True)
                self._acknowledged(channel, unbroken)
            if beyond_gaps and channel.done:
                old = self._clock.monotonic() - gap_seconds
                beyond = [tag for tag, (since, _) in channel.done.items() if since <= old]
                for tag in beyond:
                    subscription.ack(number, tag)
                self._acknowledged(channel, beyond)

    def _acknowledge_singly(self, queue: str) -> None:
        if self._subscription is None:
            return
        for number, channel in self._channels.items():
            tags = [tag for tag, (_, of) in channel.done.items() if of == queue]
            for tag in tags:
                self._subscription.ack(number, tag)
            self._acknowledged(channel, tags)

    def _acknowledged(self, channel: _Channel, tags: Sequence[int]) -> None:
        queues = Counter([channel.done.pop(tag)[1] for tag in tags])
        full = [queue for queue in queues if self.is_full(queue)]
        self._out.subtract(queues)
        self._done.subtract(queues)
        if full:
            self._freed_at.update(dict.fromkeys(full, self._clock.monotonic()))

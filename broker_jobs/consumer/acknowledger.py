"""Acknowledges deliveries: the one place that does, and only after what must come first was confirmed.

Acknowledgements go as one `multiple` up to the highest unbroken tag of a channel; a tag beyond a gap (a long job holds
the tags before it open) goes singly: at once where few are out, else when it has waited 100 ms. Tags of a lost channel
are forgotten: their deliveries belong to the broker again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from broker_jobs.broker.interface import Consumer, Delivery
from broker_jobs.clock import Clock
from broker_jobs.consumer.event_sender import DeliveryTag

GAP_SECONDS = 0.1
FEW_OPEN = 64
"""While no more are out on a channel, none waits beyond a gap: each acknowledgement lets the next delivery in."""


class _Channel:
    """What is unacknowledged on one channel; tags grow, so the first key is the lowest."""

    __slots__ = ("done", "open")

    def __init__(self) -> None:
        self.open: dict[int, None] = {}
        self.done: dict[int, float] = {}
        """Tags that may be acknowledged, and since when (monotonic)."""


class Acknowledger:
    """Knows every delivery that is not acknowledged; thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._channels: dict[int, _Channel] = {}
        self._subscription: Consumer | None = None

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
                channel.open[delivery.tag] = None

    def acknowledge(self, places: Iterable[DeliveryTag]) -> None:
        """What must come before has been confirmed: acknowledge. Twice, or on a lost channel, does nothing."""
        now = self._clock.monotonic()
        with self._lock:
            for place in places:
                channel = self._channels.get(place.channel)
                if channel is not None and place.tag in channel.open:
                    del channel.open[place.tag]
                    channel.done[place.tag] = now
            self._acknowledge_all(beyond_gaps=False)

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
            self._channels.pop(channel, None)

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
                for tag in unbroken:
                    del channel.done[tag]
            few = len(channel.open) <= FEW_OPEN
            if channel.done and (few or beyond_gaps):
                old = self._clock.monotonic() - (0.0 if few else gap_seconds)
                for tag in [tag for tag, since in channel.done.items() if since <= old]:
                    subscription.ack(number, tag)
                    del channel.done[tag]

"""Holds the copies of plain jobs for a moment, as most of them end in it: then copy and success are written at once.

A row written once costs half of one that is written twice, and so does the transaction around it. A copy is held until
anything else is read of its job, until something is read that must see all jobs, or for `HOLD_SECONDS`. Meanwhile it
is not acknowledged, so a coordinator that ends loses nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from broker_jobs.coordinator.inputs import HeartbeatReceived, QueuedInput, SupervisedReceived
from broker_jobs.coordinator.named_jobs import named
from broker_jobs.coordinator.records import FromWorker, ReadyCopy

HOLD_SECONDS = 0.25
MOST_HELD = 1_000
"""Half of what the broker sends unacknowledged, so that the log goes on."""
MOST_HELD_BYTES = 16 * 1024 * 1024


class _Held(NamedTuple):
    piece: QueuedInput
    until: float
    size: int


class HeldCopies:
    """The copies that are held, the oldest first. Coordinator's thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._held: OrderedDict[str, _Held] = OrderedDict()
        """Ordered, as the oldest leaves most often: a dict then walks over the places of all that left before."""
        self._bytes = 0
        self._told: set[str] = set()
        """Jobs of which an event was among the last pieces: a copy that comes behind it is not held."""

    def next_at(self) -> float | None:
        """When the oldest copy has been held long enough, on the monotonic clock; None: none is held."""
        return next(iter(self._held.values())).until if self._held else None

    def place(self) -> tuple[int, int] | None:
        """Channel and tag of the oldest copy: what came before it may be acknowledged."""
        if not self._held:
            return None
        delivery = next(iter(self._held.values())).piece.delivery
        return None if delivery is None else (delivery.channel, delivery.tag)

    def hold(self, pieces: Iterable[QueuedInput]) -> list[QueuedInput]:
        """Hold the copies among these pieces of the log; what is to be decided now, in their order."""
        now: list[QueuedInput] = []
        for piece in pieces:
            one = piece.input
            if isinstance(one, ReadyCopy):
                now += self._release(one.envelope.id)
                if not one.envelope.has_conditions and one.envelope.id not in self._told:
                    self._held[one.envelope.id] = _Held(piece, self._monotonic() + HOLD_SECONDS, len(one.body))
                    self._bytes += len(one.body)
                    while len(self._held) > MOST_HELD or self._bytes > MOST_HELD_BYTES:
                        now += self._release(next(iter(self._held)))
                    continue
            elif isinstance(one, FromWorker):
                now += self._release(one.event.id)
                self._told.add(one.event.id)
            elif not isinstance(one, HeartbeatReceived | SupervisedReceived):
                ids = named(one)
                now += self.release_all() if not ids else [held for id in ids for held in self._release(id)]
            now.append(piece)
        return now

    def release_old(self) -> list[QueuedInput]:
        """Those that have been held long enough, when the next pieces are drawn."""
        self._told.clear()
        found: list[QueuedInput] = []
        now = self._monotonic()
        while self._held and next(iter(self._held.values())).until <= now:
            found += self._release(next(iter(self._held)))
        return found

    def release_all(self) -> list[QueuedInput]:
        """All of them."""
        self._told.clear()
        return [piece for id in list(self._held) for piece in self._release(id)]

    def lost(self, channel: int) -> None:
        """A channel is gone: what it delivered comes again."""
        gone = [id for id, held in self._held.items() if _is_of(held, channel)]
        for id in gone:
            self._release(id)

    def _release(self, id: str) -> list[QueuedInput]:
        held = self._held.pop(id, None)
        if held is None:
            return []
        self._bytes -= held.size
        return [held.piece]


def _is_of(held: _Held, channel: int) -> bool:
    return held.piece.delivery is not None and held.piece.delivery.channel == channel

"""Gathers what a coordinator has to decide next, the most urgent first: own records, commands, the log, due notices.

The broker's I/O thread puts lists of deliveries in; the coordinator's thread takes pieces out. A delivery is
acknowledged by `acknowledge` once its transaction is committed.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from queue import Empty, SimpleQueue

from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery
from broker_jobs.coordinator.held_copies import HeldCopies
from broker_jobs.coordinator.inputs import (
    CHECKPOINT,
    ChunkReceived,
    CommandReceived,
    Input,
    QueuedInput,
    Unreadable,
    read_command,
    read_dead_letter,
    read_due_notice,
    read_log,
)

MOST_DELIVERIES = 1_000
MOST_INPUTS = 4_000
"""A transaction is closed at so many log deliveries or inputs; the jobs of a batch's chunk count one by one."""
CHUNK_TYPE = "chunk"
GATHER_BELOW = 500
"""With as many log deliveries a transaction begins at once."""
DUE_NOTICES_BESIDE = 200
"""Due notices are taken along while fewer log deliveries than this wait: they are not on the critical path."""


ORIGINS = {names.LOG: "log", names.COMMAND: "command", names.DUE: "due"}
"""Where a dead letter came from, by queue; any other is "dead"."""
NO_USER_ID = "it does not name the user who sent it (property user_id), which BROKER_JOBS_REQUIRE_USER_ID asks for"


READERS: dict[str, Callable[[Delivery], list[Input]]] = {
    names.LOG: read_log,
    names.COMMAND: lambda delivery: [read_command(delivery)],
    names.DUE: lambda delivery: [read_due_notice(delivery)],
    names.DEAD_LETTERS: lambda delivery: [read_dead_letter(delivery)],
}
NOT_SUCCEEDED = (b'"kind":"failed"', b'"kind":"returned"', b'"kind":"interrupted"')
"""How such events begin. A text of a job may have these words too: then nothing is gathered, and no harm done."""
SUSPECT_DELIVERIES = 2
"""A message that was delivered so often before is decided alone: it may be the one that ended the coordinators."""


class InputQueue:
    """What waits to be decided. `put` from any thread, the rest from the coordinator's own."""

    def __init__(self, *, require_user_id: bool = False, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._require_user_id = require_user_id
        self._monotonic = monotonic
        self._until: dict[tuple[int, int], float] = {}
        """Commands that end, by delivery: the broker drops them no more, once they are here."""
        self._arrivals: SimpleQueue[tuple[str, list[Delivery]] | None] = SimpleQueue()
        self._waiting: dict[str, deque[Delivery]] = {
            queue: deque() for queue in (names.COMMAND, names.LOG, names.DEAD_LETTERS, names.DUE)
        }
        self._own: deque[Input] = deque()
        self._quiet: deque[Input] = deque()
        """Own records that can wait for the next transaction: each transaction costs a write to disk."""
        self._held = HeldCopies(monotonic)
        self._acknowledged: tuple[int, int] = (0, 0)
        """How far the log is acknowledged; a tag must not be acknowledged twice."""
        self._taken: dict[str, tuple[int, int]] = {}
        self._commands: list[tuple[int, int]] = []
        """Taken from the command queue, which are acknowledged one by one: the checkpoint among them is kept."""
        self._checkpoint: tuple[int, int] | None = None
        """The newest checkpoint. It is acknowledged when there is a newer one: the broker has it if we are killed."""
        self._after_suspect = False
        self._most = MOST_INPUTS
        self._members = 0
        """Jobs in the chunks of this transaction: one chunk is one input, and may be thousands of rows."""
        self._gone: set[int] = set()
        """Channels that are gone: what still comes of them comes again."""
        self._is_urgent = False
        """Something of the log may let a job go that waits for nothing else: it is not gathered."""

    def put(self, queue: str, deliveries: list[Delivery]) -> None:
        """Deliveries of a queue have come (the broker's I/O thread)."""
        for delivery in deliveries:
            if delivery.expiration is not None:
                self._until[delivery.channel, delivery.tag] = self._monotonic() + delivery.expiration
        self._arrivals.put((queue, deliveries))

    def wake(self) -> None:
        """Make `wait` return."""
        self._arrivals.put(None)

    def add(self, inputs: list[Input]) -> None:
        """Add own records (any thread)."""
        self._own.extend(inputs)
        self._arrivals.put(None)

    def add_quietly(self, inputs: list[Input]) -> None:
        """Add own records for the next transaction, at the latest the one of the next tick (any thread)."""
        self._quiet.extend(inputs)

    def wait(self, timeout: float, gather_seconds: float = 0.0) -> None:
        """Return when something is there to be decided, or after `timeout` seconds.

        Where that is a little of the log alone, wait for more of it, but no longer than `gather_seconds`.
        """
        until = self._monotonic() + min(gather_seconds, timeout)
        if self._own or any(self._waiting.values()):
            timeout = 0.0
        try:
            self._sort(self._arrivals.get(timeout=timeout) if timeout > 0 else self._arrivals.get_nowait())
            while True:
                self._sort(self._arrivals.get_nowait())
        except Empty:
            pass
        while gather_seconds > 0 and not self._is_urgent and (left := until - self._monotonic()) > 0:
            if self._own or not _is_a_little_log(self._waiting):
                return
            try:
                self._sort(self._arrivals.get(timeout=left))
            except Empty:
                return

    def _sort(self, arrival: tuple[str, list[Delivery]] | None) -> None:
        if arrival is None:
            return
        queue, deliveries = arrival
        if self._gone:
            deliveries = [delivery for delivery in deliveries if delivery.channel not in self._gone]
        self._waiting[queue].extend(deliveries)
        if queue == names.LOG and not self._is_urgent:
            self._is_urgent = any(map(_is_urgent, deliveries))

    def has_own(self) -> bool:
        """Whether own records wait."""
        return bool(self._own or self._quiet)

    def log_waits(self) -> int:
        """Log deliveries that are here and not yet decided."""
        return len(self._waiting[names.LOG])

    def held_until(self) -> float | None:
        """When a copy that is held has to be decided, on the monotonic clock; None: none is held."""
        return self._held.next_at()

    def take_held(self) -> list[QueuedInput]:
        """The copies that are held: they are to be decided now."""
        return self._held.release_all()

    def take(self, most: int = MOST_INPUTS) -> list[QueuedInput]:
        """The pieces of the next transaction: about `most`. Own records leave room for commands and the log."""
        asked = bool(self._waiting[names.COMMAND])
        pieces = self._held.release_all() if asked else self._held.release_old()
        self._most = most
        self._members = 0
        while self._own and len(pieces) < most * 3 // 4:
            pieces.append(QueuedInput(self._own.popleft(), None))
        while self._quiet and len(pieces) < most * 3 // 4:
            pieces.append(QueuedInput(self._quiet.popleft(), None))
        self._draw(names.COMMAND, MOST_DELIVERIES, pieces)
        self._draw(names.DEAD_LETTERS, DUE_NOTICES_BESIDE, pieces)
        self._draw(names.LOG, MOST_DELIVERIES, pieces)
        if self.log_waits() < DUE_NOTICES_BESIDE:
            self._draw(names.DUE, MOST_DELIVERIES, pieces)
        if asked:  # the answer is to know of the copies that were read with the question
            pieces += self._held.release_all()
        self._is_urgent = self._is_urgent and self.log_waits() > 0
        return pieces

    def take_suspect(self) -> Delivery | None:
        """A message that was delivered twice before, to be decided alone; at every second call, as others wait too."""
        self._after_suspect = not self._after_suspect
        if self._after_suspect:
            for queue, waiting in self._waiting.items():
                if waiting and waiting[0].delivery_count >= SUSPECT_DELIVERIES:
                    delivery = waiting.popleft()
                    self._take_note(queue, delivery)
                    return delivery
        return None

    def read(self, delivery: Delivery) -> list[QueuedInput]:
        """What a delivery says."""
        pieces: list[QueuedInput] = []
        self._read(delivery, READERS[delivery.queue], pieces)
        return pieces

    def _draw(self, queue: str, most: int, pieces: list[QueuedInput]) -> None:
        waiting = self._waiting[queue]
        for _ in range(min(most, len(waiting))):
            if len(pieces) + self._members >= self._most or waiting[0].delivery_count >= SUSPECT_DELIVERIES:
                return
            delivery = waiting.popleft()
            self._take_note(queue, delivery)
            read: list[QueuedInput] = []
            self._read(delivery, READERS[queue], read)
            pieces += self._held.hold(read) if queue == names.LOG else read

    def _read(self, delivery: Delivery, read: Callable[[Delivery], list[Input]], pieces: list[QueuedInput]) -> None:
        found = _read(read, delivery, require_user_id=self._require_user_id)
        until = self._until.pop((delivery.channel, delivery.tag), None) if delivery.expiration is not None else None
        if until is not None:
            found = [replace(one, until=until) if isinstance(one, CommandReceived) else one for one in found]
        if delivery.type == CHUNK_TYPE:
            self._members += sum(len(one.members) for one in found if isinstance(one, ChunkReceived))
        pieces += [QueuedInput(one, delivery) for one in found]

    def _take_note(self, queue: str, delivery: Delivery) -> None:
        place = (delivery.channel, delivery.tag)
        if queue != names.COMMAND:
            self._taken[queue] = place
        elif delivery.type != CHECKPOINT:
            self._commands.append(place)
        else:
            if self._checkpoint is not None:
                self._commands.append(self._checkpoint)
            self._checkpoint = place

    def lost(self, queue: str, channel: int) -> None:
        """A channel is gone; what it delivered and is not taken yet will come again (coordinator's thread)."""
        if queue == names.COMMAND and self._checkpoint is not None and self._checkpoint[0] == channel:
            self._checkpoint = None
        self._gone.add(channel)
        if queue == names.LOG:
            self._held.lost(channel)
        waiting = self._waiting[queue]
        self._waiting[queue] = deque(d for d in waiting if d.channel != channel)
        for delivery in waiting:
            if delivery.channel == channel:
                self._until.pop((channel, delivery.tag), None)

    def lost_all(self) -> None:
        """All channels were closed by us; what was delivered and is not taken yet will come again."""
        with contextlib.suppress(Empty):
            while True:
                self._sort(self._arrivals.get_nowait())
        for waiting in self._waiting.values():
            waiting.clear()
        self._held.release_all()
        self._taken.clear()
        self._commands.clear()
        self._checkpoint = None

    def acknowledge(self, subscriptions: dict[str, Consumer]) -> None:
        """Acknowledge all that was taken: its transaction is durable."""
        log = self._taken.pop(names.LOG, None)
        for queue, (channel, tag) in self._taken.items():
            subscription = subscriptions.get(queue)
            if subscription is not None:  # else it was closed meanwhile, and all of it comes again
                subscription.ack(channel, tag, multiple=True)
        self._taken.clear()
        if log is not None:
            self._acknowledge_log(subscriptions.get(names.LOG), *log)
        commands = subscriptions.get(names.COMMAND)
        for channel, tag in self._commands:
            if commands is not None:
                commands.ack(channel, tag)
        self._commands.clear()

    def _acknowledge_log(self, subscription: Consumer | None, channel: int, tag: int) -> None:
        """Acknowledge the log up to this delivery, or up to the first copy that is held."""
        first = self._held.place()
        until = tag
        if first is not None:
            self._taken[names.LOG] = (channel, tag)  # the rest, when no copy is held
            until = first[1] - 1 if first[0] == channel else 0
        acknowledged = self._acknowledged[1] if self._acknowledged[0] == channel else 0
        if subscription is not None and until > acknowledged:
            subscription.ack(channel, until, multiple=True)
            self._acknowledged = (channel, until)


def _is_a_little_log(waiting: dict[str, deque[Delivery]]) -> bool:
    others = (names.COMMAND, names.DEAD_LETTERS, names.DUE)
    return 0 < len(waiting[names.LOG]) < GATHER_BELOW and not any(map(waiting.get, others))


def _is_urgent(delivery: Delivery) -> bool:
    """Whether a delivery of the log may bring a release: a job with conditions, or a run that did not succeed."""
    return delivery.exchange == names.OFFER or any(map(delivery.body.__contains__, NOT_SUCCEEDED))


def _read(read: Callable[[Delivery], list[Input]], delivery: Delivery, *, require_user_id: bool = False) -> list[Input]:
    """The inputs in a delivery. An error in it must not end the thread that reads it."""
    origin = ORIGINS.get(delivery.queue, "dead")
    if require_user_id and not delivery.user_id:
        return [Unreadable(origin, NO_USER_ID, delivery)]
    try:
        return read(delivery)
    except Exception as error:  # noqa: BLE001  # as above
        return [Unreadable(origin, f"reading it raised {error!r}"[:2_000], delivery)]

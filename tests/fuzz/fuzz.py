"""Runs the fuzzer against one store, and says what it found."""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from unittest import mock

import psutil

from broker_jobs.broker.interface import Delivery
from broker_jobs.coordinator import rows
from broker_jobs.coordinator.input_queue import READERS, _read
from broker_jobs.coordinator.inputs import (
    ChunkReceived,
    CommandReceived,
    Input,
    Unreadable,
    alone,
)
from broker_jobs.coordinator.records import DueNotice, FromWorker, ReadyCopy, Repeat, WaitingCopy
from broker_jobs.messages.commands import (
    AcceptStore,
    BulkDelete,
    BulkRequeue,
)
from broker_jobs.messages.events import Failed, Interrupted, Returned, Started, Succeeded
from tests.fuzz.calm import CalmJobs
from tests.fuzz.deliveries import Messages
from tests.fuzz.room import Room
from tests.support.invariants import broken

CHECK_EVERY = 4_000
"""Bodies between two looks at everything."""
ENDS = 0.005
"""The part of the rounds before which the coordinator ends as if it were killed."""
MOST_SECONDS = 5.0
"""Processor time of a round of at most `HANDED` messages; a hundredth of it is usual."""
HANDED = 120
MOST_GROWTH = 400 * 1024 * 1024
"""Bytes by which this process may grow in a run on one store, which is on a disk."""

KEPT_SECONDS = 1e9
"""Jobs stay so long at least, whatever their own `keep` says: what became of a message is asked of its job."""
OF_LIARS = ("has no slot of", " s before it was due", ", which has ", " is held as unknown, ")
"""Rules that a worker or a producer breaks for its own jobs, when it says that they run."""


@dataclass
class Result:
    """What a run did and found."""

    findings: list[str] = field(default_factory=list)
    bodies: int = 0
    dead_letters: int = 0
    jobs: int = 0
    slowest: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)


def fuzz(url: str, seed: int | str, bodies: int, until: float | None = None) -> Result:
    """Hand over so many bodies, or fewer if `until` comes first (`time.monotonic`); stop at the first findings."""
    result = Result()
    room = Room(url)
    try:
        with mock.patch.object(rows, "LEAST_KEEP_SECONDS", KEPT_SECONDS):
            _Run(room, seed, result).run(bodies, until)
    finally:
        room.close()
    return result


class _Run:
    def __init__(self, room: Room, seed: int | str, result: Result) -> None:
        self._room = room
        self._result = result
        self._messages = Messages(seed)
        self._chance = random.Random(f"{seed} rounds")
        self._calm = CalmJobs(room)
        self._expected: list[tuple[list[Input], Delivery]] = []
        self._named: set[str] = set()
        """Dead letters that a command named: they may be gone."""

    def run(self, bodies: int, until: float | None) -> None:
        result = self._result
        gc.collect()
        before = psutil.Process().memory_info().rss
        next_check = CHECK_EVERY
        while True:
            self._hand()
            if result.bodies >= min(next_check, bodies):
                next_check = result.bodies + CHECK_EVERY
                self._check()
                grown = psutil.Process().memory_info().rss - before
                if grown > MOST_GROWTH:
                    result.findings.append(f"this process grew by {grown >> 20} MiB in {result.bodies} bodies")
            over = result.bodies >= bodies or (until is not None and time.monotonic() > until)
            if result.findings or over:
                if not result.findings:
                    self._check()
                return

    def _hand(self) -> None:
        """Some messages, and a round of the coordinator."""
        handed = []
        for _ in range(self._chance.randint(1, HANDED)):
            one = self._messages.next()
            read = _read(READERS[one.queue], one)
            if not is_for_all(read):
                handed.append(one)
                self._expected.append((read, one))
                self._result.kinds[one.type or "none"] += 1
        self._calm.heartbeat()
        self._room.hand(handed)
        if self._chance.random() < ENDS:
            self._room.restart()
        used = time.thread_time()
        self._room.round(self._chance.choice([0.01, 0.05, 0.3, 1.0]))
        used = time.thread_time() - used
        self._result.bodies += len(handed)
        self._result.slowest = max(self._result.slowest, used)
        if used > MOST_SECONDS:
            sizes = sorted((len(one.body), one.type) for one in handed)[-3:]
            self._result.findings.append(f"a round took {used:.1f} s of processor time; largest: {sizes}")
        self._gather()

    def _gather(self) -> None:
        room, found = self._room, self._result.findings
        for told in (room.noted.findings, room.broker.findings, room.fatal):
            found += told
            told.clear()
        if reason := room.healthy():
            if not room.restored:
                found.append(f"the coordinator is not healthy: {reason}")

    def _check(self) -> None:
        """Everything has come to rest: what must hold, holds."""
        room, found = self._room, self._result.findings
        room.come_to_rest()
        if self._chance.random() < 0.3:
            room.look_for_unknown_parents()
            room.come_to_rest()
        if self._chance.random() < 0.3:
            room.look_at_queues()
            room.come_to_rest()
        self._gather()
        if room.left():
            found.append(f"{room.left()} messages are not acknowledged")
        found += self._not_kept()
        found += self._calm.succeed(12)
        found += self._calm.touched()
        wrong = [one for one in broken(room.store) if not any(words in one for words in OF_LIARS)]
        found += [f"invariant: {sentence}" for sentence in wrong[:10]]
        self._gather()
        counts = room.store.reader.statistics.counts()
        self._result.jobs = sum(counts.values())
        self._result.dead_letters = room.store.reader.dead_letters.count()

    def _not_kept(self) -> list[str]:
        """Messages of which neither the effect is there nor a dead letter."""
        reader = self._room.store.reader
        with self._room.store.transaction() as tx:
            rows = set(tx.jobs.load({id for read, _ in self._expected for one in read for id in _jobs(one)}))
        found = []
        for read, delivery in self._expected:
            for one in read:
                if isinstance(one, Unreadable):
                    letter = one.id
                    if one.reason.startswith("reading it raised"):
                        found.append(f"{one.reason}: {delivery}"[:3_000])
                elif rows.issuperset(_jobs(one)):
                    continue
                else:
                    letter = Unreadable("log", "", alone(delivery, one)).id
                if letter not in self._named and reader.dead_letters.get(letter) is None:
                    found.append(f"neither applied nor kept: {one!r:.600} of {delivery!r:.600}")
        self._messages.dead_letters = [row.id for row in reader.dead_letters.oldest(limit=30)]
        self._named |= set(self._messages.dead_letters)
        self._expected.clear()
        return found


def _jobs(one: Input) -> set[str]:
    """The jobs that are in the store once this was applied."""
    match one:
        case ReadyCopy() | WaitingCopy() | Repeat() | DueNotice():
            return {one.envelope.id}
        case FromWorker(event=Started() | Succeeded() | Failed() | Returned() | Interrupted() as event):
            return {event.id}
        case ChunkReceived():
            return {member.envelope.id for member in one.members}
        case _:
            return set()


def is_for_all(read: list[Input]) -> bool:
    """Whether a message rightly touches jobs that it does not name: a command about all of them."""
    for one in read:
        match one:
            case CommandReceived(command=BulkDelete() | BulkRequeue() as command):
                given = command.filter
                if given.ids is None and given.queue is None:
                    return True
            case CommandReceived(command=AcceptStore()):
                return True
            case _:
                continue
    return False

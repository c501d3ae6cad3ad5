"""Judges in log time which workers and coordinators live, which jobs they no longer have, and which messages are lost.

A worker is dead 30 seconds of log time after its last record in the log: an outage of the store or of the broker counts
as one second, so it ends no lease. A message is lost by proof (transitions R12), never by its age.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

from broker_jobs.clock import Instant
from broker_jobs.coordinator.records import JobRecord, LeaseOver, ProvenLost, ReleaseUnknown, TimerDue
from broker_jobs.messages.envelope import id_created_at
from broker_jobs.messages.events import Heartbeat, WorkerRef
from broker_jobs.store.write import Transaction

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
VANISHED = "its worker vanished"
REPLACED = "its worker was replaced"
LEFT = "its worker stopped"
GONE_SECONDS = 10.0
"""A coordinator without a tick for so much log time is gone."""
MOST_COORDINATORS = 100
SHOWN_EVERY_SECONDS = 5.0
UNCONFIRMED_SECONDS = 60.0
"""A publish ends in ten seconds; an own release without a confirm after this long will have none."""
APART_SECONDS = 60.0
"""Log time between the two looks at an empty queue that prove a message lost."""
LOOK_TAKES_SECONDS = 10.0
"""The longest a look at a queue's depth takes."""
MOST_DEPTHS = 10_000
MOST_RECORDS = 2_000
"""Of one kind, from one look."""


@dataclass(slots=True)
class _Seen:
    at: float
    ref: WorkerRef | None = None
    said_at: Instant = 0.0
    """By the worker's clock: the newest of what it said of itself."""
    listed_at: Instant = 0.0
    """When it wrote the heartbeat whose list was compared last: one that comes again is not counted again."""
    missed: dict[str, int] = field(default_factory=dict)


class Leases:
    """When each worker was heard last, in log time."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._ended: dict[str, tuple[Instant, str]] = {}

    def begin(self, workers: list[str], log_now: float) -> None:
        """A new active coordinator gives every worker a whole lease to come back."""
        self._seen = {worker: _Seen(log_now) for worker in workers if worker}
        self._ended.clear()

    def heard(self, worker: str, log_now: float, ref: WorkerRef | None = None, said_at: Instant = 0.0) -> None:
        """A record of this worker was read from the log; `said_at` when it spoke of itself."""
        if not worker:
            return
        seen = self._seen.setdefault(worker, _Seen(log_now))
        seen.at = log_now
        seen.ref = ref or seen.ref
        seen.said_at = max(seen.said_at, said_at)
        ended_at, reason = self._ended.get(worker, (said_at, LEFT))
        if reason == REPLACED and said_at > ended_at:
            del self._ended[worker]  # it lives beside the worker that has its place

    def unlisted(self, worker: str, heartbeat: Heartbeat, processing: list[str]) -> list[str]:
        """The jobs this worker should run and has now failed to list for the second time."""
        seen = self._seen.setdefault(worker, _Seen(0.0))
        if heartbeat.at > seen.listed_at:
            seen.listed_at = heartbeat.at
            listed = {id for id, _ in heartbeat.running} | set(heartbeat.received)
            seen.missed = {id: seen.missed.get(id, 0) + 1 for id in processing if id not in listed}
        return [id for id, times in seen.missed.items() if times >= 2]

    def replaced(self, worker: WorkerRef, at: Instant) -> None:
        """A worker spoke from a place (host, slot), which another one may have held before it.

        The worker that held it before and has not spoken since is dead once the log has been read up to that moment. If
        it has spoken since the new one began (whose id says when), both live and share a place by mistake.
        """
        if not worker.slot:
            return
        began_at = min(id_created_at(worker.id) or at, at)
        for id, seen in self._seen.items():
            ref = seen.ref
            if ref is None or id == worker.id or seen.said_at >= began_at:
                continue
            if (ref.host, ref.slot) == (worker.host, worker.slot):
                self._ended.setdefault(id, (at, REPLACED))

    def leaving(self, worker: str, at: Instant) -> None:
        """A worker's last heartbeat: it no longer runs what it had."""
        self._ended[worker] = at, LEFT

    def dead(self, log_now: float, read_until: Instant) -> list[tuple[str, str]]:
        """(worker, reason) of those whose lease is over; each is named once.

        `read_until` is the sent_at of the newest tick read: all that was sent before it has been read.
        """
        ended = {id: reason for id, (at, reason) in self._ended.items() if at < read_until}
        over = [
            (id, VANISHED) for id, seen in self._seen.items() if log_now - seen.at >= LEASE_SECONDS and id not in ended
        ]
        over += ended.items()
        for id, _ in over:
            self._seen.pop(id, None)
            self._ended.pop(id, None)
        return over

    def watch(self, workers: list[str], log_now: float) -> None:
        """Give a whole lease to workers that have none: each that runs something has one."""
        for worker in workers:
            if worker and worker not in self._seen:
                self._seen[worker] = _Seen(log_now)

    def living(self) -> list[str]:
        """Ids of the workers whose lease runs."""
        return list(self._seen)


@dataclass(frozen=True, slots=True)
class _Empty:
    log_at: float
    seen_at: Instant


class LostMessageDetector:
    """What was seen of each work queue.

    After the release the work queue was seen with nothing ready, twice, 60 s of log time apart, and no worker was lost
    in between. Prefetched deliveries are not "ready", so the caller spares jobs that a living worker lists. A message
    in a long queue is never "lost".
    """

    def __init__(self) -> None:
        self._empty: dict[str, _Empty] = {}

    def worker_lost(self) -> None:
        """A worker's lease ended: what it held is going back to the queues; start over."""
        self._empty.clear()

    def seen(self, queue: str, ready: int, log_now: float, now: Instant) -> Instant | None:
        """Take a look at a queue's depth into account.

        Returns the instant such that all that was released to this queue before it and is still out is lost; or None.
        """
        if ready > 0:
            self._empty.pop(queue, None)
            return None
        first = self._empty.get(queue)
        if first is None:
            self._empty[queue] = _Empty(log_now, now)
            return None
        if log_now - first.log_at < APART_SECONDS:
            return None
        self._empty[queue] = _Empty(log_now, now)
        return first.seen_at


class CoordinatorLeases:
    """When a tick of each coordinator was read last, in log time."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._ticked: dict[str, float] = {}
        self._shown: dict[str, Instant] = {}

    def begin(self, coordinators: list[str], log_now: float) -> None:
        """A new active coordinator gives those with releases under way a whole lease."""
        self._ticked = dict.fromkeys(coordinators, log_now)

    def ticked(self, coordinator: str, log_now: float) -> None:
        """A coordinator's tick was read."""
        self._ticked[coordinator] = log_now
        if len(self._ticked) > MOST_COORDINATORS:  # each start of one has an id of its own
            self._ticked = {id: at for id, at in self._ticked.items() if log_now - at < GONE_SECONDS}

    def shows(self, coordinator: str, at: Instant) -> bool:
        """Whether it is time to store that a coordinator lives: not with each of its ticks."""
        if abs(at - self._shown.get(coordinator, float("-inf"))) < SHOWN_EVERY_SECONDS:
            return False
        if len(self._shown) > MOST_COORDINATORS:
            self._shown.clear()
        self._shown[coordinator] = at
        return True

    def is_gone(self, coordinator: str, log_now: float) -> bool:
        """Whether a coordinator's lease (10 s of log time without a tick) is over."""
        seen = self._ticked.setdefault(coordinator, log_now)
        return coordinator != self._own and log_now - seen >= GONE_SECONDS

    def unknown_releases(self, tx: Transaction, now: Instant, log_now: float) -> list[ReleaseUnknown]:
        """Releases whose confirm will never arrive: their coordinator is gone, or the confirm is overdue."""
        senders = dict(tx.publishing())
        own = tx.load(id for id, sender in senders.items() if sender == self._own)
        gone = tx.load(id for id, sender in senders.items() if sender != self._own and self.is_gone(sender, log_now))
        overdue = [
            row for row in own.values() if row.released_at is None or now - row.released_at > UNCONFIRMED_SECONDS
        ]
        return [ReleaseUnknown(row.id, row.epoch) for row in [*gone.values(), *overdue]]


@dataclass(frozen=True, slots=True)
class _Depth:
    queue: str
    ready: int
    seen_at: Instant


class Liveness:
    """Workers, coordinators and messages: what lives, and what is lost. Call it from the coordinator's thread."""

    def __init__(self, own: str) -> None:
        self.leases = Leases()
        self.coordinators = CoordinatorLeases(own)
        self._lost_messages = LostMessageDetector()
        self._listed: dict[str, set[str]] = {}
        self._depths: deque[_Depth] = deque(maxlen=MOST_DEPTHS)

    def begin(self, workers: set[str], coordinators: list[str], log_now: float) -> None:
        """A new active coordinator gives everything a whole lease."""
        self.leases.begin(sorted(workers), log_now)
        self._listed = {worker: ids for worker, ids in self._listed.items() if worker in workers}
        self.coordinators.begin(coordinators, log_now)

    def stand_by(self) -> None:
        """What was seen of the queues proves nothing any more."""
        self._lost_messages.worker_lost()

    def listed(self, worker: str, ids: set[str]) -> None:
        """Remember the jobs that a worker listed in its heartbeat."""
        self._listed[worker] = ids

    def held_by_workers(self) -> set[str]:
        """Jobs that living workers list as running or received."""
        living = set(self.leases.living())
        return {id for worker, ids in self._listed.items() if worker in living for id in ids}

    def depth_seen(self, queue: str, ready: int, seen_at: Instant) -> None:
        """A look at a queue (any thread)."""
        self._depths.append(_Depth(queue, ready, seen_at))

    def dead_workers(self, log_now: float, read_until: Instant) -> list[tuple[str, str]]:
        """(worker, reason) of those whose lease is over; each is named once."""
        dead = self.leases.dead(log_now, read_until)
        for worker, reason in dead:
            level = logging.INFO if reason == LEFT else logging.WARNING
            said = reason.removeprefix("its worker ")
            logger.log(level, "worker %s %s; its unfinished jobs are requeued", worker, said)
            self._listed.pop(worker, None)
            self._lost_messages.worker_lost()
        return dead

    def judge(
        self, tx: Transaction, dead: list[tuple[str, str]], now: Instant, log_now: float, read_until: Instant
    ) -> list[JobRecord]:
        """What follows from log time: ended leases, ended graces, unknown releases, lost messages."""
        records: list[JobRecord] = []
        for worker, reason in dead:
            records += [LeaseOver(id, worker, reason) for id in tx.owned_by(worker)]
            tx.remove_worker(worker)
        records += [TimerDue(id) for id in tx.grace_over(log_now, limit=MOST_RECORDS, due_before=now)]
        over = {worker for worker, _ in dead}  # their rows are looked after in the next transaction
        self.leases.watch([worker for worker in tx.owners() if worker not in over], log_now)
        records += self.coordinators.unknown_releases(tx, now, log_now)
        records += self._lost(tx, log_now, read_until)
        return records

    def _lost(self, tx: Transaction, log_now: float, read_until: Instant) -> list[JobRecord]:
        """Messages that are proven lost. Their jobs may have ended: the log must have been read beyond the look."""
        records: list[JobRecord] = []
        held: set[str] | None = None
        while self._depths and self._depths[0].seen_at + LOOK_TAKES_SECONDS < read_until:
            depth = self._depths.popleft()
            before = self._lost_messages.seen(depth.queue, depth.ready, log_now, depth.seen_at)
            if before is None:
                continue
            held = self.held_by_workers() if held is None else held
            ids = [id for id in tx.out_since(depth.queue, before, limit=MOST_RECORDS) if id not in held]
            records += [ProvenLost(row.id, row.epoch) for row in tx.load(ids).values()]
        return records

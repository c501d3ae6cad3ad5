"""Judges in log time which workers and coordinators live, which jobs they no longer have, and which messages are lost.

A worker is dead 30 seconds of log time after its last record in the log: an outage of the store or of the broker counts
as one second, so it ends no lease. A message is lost by proof (transitions R12), never by its age.

Over 300 lines: the leases, what is held by workers and the proof of loss are one judgement and are read together.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from broker_jobs.clock import STEP_SECONDS, LogTime, RemoteTime, WallTime, is_newer, is_since
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
READ_SECONDS = 2.0
"""Two ticks. So much log time after a moment a tick that was sent after it has been read, and all of the log before."""
MOST_DRIFT_SECONDS = 1.0
"""The wall clock and the monotonic one may run apart by so much between two looks; beyond it the clock was set."""
UNCONFIRMED_SECONDS = 60.0
"""A publish ends in ten seconds; an own release without a confirm after this long will have none."""
APART_SECONDS = 60.0
"""Log time between the two looks at an empty queue that prove a message lost."""
LOOK_TAKES_SECONDS = 10.0
"""The longest a look at a queue's depth takes."""
NEVER = RemoteTime(0.0)
MOST_DEPTHS = 10_000
MOST_RECORDS = 2_000
"""Of one kind, from one look."""


@dataclass(slots=True)
class _Seen:
    at: LogTime
    ref: WorkerRef | None = None
    said_at: RemoteTime = NEVER
    """The newest of what it said of itself."""
    listed_at: RemoteTime = NEVER
    """When it wrote the heartbeat whose list was compared last: one that comes again is not counted again."""
    missed: dict[str, LogTime] = field(default_factory=dict)
    """The jobs that it should run and does not list, and since when."""


class _Ended(NamedTuple):
    read_at: LogTime
    said_at: RemoteTime
    reason: str


class Leases:
    """When each worker was heard last, in log time."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._ended: dict[str, _Ended] = {}

    def begin(self, workers: list[str], log_now: LogTime) -> None:
        """A new active coordinator gives every worker a whole lease to come back."""
        self._seen = {worker: _Seen(log_now) for worker in workers if worker}
        self._ended.clear()

    def heard(
        self, worker: str, log_now: LogTime, ref: WorkerRef | None = None, said_at: RemoteTime | None = None
    ) -> None:
        """A record of this worker was read from the log; `said_at` if it spoke of itself."""
        if not worker:
            return
        seen = self._seen.setdefault(worker, _Seen(log_now))
        seen.at = log_now
        seen.ref = ref or seen.ref
        if said_at is None:
            return
        if is_newer(said_at, seen.said_at):
            seen.said_at = said_at
        ended = self._ended.get(worker)
        if ended is not None and ended.reason == REPLACED and is_newer(said_at, ended.said_at):
            del self._ended[worker]  # it lives beside the worker that has its place

    def unlisted(self, worker: str, heartbeat: Heartbeat, processing: list[str], log_now: LogTime) -> list[str]:
        """The jobs this worker should run, did not list READ_SECONDS ago and does not list now.

        A job that one heartbeat does not list may be listed by the next. What was committed and not acknowledged is
        read again, heartbeats of before the start among it, though the rows know of the start already. When so much log
        time has passed since such a heartbeat, all of that has been read.
        """
        seen = self._seen.setdefault(worker, _Seen(LogTime(0.0)))
        if not is_newer(RemoteTime(heartbeat.at), seen.listed_at):
            return []
        seen.listed_at = RemoteTime(heartbeat.at)
        listed = {id for id, _ in heartbeat.running} | set(heartbeat.received)
        seen.missed = {id: seen.missed.get(id, log_now) for id in processing if id not in listed}
        return [id for id, at in seen.missed.items() if log_now - at >= READ_SECONDS]

    def replaced(self, worker: WorkerRef, at: RemoteTime) -> None:
        """A worker spoke from a place (host, slot), which another one may have held before it.

        The worker that held it before and has not spoken since is dead once the log has been read up to this moment. If
        it has spoken since the new one began (whose id says when), both live and share a place by mistake. Both are on
        one host, so what they wrote is of one clock.
        """
        seen = self._seen.get(worker.id)
        if not worker.slot or seen is None:
            return
        began_at = RemoteTime(min(id_created_at(worker.id) or float(at), float(at)))
        for id, other in self._seen.items():
            if other.ref is None or id == worker.id or (other.ref.host, other.ref.slot) != (worker.host, worker.slot):
                continue
            if not is_since(other.said_at, began_at):
                self._ended.setdefault(id, _Ended(seen.at, at, REPLACED))

    def leaving(self, worker: str, at: RemoteTime) -> None:
        """A worker's last heartbeat was read: it no longer runs what it had."""
        seen = self._seen.get(worker)
        if seen is not None:
            self._ended[worker] = _Ended(seen.at, at, LEFT)

    def ended(self, worker: str, at: RemoteTime, reason: str) -> None:
        """Its supervisor says that the process of a worker has ended: it runs nothing any more."""
        seen = self._seen.get(worker)
        if seen is not None:
            self._ended.setdefault(worker, _Ended(seen.at, at, reason))

    def dead(self, log_now: LogTime) -> list[tuple[str, str]]:
        """(worker, reason) of those whose lease is over; each is named once."""
        ended = {id: one.reason for id, one in self._ended.items() if log_now - one.read_at >= READ_SECONDS}
        over = [
            (id, VANISHED) for id, seen in self._seen.items() if log_now - seen.at >= LEASE_SECONDS and id not in ended
        ]
        over += ended.items()
        for id, _ in over:
            self._seen.pop(id, None)
            self._ended.pop(id, None)
        return over

    def watch(self, workers: list[str], log_now: LogTime) -> None:
        """Give a whole lease to workers that have none: each that runs something has one."""
        for worker in workers:
            if worker and worker not in self._seen:
                self._seen[worker] = _Seen(log_now)

    def living(self) -> list[str]:
        """Ids of the workers whose lease runs."""
        return list(self._seen)


class DepthSeen(NamedTuple):
    """A look at a work queue."""

    queue: str
    ready: int
    log_at: LogTime
    at: WallTime
    monotonic: float


class LostMessageDetector:
    """What was seen of each work queue.

    After the release the work queue was seen with nothing ready, twice, 60 s of log time apart, and no worker was lost
    in between. Prefetched deliveries are not "ready", so the caller spares jobs that a living worker lists. A message
    in a long queue is never "lost".
    """

    def __init__(self) -> None:
        self._empty: dict[str, DepthSeen] = {}

    def held_unseen(self, queues: Iterable[str]) -> None:
        """A worker of these queues cannot say what it holds: an empty queue proves nothing."""
        for queue in queues:
            self._empty.pop(queue, None)

    def worker_lost(self) -> None:
        """A worker's lease ended: what it held is going back to the queues; start over."""
        self._empty.clear()

    def seen(self, look: DepthSeen) -> WallTime | None:
        """Take a look at a queue's depth into account.

        Returns the instant such that all that was released to this queue before it and is still out is lost; or None.
        If the clock has been set since the first look, the instant of that one says nothing of releases: start over.
        """
        first = self._empty.get(look.queue)
        if look.ready > 0:
            self._empty.pop(look.queue, None)
            return None
        if first is None or abs((look.at - first.at) - (look.monotonic - first.monotonic)) > MOST_DRIFT_SECONDS:
            self._empty[look.queue] = look
            return None
        if look.log_at - first.log_at < APART_SECONDS:
            return None
        self._empty[look.queue] = look
        return first.at


class CoordinatorLeases:
    """When a tick of each coordinator was read last, in log time."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._ticked: dict[str, LogTime] = {}
        self._shown: dict[str, float] = {}
        self._publishing: dict[str, LogTime] = {}
        """Own releases without a confirm, and when each was seen first."""

    def begin(self, coordinators: list[str], log_now: LogTime) -> None:
        """A new active coordinator gives those with releases under way a whole lease."""
        self._ticked = dict.fromkeys(coordinators, log_now)
        self._publishing.clear()

    def ticked(self, coordinator: str, log_now: LogTime) -> None:
        """A coordinator's tick was read."""
        self._ticked[coordinator] = log_now
        if len(self._ticked) > MOST_COORDINATORS:  # each start of one has an id of its own
            self._ticked = {id: at for id, at in self._ticked.items() if log_now - at < GONE_SECONDS}

    def shows(self, coordinator: str, at: RemoteTime) -> bool:
        """Whether it is time to store that a coordinator lives: not with each of its ticks, by its own clock."""
        if abs(float(at) - self._shown.get(coordinator, float("-inf"))) < SHOWN_EVERY_SECONDS:
            return False
        if len(self._shown) > MOST_COORDINATORS:
            self._shown.clear()
        self._shown[coordinator] = float(at)
        return True

    def is_gone(self, coordinator: str, log_now: LogTime) -> bool:
        """Whether a coordinator's lease (10 s of log time without a tick) is over."""
        seen = self._ticked.setdefault(coordinator, log_now)
        return coordinator != self._own and log_now - seen >= GONE_SECONDS

    def unknown_releases(self, tx: Transaction, log_now: LogTime) -> list[ReleaseUnknown]:
        """Releases whose confirm will never arrive: their coordinator is gone, or the confirm is overdue."""
        senders = dict(tx.in_flight.publishing())
        self._publishing = {
            id: self._publishing.get(id, log_now) for id, sender in senders.items() if sender == self._own
        }
        overdue = [id for id, at in self._publishing.items() if log_now - at >= UNCONFIRMED_SECONDS]
        gone = [id for id, sender in senders.items() if sender != self._own and self.is_gone(sender, log_now)]
        return [ReleaseUnknown(row.id, row.epoch) for row in tx.jobs.load([*gone, *overdue]).values()]


class Liveness:
    """Workers, coordinators and messages: what lives, and what is lost. Call it from the coordinator's thread."""

    def __init__(self, own: str) -> None:
        self.leases = Leases()
        self.coordinators = CoordinatorLeases(own)
        self._lost_messages = LostMessageDetector()
        self._listed: dict[str, set[str]] = {}
        self._depths: deque[DepthSeen] = deque(maxlen=MOST_DEPTHS)
        self._log_now = LogTime(0.0)
        """As it was judged by last; for looks, which another thread makes."""

    def begin(self, workers: set[str], coordinators: list[str], log_now: LogTime) -> None:
        """A new active coordinator gives everything a whole lease."""
        self._log_now = log_now
        self.leases.begin(sorted(workers), log_now)
        self.coordinators.begin(coordinators, log_now)
        self._listed = {worker: ids for worker, ids in self._listed.items() if worker in workers}
        self.stand_by()

    def stand_by(self) -> None:
        """What was seen of the queues proves nothing any more: another coordinator releases."""
        self._depths.clear()
        self._lost_messages.worker_lost()

    def listed(self, worker: str, ids: set[str]) -> None:
        """Remember the jobs that a worker listed in its heartbeat."""
        self._listed[worker] = ids

    def held_unseen(self, queues: Iterable[str]) -> None:
        """A worker of these queues lives and cannot list what it has: no message of them counts as lost meanwhile."""
        self._lost_messages.held_unseen(queues)

    def held_by_workers(self) -> set[str]:
        """Jobs that living workers list as running or received."""
        living = set(self.leases.living())
        return {id for worker, ids in self._listed.items() if worker in living for id in ids}

    def depth_seen(self, queue: str, ready: int, at: WallTime, monotonic: float) -> None:
        """A look at a queue that began then (any thread)."""
        self._depths.append(DepthSeen(queue, ready, self._log_now, at, monotonic))

    def dead_workers(self, log_now: LogTime) -> list[tuple[str, str]]:
        """(worker, reason) of those whose lease is over; each is named once."""
        self._log_now = log_now
        dead = self.leases.dead(log_now)
        for worker, reason in dead:
            level = logging.INFO if reason == LEFT else logging.WARNING
            said = reason.removeprefix("its worker ")
            logger.log(level, "worker %s %s; its unfinished jobs are requeued", worker, said)
            self._listed.pop(worker, None)
            self._lost_messages.worker_lost()
        return dead

    def judge(self, tx: Transaction, dead: list[tuple[str, str]], now: WallTime, log_now: LogTime) -> list[JobRecord]:
        """What follows from log time: ended leases, ended graces, unknown releases, lost messages."""
        records: list[JobRecord] = []
        for worker, reason in dead:
            release = tx.processes.release_of(worker)
            records += [LeaseOver(id, worker, reason, release) for id in tx.in_flight.owned_by(worker)]
            told = tx.known_jobs.serves(worker)
            tx.processes.remove_worker(worker)
            tx.known_jobs.forget_unused("" if told is None else told[1])
        records += [TimerDue(id) for id in tx.due.graces(float(log_now), limit=MOST_RECORDS)]
        over = {worker for worker, _ in dead}  # their rows are looked after in the next transaction
        self.leases.watch([worker for worker in tx.in_flight.owners() if worker not in over], log_now)
        records += self.coordinators.unknown_releases(tx, log_now)
        records += self._lost(tx, now, log_now)
        return records

    def _lost(self, tx: Transaction, now: WallTime, log_now: LogTime) -> list[JobRecord]:
        """Messages that are proven lost. Their jobs may have ended: the log must have been read beyond the look.

        A release that is later than now was stored before the clock was set back, so before both looks.
        """
        records: list[JobRecord] = []
        held: set[str] | None = None
        while self._depths and log_now - self._depths[0].log_at >= LOOK_TAKES_SECONDS + READ_SECONDS:
            depth = self._depths.popleft()
            before = self._lost_messages.seen(depth)
            if before is None:
                continue
            held = self.held_by_workers() if held is None else held
            out = tx.in_flight.out_since(depth.queue, float(before), limit=MOST_RECORDS)
            out += tx.in_flight.out_after(depth.queue, float(now + STEP_SECONDS), limit=MOST_RECORDS)
            ids = [id for id in out if id not in held]
            records += [ProvenLost(row.id, row.epoch) for row in tx.jobs.load(ids).values()]
        return records

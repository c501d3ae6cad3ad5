"""Judges in log time which workers live and which jobs they no longer have. State, but no I/O and no clock.

A worker is dead when 30 s of log time stand behind its last record in the log: an outage of the store or the broker
counts one second, so it kills nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker_jobs.clock import Instant
from broker_jobs.messages.envelope import id_created_at
from broker_jobs.messages.events import Heartbeat, WorkerRef

LEASE_SECONDS = 30.0
VANISHED = "its worker vanished"
REPLACED = "its worker was replaced"
LEFT = "its worker left"


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
    """Who was heard when, in log time."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._ended: dict[str, tuple[Instant, str]] = {}

    def begin(self, workers: list[str], log_now: float) -> None:
        """A new active coordinator gives everybody a whole lease to come back."""
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
            del self._ended[worker]  # it lives beside who has its place

    def unlisted(self, worker: str, heartbeat: Heartbeat, processing: list[str]) -> list[str]:
        """The jobs this worker should run and has now failed to list for the second time."""
        seen = self._seen.setdefault(worker, _Seen(0.0))
        if heartbeat.at > seen.listed_at:
            seen.listed_at = heartbeat.at
            listed = {id for id, _ in heartbeat.running} | set(heartbeat.received)
            seen.missed = {id: seen.missed.get(id, 0) + 1 for id in processing if id not in listed}
        return [id for id, times in seen.missed.items() if times >= 2]

    def replaced(self, worker: WorkerRef, at: Instant) -> None:
        """A worker spoke from a place (host, slot) it took over.

        Who held the place before and has not spoken since is dead once the log has been read up to that moment. Who has
        spoken since that worker began (its id tells when) is none it replaced: both live, and share a place by mistake.
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
        """A worker's last heartbeat: whatever it still ran is nobody's."""
        self._ended[worker] = at, LEFT

    def dead(self, log_now: float, read_until: Instant) -> list[tuple[str, str]]:
        """(worker, reason) of those whose lease is over; each is named once.

        `read_until` is the sent_at of the newest tick read: everything told before it has been read.
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
        """Give a whole lease to workers that nobody watches: each that runs something has one."""
        for worker in workers:
            if worker and worker not in self._seen:
                self._seen[worker] = _Seen(log_now)

    def living(self) -> list[str]:
        """Ids of the workers whose lease runs."""
        return list(self._seen)

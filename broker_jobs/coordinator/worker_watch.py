"""Applies heartbeats: leases are renewed, and jobs that a living worker no longer lists are noticed."""

from __future__ import annotations

import logging

from broker_jobs.clock import LogTime, RemoteTime
from broker_jobs.coordinator.broadcasts import Broadcasts
from broker_jobs.coordinator.conditions.known import KnownJobRules
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.inputs import HeartbeatReceived, SupervisedReceived
from broker_jobs.coordinator.liveness import Liveness
from broker_jobs.coordinator.records import FromWorker, LeaseOver
from broker_jobs.coordinator.rows import Rows
from broker_jobs.messages.commands import Hello
from broker_jobs.messages.events import Started
from broker_jobs.store.records import WorkerRow

logger = logging.getLogger(__name__)


class WorkerWatch:
    """The heartbeats of one transaction."""

    def __init__(
        self, liveness: Liveness, rows: Rows, effects: Effects, broadcasts: Broadcasts, known_jobs: KnownJobRules
    ) -> None:
        self._liveness = liveness
        self._leases = liveness.leases
        self._rows = rows
        self._tx = rows.tx
        self._effects = effects
        self._broadcasts = broadcasts
        self._known_jobs = known_jobs
        self._heartbeats: list[HeartbeatReceived] = []

    def heard(self, worker: str) -> None:
        """A worker has sent something: it lives."""
        self._leases.heard(worker, LogTime(self._rows.at.log_now))

    def hello(self, hello: Hello) -> None:
        """A worker has started, or is connected again. It may run jobs before its first heartbeat is read."""
        ref = hello.worker
        before = self._tx.known_jobs.serves(ref.id)
        self._tx.known_jobs.learn(hello.code, hello.jobs)
        self._tx.processes.add_worker(
            WorkerRow(
                id=ref.id, host=ref.host, slot=ref.slot, pid=ref.pid, queues=tuple(hello.queues),
                running=len(hello.running), version=hello.version, seen_at=hello.at,
                service=hello.service, code=hello.code,
            )
        )  # fmt: skip
        if before is not None:
            self._tx.processes.save_program(ref.id, service=hello.service, code=hello.code, queues=tuple(hello.queues))
        self._known_jobs.told(frozenset(hello.queues), hello.code, before)
        if before is None or before[1] != hello.code:
            self._say_different_code(hello)
        self._leases.heard(hello.worker.id, LogTime(self._rows.at.log_now), hello.worker, RemoteTime(hello.at))
        self._leases.replaced(hello.worker, RemoteTime(hello.at))

    def _say_different_code(self, hello: Hello) -> None:
        """Log once that living workers of one name have different code: the first of each code is told of."""
        if not hello.service or not hello.code:
            return
        others = [one for one in self._tx.known_jobs.workers() if one.service == hello.service and one.code]
        if sum(one.code == hello.code for one in others) > 1 or all(one.code == hello.code for one in others):
            return
        logger.warning(
            "worker %s of program %s has other jobs than a living worker of that name: a deployment, or two programs "
            "that share a name; broker-jobs doctor says which jobs",
            hello.worker.id, hello.service,
        )  # fmt: skip

    def supervised(self, said: SupervisedReceived) -> None:
        """A supervisor speaks for a worker that cannot: it lives, or its process has ended.

        What it lists is not held against the rows, unlike a heartbeat: it did not come in one line with the worker's
        own events, so a run that it does not list may have begun, and one that it lists may have ended.
        """
        ref, event = said.worker, said.event
        if event.ended is not None:
            if event.running:  # it may have died before it was heard
                self._leases.heard(ref.id, LogTime(self._rows.at.log_now), ref)
            # What it ran had begun, though it may have had no time to say so.
            self._effects.next += [
                FromWorker(ref.id, Started(id=id, epoch=epoch, at=event.at), ref.host) for id, epoch in event.running
            ]
            self._leases.ended(ref.id, RemoteTime(said.sent_at), f"its worker process {event.ended}")
            return
        self._leases.heard(ref.id, LogTime(self._rows.at.log_now), ref, RemoteTime(said.sent_at))
        self._liveness.held_unseen(event.queues)
        self._tx.processes.add_worker(
            WorkerRow(id=ref.id, host=ref.host, slot=ref.slot, pid=ref.pid, queues=tuple(event.queues))
        )
        self._tx.processes.save_supervised(
            ref.id, seen_at=said.sent_at, silent_since=event.silent_since, running=len(event.running)
        )

    def beat(self, beaten: HeartbeatReceived) -> None:
        """A heartbeat: looked at when all inputs are decided."""
        self._heartbeats.append(beaten)
        beat = beaten.heartbeat
        if not beat.leaving:
            id, queues = beaten.worker.id, frozenset(beat.queues)
            before = self._tx.known_jobs.serves(id)
            if before is not None and before != (queues, beat.code):  # whoever asks in this transaction sees it
                self._tx.processes.save_program(id, service=beat.service, code=beat.code, queues=tuple(beat.queues))
            elif before is None:
                self._tx.processes.add_worker(_row(beaten))
            self._known_jobs.told(queues, beat.code, before)
            if beat.code and not self._tx.known_jobs.is_told(beat.code):  # the store is an older one
                self._broadcasts.untold.append(beaten.worker.id)

    def finish(self) -> None:
        """Look at the heartbeats, once the rows are written."""
        newest = {beaten.worker.id: beaten for beaten in self._heartbeats}
        log_now = LogTime(self._rows.at.log_now)
        for beaten in self._heartbeats:
            self._heartbeat(beaten)
        # Only the newest is held against the rows: those before it may be older than a start that was read with them.
        for id, beaten in newest.items():
            missing = self._leases.unlisted(id, beaten.heartbeat, self._tx.in_flight.owned_by(id), log_now)
            reason = "its worker lives but no longer has it"
            self._effects.next += [LeaseOver(job, id, reason) for job in missing]

    def _heartbeat(self, beaten: HeartbeatReceived) -> None:
        ref, beat = beaten.worker, beaten.heartbeat
        self._leases.heard(ref.id, LogTime(self._rows.at.log_now), ref, RemoteTime(beaten.sent_at))
        self._leases.replaced(ref, RemoteTime(beaten.sent_at))
        self._liveness.listed(ref.id, {id for id, _ in beat.running} | set(beat.received))
        self._tx.processes.save_worker(_row(beaten))
        if beat.leaving:
            self._leases.leaving(ref.id, RemoteTime(beaten.sent_at))
        elif beat.control_version < self._tx.meta.control_version:
            self._broadcasts.missed = True


def _row(beaten: HeartbeatReceived) -> WorkerRow:
    """A worker as its heartbeat tells."""
    ref, beat = beaten.worker, beaten.heartbeat
    return WorkerRow(
        id=ref.id, host=ref.host, slot=ref.slot, pid=ref.pid, queues=tuple(beat.queues), served=tuple(beat.served),
        queue_limits=beat.queue_limits, concurrency=beat.concurrency, running=len(beat.running), done=beat.done,
        cpu_percent=beat.cpu_percent, rss_bytes=beat.rss_bytes, version=beat.version, service=beat.service,
        code=beat.code, seen_at=beaten.sent_at, lost=beat.leaving, problem=beat.problem, busy=beat.busy,
    )  # fmt: skip

"""Decides what becomes of a job that a worker gave back unrun, as its program does not have that job.

If no living worker of the queue knows the job it is held: it waits, without slots, until one says hello that does. Else
it is released again, as the queue may bring it to a worker that knows it. Each try may reach the wrong worker; after as
many as chance explains, or if all workers that know it are busy, the tries have growing pauses.
"""

from __future__ import annotations

from typing import NamedTuple

from broker_jobs.coordinator.cascade import Cascade, Kind
from broker_jobs.coordinator.rows import Rows
from broker_jobs.coordinator.state_machine.steps import waiting
from broker_jobs.store.known_jobs import KnowingWorker
from broker_jobs.store.row import Row, WaitReason

TRIES = 3
"""Tries without a pause, for each worker of the queue beside one that knows the job."""
MOST_TRIES = 30
FIRST_PAUSE_SECONDS = 0.5
MOST_PAUSE_SECONDS = 30.0
SEPARATOR = "\n"
"""Between queue and job in the target of a task; no queue has it in its name."""
COMES_BACK = "a worker that knows it has started"


class Knowers(NamedTuple):
    """Who of the living workers of a queue knows a job."""

    workers: int
    knowing: int
    have_room: bool
    """Whether one of those that know it may have room for it now."""


class KnownJobRules:
    """Who knows which jobs, in one transaction."""

    def __init__(self, rows: Rows, cascade: Cascade) -> None:
        self._rows = rows
        self._tx = rows.tx
        self._cascade = cascade
        self._workers: list[KnowingWorker] | None = None
        self._knowers: dict[tuple[str, str], Knowers] = {}

    # ---- jobs

    def returned(self, row: Row) -> Row:
        """A worker that does not know this job gave it back: it is held, or goes again."""
        if not row.is_waiting:
            return row
        known = self._of(row.queue, row.job)
        if known.knowing == 0:
            reason = f"no living worker of queue {row.queue!r} knows a job named {row.job!r}: it waits until one does"
            return waiting(row, row.waits | WaitReason.UNKNOWN, self._rows.at, reason).evolve(gives_back=True)
        pause = _pause(row.unknowns, known)
        return row.evolve(due_at=self._rows.at.now + pause) if pause else row

    def comes_back(self, row: Row) -> Row | None:
        """A held job as it goes on, as a worker knows it now; None: it is not held, or again nobody knows it."""
        if not row.is_waiting or not row.waits & WaitReason.UNKNOWN or self._of(row.queue, row.job).knowing == 0:
            return None
        going = row.evolve(unknowns=0)  # its time stays: it may have expired meanwhile
        return waiting(going, row.waits & ~WaitReason.UNKNOWN, self._rows.at, COMES_BACK)

    def page(self, target: str, after: str, limit: int) -> list[str]:
        """The next held jobs of the target of a task."""
        queue, _, job = target.partition(SEPARATOR)
        return self._tx.known_jobs.held(queue, job, after, limit)

    # ---- workers

    def told(self, queues: frozenset[str], code: str, before: tuple[frozenset[str], str] | None) -> None:
        """A living worker serves these queues and has this code; held jobs that it did not know before go on."""
        self._workers = None
        self._knowers.clear()
        if before == (queues, code):
            return
        new = queues if before is None or before[1] != code else queues - before[0]
        for queue in sorted(new):
            for job in self._tx.known_jobs.held_kinds(queue, self._told(code)):
                self._cascade.add(Kind.KNOWN, f"{queue}{SEPARATOR}{job}")

    def _told(self, code: str) -> str:
        """A code whose jobs are known here; any other stands for all jobs."""
        return code if code and self._tx.known_jobs.is_told(code) else ""

    def _of(self, queue: str, job: str) -> Knowers:
        found = self._knowers.get((queue, job))
        if found is None:
            self._knowers[queue, job] = found = self._look(queue, job)
        return found

    def _look(self, queue: str, job: str) -> Knowers:
        if self._workers is None:
            self._workers = self._tx.known_jobs.workers()
        served = [worker for worker in self._workers if queue in worker.queues]
        codes = {worker.code for worker in served}
        told = {code: self._told(code) for code in codes}
        knowing_codes = {code for code in codes if not told[code] or self._tx.known_jobs.knows(code, job)}
        knowing = [worker for worker in served if worker.code in knowing_codes]
        return Knowers(len(served), len(knowing), any(worker.has_room for worker in knowing))


def _pause(unknowns: int, known: Knowers) -> float:
    """How long a job waits that came back for the n-th time in a row."""
    tries = min(MOST_TRIES, TRIES * -(-known.workers // known.knowing)) if known.have_room else 1
    if unknowns <= tries:
        return 0.0
    return min(MOST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(unknowns - tries - 1, 10))

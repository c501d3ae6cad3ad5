"""Writes the truth: one transaction at a time under the one lock, its counters and serial with it.

A transaction holds one object for each thing that the store keeps; each has a file of its own.
"""

from __future__ import annotations

from dataclasses import astuple

from sqlalchemy import Connection, text

from broker_jobs.clock import Instant
from broker_jobs.store.attempts import AttemptStore
from broker_jobs.store.audit import AuditStore
from broker_jobs.store.batches import BatchStore, SubmissionStore, WorkItemStore
from broker_jobs.store.connections import WriteConnection
from broker_jobs.store.dead_letters import DeadLetterStore
from broker_jobs.store.declarations import DeclarationStore
from broker_jobs.store.dependencies import DependencyStore
from broker_jobs.store.dependency_graph import DependencyGraph
from broker_jobs.store.due import DueJobs, JobsInFlight
from broker_jobs.store.jobs import JobStore
from broker_jobs.store.known_jobs import KnownJobStore
from broker_jobs.store.lines import LineStore
from broker_jobs.store.log_lines import LogLineStore
from broker_jobs.store.plain_jobs import PlainJobStore
from broker_jobs.store.processes import ProcessStore
from broker_jobs.store.queues import QueueStore
from broker_jobs.store.records import Meta
from broker_jobs.store.retention import PurgeProgress, Retention
from broker_jobs.store.schedules import ScheduleStore
from broker_jobs.store.selection import JobSelector
from broker_jobs.store.unique_keys import UniqueKeyStore

_META = (
    "SELECT store_id, schema, serial, log_time, last_tick_at, control_version, schedules_version, accepted_serial"
    " FROM meta WHERE id = 1"
)
META = text(_META)
META_LOCKED = text(f"{_META} FOR UPDATE")
_SAVE_META = text(
    "UPDATE meta SET serial = :serial, log_time = :log_time, last_tick_at = :last_tick_at,"
    " control_version = :control_version, schedules_version = :schedules_version, accepted_serial = :accepted_serial"
    " WHERE id = 1"
)
_LEAP = text("UPDATE jobs SET epoch = epoch + :epochs WHERE state IN ('scheduled', 'awaiting')")
_INSTALLATION = text("SELECT name FROM installation WHERE id = 1")
_SAVE_INSTALLATION = text(
    "INSERT INTO installation (id, name) VALUES (1, :name) ON CONFLICT (id) DO UPDATE SET name = excluded.name"
)
EPOCH_LEAP = 1_000
SERIAL_LEAP = 1_000_000_000


def read_meta(connection: Connection, *, lock: bool = False) -> Meta:
    """The row of meta; with `lock` nobody else gets it so until the transaction ends (PostgreSQL)."""
    return Meta(*connection.execute(META_LOCKED if lock else META).one())


def read_installation(connection: Connection) -> str:
    """The installation that the store belongs to; empty before its first coordinator. See `installation.py`."""
    return str(connection.execute(_INSTALLATION).scalar_one_or_none() or "")


class Transaction:
    """What may be done under the lock. `meta` was read under it; fields changed there are written at the commit.

    Each part is made once, with the transaction: there are thousands of transactions a minute, and thousands of jobs
    in one.
    """

    __slots__ = (
        "_connection", "_meta_before", "_write", "attempts", "audit", "batches", "dead_letters", "declarations",
        "dependencies", "due", "graph", "in_flight", "jobs", "known_jobs", "lines", "log_lines", "meta", "plain_jobs",
        "processes", "queues", "schedules", "selector", "submissions", "unique_keys", "work_items",
    )  # fmt: skip

    def __init__(self, connection: Connection, meta: Meta) -> None:
        self.meta = meta
        self._meta_before = astuple(meta)
        self._connection = connection
        self._write = write = WriteConnection(connection)
        # Jobs.
        self.jobs = JobStore(write)
        self.plain_jobs = PlainJobStore(write, self.jobs.counters)
        self.due = DueJobs(write)
        self.in_flight = JobsInFlight(write)
        self.selector = JobSelector(write)
        self.attempts = AttemptStore(write)
        self.log_lines = LogLineStore(write)
        # What they wait for.
        self.dependencies = DependencyStore(write)
        self.batches = BatchStore(write)
        self.submissions = SubmissionStore(write)
        self.work_items = WorkItemStore(write)
        self.graph = DependencyGraph(write, self.dependencies, self.submissions)
        self.lines = LineStore(write)
        self.unique_keys = UniqueKeyStore(write)
        # What there is beside jobs.
        self.schedules = ScheduleStore(write)
        self.declarations = DeclarationStore(write)
        self.queues = QueueStore(write)
        self.processes = ProcessStore(write)
        self.known_jobs = KnownJobStore(write)
        self.dead_letters = DeadLetterStore(write)
        self.audit = AuditStore(write)

    def purge(
        self,
        *,
        now: Instant,
        keep_succeeded: float,
        keep_deleted: float,
        keep_failed: float,
        limit: int,
        progress: PurgeProgress | None = None,
    ) -> int:
        """Remove jobs that ended longer ago than is kept (seconds, by state); returns how many.

        Never one with something on the wire, in a grace, or with a copy still in the delay queues, and none that
        something needs which has not ended.

        Args:
            now: wall time.
            keep_succeeded, keep_deleted, keep_failed: seconds that jobs are kept, by the state they ended in.
            limit: rows to look at.
            progress: how far earlier pages came. Without it the oldest rows are looked at.
        """  # fmt: skip
        keep = {"succeeded": keep_succeeded, "deleted": keep_deleted, "failed": keep_failed}
        page = Retention(self._write, progress or PurgeProgress(), limit)
        forgotten = page.forget_old(keep, now=now, log_time=self.meta.log_time)
        self.jobs.forgotten(forgotten)
        return len(forgotten)

    def installation(self) -> str:
        """As `read_installation`."""
        return read_installation(self._connection)

    def save_installation(self, name: str) -> None:
        """Let the store belong to this installation."""
        self._connection.execute(_SAVE_INSTALLATION, {"name": name})

    def accept_restored(self) -> int:
        """A person accepts that this store was restored from a backup; the number of waiting jobs.

        Its serial leaps over all that the log may have seen of it, and waiting jobs leap over the epochs they may have
        been released with since the backup: an old message and a new release must not share an epoch.
        """
        self.meta.accepted_serial = self.meta.serial
        self.meta.serial += SERIAL_LEAP
        self.meta.control_version += EPOCH_LEAP * EPOCH_LEAP  # workers have heard of later ones than the store knows
        self.meta.schedules_version += EPOCH_LEAP * EPOCH_LEAP
        return self._connection.execute(_LEAP, {"epochs": EPOCH_LEAP}).rowcount

    def finish(self) -> None:
        """Write what is collected; the store calls it right before the commit."""
        self._write.write_late()
        self.jobs.write_counters()
        self.schedules.write()
        if not self._write.wrote and astuple(self.meta) == self._meta_before:
            return
        self.meta.serial += 1
        values = {name: getattr(self.meta, name) for name in self.meta.__slots__}
        self._connection.execute(_SAVE_META, values)

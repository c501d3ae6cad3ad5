"""Reads the store for whoever shows it: command line, dashboard, metrics. Never takes the write lock.

A reader holds one object for each thing that the store keeps; each has a file of its own. Every list is paged or
limited, so that a read is short: a long one keeps SQLite's log from being folded back.
"""

from __future__ import annotations

from broker_jobs.store.attempts import AttemptReader
from broker_jobs.store.audit import AuditReader
from broker_jobs.store.batch_reader import BatchReader
from broker_jobs.store.connections import Reading
from broker_jobs.store.dead_letters import DeadLetterReader
from broker_jobs.store.declarations import DeclarationReader
from broker_jobs.store.dependencies import DependencyReader
from broker_jobs.store.job_reader import JobReader
from broker_jobs.store.known_jobs import KnownJobReader
from broker_jobs.store.lines import LimitReader
from broker_jobs.store.log_lines import LogLineReader
from broker_jobs.store.processes import ProcessReader
from broker_jobs.store.queues import QueueReader
from broker_jobs.store.records import Meta
from broker_jobs.store.relations import RelationReader
from broker_jobs.store.schedules import ScheduleReader
from broker_jobs.store.statistics import Statistics
from broker_jobs.store.unique_keys import UniqueKeyReader
from broker_jobs.store.write import read_installation, read_meta


class Reader:
    """What can be asked of the store. Each method of a part is one short read of its own."""

    __slots__ = (
        "_reading", "attempts", "audit", "batches", "dead_letters", "declarations", "dependencies", "jobs",
        "known_jobs", "limits",
        "log_lines", "processes", "queues", "relations", "schedules", "statistics", "unique_keys",
    )  # fmt: skip

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        # Jobs.
        self.jobs = JobReader(reading)
        self.attempts = AttemptReader(reading)
        self.log_lines = LogLineReader(reading)
        self.statistics = Statistics(reading)
        # What they wait for.
        self.dependencies = DependencyReader(reading)
        self.relations = RelationReader(reading)
        self.batches = BatchReader(reading)
        self.limits = LimitReader(reading)
        self.unique_keys = UniqueKeyReader(reading)
        # What there is beside jobs.
        self.schedules = ScheduleReader(reading)
        self.declarations = DeclarationReader(reading)
        self.queues = QueueReader(reading)
        self.processes = ProcessReader(reading)
        self.known_jobs = KnownJobReader(reading)
        self.dead_letters = DeadLetterReader(reading)
        self.audit = AuditReader(reading)

    def meta(self) -> Meta:
        """Whose store it is and how far it has come (`last_tick_at` tells the lag of the log)."""
        with self._reading() as connection:
            return read_meta(connection)

    def installation(self) -> str:
        """The installation that the store belongs to; empty before its first coordinator."""
        with self._reading() as connection:
            return read_installation(connection)

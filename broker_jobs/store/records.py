"""Describes what the store keeps beside jobs: plain values of schedules, workers, dead letters, commands, work items.

Instants are seconds since the Unix epoch; `log_time` is the coordinators' own (it stands still while none is active).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker_jobs.clock import Instant


@dataclass(slots=True)
class Meta:
    """The one row behind the lock: whose store this is, and how far it has come."""

    store_id: str
    schema: int
    serial: int
    """Grows by one with every transaction that wrote something."""
    log_time: float = 0.0
    last_tick_at: float = 0.0
    control_version: int = 0
    schedules_version: int = 0
    accepted_serial: int = 0
    """A person has accepted that ticks up to this serial belong to a time the store has lost."""


@dataclass(slots=True)
class ScheduleRow:
    """A recurring job as it stands."""

    name: str
    cron: str
    tz: str = "UTC"
    misfire: str = "once"
    overlap: str = "allow"
    call: str = ""
    """The envelope of its jobs, JSON text."""
    service: str = ""
    version: int = 1
    paused: bool = False
    last_planned_at: Instant | None = None
    last_job_id: str | None = None
    created_at: Instant = 0.0
    changed_at: Instant = 0.0


@dataclass(slots=True)
class WorkerRow:
    """A worker process as its last heartbeat told."""

    id: str
    host: str = ""
    slot: str = ""
    pid: int = 0
    queues: tuple[str, ...] = ()
    concurrency: int = 0
    running: int = 0
    done: int = 0
    cpu_percent: float = 0.0
    rss_bytes: int = 0
    version: str = ""
    service: str = ""
    """The name of its program; empty: it has none."""
    code: str = ""
    """Names the set of jobs that it knows; empty: it does not tell."""
    busy: str = ""
    """What keeps its jobs from running, or has just done so."""
    started_at: Instant = 0.0
    seen_at: Instant = 0.0
    silent_since: Instant | None = None
    """Since when it has not answered its supervisor, which says that it lives; None: it answers."""
    problem: str = ""
    """Why it does not take jobs, as it says itself."""
    lost: bool = False
    served: tuple[str, ...] = ()
    """The queues with their weights, as they are written; empty: they have none."""
    queue_limits: dict[str, int] = field(default_factory=dict)
    """Queue -> how many of its jobs it runs at once."""


@dataclass(slots=True)
class DeadLetterRow:
    """A message that could not be read or decided, whole, with the reason."""

    id: str
    at: Instant
    origin: str
    """Where it came from: log, command, dead or due."""
    reason: str
    body: bytes
    exchange: str = ""
    key: str = ""
    type: str = ""
    message_id: str = ""
    user_id: str = ""
    """The user of the broker that sent it, as the broker attests."""
    dead_lettered: bool = False
    """The broker had dead-lettered it before."""


@dataclass(slots=True)
class AuditRow:
    """A command that was applied. `by` is what its sender claims, `user_id` the user of the broker that sent it."""

    id: str
    at: Instant
    by: str
    kind: str
    subject: str
    detail: str = ""
    user_id: str = ""


@dataclass(slots=True)
class LogLineRow:
    """A line a job wrote while it ran."""

    at: Instant
    attempt: int
    text: str


@dataclass(slots=True)
class AttemptRow:
    """How one attempt of a job ended. An epoch is run once at most, so it is the key."""

    job_id: str
    epoch: int
    attempt: int
    """Its number, as retries count: an interruption has that of the attempt after it."""
    ended: str
    """succeeded, raised, timed out, cancelled, interrupted, crashed or returned."""
    at: Instant
    """When it was stored, by the coordinator's clock: the order of errors."""
    started_at: Instant | None
    """By the worker's clock, for display; None: it was not run."""
    ended_at: Instant
    """As `started_at`; of a crash by the coordinator's clock."""
    worker: str = ""
    host: str = ""
    release: str = ""
    """The version that the worker reported; empty: the store takes it from the worker's last heartbeat."""
    reason: str = ""
    """Why it crashed or was returned."""
    error: str | None = None
    """JSON of its ErrorInfo."""
    fingerprint: str | None = None
    """Equal for errors of one kind that were raised at one place."""


@dataclass(slots=True)
class BatchRow:
    """A batch as it stands. `open` members have not ended; a sub-batch is one member of its parent."""

    id: str
    title: str = ""
    parent: str | None = None
    state: str = "awaiting"
    """awaiting: not complete, or waits for its parents; processing; or how it ended."""
    total: int = 0
    open: int = 0
    succeeded: int = 0
    failed: int = 0
    deleted: int = 0
    created_at: Instant = 0.0
    ended_at: Instant | None = None


@dataclass(slots=True)
class SubmissionRow:
    """One `with` block of a batch. Accepted with its commit and all chunks; open when its batch may begin."""

    id: str
    batch: str
    parent_submission: str | None = None
    chunks: int | None = None
    """How many the commit counts; None: not committed."""
    seen: int = 0
    accepted: bool = False
    """Its commit and all chunks have come, and those of the submission around it."""
    opened: bool = False
    """Its members wait for their own conditions alone; or it was abandoned."""
    since: float = 0.0
    """The log time at which it became known: it does not run while its commit may wait unread."""


@dataclass(slots=True, frozen=True)
class DependencyRow:
    """A holder (job, or batch with its prefix) waits for a target to end, or for a submission to open."""

    holder: str
    kind: str
    target: str
    on_end: str
    unsatisfied: bool
    since: float
    """The log time at which it was made."""


@dataclass(slots=True, frozen=True)
class WorkItemRow:
    """An effect on an unbounded number of rows that is being worked off."""

    kind: str
    target: str
    outcome: str


@dataclass(slots=True, frozen=True)
class SubscriptionRow:
    """A job that is made for every event of a name."""

    service: str
    event: str
    job: str
    call: str
    """The envelope of its jobs, JSON text."""


@dataclass(slots=True, frozen=True)
class LimitRow:
    """A limit as it stands."""

    key: str
    """Its kind and its key: concurrency:smtp, ordered:account-7, rate:api."""
    most: int | None
    """What a person has set, or else the jobs were enqueued with; None: no job of it is known any more."""
    taken: int
    """Slots in use."""
    waiting: int
    """Jobs in line; of a rate, the one whose start comes next too."""
    is_set: bool = False
    """A person has set the number."""
    per: float | None = None
    """Seconds, of a rate."""

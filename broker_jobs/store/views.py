"""Describes what the store answers to who shows it: plain values beside the rows themselves.

Apart from what the coordinator keeps (`kept`), as nothing here is ever written back. Instants are seconds since the
Unix epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from broker_jobs.clock import Instant
from broker_jobs.messages.state import State
from broker_jobs.store.records import AttemptRow, AuditRow, BatchRow


@dataclass(slots=True, frozen=True)
class EndedRow:
    """Jobs that came to an end in a stretch of time that begins at `at`."""

    at: Instant
    succeeded: int = 0
    failed: int = 0
    deleted: int = 0


@dataclass(slots=True, frozen=True)
class Latency:
    """How long jobs that ended waited for a worker and ran, in seconds; None: of none is it known.

    Made from buckets a fifth wide, so right to about a tenth.
    """

    wait_p50: float | None
    wait_p95: float | None
    run_p50: float | None
    run_p95: float | None
    of: int
    """Jobs that ran."""


@dataclass(slots=True, frozen=True)
class KindRow:
    """What came of the jobs of one name."""

    job: str
    succeeded: int
    failed: int
    deleted: int
    latency: Latency


@dataclass(slots=True, frozen=True)
class ErrorRow:
    """Attempts that ended with the same error."""

    fingerprint: str
    count: int
    """Of the newest attempts that ended with an error, so many (`attempts.NEWEST`)."""
    last: AttemptRow


@dataclass(slots=True, frozen=True)
class QueueRow:
    """A queue as it stands."""

    name: str
    paused: bool
    counts: dict[State, int]
    oldest: Instant | None
    """When the job that waits longest for a worker was released."""
    ended_per_minute: float
    waiting: dict[str, int]
    """Of the enqueued jobs those that are high and those that are low."""


@dataclass(slots=True, frozen=True)
class RelationRow:
    """A job or batch at the other end of a continuation."""

    id: str
    is_batch: bool
    title: str
    state: str
    """A job's or batch's; unknown: it was never seen, or is past its retention."""
    on: str
    unsatisfied: bool


@dataclass(slots=True, frozen=True)
class BatchesFound:
    """A page of batches."""

    batches: list[BatchRow]
    next: str | None


@dataclass(slots=True, frozen=True)
class FailureRow:
    """Failed jobs with the same error."""

    error: str
    count: int
    example: str
    """The id of one of them."""


@dataclass(slots=True, frozen=True)
class AuditFound:
    """A page of applied commands."""

    audit: list[AuditRow]
    next: str | None


@dataclass(slots=True, frozen=True)
class DeadLetterSummary:
    """A dead letter without its body."""

    id: str
    at: Instant
    origin: str
    reason: str
    size: int
    type: str


@dataclass(slots=True, frozen=True)
class DeadLettersFound:
    """A page of dead letters."""

    dead_letters: list[DeadLetterSummary]
    next: str | None


@dataclass(slots=True, frozen=True)
class UniqueRow:
    """A unique key and the job that has it."""

    key: str
    job_id: str
    scope: str
    until: Instant | None


@dataclass(slots=True, frozen=True)
class FunctionRow:
    """A function that can be run as a job, as the code of a program has declared it."""

    name: str
    service: str
    queue: str
    doc: str
    parameters: list[dict[str, Any]] = field(default_factory=list)
    """name, kind, required, default, type, json_schema, secret of each."""
    seen_at: Instant = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    """policy and tags of its jobs, as its code says; kept beside the parameters."""


@dataclass(slots=True, frozen=True)
class ComponentRow:
    """A coordinator or beat, as it last told of itself."""

    id: str
    kind: str
    host: str
    pid: int
    version: str
    active: bool
    seen_at: Instant

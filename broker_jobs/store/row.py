"""Describes one job as the store keeps it: a plain value that the coordinator's decisions turn into the next one.

Instants are seconds since the Unix epoch, `grace_until` is log time. Plain numbers, as tens of thousands of rows a
second go through here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import IntEnum
from operator import attrgetter
from typing import Self

from broker_jobs.clock import Instant
from broker_jobs.messages.state import State


class Publication(IntEnum):
    """Whether a message of the job is out in a work queue or with a worker."""

    NONE = 0
    PUBLISHING = 1
    """A release is committed and may or may not have been published: these rows are the outbox."""
    PUBLISHED = 2


class WaitReason:
    """Bits of what a job waits for: it waits while one is set, and each condition sets and clears its own alone.

    Plain numbers, as are the other bits: an operation on an `IntFlag` makes an object, and a job has a hundred.

    Two reasons have no bit, as a clock may step back under it: the time (`due_at`) and what of the job may still be
    running (`publication`, `grace_until`). They are asked of those columns.
    """

    NOTHING = 0
    COMMIT = 1
    """Its batch submission is not complete: it takes nothing yet."""
    UNIQUE = 2
    """The job that had its unique key before was deleted and may still be running."""
    DEPENDENCY = 4
    """A parent or a batch has not ended, or its own batch has not begun."""
    LINE = 8
    """It waits in the line of a limit."""
    UNKNOWN = 16
    """No living worker of its queue knows it. The highest bit: these jobs are found by `waits >= 16`."""


class Conditions:
    """Bits of which conditions a job has, so that those of all others are not asked for."""

    NONE = 0
    UNIQUE = 1
    LINES = 2
    DEPENDENCIES = 8
    RELEASED = 4
    """It was released since it was accepted or requeued: its work may be half done."""
    KEPT = 16
    """It says for itself how long it, or its result, is kept after its end."""


class Reason:
    """Why a job is scheduled, enqueued again or being cancelled; kept in the row, set by the state machine."""

    NONE = ""
    RETRY = "retry"
    CRASH = "crash"
    RETURNED = "returned"
    REPEAT = "repeat"
    NOW = "now"
    RESCHEDULED = "rescheduled"
    VANISHED = "vanished"
    INTERRUPTED = "interrupted"
    """Its worker had to leave while it ran; its message is on its way back."""
    CANCEL = "cancel"
    ALIAS = "alias"
    """A duplicate: what is asked of it is answered by the root of its `alias_group`."""
    UNSATISFIED = "unsatisfied"
    """Deleted because what it waited for ended otherwise; comes back when that is requeued and ends as it should."""


@dataclass(slots=True)
class Row:
    """One job. `evolve` copies; nothing changes a row that others hold."""

    id: str
    job: str = ""
    queue: str = "default"
    state: State = State.ENQUEUED
    reason_code: str = Reason.NONE
    publication: Publication = Publication.NONE
    epoch: int = 0
    attempt: int = 1
    crashes: int = 0
    returns: int = 0
    fence: int = 0
    """Epochs up to this one must not be run; 0: no fence. Told to workers while a message may be out."""
    owner: str | None = None
    """The worker that runs it."""
    owned: bool = False
    """The broker no longer backs it: the coordinator owns it by the worker's heartbeats."""
    sender: str | None = None
    """The coordinator whose release is `publishing`."""
    due_at: Instant | None = None
    grace_until: float | None = None
    created_at: Instant = 0.0
    changed_at: Instant = 0.0
    """When the state was last entered, by the clock of the coordinator that stored it."""
    released_at: Instant | None = None
    """When its message went out, by the clock of a coordinator; of a producer's own message when its copy was read."""
    started_at: Instant | None = None
    """By the worker's clock, for display."""
    ended_at: Instant | None = None
    """By the worker's clock, for display; where no worker ended it, as `changed_at`."""
    copy_until: Instant | None = None
    """Until then a copy may be in the delay queues; such a row is not purged."""
    retries: int = 10
    envelope: str = ""
    """The envelope's JSON as the producer sent it; empty while only a tombstone or an event is known."""
    reason: str = ""
    """The sentence shown beside the state."""
    result: str | None = None
    result_lost: str | None = None
    error: str | None = None
    """JSON of the last attempt's ErrorInfo."""
    parent: str | None = None
    batch: str | None = None
    recurring: str | None = None
    tags: str = ""
    progress: str | None = None
    history: list[tuple[Instant, str, str]] = field(default_factory=list)
    """(at, state, reason) of every transition, oldest first; capped by the store's writer at 200."""
    unknowns: int = 0
    """Times a worker gave it back that knows no job of this name, since it was started or held last."""
    interruptions: int = 0
    """Times it was cut off because its worker had to leave, since the last that counted as a crash."""
    lost_since: int = 0
    """The first epoch whose run was taken for lost; 0: none since it was requeued. A success of it still counts."""
    waits: int = WaitReason.NOTHING
    conditions: int = Conditions.NONE
    alias_group: str | None = None
    """The aliases of one job, and that job: its root."""
    counted_as: str | None = None
    """How its batch counts it: open, succeeded, failed or deleted; None: it does not."""
    gives_back: bool = False
    """A person gave it another time while it might be running: its ordered slot goes back when it is clear."""
    ran_on: str | None = None
    """The worker that ran it last; kept when the run has ended."""
    ran_host: str | None = None
    """The host of that worker."""
    priority: str | None = None
    """high or low; None: normal."""
    keep_until: Instant | None = None
    """When it may be forgotten, by the clock of the coordinator that stored its end; None: as the settings say."""
    result_until: Instant | None = None
    """When its result may be forgotten, if before it."""

    @property
    def is_waiting(self) -> bool:
        """Whether it is to be released and was not."""
        return self.state is State.AWAITING or self.state is State.SCHEDULED

    @property
    def is_alias(self) -> bool:
        """Whether another job stands for it."""
        return self.reason_code == Reason.ALIAS

    def evolve(self, **changes: object) -> Self:
        """A copy with some columns changed (its history list is its own). The changes are trusted, not validated.

        The same object where nothing changes: who asks whether a row has changed compares objects.
        """
        for name, value in changes.items():
            if getattr(self, name) != value:
                break
        else:
            return self
        copy = type(self)(*_COLUMNS(self))  # an eighth of the price of dataclasses.replace, twice for every job
        copy.history = list(self.history)
        for name, value in changes.items():
            setattr(copy, name, value)
        return copy


_COLUMNS = attrgetter(*(column.name for column in fields(Row)))

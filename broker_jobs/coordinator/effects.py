"""Describes what follows the commit of a transaction: what is published, answered, timed and counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from broker_jobs.broker.interface import Message
from broker_jobs.clock import Instant
from broker_jobs.coordinator.inputs import Input
from broker_jobs.messages.control import Control
from broker_jobs.store.records import Meta
from broker_jobs.store.row import Row

HORIZON_SECONDS = 30.0
"""The timer of a job that comes due later is set when it comes nearer; until then the store remembers it."""


@dataclass(slots=True)
class Effects:
    """What follows a commit."""

    meta: Meta
    releases: list[Row] = field(default_factory=list)
    release_messages: list[Message] = field(default_factory=list)
    """One for each of `releases`, made inside the transaction: a row that cannot be released raises there, alone."""
    messages: list[Message] = field(default_factory=list)
    control: Control | None = None
    control_before: list[Control] = field(default_factory=list)
    """What is published before `control`."""
    timers: list[tuple[str, Instant]] = field(default_factory=list)
    next: list[Input] = field(default_factory=list)
    """Records found on the way, and what goes on in the next batch."""
    more: bool = False
    """Something is marked to be worked off in the next transactions."""
    rows: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    dead_letters: list[tuple[str, str]] = field(default_factory=list)
    """(origin, reason) of messages put aside."""
    late: list[float] = field(default_factory=list)
    caught_up: bool = False
    """A tick of our own came back: all that was in the log when we started has been read."""
    tick_at: Instant | None = None
    """When our own newest tick of the batch was sent: the log has been read up to then, by our own clock."""
    counted_at: Instant | None = None
    """When our own tick was sent that counted; those sent before this commit and not read yet count no more."""
    foreign: str | None = None
    """A coordinator that writes another store lives on this broker: two stores are two truths."""
    went_back: int | None = None
    """A tick showed this serial, ahead of the store: it was restored from a backup."""
    lost_workers: int = 0
    told: list[str] = field(default_factory=list)
    """Jobs and batches whose end is answered by `messages`."""
    jobs_wait: bool = True
    """Whether one of the changed jobs waits for what another's end brings; after a tick, whether any job does."""

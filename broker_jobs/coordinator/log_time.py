"""Applies ticks: log time goes on by them, and they show whether the store is the one that the log knows."""

from __future__ import annotations

from dataclasses import replace

from broker_jobs.clock import Instant, LogTime, RemoteTime
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.leadership import OwnTicks
from broker_jobs.coordinator.liveness import CoordinatorLeases
from broker_jobs.coordinator.rows import Rows
from broker_jobs.messages.events import Tick
from broker_jobs.store.views import ComponentRow

CLOCK_STEP_SECONDS = 60.0
"""A tick that is so much older than the newest is of a clock that was set back: the log is read up to it."""


class LogClock:
    """The ticks of one transaction.

    Args:
        own: this coordinator's id.
        since: when it started: what coordinators of another store sent before is of the past.
        ticks: those that this coordinator has sent.
        coordinators: the leases of all.
        rows, effects: of the transaction.
    """

    def __init__(
        self,
        rows: Rows,
        effects: Effects,
        *,
        own: str,
        since: Instant,
        ticks: OwnTicks,
        coordinators: CoordinatorLeases,
    ) -> None:
        self._own = own
        self._since = since
        self._ticks = ticks
        self._coordinators = coordinators
        self._rows = rows
        self._tx = rows.tx
        self._effects = effects

    def is_ahead(self, tick: Tick) -> bool:
        """Whether a tick shows a later transaction than the store has: it was restored from a backup."""
        meta = self._tx.meta
        return tick.store == meta.store_id and tick.serial > max(meta.serial, meta.accepted_serial)

    def checkpoint(self, tick: Tick) -> None:
        """How far a store had come a moment ago, as the broker kept it."""
        if self.is_ahead(tick):
            self._effects.went_back = max(tick.serial, self._effects.went_back or 0)

    def tick(self, tick: Tick) -> None:
        """A coordinator's tick was read from the log."""
        meta = self._tx.meta
        if tick.store != meta.store_id:
            self._effects.foreign = tick.coordinator if tick.sent_at > self._since else None
            return
        own = tick.coordinator == self._own
        self._effects.caught_up |= own
        if self._coordinators.shows(tick.coordinator, RemoteTime(tick.sent_at)):
            self._tx.processes.save_component(  # who reads the log is the active one
                ComponentRow(tick.coordinator, "coordinator", tick.host, tick.pid, tick.version, own, tick.sent_at)
            )
        self.checkpoint(tick)
        seconds = self._ticks.seconds_of(tick) if self._effects.counted_at is None else None
        if seconds is not None:
            meta.log_time += seconds
            self._effects.counted_at = tick.sent_at
        stepped_back = meta.last_tick_at - tick.sent_at > CLOCK_STEP_SECONDS
        meta.last_tick_at = tick.sent_at if stepped_back else max(meta.last_tick_at, tick.sent_at)
        self._rows.at = replace(self._rows.at, log_now=meta.log_time)
        if own:
            self._effects.tick_at = tick.sent_at
        self._coordinators.ticked(tick.coordinator, LogTime(meta.log_time))

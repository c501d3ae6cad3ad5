"""Applies ticks: log time goes on by them, and they show whether the store is the one that the log knows."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from broker_jobs.clock import Instant
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.rows import Rows
from broker_jobs.messages.events import Tick
from broker_jobs.store.views import ComponentRow

CLOCK_STEP_SECONDS = 60.0
"""A tick that is so much older than the newest is of a clock that was set back: the log is read up to it."""
TICKS_REMEMBERED = 100
"""A standby sends ticks that only the active coordinator reads."""
GONE_SECONDS = 10.0
"""A coordinator without a tick for so much log time is gone."""
MOST_COORDINATORS = 100
SHOWN_EVERY_SECONDS = 5.0


class Ticks:
    """The ticks that this coordinator has sent and read, from one transaction to the next.

    Args:
        coordinator: its id.
        since: when it started: what coordinators of another store sent before is of the past.
    """

    def __init__(self, coordinator: str, since: Instant) -> None:
        self.coordinator = coordinator
        self.since = since
        self._coordinators: dict[str, float] = {}
        self._out: deque[Instant] = deque(maxlen=TICKS_REMEMBERED)
        """When the own ticks were sent that were not read yet; the first of them that is read counts, and no other."""
        self._counted_at: Instant | None = None
        """When the own tick was sent that counted last."""
        self._shown: dict[str, Instant] = {}

    def sent(self, at: Instant) -> None:
        """A tick of our own is on its way."""
        self._out.append(at)

    @property
    def is_out(self) -> bool:
        """Whether a tick of our own is on its way."""
        return bool(self._out)

    def counted(self, at: Instant) -> None:
        """The transaction is committed in which our own tick of this moment counted."""
        self._out.clear()
        self._counted_at = at

    def seconds_of(self, tick: Tick) -> float | None:
        """What a tick adds to log time, a second at most; None where it does not count.

        Of what was sent by us and not read yet one tick counts, however many there are: what a broker or a log that
        stood still delivers at once is worth one second. The ticks of others never count.
        """
        if tick.coordinator != self.coordinator or tick.sent_at not in self._out:
            return None
        return 0.0 if self._counted_at is None else min(1.0, max(0.0, tick.sent_at - self._counted_at))

    def read(self, coordinator: str, log_now: float) -> None:
        """A coordinator's tick was read."""
        self._coordinators[coordinator] = log_now
        if len(self._coordinators) > MOST_COORDINATORS:  # each start of one has an id of its own
            self._coordinators = {id: at for id, at in self._coordinators.items() if log_now - at < GONE_SECONDS}

    def know(self, coordinators: set[str], log_now: float) -> None:
        """These coordinators have releases of which nothing is known: each has a whole lease from now on."""
        self._coordinators = dict.fromkeys(coordinators, log_now)

    def is_to_be_kept(self, coordinator: str, at: Instant) -> bool:
        """Whether it is time to keep that a coordinator lives: not with each of its ticks."""
        if abs(at - self._shown.get(coordinator, float("-inf"))) < SHOWN_EVERY_SECONDS:
            return False
        if len(self._shown) > MOST_COORDINATORS:
            self._shown.clear()
        self._shown[coordinator] = at
        return True

    def is_gone(self, coordinator: str, log_now: float) -> bool:
        """Whether another coordinator's lease is over."""
        seen = self._coordinators.setdefault(coordinator, log_now)
        return coordinator != self.coordinator and log_now - seen >= GONE_SECONDS


class LogClock:
    """The ticks of one transaction."""

    def __init__(self, ticks: Ticks, rows: Rows, effects: Effects) -> None:
        self._ticks = ticks
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
            self._effects.foreign = tick.coordinator if tick.sent_at > self._ticks.since else None
            return
        own = tick.coordinator == self._ticks.coordinator
        self._effects.caught_up |= own
        if self._ticks.is_to_be_kept(tick.coordinator, tick.sent_at):
            self._tx.save_component(  # who reads the log is the active one
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
        self._ticks.read(tick.coordinator, meta.log_time)

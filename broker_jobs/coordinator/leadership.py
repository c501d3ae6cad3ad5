"""Tells whether this coordinator is the active one, sends its ticks, and alone grants the right to release.

The broker gives the log to one coordinator, so the one that receives log deliveries is the active one (transitions R7).
One that has received none for five seconds stands by. It releases nothing either while the log holds more than it has
read since its start, or while its store is older than the log.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from pydantic import ValidationError

from broker_jobs.broker.interface import Broker, Delivery
from broker_jobs.clock import Clock, WallTime
from broker_jobs.coordinator import release
from broker_jobs.messages.control import Control
from broker_jobs.messages.events import Tick
from broker_jobs.messages.process_info import ProcessInfo, this_process
from broker_jobs.store.records import Meta

logger = logging.getLogger(__name__)

ACTIVE_SECONDS = 5.0
"""Without a log delivery for this long a coordinator is not the active one."""
TICK_SECONDS = 1.0
TICK_AGAIN_SECONDS = 2.0
"""A tick that was not read for this long may be lost, or buffered, or read by another coordinator: one more is sent.
Of all that are out one counts, so log time does not run through a stall; and an idle coordinator still reads a tick
before ACTIVE_SECONDS are over."""
TICK_TIMEOUT_SECONDS = 5.0
FINAL_TICK_SECONDS = 2.0
BROADCAST_TIMEOUT_SECONDS = 10.0
TICKS_REMEMBERED = 100
"""A standby sends ticks that only the active coordinator reads."""


class OwnTicks:
    """The ticks that this coordinator has sent and not read yet. Log time is the sum of those that count."""

    def __init__(self, coordinator: str) -> None:
        self._coordinator = coordinator
        self._out: deque[WallTime] = deque(maxlen=TICKS_REMEMBERED)
        self._counted_at: WallTime | None = None

    def sent(self, at: WallTime) -> None:
        """A tick is on its way."""
        self._out.append(at)

    @property
    def is_out(self) -> bool:
        """Whether a tick is on its way."""
        return bool(self._out)

    def seconds_of(self, tick: Tick) -> float | None:
        """What a tick adds to log time, a second at most; None if it does not count.

        Of the ticks that were sent and not read yet one counts, however many there are: what a broker or a log that
        stood still delivers at once is worth one second. The ticks of other coordinators never count.
        """
        sent_at = WallTime(tick.sent_at)  # our own clock wrote it, as it is one of those that are out
        if tick.coordinator != self._coordinator or sent_at not in self._out:
            return None
        return 0.0 if self._counted_at is None else min(1.0, max(0.0, sent_at - self._counted_at))

    def counted(self, sent_at: WallTime) -> None:
        """A tick was counted and committed: those that are still out count no more."""
        self._out.clear()
        self._counted_at = sent_at


class RestoredStore:
    """Whether the store is older than the log, as it was restored from a backup, and no person has accepted that."""

    def __init__(self) -> None:
        self._serial = 0
        self._seen: int | None = None
        """The newest serial that the log knows of this store, while it is not accepted."""
        self._accepted_before = 0

    def begin(self, meta: Meta) -> None:
        """The store as it is at the start."""
        self._serial = meta.serial

    @property
    def is_restored(self) -> bool:
        """Whether nothing may be released."""
        return self._seen is not None

    @property
    def newest_serial(self) -> int:
        """For ticks. Until it is accepted, the serial that the log knows: a coordinator that restarts must learn it."""
        return max(self._serial, self._seen or 0)

    def committed(self, meta: Meta, went_back: int | None) -> None:
        """A transaction was committed; `went_back` if a tick in it had a later serial than the store."""
        self._serial = meta.serial
        if went_back is not None and (self._seen is None or went_back > self._seen):
            # The serial of the store grows while the log is read, so it does not say whether a person has accepted.
            self._seen, self._accepted_before = went_back, meta.accepted_serial
            logger.critical(
                "the log has seen serial %d of this store, which is at %d: it went back (restored from a backup?). "
                "Nothing is released until a person accepts it: broker-jobs store accept",
                went_back,
                self._serial,
            )
        if self._seen is not None and meta.accepted_serial != self._accepted_before:
            logger.warning("the restored store was accepted: releases go on")
            self._seen = None


class Leadership:
    """Active or standby. Call it from the coordinator's thread; `active` and `on_control` from any."""

    def __init__(
        self,
        id: str,
        broker: Broker,
        clock: Clock,
        ticks: OwnTicks,
        *,
        store_name: str,
        on_fatal: Callable[[str], None],
    ) -> None:
        self._id = id
        self._broker = broker
        self._clock = clock
        self._ticks = ticks
        self._store_name = store_name
        self._on_fatal = on_fatal
        self._process_info = ProcessInfo()
        self._store_id = ""
        self._log_heard = float("-inf")
        self._last_tick = float("-inf")
        self._stepped_up = False
        self._caught_up = False
        self._restored = RestoredStore()

    def begin(self, meta: Meta) -> None:
        """Take the place of a standby on this store."""
        self._process_info = this_process()
        self._store_id = meta.store_id
        self._restored.begin(meta)

    # ---- active or standby

    @property
    def active(self) -> bool:
        """Whether this coordinator has had a log delivery in the last 5 s."""
        return self._clock.monotonic() - self._log_heard < ACTIVE_SECONDS

    @property
    def leads(self) -> bool:
        """Whether it has taken over and its store is the newest: it may judge what is lost, and which jobs are due."""
        return self._stepped_up and not self._restored.is_restored

    @property
    def stepped_up(self) -> bool:
        """Whether it has taken over. It may have had no log delivery since; `changes` says so."""
        return self._stepped_up

    @property
    def restored(self) -> bool:
        """Whether the store is older than the log, and no person has accepted that."""
        return self._restored.is_restored

    @property
    def caught_up(self) -> bool:
        """Whether the log was read up to our start. Before that a tick may still say that the store was restored."""
        return self._caught_up

    def may_release(self) -> bool:
        """The right to release jobs."""
        return self.active and self._caught_up and not self._restored.is_restored

    def log_was_read(self) -> None:
        """A delivery of the log was received."""
        self._log_heard = self._clock.monotonic()

    def must_step_up(self) -> bool:
        """Whether it receives the log and has not taken over yet."""
        return self.active and not self._stepped_up

    def step_up(self) -> None:
        """It has taken over."""
        self._stepped_up = True
        logger.info("coordinator %s is the active one", self._id)

    def must_step_down(self) -> bool:
        """Whether it had taken over and receives the log no more."""
        return self._stepped_up and not self.active

    def step_down(self) -> None:
        """It stands by."""
        self._stepped_up = False
        logger.info("coordinator %s has had no log delivery for %g s: it stands by", self._id, ACTIVE_SECONDS)

    # ---- ticks

    def next_tick_at(self) -> float:
        """When the next tick is sent (monotonic): a second after the one before, if that was read."""
        return self._last_tick + (TICK_AGAIN_SECONDS if self._ticks.is_out else TICK_SECONDS)

    def tick(self) -> bool:
        """Send a tick if it is time; the active coordinator's is kept in the command queue too."""
        now = self._clock.monotonic()
        if now < self.next_tick_at():
            return False
        self._last_tick = now
        sent_at = self._clock.now()
        tick = release.tick(self._id, self._store_id, self._restored.newest_serial, sent_at, self._process_info)
        self._ticks.sent(WallTime(sent_at))
        messages = [tick, release.checkpoint(tick)] if self._stepped_up else [tick]
        self._broker.publish(messages, timeout=TICK_TIMEOUT_SECONDS)
        return True

    def tick_counted(self) -> None:
        """A tick of ours was read and counted. If it came late, a whole second passes before the next one."""
        now = self._clock.monotonic()
        if now - self._last_tick > TICK_SECONDS:
            self._last_tick = now

    def final_tick(self) -> None:
        """Send a last tick: the next coordinator learns how far the store had come, and notices a restored store."""
        tick = release.tick(
            self._id, self._store_id, self._restored.newest_serial, self._clock.now(), self._process_info
        )
        self._broker.publish([tick], timeout=FINAL_TICK_SECONDS).result()

    # ---- whose store is the truth

    def committed(self, meta: Meta, *, went_back: int | None, caught_up: bool) -> bool:
        """A transaction was committed; whether releases begin or go on with it."""
        begins = caught_up and not self._caught_up
        self._caught_up = self._caught_up or caught_up
        self._restored.committed(meta, went_back)
        return begins

    def refuse_foreign(self, coordinator: str) -> None:
        """Tell a coordinator that writes another store to stop."""
        logger.error("coordinator %s writes to a different store: it is asked to stop", coordinator)
        only = Control(version=0, store=self._store_id)
        self._broker.publish([release.broadcast(only)], timeout=BROADCAST_TIMEOUT_SECONDS)

    def on_control(self, deliveries: list[Delivery]) -> None:
        """Stop if the active coordinator on this broker writes to a different store (the broker's I/O thread)."""
        for delivery in deliveries:
            try:
                store = Control.model_validate_json(delivery.body).store
            except ValidationError:
                continue
            if store is not None and store != self._store_id:
                self._on_fatal(
                    f"the active coordinator on this broker writes another store ({store}; this one is "
                    f"{self._store_id}, {self._store_name}): two stores are two truths. "
                    "Give all coordinators one BROKER_JOBS_STORE"
                )

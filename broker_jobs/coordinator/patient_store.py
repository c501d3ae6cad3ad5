"""Repeats transactions while the store does not answer, tells an outage from an error of the data, and says why."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import TypeVar

from broker_jobs.clock import Clock
from broker_jobs.coordinator.failures import ConsequenceError, NotStoredError
from broker_jobs.errors import StoreError
from broker_jobs.store.migrate import NewerSchemaError
from broker_jobs.store.open import Store, StoreRefusedError

logger = logging.getLogger(__name__)

STORE_PATIENCE_SECONDS = 300.0
"""If the store is away for longer, the deliveries are returned once, and consumed again when it answers."""
LONGEST_PAUSE_SECONDS = 5.0
"""Between two tries while the store is away."""
BUSY_SECONDS = 10.0
"""A transaction that takes longer is reported: another program may hold the lock of the store."""
REFUSALS = 2
"""If the store refuses a transaction so often, and answers in between, its data are at fault."""

Stored = TypeVar("Stored")


class PatientStore:
    """The store, as the coordinator's thread writes to it.

    Args:
        store: where.
        clock: measures how long it does not answer.
        stopping: set when the coordinator has to stop.
        on_fatal: called with the reason when this program cannot use the store.
        give_log_back: called when the store is away for long.
        take_log_again: called when it answers again after that.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        stopping: threading.Event,
        on_fatal: Callable[[str], None],
        give_log_back: Callable[[], None],
        take_log_again: Callable[[], None],
    ) -> None:
        self.store = store
        self._clock = clock
        self._stopping = stopping
        self._on_fatal = on_fatal
        self._give_log_back = give_log_back
        self._take_log_again = take_log_again
        self._down_since: float | None = None
        self._down_reason = ""
        self._began_at: float | None = None

    @property
    def is_away(self) -> bool:
        """Whether the store does not answer."""
        return self._down_since is not None

    def outage(self) -> str | None:
        """Why nothing is stored now, for the health page; None: it is (any thread)."""
        if self._down_since is not None:
            return f"the store does not answer: {self._down_reason}"
        began_at = self._began_at
        seconds = 0.0 if began_at is None else self._clock.monotonic() - began_at
        if seconds < BUSY_SECONDS:
            return None
        return f"the store is busy: a transaction has waited or run for {seconds:.0f} s"

    def persist(self, work: Callable[[], Stored], *, refusable: bool = False) -> Stored:
        """The result of a transaction; while the store is away it is tried again, and nothing is acknowledged.

        Args:
            work: the transaction.
            refusable: whether data may be at fault. Then a refusal that comes back while the store answers is raised.

        Raises:
            NotStoredError: the coordinator has to stop, and the store does not answer or is too new.
            StoreRefusedError: the store answers, and refuses this transaction again and again.
        """
        pause, gave_back, refusals = 0.1, False, 0
        while True:
            try:
                self._began_at = self._clock.monotonic()
                try:
                    result = work()
                finally:
                    self._began_at = None
            except NewerSchemaError as error:  # the log is for a coordinator that understands the store
                self._on_fatal(str(error))
                self._give_log_back()
                raise NotStoredError from error
            except StoreError as error:
                if refusable and isinstance(error, StoreRefusedError):
                    refusals += 1
                    if refusals >= REFUSALS and self._store_answers():
                        if isinstance(error.__cause__, ConsequenceError):
                            raise error.__cause__ from error
                        raise
                if self._note_failure(error) > STORE_PATIENCE_SECONDS and not gave_back:
                    gave_back = True
                    logger.error("the store has not answered for long: deliveries return to the log until it does")
                    self._give_log_back()
                if self._stopping.wait(pause):
                    raise NotStoredError from error
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            self._note_answer()
            if gave_back:
                self._take_log_again()
            return result

    def _store_answers(self) -> bool:
        """Whether the store takes a transaction that writes next to nothing."""
        try:
            with self.store.transaction() as tx:
                tx.meta.log_time = math.nextafter(tx.meta.log_time, math.inf)
        except StoreError:
            return False
        self._note_answer()
        return True

    def _note_failure(self, error: StoreError) -> float:
        """For how many seconds the store has not answered."""
        now = self._clock.monotonic()
        self._down_reason = str(error)
        if self._down_since is None:
            self._down_since = now
            logger.error("the store does not answer (%s); the records stay in the log; trying again", error)
        return now - self._down_since

    def _note_answer(self) -> None:
        if self._down_since is not None:
            logger.warning("the store answers again after %.0f s", self._clock.monotonic() - self._down_since)
            self._down_since = None

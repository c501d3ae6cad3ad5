"""Does what time asks for: timers of jobs that come due soon, retention, work items, parents that never came."""

from __future__ import annotations

import logging

from broker_jobs.clock import Clock, Instant, LogTime
from broker_jobs.coordinator.input_queue import InputQueue
from broker_jobs.coordinator.inputs import UnknownParents, WorkItemsWaiting
from broker_jobs.coordinator.leadership import Leadership
from broker_jobs.coordinator.patient_store import PatientStore
from broker_jobs.coordinator.release_publisher import DueTimers
from broker_jobs.settings import Settings
from broker_jobs.store.open import Store
from broker_jobs.store.retention import PurgeProgress

logger = logging.getLogger(__name__)

LOOK_AHEAD_SECONDS = 15.0
LOOK_EVERY_SECONDS = 10.0
MOST_DUE = 50_000
"""Timers that one look sets; when they have ended and there are more, it looks again."""
PURGE_EVERY_SECONDS = 60.0
PURGE_ROWS = 500
"""Old rows that one page looks at."""
PURGE_AGAIN_SECONDS = 3_600.0
"""Old rows that something needed are looked at again after so long."""
FLOOD_SECONDS = 1.0
"""Between two looks at the budget of dead letters while they are stored."""
UNKNOWN_PARENTS_EVERY_SECONDS = 600.0
"""Between two looks at all dependencies."""
NEVER_SEEN_SECONDS = 86_400.0
"""Log time for which a parent that is not known is waited for."""
DEPENDENCIES = 1_000
"""Dependencies that are looked at together."""
FIRST_DEPENDENCY = ("", "", "")


class Maintenance:
    """The regular work of the active coordinator."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock,
        *,
        patient_store: PatientStore,
        leadership: Leadership,
        timers: DueTimers,
        input_queue: InputQueue,
    ) -> None:
        self._store = store
        self._patient_store = patient_store
        self._leadership = leadership
        self._timers = timers
        self._input_queue = input_queue
        self._settings = settings
        self._clock = clock
        self._more_due = False
        self._last_look = float("-inf")
        self._last_purge = self._purge_began = float("-inf")
        self._purge_progress = PurgeProgress()
        self._last_dead_letter_purge = float("-inf")
        self._dead_letters_stored = False
        self._last_unknown_parents = clock.monotonic()
        self._looked_at = FIRST_DEPENDENCY

    def looked_ahead(self, found: int) -> None:
        """The timers of so many jobs were set by taking over."""
        self._more_due = found >= MOST_DUE
        self._last_look = self._clock.monotonic()

    def look_again(self) -> None:
        """Look ahead in the next round."""
        self._last_look = float("-inf")

    def look_ahead(self) -> None:
        """Set the timers of what comes due soon: a lost due notice or a failover costs a moment, not a job."""
        all_ended = self._more_due and not self._timers
        if not all_ended and self._clock.monotonic() - self._last_look < LOOK_EVERY_SECONDS:
            return
        self._last_look = self._clock.monotonic()
        before = self._clock.now() + LOOK_AHEAD_SECONDS

        def look() -> list[tuple[Instant, str]]:
            with self._store.transaction() as tx:
                return tx.due.jobs(before, limit=MOST_DUE)

        found = self._patient_store.persist(look)
        self._more_due = len(found) == MOST_DUE
        for due_at, id in found:
            self._timers.set(id, due_at)

    def dead_letters_were_stored(self) -> None:
        """Some may have to go for them, soon: a flood of them must not fill the disk until the next purge."""
        self._dead_letters_stored = True

    def purge_dead_letters(self) -> None:
        """Remove dead letters that are too old, or beyond their budget, a page a round. The oldest go first."""
        now = self._clock.monotonic()
        pause = FLOOD_SECONDS if self._dead_letters_stored else PURGE_EVERY_SECONDS
        if now - self._last_dead_letter_purge < pause:
            return
        settings, before = self._settings, self._clock.now() - self._settings.keep_dead_letters

        def purge() -> int:
            with self._store.transaction() as tx:
                return tx.dead_letters.purge(
                    before=before, most=settings.max_dead_letters, most_bytes=settings.max_dead_letter_bytes,
                    limit=PURGE_ROWS,
                )  # fmt: skip

        removed = self._patient_store.persist(purge)
        if removed < PURGE_ROWS:
            self._last_dead_letter_purge, self._dead_letters_stored = now, False
        if removed:
            logger.warning(
                "%d dead letters were removed, the oldest first: they are kept for %g days, up to %d and %d bytes",
                removed,
                settings.keep_dead_letters / 86_400,
                settings.max_dead_letters,
                settings.max_dead_letter_bytes,
            )

    def purge(self) -> None:
        """Remove ended jobs that are kept no longer, a page a round; afterwards go on with work items."""
        if not self._leadership.stepped_up or self._clock.monotonic() - self._last_purge < PURGE_EVERY_SECONDS:
            return
        settings, now = self._settings, self._clock.now()

        def purge() -> int:
            with self._store.transaction() as tx:
                return tx.purge(
                    now=now, keep_succeeded=settings.keep_succeeded, keep_deleted=settings.keep_deleted,
                    keep_failed=settings.keep_failed, limit=PURGE_ROWS, progress=self._purge_progress,
                )  # fmt: skip

        if self._clock.monotonic() - self._purge_began >= PURGE_AGAIN_SECONDS:
            self._purge_began = self._clock.monotonic()
            self._purge_progress.restart()
        self._patient_store.persist(purge)
        if self._purge_progress.is_complete:
            self._last_purge = self._clock.monotonic()
            self._input_queue.add([WorkItemsWaiting()])

    def look_for_unknown_parents(self) -> None:
        """Find what waits for a parent that never came, a page a round, once all of the log was read (any thread)."""
        if not (self._leadership.leads and self._leadership.caught_up):
            return
        if self._clock.monotonic() - self._last_unknown_parents < UNKNOWN_PARENTS_EVERY_SECONDS:
            return
        since = LogTime(self._store.reader.meta().log_time - NEVER_SEEN_SECONDS)
        found, last = self._store.reader.dependencies.unknown_parents(
            since=since, after=self._looked_at, limit=DEPENDENCIES
        )
        if found:
            self._input_queue.add([UnknownParents(found)])
        self._looked_at = last or FIRST_DEPENDENCY
        if last is None:
            self._last_unknown_parents = self._clock.monotonic()

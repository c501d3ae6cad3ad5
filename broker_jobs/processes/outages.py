"""Says every ten seconds of an outage what is wrong and what still works, and once that it is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection

from broker_jobs.broker.interface import Broker

logger = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
LOOK_SECONDS = 0.5
_LOST = {
    "worker": "running jobs go on, and their outcomes are reported when it is back; no job is received",
    "coordinator": "the store can be read; nothing is recorded and no job is released",
    "beat": "planned times are kept and decided when it is back",
    "supervisor": "worker processes go on and are replaced when they end",
}
_BLOCKED = {
    "worker": "jobs that were received are run, and their outcomes are reported when the alarm is over",
    "coordinator": "the log is read; no job is released",
    "beat": "planned times are kept and decided when the alarm is over",
    "supervisor": "worker processes go on and are replaced when they end",
}


class OutageLog:
    """Watches the broker of one process in a thread of its own.

    Args:
        broker: the broker; looking at it makes no request.
        roles: what the process does, for the sentence about what still works.
    """

    def __init__(self, broker: Broker, roles: Collection[str]) -> None:
        self._broker = broker
        self._roles = roles
        self._stopping = threading.Event()
        self._since: float | None = None
        self._said_at: float | None = None

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="broker-jobs-outages", daemon=True).start()

    def stop(self) -> None:
        """Watch no more; it does not wait for the thread."""
        self._stopping.set()

    def look(self, now: float) -> None:
        """Look at the broker, and say what there is to say. `now`: monotonic seconds."""
        lost = not self._broker.connected
        if not lost and not self._broker.blocked:
            if self._said_at is not None and self._since is not None:
                logger.info("RabbitMQ takes messages again, after %.0f s", now - self._since)
            self._since = self._said_at = None
            return
        if self._since is None:
            self._since = now
        if now - (self._since if self._said_at is None else self._said_at) < EVERY_SECONDS:
            return
        self._said_at = now
        works = _LOST if lost else _BLOCKED
        logger.warning(
            "%s for %.0f s. Until it is over: %s",
            f"no connection to RabbitMQ ({self._broker.problem or 'no answer'}), tried again every few seconds,"
            if lost
            else "RabbitMQ blocks publishing (memory or disk alarm)",
            now - self._since,
            "; ".join(works[role] for role in works if role in self._roles),
        )

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self.look(time.monotonic())

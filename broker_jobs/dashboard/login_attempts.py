"""Counts failed attempts to get in, so that nobody tries passwords by the thousand."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

from broker_jobs.clock import Clock

logger = logging.getLogger(__name__)

MOST = 10
"""Failed attempts from one address in WINDOW_SECONDS; after that even the right word is not looked at."""
WINDOW_SECONDS = 60.0
MOST_ADDRESSES = 10_000
"""Remembered at once; the oldest is forgotten first."""


class LoginAttempts:
    """The failures of the last minute, by address. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def too_many(self, address: str) -> bool:
        """Whether this address has to wait."""
        with self._lock:
            return len(self._recent(address)) >= MOST

    def failed(self, address: str) -> None:
        """An attempt from this address was wrong."""
        with self._lock:
            self._failed[address] = [*self._recent(address), self._clock.monotonic()][-MOST:]
            if len(self._failed[address]) == MOST:
                logger.warning("%d wrong logins to the dashboard from %r in a minute: it has to wait", MOST, address)
            self._failed.move_to_end(address)
            while len(self._failed) > MOST_ADDRESSES:
                self._failed.popitem(last=False)

    def _recent(self, address: str) -> list[float]:
        since = self._clock.monotonic() - WINDOW_SECONDS
        return [at for at in self._failed.get(address, []) if at > since]

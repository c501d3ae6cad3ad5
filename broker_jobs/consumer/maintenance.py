"""A thread that looks after things a few times a second; what a look raises is logged and the next look comes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 0.1
SILENT_SECONDS = 15.0
"""A look that takes longer is stuck."""


class MaintenanceThread:
    """Calls `begin` until it does not raise, then `look` every tenth of a second until stopped."""

    def __init__(self, begin: Callable[[], None], look: Callable[[], None]) -> None:
        self._begin = begin
        self._look = look
        self._stopped = threading.Event()
        self._begun = False
        self._failure = ""
        self._looked_monotonic = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="broker-jobs-maintenance", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def problem(self) -> str | None:
        """Why nothing looks after the worker; None: something does, or was told to stop."""
        if self._stopped.is_set():
            return None
        if not self._thread.is_alive() and self._thread.ident is not None:
            return "the maintenance thread has died; restart this process"
        if self._failure:
            return f"it could not begin to consume: {self._failure}"
        silent = time.monotonic() - self._looked_monotonic
        if self._begun and silent > SILENT_SECONDS:
            return f"the maintenance thread has not looked for {silent:.0f} s; restart this process"
        return None

    def stop(self, timeout: float) -> None:
        """Look no more; waits up to `timeout` seconds for a look that is under way."""
        self._stopped.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._begin()
                self._begun, self._failure = True, ""
                break
            except Exception as error:
                self._failure = f"{type(error).__name__}: {error}"
                logger.exception("the worker could not start to consume; trying again every second")
                self._stopped.wait(1.0)
        while not self._stopped.wait(PERIOD_SECONDS):
            self._looked_monotonic = time.monotonic()
            try:
                self._look()
            except Exception:
                logger.exception("the check of the running jobs failed; the next one follows in %s s", PERIOD_SECONDS)

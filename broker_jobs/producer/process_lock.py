"""Provides a lock that forks, signal handlers and interrupts cannot leave locked."""

from __future__ import annotations

import os
import threading
import time

LOOK_SECONDS = 0.005


class Claim:
    """One attempt to claim a `ProcessLock`. Setting `over` gives it back, whether it was got or not."""

    __slots__ = ("next", "over", "thread")

    def __init__(self, *, over: bool = False) -> None:
        self.over = over
        self.thread = threading.get_ident()
        self.next: dict[str, Claim] = {}  # setdefault is atomic: of those that wait, one is next


class ProcessLock:
    """A lock that is free after a fork, and that knows whether the calling thread holds it.

    A fork copies a lock that another thread holds, but not that thread: nothing would release it in the child. A signal
    handler interrupts the code of its own thread, so it must not wait for that code. And a handler that raises (Ctrl-C)
    may do so between any two steps of Python, also right after a lock was taken. So a claim is an object that its user
    has before it waits, and gives back by one assignment, which nothing interrupts:

        claim = Claim()
        try:
            if lock.take(claim, 30):
                …
        finally:
            claim.over = True
    """

    def __init__(self) -> None:
        self._latest: dict[int, Claim] = {}  # one for each process

    @property
    def held_here(self) -> bool:
        """Whether the calling thread holds it."""
        latest = self._find_latest()
        return not latest.over and latest.thread == threading.get_ident()

    def take(self, claim: Claim, timeout: float | None = None) -> bool:
        """Wait until this claim has the lock; False if it has not after `timeout` seconds (None: without end)."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            latest = self._find_latest()
            if latest is claim:
                return True
            if latest.over:
                latest.next.setdefault("claim", claim)
            elif until is not None and time.monotonic() >= until:
                return False
            else:
                time.sleep(LOOK_SECONDS)

    def _find_latest(self) -> Claim:
        pid = os.getpid()
        latest = self._latest.setdefault(pid, Claim(over=True))
        while (following := latest.next.get("claim")) is not None:
            latest = self._latest[pid] = following
        return latest

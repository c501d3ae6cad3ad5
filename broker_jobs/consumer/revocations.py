"""Remembers what must not be run: fenced epochs and paused queues; looked at right before each run.

One set serves delete, requeue, reschedule and lost-message detection (rule R6). Fences only grow and are forgotten
after an hour: by then no message of a fenced epoch waits in any worker.
"""

from __future__ import annotations

import threading

from broker_jobs.messages.control import Control
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.events import ReturnReason

KEEP_SECONDS = 3600.0


class Revocations:
    """Thread-safe; reading takes no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revocations: dict[str, tuple[int, float]] = {}
        """id -> (highest fenced epoch, monotonic time to forget it)."""
        self._paused: frozenset[str] = frozenset()
        self._version = 0

    @property
    def version(self) -> int:
        """The version up to which no broadcast of the coordinator is missing; part of each heartbeat."""
        return self._version

    @property
    def paused(self) -> frozenset[str]:
        """The paused queues."""
        return self._paused

    def refuses(self, envelope: Envelope, queue: str) -> ReturnReason | None:
        """Why this envelope, which came from `queue`, must not be run now; or None."""
        if self._revocations:
            fence = self._revocations.get(envelope.id)
            if fence is not None and envelope.epoch <= fence[0]:
                return "fenced"
        if self._paused and queue in self._paused:
            return "pause"
        return None

    def learn(self, control: Control, monotonic: float, *, asked: bool = False) -> None:
        """Take in what the coordinator said; `asked`: it is the answer to our own hello, which is the newest truth."""
        with self._lock:
            forget_at = monotonic + KEEP_SECONDS
            for fence in control.fences:
                known = self._revocations.get(fence.id)
                epoch = fence.epoch if known is None else max(fence.epoch, known[0])
                self._revocations[fence.id] = (epoch, forget_at)
            if control.paused is not None and (asked or control.version >= self._version):
                self._paused = frozenset(control.paused)
            if asked:
                self._version = control.version
            elif control.snapshot or control.version == self._version + 1:  # after a gap it waits for a snapshot
                self._version = max(self._version, control.version)

    def forget(self, monotonic: float) -> None:
        """Drop what has been kept long enough."""
        with self._lock:
            for job_id, (_, forget_at) in list(self._revocations.items()):
                if forget_at <= monotonic:
                    del self._revocations[job_id]

    def __len__(self) -> int:
        return len(self._revocations)

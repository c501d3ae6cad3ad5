"""Remembers why a consumer does not consume, and logs each cause once: it is tried again every few seconds."""

from __future__ import annotations

import logging
import re

from broker_jobs.broker.names import queue_of, work_queue

logger = logging.getLogger(__name__)

_PRIORITY = re.compile(rf"({re.escape(work_queue(''))}[^:\s']+):(?:high|low)")
"""A work queue in a reason: what keeps a consumer from one of a queue keeps it from all."""
_ADVICE = {
    "403": "give the user the permission to read it",
    "404": "declare it: broker-jobs topology apply",
}


class ConsumeProblems:
    """What keeps a consumer from its queues. Written in the I/O thread, read in any."""

    def __init__(self) -> None:
        self._missing: dict[str, str] = {}
        self._refused = ""
        self._logged: set[str] = set()

    @property
    def first(self) -> str | None:
        """Why a queue is not consumed; None: all are, or the connection is lost."""
        return self._refused or next(iter(self._missing.values()), None)

    @property
    def is_refused(self) -> bool:
        """Whether RabbitMQ has refused to let it consume."""
        return bool(self._refused)

    def missing(self, queue: str) -> None:
        """A queue does not exist."""
        reason = f"queue {queue_of(queue)!r} ({queue}) does not exist; {_ADVICE['404']}"
        self._missing[queue] = reason
        self._log(logging.WARNING, reason)

    def found(self, queue: str) -> None:
        """A queue exists."""
        self._missing.pop(queue, None)

    def refused(self, reason: str) -> None:
        """RabbitMQ has closed the channel for this reason, which begins with its code."""
        advice = _ADVICE.get(reason[:3])
        self._refused = f"RabbitMQ refuses: {reason}" + (f"; {advice}" if advice else "")
        self._log(logging.ERROR, self._refused)

    def consuming(self) -> None:
        """All queues are consumed."""
        if self._logged:
            logger.info("the queues can be consumed now, which they could not before")
        self._missing.clear()
        self._refused = ""
        self._logged.clear()

    def _log(self, level: int, reason: str) -> None:
        cause = _PRIORITY.sub(r"\1", reason)
        if cause not in self._logged:
            self._logged.add(cause)
            logger.log(level, "cannot consume: %s; trying again every 0.1 to 5 s", reason)

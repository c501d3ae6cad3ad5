"""Says what the program of a worker is: its name, and the jobs that it knows, with a digest of them."""

from __future__ import annotations

import hashlib
import logging

from broker_jobs.function.registry import Registry
from broker_jobs.service_name import MAX_KNOWN_JOBS

logger = logging.getLogger(__name__)

MAX_BYTES = 700_000
"""Names in one hello; RabbitMQ may refuse messages of more than a mebibyte."""


class ProgramCode:
    """The program of a worker, as the coordinator is told of it.

    Args:
        service: its name; empty: it has none.
        registry: its jobs; more may come while it runs.
    """

    def __init__(self, service: str, registry: Registry) -> None:
        self.service = service
        self._registry = registry
        self._read = -1
        self._digest = ""
        self._jobs: list[str] = []

    @property
    def digest(self) -> str:
        """Names the set of its jobs; empty: they are too many to be told."""
        self._read_registry()
        return self._digest

    @property
    def jobs(self) -> list[str]:
        """The names of its jobs; none if they are too many to be told."""
        self._read_registry()
        return self._jobs

    def _read_registry(self) -> None:
        if len(self._registry) == self._read:  # a job is never taken away, and one that is replaced keeps its name
            return
        names = self._registry.names()
        self._read = len(names)
        if len(names) > MAX_KNOWN_JOBS or sum(len(name.encode()) + 3 for name in names) > MAX_BYTES:
            logger.warning(
                "this program has %d jobs, too many to be told: none of its queues' jobs is held as unknown", self._read
            )
            self._jobs, self._digest = [], ""
            return
        self._jobs = names
        self._digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:32]

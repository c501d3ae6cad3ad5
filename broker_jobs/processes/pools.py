"""Runs the worker processes of a supervisor and the services beside them as one: started, stopped and watched together.

The workers stop first. What they report last is confirmed by then; the coordinator reads it, and stops.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from broker_jobs.metrics import Snapshot
from broker_jobs.processes.health import Health
from broker_jobs.processes.pool import Pool

logger = logging.getLogger(__name__)

SERVICE_STOP_SECONDS = 15.0
"""The time that coordinator, beat and dashboard get to stop, after the workers: the coordinator reads what these have
reported last, and commits it."""


class Pools:
    """The pools of one supervisor."""

    def __init__(self, workers: Pool, services: Sequence[Pool] = ()) -> None:
        """`services`: pools of one process each; without any, this is the pool of workers."""
        self._workers = workers
        self._services = tuple(services)

    def start(self) -> None:
        """Start all: the services first, as they take longer. Calling it again does nothing."""
        for pool in (*self._services, self._workers):
            pool.start()

    def stop(self, timeout: float) -> bool:
        """Stop the workers gracefully, and then the services; whether all jobs have ended. May be called twice."""
        finished = self._workers.stop(timeout)
        _together([_stop_service(pool) for pool in self._services])
        return finished

    def stop_now(self) -> None:
        """Stop all without waiting for jobs."""
        _together([pool.stop_now for pool in (self._workers, *self._services)])

    def snapshots(self) -> list[Snapshot]:
        """The metrics of all processes, also of those that have ended."""
        return [snapshot for pool in (self._workers, *self._services) for snapshot in pool.snapshots()]

    def health(self) -> Health:
        """Healthy if all are. With services there is a part for each role."""
        if not self._services:
            return self._workers.health()
        parts = {pool.role: pool.health() for pool in (self._workers, *self._services)}
        shown: dict[str, Any] = {role: {"ok": part.ok, **part.components} for role, part in parts.items()}
        reasons = tuple(reason for part in parts.values() for reason in part.reasons)
        return Health(not reasons, shown, reasons)


def _stop_service(pool: Pool) -> Callable[[], None]:
    def stop() -> None:
        if not pool.stop(SERVICE_STOP_SECONDS):
            logger.warning("the %s process did not stop in order; what it left is done at the next start", pool.role)

    return stop


def _together(calls: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call, name="stop a pool", daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

"""Publishes and counts what follows the commit of a transaction."""

from __future__ import annotations

import logging
from concurrent.futures import Future

from broker_jobs.broker.interface import Broker, PublishFailure
from broker_jobs.coordinator import release
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.observer import CoordinatorObserver
from broker_jobs.coordinator.release_publisher import RELEASE_TIMEOUT_SECONDS, ReleasePublisher

logger = logging.getLogger(__name__)


class AfterCommit:
    """What follows a commit, but for what changes the coordinator itself."""

    def __init__(
        self, broker: Broker, engine: Engine, publisher: ReleasePublisher, observer: CoordinatorObserver
    ) -> None:
        self._broker = broker
        self._engine = engine
        self._publisher = publisher
        self._observer = observer

    def observe(self, effects: Effects) -> None:
        """Count, and log what people must know."""
        for kind, count in effects.kinds.items():
            self._observer.records(kind, count)
        for origin, reason in effects.dead_letters:
            logger.error(
                "a message from the %s queue is a dead letter now: %s; look at it with broker-jobs dead-letters",
                origin,
                reason,
            )
            self._observer.dead_letters(origin)
        for note in effects.notes:
            self._observer.noted(note)

    def publish(self, effects: Effects) -> None:
        """Publish broadcasts, answers and releases."""
        if effects.control is not None:
            broadcasts = [release.broadcast(control) for control in (*effects.control_before, effects.control)]
            self._broker.publish(broadcasts, timeout=RELEASE_TIMEOUT_SECONDS).add_done_callback(self._broadcast_ended)
        if effects.messages:
            self._broker.publish(effects.messages, timeout=RELEASE_TIMEOUT_SECONDS)
        if effects.releases:
            self._publisher.release(effects.releases, effects.release_messages)
            self._observer.released(len(effects.releases), effects.late)

    def _broadcast_ended(self, done: Future[list[PublishFailure | None]]) -> None:
        """A worker that missed a part of a broadcast must not believe that it has all (the broker's I/O thread)."""
        if any(failure is not None for failure in done.result()):
            self._engine.broadcast_failed()

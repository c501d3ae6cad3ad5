"""Decides, at the start, dead letters that an older program could not read as a newer version had written them.

All other dead letters are for a person. What was readable was decided except for one record, and is not decided again:
its jobs may have ended, and may have been removed since.
"""

from __future__ import annotations

import logging

from broker_jobs.clock import Clock
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.failures import MOST_REASON_CHARS
from broker_jobs.coordinator.inputs import (
    NEWER,
    CheckpointRead,
    ChunkReceived,
    CommandReceived,
    HeartbeatReceived,
    Input,
    MarkRemoved,
    ReadAgain,
    SupervisedReceived,
    UnknownParents,
    Unreadable,
    WorkItemsWaiting,
    read_again,
)
from broker_jobs.coordinator.records import job_id
from broker_jobs.errors import StoreError
from broker_jobs.messages.batch import BatchCommit
from broker_jobs.messages.envelope import id_created_at
from broker_jobs.messages.events import Tick
from broker_jobs.messages.published import PublishedEvent
from broker_jobs.settings import Settings
from broker_jobs.store.open import Store
from broker_jobs.store.records import DeadLetterRow

logger = logging.getLogger(__name__)

PAGE = 100


def _shortest_kept(settings: Settings) -> float:
    """For so many seconds after its end every job is known."""
    return min(settings.keep_succeeded, settings.keep_deleted, settings.keep_failed)


class NewerMessages:
    """The dead letters that a newer version wrote."""

    def __init__(self, store: Store, engine: Engine, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings
        self._clock = clock

    def decide(self) -> list[Effects]:
        """Decide those that this program can read; what follows."""
        effects: list[Effects] = []
        page = self._store.reader.dead_letters.newer(limit=PAGE)
        while page:
            for row in page:
                inputs = read_again(row)
                if inputs and not any(isinstance(one, Unreadable) for one in inputs) and self._are_known(row, inputs):
                    effects += self._decide_again(row)
            page = self._store.reader.dead_letters.newer(after=page[-1], limit=PAGE)
        return effects

    def _are_known(self, row: DeadLetterRow, inputs: list[Input]) -> bool:
        """Whether none of their jobs can have ended and been removed."""
        removed_before = self._clock.now() - _shortest_kept(self._settings)
        for one in inputs:
            match one:
                case ChunkReceived():
                    ids = [member.envelope.id for member in one.members]
                case BatchCommit() | PublishedEvent() | Tick() | HeartbeatReceived() | SupervisedReceived():
                    ids = []
                case (
                    CommandReceived()
                    | MarkRemoved()
                    | ReadAgain()
                    | CheckpointRead()
                    | UnknownParents()
                    | Unreadable()
                    | WorkItemsWaiting()
                ):
                    return False
                case _:
                    ids = [job_id(one)]
                    if self._store.reader.jobs.get(ids[0]) is not None:
                        continue
            if row.at < removed_before or any((id_created_at(id) or row.at) < removed_before for id in ids):
                logger.warning("dead letter %s is old and can be read now: replay it, or delete it", row.id)
                return False
        return True

    def _decide_again(self, row: DeadLetterRow) -> list[Effects]:
        try:
            effects = self._engine.apply([ReadAgain(row.id)], self._clock.now(), may_release=False)
        except StoreError:
            raise
        except Exception as error:
            logger.exception("dead letter %s can be read now, but not applied: replay it, or delete it", row.id)
            with self._store.transaction() as tx:
                tx.dead_letters.drop(row.id)
                reason = f"{type(error).__name__}: {error}"[:MOST_REASON_CHARS]
                tx.dead_letters.add(
                    row.id.replace(NEWER, "", 1), at=row.at, origin=row.origin, reason=reason, body=row.body,
                    exchange=row.exchange, key=row.key, type=row.type, message_id=row.message_id,
                )  # fmt: skip
            return []
        logger.info("dead letter %s, which a newer version wrote, is applied now", row.id)
        return [effects]

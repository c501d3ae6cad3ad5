"""Decides a message alone that was delivered twice before, as it may have ended the coordinators that had it.

The count of its deliveries does not tell, as a crash raises the count of its neighbours too. So a mark of the message
is committed before it is read, and removed in the transaction that decides it. If the mark is there already, a
coordinator ended while it had this message alone. It may have been ended by something else just then, so the message is
read once more, under a second mark. If both are there, it becomes a dead letter, unread.
"""

from __future__ import annotations

import hashlib
import logging

from broker_jobs.broker.interface import Delivery
from broker_jobs.clock import Clock
from broker_jobs.coordinator.input_queue import ORIGINS, InputQueue
from broker_jobs.coordinator.inputs import MarkRemoved, QueuedInput, Unreadable
from broker_jobs.coordinator.patient_store import PatientStore
from broker_jobs.store.open import Store

logger = logging.getLogger(__name__)

POISON = (
    "twice a coordinator ended while it read or decided this message alone, which had been delivered {count} times "
    "before; replay it only to try again"
)


class PoisonGuard:
    """Marks suspects.

    Args:
        store: keeps the marks.
        patient_store: waits while the store is away.
        input_queue: reads messages.
        clock: the time of a mark.
    """

    def __init__(self, store: Store, patient_store: PatientStore, input_queue: InputQueue, clock: Clock) -> None:
        self._store = store
        self._patient_store = patient_store
        self._input_queue = input_queue
        self._clock = clock

    def pieces(self, suspect: Delivery) -> list[QueuedInput]:
        """What a suspect says, to be decided in one transaction; marked before it is read."""
        mark = _hash_of(suspect)
        if self._patient_store.persist(lambda: self._add_mark(mark)):
            found = self._input_queue.read(suspect)
        else:
            logger.error("a message of %s ended coordinators; it is not read", suspect.queue)
            reason = POISON.format(count=suspect.delivery_count)
            found = [QueuedInput(Unreadable(ORIGINS.get(suspect.queue, "dead"), reason, suspect), suspect)]
        return [*found, QueuedInput(MarkRemoved(mark), None)]

    def _add_mark(self, mark: str) -> bool:
        """Mark a suspect for the first or the second time; False: both marks are there."""
        with self._store.transaction() as tx:
            return any(tx.dead_letters.add_mark(one, at=self._clock.now()) for one in marks_of(mark))


def marks_of(mark: str) -> tuple[str, str]:
    """The marks of a suspect, in the order in which they are set."""
    return mark, f"{mark}:again"


def _hash_of(delivery: Delivery) -> str:
    way = (delivery.queue, delivery.exchange, delivery.key, delivery.type, delivery.message_id)
    return hashlib.sha256(repr(way).encode() + delivery.body).hexdigest()

"""Errors of enqueueing that carry the receipts or the batch, to repeat what has no confirm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_jobs.errors import EnqueueError

if TYPE_CHECKING:
    from broker_jobs.producer.batch import Batch
    from broker_jobs.producer.receipt import Receipt


class EnqueueUnknown(EnqueueError):
    """No confirm came in time, so the job may be enqueued or not. Enqueue it again with the same id, which is harmless.

    The message was being written to RabbitMQ. A message that was not written yet is never sent, and raises
    `EnqueueError`. `receipt` is the receipt that the call would have returned.

    try:
        welcome.enqueue(42)
    except EnqueueUnknown as error:
        welcome.using(id=error.receipt.id).enqueue(42)
    """

    def __init__(self, message: str, receipt: Receipt[Any]) -> None:
        super().__init__(message)
        self.receipt = receipt


class BatchUnknown(EnqueueError):
    """All jobs of a batch are confirmed, but its commit is not, so the batch may start or not.

    `with error.batch: pass` sends the commit again, which is harmless.
    """

    def __init__(self, message: str, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


class EnqueueManyError(EnqueueError):
    """Some jobs of `enqueue_many` were not enqueued.

    `enqueued`, `not_enqueued` and `unknown` have the receipts, in the order of the calls. The unknown ones have no
    confirm: enqueue them again with their ids.
    """

    def __init__(
        self,
        message: str,
        *,
        enqueued: list[Receipt[Any]],
        not_enqueued: list[Receipt[Any]],
        unknown: list[Receipt[Any]],
    ) -> None:
        super().__init__(message)
        self.enqueued = enqueued
        self.not_enqueued = not_enqueued
        self.unknown = unknown

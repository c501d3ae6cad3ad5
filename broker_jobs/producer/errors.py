"""Errors of enqueueing that carry the receipts or the batch to go on with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker_jobs.errors import EnqueueError

if TYPE_CHECKING:
    from broker_jobs.producer.batch import Batch
    from broker_jobs.producer.receipt import Receipt


class EnqueueUnknown(EnqueueError):
    """No confirm came, so the job may be enqueued or not: its message was on its way to RabbitMQ when it was given up.

    What was not on its way yet when its time was over is an `EnqueueError`, and never goes out. Repeating with the same
    id is harmless.

    `receipt` is the receipt the call would have returned.
    """

    def __init__(self, message: str, receipt: Receipt[Any]) -> None:
        super().__init__(message)
        self.receipt = receipt


class BatchUnknown(EnqueueError):
    """All jobs of a batch are confirmed, but not that it is complete, so it may start or not.

    `with error.batch: pass` repeats the end, which is harmless.
    """

    def __init__(self, message: str, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


class EnqueueManyError(EnqueueError):
    """Of many jobs enqueued at once some were not. The receipts, in the order of the calls, are in

    `enqueued`, `not_enqueued` and `unknown` (no confirm came: repeat these with their ids).
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

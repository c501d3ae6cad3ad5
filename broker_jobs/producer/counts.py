"""How far a batch is, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from broker_jobs.messages.commands import BatchReply


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """How many of a batch's jobs stand where. A batch inside it counts as one of them, and ends as it ends."""

    total: int
    open: int
    """Have not ended: wait, are enqueued or run."""
    succeeded: int
    failed: int
    deleted: int

    @property
    def ended(self) -> int:
        """Have ended, however."""
        return self.succeeded + self.failed + self.deleted


def counts_of(view: BatchReply) -> BatchCounts:
    """The numbers in the coordinator's answer."""
    return BatchCounts(view.total, view.open, view.succeeded, view.failed, view.deleted)

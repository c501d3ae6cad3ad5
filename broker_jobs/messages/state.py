"""Names the seven states of a job, as Hangfire does, and says which of them are ends."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job stands."""

    AWAITING = "awaiting"
    """Waits for something other than time: a parent, a batch, a limit, a duplicate."""
    SCHEDULED = "scheduled"
    """Waits for a time: a delay, a retry, or the grace after it came back."""
    ENQUEUED = "enqueued"
    """Released to its work queue; waits for a free worker."""
    PROCESSING = "processing"
    """A worker said that it runs."""
    SUCCEEDED = "succeeded"
    """It returned. Final."""
    FAILED = "failed"
    """It has no retry left. Final for continuations and batches; a person may requeue it."""
    DELETED = "deleted"
    """A person deleted it, or what it waited for can no longer happen. Final; a person may requeue it."""

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.DELETED})

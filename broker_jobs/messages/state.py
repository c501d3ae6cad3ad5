"""Defines the seven states of a job, named as in Hangfire, and which of them are final."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a job."""

    AWAITING = "awaiting"
    """Waits for something other than time: a parent, a batch, a limit or a job with the same unique key."""
    SCHEDULED = "scheduled"
    """Waits for a time: a delay, a retry, or the grace period after it was returned."""
    ENQUEUED = "enqueued"
    """In its work queue; waits for a free worker."""
    PROCESSING = "processing"
    """A worker has reported that it runs."""
    SUCCEEDED = "succeeded"
    """Its function returned. Final."""
    FAILED = "failed"
    """It has no retries left. Final for continuations and batches; it can be requeued."""
    DELETED = "deleted"
    """It was deleted, or what it waited for can no longer happen. Final; it can be requeued."""

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.DELETED})

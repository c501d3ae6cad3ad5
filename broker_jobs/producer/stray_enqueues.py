"""Notices jobs that are enqueued beside a batch in its block: `load.enqueue(row)` for `batch.enqueue(load, row)`.

Membership is explicit, so that the mail a library sends from within the block does not join the batch; a block that
ends empty although jobs were enqueued in it is most likely a slip.
"""

from __future__ import annotations

from contextvars import ContextVar


class StrayEnqueues:
    """What was enqueued beside one open batch."""

    __slots__ = ("count", "last", "outer")

    def __init__(self, outer: StrayEnqueues | None) -> None:
        self.outer = outer
        self.count = 0
        self.last = ""


_innermost: ContextVar[StrayEnqueues | None] = ContextVar("broker_jobs_beside", default=None)


def watch() -> StrayEnqueues:
    """Begin to count what is enqueued in this thread or task."""
    beside = StrayEnqueues(_innermost.get())
    _innermost.set(beside)
    return beside


def unwatch(beside: StrayEnqueues) -> None:
    """Count no more."""
    if _innermost.get() is beside:
        _innermost.set(beside.outer)


def note(job: str, count: int = 1) -> None:
    """Jobs were enqueued, of no batch."""
    beside = _innermost.get()
    if beside is not None:
        beside.count += count
        beside.last = job

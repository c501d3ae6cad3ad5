"""Chooses the delay queue for a delay. Pure.

The delay queue of level n has a TTL of 2^n seconds, and dead-letters into the due queue. One hop in the broker serves
most delays. All delays end in one queue that always exists, so one bad destination cannot stop the others. A binary
tree of levels, as in NServiceBus and kombu, needs a Raft write on both sides of every hop, and stops as a whole.
"""

from __future__ import annotations

LEVELS = 29
"""Levels 0..28: 1 s .. 2^28 s (8.5 years). A longer delay passes through the delay queues twice."""

TIMER_ONLY_SECONDS = 2.0
"""Shorter delays go only to the log: the coordinator's timer is more exact and cheaper than a hop."""


def delay_level(delay_seconds: float) -> int | None:
    """Return the longest level that is not longer than the delay. None: the coordinator's timer is enough."""
    if delay_seconds < TIMER_ONLY_SECONDS:
        return None
    return min(int(delay_seconds).bit_length() - 1, LEVELS - 1)


def level_seconds(level: int) -> int:
    """Return the TTL of the delay queue of a level."""
    return 1 << level

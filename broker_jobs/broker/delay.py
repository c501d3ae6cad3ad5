"""Decides which delay level a delay is sent to. Pure.

A delay queues of TTL queues of 2^n seconds, each dead-lettering into `due`: one hop in the broker for most delays, and
all delays end in one queue that always exists, so one bad destination cannot stop the others (a binary tree of levels,
as NServiceBus and kombu have it, needs a Raft write on both sides of every hop and stops as a whole).
"""

from __future__ import annotations

LEVELS = 29
"""Steps 0..28: 1 s .. 2^28 s (8.5 years); a longer delay goes down the delay queues twice."""

TIMER_ONLY_SECONDS = 2.0
"""Shorter delays go to the log alone: the coordinator's timer is more exact than a hop and cheaper."""


def level_for(delay_seconds: float) -> int | None:
    """The longest step that is not longer than the delay; None when the delay is for the timer alone."""
    if delay_seconds < TIMER_ONLY_SECONDS:
        return None
    return min(int(delay_seconds).bit_length() - 1, LEVELS - 1)


def level_seconds(level: int) -> int:
    """How long a message stays in a step's queue."""
    return 1 << level

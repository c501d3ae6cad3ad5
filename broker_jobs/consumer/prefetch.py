"""Decides how many deliveries a queue may have out at a worker. Pure.

Few by default, so that no worker hoards what another could run; many only while jobs are so short that the way to the
broker and back would be most of their time.
"""

from __future__ import annotations

import math

SHORT_SECONDS = 0.010
MEDIUM_SECONDS = 0.2
LONG_SECONDS = 1.0
HYSTERESIS = 2.0
"""Between a bound and this many times it nothing changes: lowering a prefetch stops a queue for a moment."""
AT_HAND_SECONDS = 0.25
"""How much work of each of several queues is at hand."""
EXPECTED_WAIT_SECONDS = 0.5
"""How long the last delivery may be expected to wait here; half of what makes a worker return it."""


def first_prefetch(concurrency: int, maximum: int, *, several: bool = False) -> int:
    """What a worker starts with: what it can run at once; twice that, if it has several queues to choose from."""
    return max(1, min(2 * concurrency if several else concurrency, maximum))


def next_prefetch(
    current: int, mean_run_seconds: float | None, concurrency: int, maximum: int, *, several: bool = False
) -> int:
    """The prefetch that is right, given the mean run time of the last while (None: nothing ended).

    Doubles while jobs are short, and all that would wait here would be started within half a second; goes back to twice
    the concurrency when they are not, and to the concurrency itself while jobs are long, as a delivery that waits
    behind a long job could run elsewhere. A worker of several queues has work of each at hand for a moment, to choose
    from: else it starts what it has and not what it prefers.
    """
    usual, least = max(1, min(2 * concurrency, maximum)), max(1, min(concurrency, maximum))
    if several and mean_run_seconds:
        usual = max(usual, min(math.ceil(concurrency * (1 + AT_HAND_SECONDS / mean_run_seconds)), maximum))
    long_seconds = LONG_SECONDS if several else MEDIUM_SECONDS
    if mean_run_seconds is None:
        return current
    if mean_run_seconds < SHORT_SECONDS:
        wait_seconds = current * 2 * mean_run_seconds / concurrency  # of the last one, were it doubled
        return max(usual, min(current * 2, maximum) if wait_seconds < EXPECTED_WAIT_SECONDS else current)
    if mean_run_seconds < SHORT_SECONDS * HYSTERESIS:
        return max(usual, current)
    if mean_run_seconds < long_seconds:
        return usual
    if mean_run_seconds < long_seconds * HYSTERESIS:
        return max(least, min(usual, current))
    return least

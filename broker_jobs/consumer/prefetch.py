"""Decides how many deliveries a queue may have out at a worker. Pure.

Few by default, so that no worker hoards what another could run; many only while jobs are so short that the way to the
broker and back would be most of their time.
"""

from __future__ import annotations

SHORT_SECONDS = 0.010
LONG_SECONDS = 1.0
HYSTERESIS = 2.0
"""Between a bound and this many times it nothing changes: lowering a prefetch may return deliveries under way."""


def first_prefetch(concurrency: int, maximum: int) -> int:
    """What a worker starts with."""
    return max(1, min(2 * concurrency, maximum))


def next_prefetch(current: int, mean_run_seconds: float | None, concurrency: int, maximum: int) -> int:
    """The prefetch that is right, given the mean run time of the last while (None: nothing ran).

    Doubles while jobs are short, and all that would wait here would be started within a second; goes back to twice the
    concurrency when they are not, and to the concurrency itself while jobs are long, as a delivery that waits behind a
    long job could run elsewhere.
    """
    usual, least = first_prefetch(concurrency, maximum), max(1, min(concurrency, maximum))
    if mean_run_seconds is None:
        return current
    if mean_run_seconds < SHORT_SECONDS:
        wait_seconds = current * 2 * mean_run_seconds / concurrency  # of the last one, were it doubled
        return max(usual, min(current * 2, maximum) if wait_seconds < LONG_SECONDS else current)
    if mean_run_seconds < SHORT_SECONDS * HYSTERESIS:
        return max(usual, current)
    if mean_run_seconds < LONG_SECONDS:
        return usual
    if mean_run_seconds < LONG_SECONDS * HYSTERESIS:
        return min(usual, current)
    return least

"""Decides how long a job waits before a retry. Pure: chance is an argument."""

from __future__ import annotations

from collections.abc import Callable

from broker_jobs.messages.envelope import Growth, Policy

DEFAULT_CAP_SECONDS = 86_400
"""The longest pause of a job without a back-off of its own, which its growth reaches after 18 retries."""


def retry_delay(policy: Policy, retry: int, chance: Callable[[], float]) -> float:
    """Seconds before retry number `retry` (1 is the first).

    The policy's own list, its last entry repeated, or its growth; without one Hangfire's
    `(n-1)^4 + 15 + rand(0..29)*n`, which spreads ten retries over about four and a half hours, and at most a day:
    of its own the 100th would come after three years. `chance` gives numbers in [0, 1).
    """
    if isinstance(policy.backoff, Growth):
        return _grown(policy.backoff, retry) * (1 - policy.backoff.jitter * chance())
    if policy.backoff is not None:
        return policy.backoff[min(retry, len(policy.backoff)) - 1] if policy.backoff else 0.0
    return float(min((retry - 1) ** 4 + 15 + int(chance() * 30) * retry, DEFAULT_CAP_SECONDS))


def _grown(growth: Growth, retry: int) -> float:
    try:
        return min(growth.cap, growth.first * growth.factor ** (retry - 1))
    except OverflowError:  # a number that no float holds: far beyond the cap
        return growth.cap

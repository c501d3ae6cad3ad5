"""Decides how long a job waits before a retry. Pure: chance is an argument."""

from __future__ import annotations

from collections.abc import Callable

from broker_jobs.messages.envelope import MAX_DELAY_SECONDS, Policy


def retry_delay(policy: Policy, retry: int, chance: Callable[[], float]) -> float:
    """Seconds before retry number `retry` (1 is the first).

    The policy's own list, its last entry repeated; without one Hangfire's `(n-1)^4 + 15 + rand(0..29)*n`, which spreads
    ten retries over about four and a half hours. It is at most the longest delay: no calendar has what comes after
    some thousand retries. `chance` gives numbers in [0, 1).
    """
    if policy.backoff is not None:
        return policy.backoff[min(retry, len(policy.backoff)) - 1] if policy.backoff else 0.0
    return float(min((retry - 1) ** 4 + 15 + int(chance() * 30) * retry, MAX_DELAY_SECONDS))

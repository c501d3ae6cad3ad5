"""Says into which bucket a length of time goes, and what buckets tell of many: the shape of the kept statistics.

Buckets are a fifth wide (four to each doubling), so a few dozen numbers a minute tell waits from a millisecond to a
year, and two minutes are added by adding their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

PER_DOUBLING = 4
UNIT_SECONDS = 0.001
"""What is shorter is in the first bucket."""
LAST = 36 * PER_DOUBLING
"""Two years; what is longer is in the last."""


def bucket_of(seconds: float) -> int:
    """The bucket of a length of time."""
    if seconds <= UNIT_SECONDS:
        return 0
    return min(LAST, math.ceil(math.log2(seconds / UNIT_SECONDS) * PER_DOUBLING))


def upper_seconds(bucket: int) -> float:
    """The longest time of a bucket."""
    return UNIT_SECONDS * math.pow(2.0, bucket / PER_DOUBLING)


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """The time that a share (0 to 1) of those counted did not exceed, interpolated inside its bucket; None: nobody."""
    total = sum(buckets.values())
    if total <= 0:
        return None
    wanted, below = share * total, 0
    for bucket in sorted(buckets):
        n = buckets[bucket]
        if n > 0 and below + n >= wanted:
            lower = 0.0 if bucket == 0 else upper_seconds(bucket - 1)
            return lower + (upper_seconds(bucket) - lower) * max(0.0, wanted - below) / n
        below += n
    return upper_seconds(max(buckets))

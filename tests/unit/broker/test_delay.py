"""The delay level of a delay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.broker.delay import LEVELS, TIMER_ONLY_SECONDS, delay_level, level_seconds

LONGEST = level_seconds(LEVELS - 1)


@given(st.floats(min_value=TIMER_ONLY_SECONDS, max_value=1e12))
def test_a_level_is_never_longer_than_the_delay_so_no_due_notice_is_late(delay: float) -> None:
    level = delay_level(delay)
    assert level is not None
    assert level_seconds(level) <= delay


@given(st.floats(min_value=TIMER_ONLY_SECONDS, max_value=LONGEST * 2, exclude_max=True))
def test_a_level_is_the_longest_that_fits_so_one_hop_covers_more_than_half(delay: float) -> None:
    level = delay_level(delay)
    assert level is not None
    assert delay < 2 * level_seconds(level)


@given(st.floats(max_value=TIMER_ONLY_SECONDS, exclude_max=True, allow_nan=False))
def test_a_short_or_past_delay_is_for_the_timer_only(delay: float) -> None:
    assert delay_level(delay) is None


@given(st.floats(min_value=LONGEST, max_value=1e12))
def test_a_delay_longer_than_the_longest_level_starts_at_that_level(delay: float) -> None:
    assert delay_level(delay) == LEVELS - 1


@given(st.floats(min_value=TIMER_ONLY_SECONDS, max_value=10 * LONGEST))
def test_a_delay_takes_one_hop_per_level_and_one_for_each_full_length(
    delay: float,
) -> None:
    left, hops = delay, 0
    while (level := delay_level(left)) is not None:
        left -= level_seconds(level)
        hops += 1
    assert 0 <= left < TIMER_ONLY_SECONDS
    assert hops <= LEVELS + delay // LONGEST


@pytest.mark.parametrize(
    ("delay", "level"),
    [(1.999, None), (2, 1), (3.999, 1), (4, 2), (30, 4), (86_400, 16), (LONGEST - 0.001, LEVELS - 2)],
)
def test_examples(delay: float, level: int | None) -> None:
    assert delay_level(delay) == level


def test_rabbitmq_accepts_the_longest_level() -> None:
    assert LONGEST * 1000 < 315_360_000_000  # ten years in milliseconds: its limit for x-message-ttl

"""How long a job waits before a retry: a list, a growth with a cap and chance, or the default."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.coordinator.backoff import DEFAULT_CAP_SECONDS, retry_delay
from broker_jobs.messages.envelope import MAX_DELAY_SECONDS, MAX_FACTOR, Growth, Policy

SECONDS = st.floats(min_value=0, exclude_min=True, max_value=MAX_DELAY_SECONDS)
CHANCES = st.floats(min_value=0, max_value=1, exclude_max=True)
RETRIES = st.integers(1, 1_000_000)


def none() -> float:
    return 0.0


def grows(**fields: float) -> Policy:
    return Policy(backoff=Growth.model_validate(fields))


def test_a_list_is_used_in_order_and_its_last_one_is_repeated() -> None:
    assert [retry_delay(Policy(backoff=(1, 5, 30)), n, none) for n in range(1, 6)] == [1, 5, 30, 30, 30]


def test_a_growth_multiplies_by_its_factor_up_to_its_cap() -> None:
    policy = grows(first=2, factor=3, cap=100)
    assert [retry_delay(policy, n, none) for n in range(1, 7)] == [2, 6, 18, 54, 100, 100]


def test_with_factor_one_all_pauses_are_the_same() -> None:
    assert {retry_delay(grows(first=7, factor=1, cap=100), n, none) for n in (1, 2, 1_000_000)} == {7}


@pytest.mark.parametrize(("jitter", "chance", "delay"), [(0.5, 0.0, 10), (0.5, 0.5, 7.5), (1, 0.5, 5), (0, 0.9, 10)])
def test_chance_takes_up_to_the_jitter_away(jitter: float, chance: float, delay: float) -> None:
    assert retry_delay(grows(first=10, cap=10, jitter=jitter), 1, lambda: chance) == pytest.approx(delay)


@given(
    st.builds(Growth, first=SECONDS, factor=st.floats(1, MAX_FACTOR), cap=SECONDS, jitter=st.floats(0, 1)),
    RETRIES,
    CHANCES,
)
def test_no_pause_is_longer_than_the_cap(growth: Growth, retry: int, chance: float) -> None:
    delay = retry_delay(Policy(backoff=growth), retry, lambda: chance)
    assert 0 <= delay <= growth.cap
    assert delay >= min(growth.first, growth.cap) * (1 - growth.jitter) * (1 - 1e-9)


@given(RETRIES, CHANCES)
def test_the_default_grows_up_to_a_day(retry: int, chance: float) -> None:
    delay = retry_delay(Policy(), retry, lambda: chance)
    assert 15 <= delay <= DEFAULT_CAP_SECONDS == 86_400
    assert retry_delay(Policy(), retry + 1, none) >= retry_delay(Policy(), retry, none)


def test_the_default_is_that_of_hangfire_until_its_cap() -> None:
    assert [retry_delay(Policy(), n, none) for n in (1, 2, 10, 18, 19)] == [15, 16, 6_576, 83_536, 86_400]

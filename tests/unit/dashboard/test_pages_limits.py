"""The page of limits."""

from collections.abc import Iterator

import pytest

from broker_jobs.dashboard.role import Role
from tests.support.hostile import SCRIPT
from tests.support.wait import eventually
from tests.unit.dashboard.system import House, assert_harmless, house_in, row_of, words_of

KEY = f"smtp {SCRIPT}"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_in(tmp_path_factory.mktemp("house")) as house:
        yield house


def test_a_limit_says_how_much_of_it_is_taken_and_who_waits(house: House) -> None:
    eventually(lambda: _limit(house, KEY) == (1, 2), what="one that runs and two that wait")
    page = house.person(Role.VIEWER).see("/limits")
    assert_harmless(page)
    assert "1 of 1 2" in row_of(page, KEY)
    assert "set by a person" in row_of(page, "api")
    assert "<form" not in page.partition("<main")[2]


def test_a_number_is_set_and_unset(house: House) -> None:
    person = house.person()
    shown = person.send("/limits/set", page="/limits", key=KEY, limit="3", do="set")
    assert f"{KEY}: 3 from now on" in words_of(shown)
    assert "set by a person" in row_of(shown, KEY)
    eventually(lambda: _limit(house, KEY) == (3, 0), what="all three to run, as the number is higher")
    shown = person.send("/limits/set", page="/limits", key=KEY, do="unset")
    assert "is again the one its jobs are enqueued with" in words_of(shown)
    assert "from its jobs" in row_of(shown, KEY)
    assert [subject for _, subject in house.audited("limit set")][:2] == [KEY, KEY]


@pytest.mark.parametrize("number", ["", "0", "-1", "1.5", "²", "many", "9" * 400])
def test_what_is_no_number_changes_nothing(house: House, number: str) -> None:
    before = house.audited("limit set")
    shown = house.person().send("/limits/set", page="/limits", key="never", limit=number, do="set")
    assert 'role="alert"' in shown
    assert house.audited("limit set") == before


def test_only_an_administrator_sets_limits(house: House) -> None:
    for person in (house.person(Role.OPERATOR), house.person(Role.VIEWER), house.person(read_only=True)):
        person.send("/limits/set", page="/limits", status=403, key="api", limit="1", do="set")
    assert "50" in row_of(house.person().see("/limits"), "api")


def _limit(house: House, key: str) -> tuple[int, int]:
    return next(((one.taken, one.waiting) for one in house.queries.limits() if one.key == key), (0, 0))

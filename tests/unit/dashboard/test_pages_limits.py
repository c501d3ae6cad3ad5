"""The page of limits."""

from collections.abc import Iterator

import pytest

from broker_jobs.dashboard.role import Role
from tests.support.hostile import SCRIPT
from tests.support.wait import eventually
from tests.unit.dashboard.system import System, assert_harmless, row_of, system_in, words_of

KEY = f"smtp {SCRIPT}"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with system_in(tmp_path_factory.mktemp("system")) as system:
        yield system


def test_a_limit_says_how_much_of_it_is_taken_and_who_waits(system: System) -> None:
    eventually(lambda: _limit(system, KEY) == (1, 2), what="one that runs and two that wait")
    page = system.person(Role.VIEWER).see("/limits")
    assert_harmless(page)
    assert "1 of 1 2" in row_of(page, KEY)
    assert "overridden" in row_of(page, "api")
    assert "<form" not in page.partition("<main")[2]


def test_a_number_is_set_and_unset(system: System) -> None:
    person = system.person()
    shown = person.send("/limits/set", page="/limits", key=KEY, limit="3", do="set")
    assert f"The limit of {KEY} is now 3" in words_of(shown)
    assert "overridden" in row_of(shown, KEY)
    eventually(lambda: _limit(system, KEY) == (3, 0), what="all three to run, as the number is higher")
    shown = person.send("/limits/set", page="/limits", key=KEY, do="unset")
    assert "is the one that its jobs are enqueued with" in words_of(shown)
    assert "set by its jobs" in row_of(shown, KEY)
    assert [subject for _, subject in system.audited("limit set")][:2] == [KEY, KEY]


@pytest.mark.parametrize("number", ["", "-1", "1.5", "²", "many", "9" * 400])
def test_what_is_no_number_changes_nothing(system: System, number: str) -> None:
    before = system.audited("limit set")
    shown = system.person().send("/limits/set", page="/limits", key="never", limit=number, do="set")
    assert 'role="alert"' in shown
    assert system.audited("limit set") == before


def test_only_an_administrator_sets_limits(system: System) -> None:
    for person in (system.person(Role.OPERATOR), system.person(Role.VIEWER), system.person(read_only=True)):
        person.send("/limits/set", page="/limits", status=403, key="api", limit="1", do="set")
    assert "50" in row_of(system.person().see("/limits"), "api")


def _limit(system: System, key: str) -> tuple[int, int]:
    return next(((one.taken, one.waiting) for one in system.queries.system.limits() if one.key == key), (0, 0))

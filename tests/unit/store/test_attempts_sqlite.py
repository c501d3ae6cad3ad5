from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import TextClause

pytest.register_assert_rewrite("tests.unit.store.attempt_rules")

from broker_jobs.store import Store, attempts, statistics  # noqa: E402
from tests.unit.store.attempt_rules import AttemptRules  # noqa: E402
from tests.unit.store.plans import explained  # noqa: E402


class TestSqlite(AttemptRules):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def connection() -> Iterator[Any]:
    store = Store("sqlite://")
    store.open()
    with store.transaction() as tx:
        yield tx._connection
    store.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (attempts._OF_JOB, "sqlite_autoindex_attempts_1"),
        (attempts._FORGET_OLDEST, "sqlite_autoindex_attempts_1"),
        (attempts._ERRORS, "attempts_at"),
        (attempts._LAST, "attempts_error"),
        (statistics._KINDS, "sqlite_autoindex_kind_outcomes_1"),
        (statistics._KIND_DURATIONS, "sqlite_autoindex_kind_durations_1"),
    ],
)
def test_attempts_and_kinds_are_found_by_an_index(connection: Any, query: TextClause, index: str) -> None:
    plan = [row[3] for row in explained(connection, "EXPLAIN QUERY PLAN", query)]
    assert any(f"INDEX {index}" in line for line in plan), plan
    if query not in (attempts._ERRORS, statistics._KINDS, statistics._KIND_DURATIONS):  # which group what they found
        assert not any("TEMP B-TREE" in line for line in plan), plan

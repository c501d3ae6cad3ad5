"""The rules of plain jobs on SQLite."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.unit.store.plain_job_rules")
from tests.unit.store.plain_job_rules import SEEDS, PlainJobRules  # noqa: E402


class TestPlainJobsOnSqlite(PlainJobRules):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/store.db"

    @pytest.fixture
    def seeds(self) -> int:
        return SEEDS

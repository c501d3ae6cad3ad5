from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.unit.store.reading_rules")

from tests.unit.store.reading_rules import ReadingRules  # noqa: E402


class TestSqlite(ReadingRules):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'store.db'}"

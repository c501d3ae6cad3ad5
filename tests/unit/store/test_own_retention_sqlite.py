"""How long jobs are kept that say so for themselves, on SQLite."""

import pytest

pytest.register_assert_rewrite("tests.unit.store.retention_rules", "tests.unit.store.own_retention_rules")

from tests.unit.store.own_retention_rules import OwnRetentionRules  # noqa: E402


class TestOwnRetention(OwnRetentionRules):
    @pytest.fixture
    def url(self) -> str:
        return "sqlite://"

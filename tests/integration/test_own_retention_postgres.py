"""How long jobs are kept that say so for themselves, on PostgreSQL."""

import pytest

pytest.register_assert_rewrite("tests.unit.store.retention_rules", "tests.unit.store.own_retention_rules")

from tests.unit.store.own_retention_rules import OwnRetentionRules  # noqa: E402

pytestmark = pytest.mark.postgres


class TestPostgresOwnRetention(OwnRetentionRules):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url

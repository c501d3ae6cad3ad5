import pytest

pytest.register_assert_rewrite("tests.unit.store.line_rules", "tests.unit.store.retention_rules")

from tests.unit.store.line_rules import LineRules  # noqa: E402
from tests.unit.store.retention_rules import RetentionRules  # noqa: E402


class TestLines(LineRules):
    @pytest.fixture
    def url(self) -> str:
        return "sqlite://"


class TestRetention(RetentionRules):
    @pytest.fixture
    def url(self) -> str:
        return "sqlite://"

"""Fixtures of the integration tests: the whole system on a broker and a store of a test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rabbitmq import Vhost
from tests.support.system import System


@pytest.fixture
def system(vhost: Vhost, tmp_path: Path) -> Iterator[System]:
    """A system on SQLite; no part of it is started."""
    system = System(vhost, tmp_path)
    yield system
    system.close()

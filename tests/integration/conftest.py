"""Fixtures of the integration tests: the whole system on a broker and a store of a test's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rabbitmq import Vhost
from tests.support.system import House


@pytest.fixture
def house(vhost: Vhost, tmp_path: Path) -> Iterator[House]:
    """A house on SQLite; no part of it is started."""
    house = House(vhost, tmp_path)
    yield house
    house.close()

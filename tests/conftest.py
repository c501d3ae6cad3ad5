"""Fixtures for all tests: private servers, started once for a run, and a fresh corner of each for every test.

Where a server's program is missing, its tests are skipped at home and fail in CI, where CI=true is set.
"""

import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.support.process import ServerMissingError
from tests.support.rabbitmq import Broker, Vhost

S = TypeVar("S")


def _made(make: Callable[[], S]) -> S:
    try:
        return make()
    except ServerMissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"in CI no server may be missing: {missing}", pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """The private RabbitMQ node of this run. `vhost` heals it, before and after, of whatever a test did to it."""
    node = _made(Broker)
    try:
        node.start()
        yield node
    finally:
        node.dispose()


@pytest.fixture
def vhost(broker: Broker) -> Iterator[Vhost]:
    """A fresh virtual host on the private RabbitMQ node, removed afterwards with all that is in it."""
    broker.heal()
    fresh = broker.vhost()
    yield fresh
    broker.heal()
    fresh.delete()

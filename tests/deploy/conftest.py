"""Fixtures of the deployment's tests: the shipped RabbitMQ, and the files as they stand."""

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import terminal as terminal
from tests.conftest import made
from tests.support.shipped import ShippedBroker


@pytest.fixture(scope="session")
def shipped() -> Iterator[ShippedBroker]:
    """A RabbitMQ node as deploy/rabbitmq describes it, with the queues `default` and `mail`."""
    node = made(lambda: ShippedBroker("default,mail"))
    try:
        node.start()
        yield node
    finally:
        node.dispose()

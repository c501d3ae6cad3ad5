"""Fixtures of the deployment's tests: the shipped RabbitMQ, and the files as they stand."""

from collections.abc import Iterator

import pytest

from tests.acceptance.conftest import terminal as terminal
from tests.conftest import made
from tests.deploy.stage import Stage
from tests.support.postgres import Postgres
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


@pytest.fixture
def stage(shipped: ShippedBroker, postgres: Postgres) -> Iterator[Stage]:
    """A place to run what the shipped files say."""
    postgres.start()
    stage = Stage(shipped, postgres)
    yield stage
    stage.close()
    shipped.empty()

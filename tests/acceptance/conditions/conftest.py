"""One program for each module and place: broker, store, and whether its coordinator is killed in between."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.support.observed import ObservedProgram, View, store_in
from tests.support.postgres import Postgres
from tests.support.rabbitmq import Broker

MEMORY = "memory"
RABBITMQ = pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)
POSTGRESQL = pytest.param("rabbitmq+postgresql", marks=[pytest.mark.rabbitmq, pytest.mark.postgres])
KILLED = pytest.param("rabbitmq+killed", marks=pytest.mark.rabbitmq)
PLACES = [MEMORY, RABBITMQ]

everywhere = pytest.mark.parametrize("program", [MEMORY, RABBITMQ, POSTGRESQL, KILLED], indirect=True)
"""Also on PostgreSQL, and with a coordinator that is killed at `view.restart()`."""


@pytest.fixture(scope="module", params=PLACES)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObservedProgram]:
    """A program that runs."""
    broker, _, kind = request.param.partition("+")
    store = store_in(tmp_path_factory.mktemp("conditions"))
    if broker == "memory":
        program = ObservedProgram(f"memory://{uuid.uuid4().hex}", store)
        yield program
        program.close()
        return
    node: Broker = request.getfixturevalue("broker")
    node.heal()
    vhost = node.vhost()
    assert vhost.opens()
    server: Postgres | None = None
    database = ""
    if kind == "postgresql":
        server = request.getfixturevalue("postgres")
        assert server is not None
        database = server.create_database()
        store = server.url(database)
    program = ObservedProgram(vhost.url, store, coordinator_apart=kind == "killed")
    yield program
    program.close()
    vhost.delete()
    if server is not None:
        server.drop_database(database)


@pytest.fixture
def view(program: ObservedProgram) -> Iterator[View]:
    """The program as one test sees it."""
    view = View(program)
    yield view
    view.close()

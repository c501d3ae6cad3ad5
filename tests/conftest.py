"""Fixtures for all tests: private servers, started once for a process, and a fresh corner of each for every test.

`make test` runs several processes, each with servers of its own: see tests/support/parallel.py. Where a
server's program is missing, its tests are skipped at home and fail in CI, where CI=true is set.
"""

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from hypothesis import settings

from tests.support.encodable import encodable
from tests.support.hoard import let_workers_take_more
from tests.support.leftovers import Environment, check_file_left_nothing
from tests.support.postgres import Postgres
from tests.support.process import Lodging, ServerMissingError, folder_in_memory
from tests.support.prometheus import Prometheus
from tests.support.rabbitmq import Broker, Vhost

S = TypeVar("S")

environment = Environment()

settings.register_profile("untimed", deadline=None)  # a machine may be busy: no example is judged by its time
settings.load_profile("untimed")

# Tests kill processes and never the machine, so nothing that they prove depends on a disk. A virtual host with its
# queues costs a third less processor time where fsync has nothing to do.
Lodging.home = folder_in_memory()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Say how many processes `-n auto` starts."""
    from tests.support import parallel

    return parallel.processes(config)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Escape what UTF-8 cannot encode: half a surrogate pair in a test's log would end the process that reports it."""
    return encodable((yield))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let the cycle collector pass over the modules and tests: they stay, and there are 300,000 objects of them.

    It ran through them while tests worked, and at the end of each file; that was a third of the time of the unit tests.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Let the tests of a file answer for what they left unclosed."""
    yield
    check_file_left_nothing(item, nextitem, environment)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Say who spreads the tests; not where a way to do it was asked for by --dist."""
    from tests.support import parallel

    return parallel.Spread(config, log) if config.getoption("dist") == "load" else None


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Whoever starts the tests in the background of a shell has Ctrl-C ignored, in every program the tests start too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def made(make: Callable[[], S]) -> S:
    """What `make` makes; where its program is not installed the test is skipped, or fails in CI."""
    try:
        return make()
    except ServerMissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"in CI no server may be missing: {missing}", pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """The private RabbitMQ node of this process. `vhost` heals it, before and after, of whatever a test did to it."""
    node = made(Broker)
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
    assert fresh.opens(), f"the node does not open a new virtual host:\n{broker.log()}"
    yield fresh
    broker.heal()
    fresh.delete()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The private PostgreSQL server of this process."""
    server = made(Postgres)
    try:
        server.start()
        yield server
    finally:
        server.dispose()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The address, for SQLAlchemy, of a fresh database, dropped afterwards."""
    postgres.start()
    name = postgres.create_database()
    yield postgres.url(name)
    postgres.start()
    postgres.drop_database(name)


@pytest.fixture
def takes_more_than_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the workers of this process have deliveries that wait for a slot, and keep them."""
    let_workers_take_more(monkeypatch.setattr)


class PrometheusFactory(Protocol):
    """Starts a Prometheus that scrapes what `scrape_configs` say, in the form prometheus.yml has them."""

    def __call__(self, scrape_configs: Sequence[dict[str, Any]], rule_files: Sequence[Path] = ()) -> Prometheus: ...


@pytest.fixture
def prometheus() -> Iterator[PrometheusFactory]:
    """Starts private Prometheus servers; they end with the test."""
    started: list[Prometheus] = []

    def start(scrape_configs: Sequence[dict[str, Any]], rule_files: Sequence[Path] = ()) -> Prometheus:
        server = made(lambda: Prometheus(scrape_configs, rule_files))
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()

"""A store belongs to one installation: coordinators, dashboards and the command line of another one are refused."""

from __future__ import annotations

import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs, StoreError
from tests.acceptance.conftest import TERM, Terminal
from tests.support.rabbitmq import Broker, Vhost

pytestmark = [pytest.mark.acceptance]

REFUSED = "belongs to the installation"


@pytest.fixture
def other(broker: Broker) -> Iterator[Vhost]:
    fresh = broker.vhost()
    assert fresh.opens()
    yield fresh
    fresh.delete()


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, terminal: Terminal) -> str:
    return terminal.store if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def started_and_stopped(url: str, store: str) -> None:
    """Run a program's coordinator once."""
    jobs = BrokerJobs(url, store=store)
    try:
        jobs.start()
    finally:
        jobs.stop()


@pytest.mark.rabbitmq
@pytest.mark.postgres
def test_a_second_project_is_refused_on_both_databases(
    terminal: Terminal, vhost: Vhost, other: Vhost, store: str
) -> None:
    started_and_stopped(vhost.url, store)
    with pytest.raises(StoreError, match=REFUSED) as refused:
        started_and_stopped(other.url, store)
    assert "BROKER_JOBS_STORE" in str(refused.value)
    assert "guest:guest" not in str(refused.value)
    for command in (["run", "app:jobs"], ["jobs", "list"]):
        done = terminal.call(*command, "--url", other.url, "--store", store)
        assert done.returncode == 2, command
        assert REFUSED in done.stderr, command
    started_and_stopped(vhost.url, store)
    assert terminal.call("jobs", "list", "--store", store).returncode == 0


@pytest.mark.rabbitmq
def test_projects_with_default_settings_do_not_share_a_store(
    terminal: Terminal, vhost: Vhost, other: Vhost, tmp_path: Path
) -> None:
    first = terminal.start("coordinator", "--url", vhost.url, HOME=str(tmp_path))
    first.said("is the active one")
    done = terminal.call("coordinator", "--url", other.url, HOME=str(tmp_path))
    assert (done.returncode, REFUSED in done.stderr) == (2, True), done.stderr


@pytest.mark.rabbitmq
def test_a_dashboard_of_another_installation_shows_nothing(terminal: Terminal, vhost: Vhost, other: Vhost) -> None:
    started_and_stopped(vhost.url, terminal.store)

    def page(url: str) -> tuple[int, str]:
        running = terminal.start("dashboard", "--url", url, "--store", terminal.store, "--port", "0")
        running.said("http://127.0.0.1:")
        address = "http://127.0.0.1:" + running.log.split("http://127.0.0.1:")[1].split("/")[0].split()[0]
        try:
            with urllib.request.urlopen(f"{address}/jobs", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()
        finally:
            running.signal(TERM)

    assert page(vhost.url)[0] == 200
    status, text = page(other.url)
    assert status == 503
    assert REFUSED in text


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    "spelled",
    [
        lambda vhost: vhost.url.replace("127.0.0.1", "localhost"),
        lambda vhost: vhost.url + "?heartbeat=30",
        lambda vhost: f"amqp://guest:guest@127.0.0.1:1/{vhost.name},{vhost.url}",
        lambda vhost: f"{vhost.url},amqp://guest:guest@127.0.0.1:1/{vhost.name}",
        lambda vhost: vhost.add_user("somebody", "else", ".*", ".*", ".*"),
    ],
)
def test_another_spelling_of_the_same_broker_is_the_same_installation(
    terminal: Terminal, vhost: Vhost, spelled: Callable[[Vhost], str]
) -> None:
    started_and_stopped(vhost.url, terminal.store)
    started_and_stopped(spelled(vhost), terminal.store)
    started_and_stopped(vhost.url, terminal.store)


@pytest.mark.rabbitmq
def test_a_store_whose_broker_has_moved_is_adopted(terminal: Terminal, vhost: Vhost, other: Vhost) -> None:
    started_and_stopped(vhost.url, terminal.store)
    refused = terminal.call("store", "adopt", "--also", "--yes", "--url", other.url, "--store", terminal.store)
    assert (refused.returncode, "virtual hosts differ" in refused.stderr) == (2, True)
    terminal.output("store", "adopt", "--yes", "--url", other.url, "--store", terminal.store)
    started_and_stopped(other.url, terminal.store)
    with pytest.raises(StoreError, match=REFUSED):
        started_and_stopped(vhost.url, terminal.store)


def test_another_address_of_the_same_broker_is_added(terminal: Terminal) -> None:
    reach = ("--store", terminal.store)
    started_and_stopped("memory://", terminal.store)
    terminal.output("store", "adopt", "--yes", "--url", "amqp://a:secret@rabbit:5672/shop", *reach)
    assert terminal.call("jobs", "list", "--url", "amqp://localhost/shop", *reach).returncode == 2
    said = terminal.output("store", "adopt", "--also", "--yes", "--url", "amqp://localhost/shop", *reach)
    assert "amqp://localhost:5672,rabbit:5672/shop" in said
    for url in ("amqp://localhost/shop", "amqp://b:other@RABBIT/shop", "amqp://x:1/shop,amqp://rabbit/shop"):
        assert terminal.call("jobs", "list", "--url", url, *reach).returncode == 0, url
    for url in ("amqp://rabbit/mail", "amqp://rabbit", "amqp://rabbit:5673/shop", "memory://"):
        assert terminal.call("jobs", "list", "--url", url, *reach).returncode == 2, url


def test_a_memory_program_opens_its_store_again_and_rabbitmq_does_not(terminal: Terminal) -> None:
    for _ in range(2):
        started_and_stopped("memory://", terminal.store)
    done = terminal.call("jobs", "list", "--url", "amqp://localhost/", "--store", terminal.store)
    assert (done.returncode, "belongs to the installation memory://" in done.stderr) == (2, True)


def test_a_store_made_before_stores_had_names_is_claimed_by_its_next_coordinator(terminal: Terminal) -> None:
    started_and_stopped("memory://", terminal.store)
    with sqlite3.connect(terminal.store.removeprefix("sqlite:///")) as connection:
        connection.execute("DELETE FROM installation")
    assert terminal.call("jobs", "list", "--url", "amqp://localhost/", "--store", terminal.store).returncode == 0
    started_and_stopped("memory://", terminal.store)
    assert terminal.call("jobs", "list", "--url", "amqp://localhost/", "--store", terminal.store).returncode == 2

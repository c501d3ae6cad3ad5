"""What becomes of jobs when the store is busy, goes away, or comes back older than it was."""

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs.messages.state import State
from tests.support.postgres import Postgres
from tests.support.rabbitmq import Vhost
from tests.support.system import House
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


def test_a_locked_database_file_delays_and_loses_nothing(house: House) -> None:
    coordinator = house.here("coordinator", "worker", concurrency=4)
    ids = house.enqueue(100, 0.02)
    eventually(lambda: house.rows(ids))
    other = sqlite3.connect(house.folder / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ids += [house.jobs.stumble.enqueue(1).id for _ in range(10)]
    ids += [house.jobs.work.schedule(timedelta(seconds=0.5)).id for _ in range(10)]
    time.sleep(3)
    other.execute("ROLLBACK")
    other.close()
    house.succeeded(ids)
    assert sorted(house.starts().values()) == [1] * 110 + [2] * 10
    assert coordinator.fatal == []
    house.nothing_broken()


@pytest.fixture
def postgres_house(vhost: Vhost, tmp_path: Path, postgres_url: str) -> Iterator[House]:
    house = House(vhost, tmp_path, postgres_url)
    yield house
    house.close()


@pytest.mark.postgres
@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_a_database_server_that_goes_away_under_load_loses_nothing(
    postgres_house: House, postgres: Postgres, end: str
) -> None:
    house = postgres_house
    coordinators = [house.here("coordinator") for _ in range(2)]
    house.start("worker", concurrency=4, slot="1").said("takes jobs of")
    ids = house.enqueue(200, 0.02)
    stumbling = [house.jobs.stumble.enqueue(1).id for _ in range(10)]
    eventually(lambda: len(house.ended()) > 10)
    postgres.stop() if end == "stop" else postgres.kill9()
    ids += house.enqueue(100)
    ids += [house.jobs.work.schedule(timedelta(seconds=0.5)).id for _ in range(10)]
    time.sleep(2)
    reports = [here.program.coordinator.healthy() for here in coordinators if here.program.coordinator]
    assert (False, "the store does not answer") in reports
    postgres.start()
    eventually(lambda: answers(house), 30)
    house.succeeded(ids + stumbling)
    starts = house.starts()
    assert {starts[id] for id in ids} == {1}
    assert {starts[id] for id in stumbling} == {2}
    assert [here.fatal for here in coordinators] == [[], []]
    house.nothing_broken()


def answers(house: House) -> bool:
    with contextlib.suppress(Exception):
        house.store.reader.meta()
        return True
    return False


def put_back(copy: Path, store: Path) -> None:
    for rest in store.parent.glob(f"{store.name}-*"):
        rest.unlink()
    shutil.copy(copy, store)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["leave", "kill9"])
def test_a_restored_store_releases_nothing_until_a_person_accepts_it(house: House, end: str) -> None:
    store, copy = house.folder / "store.db", house.folder / "backup.db"
    first = house.start("coordinator")
    worker = house.start("worker", concurrency=2, slot="1")
    worker.said("takes jobs of")
    before = house.enqueue(5)
    house.succeeded(before)
    finished = [house.jobs.work.schedule(timedelta(seconds=2)).id for _ in range(5)]
    waiting = house.jobs.work.schedule(timedelta(seconds=8)).id
    eventually(lambda: house.states([*finished, waiting]) == {"scheduled": 6})
    with contextlib.closing(sqlite3.connect(store)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    house.succeeded(finished)
    if end == "leave":
        first.leave()
        first.left()
    else:
        first.kill9()
    house.store.close()
    put_back(copy, store)
    house.store.open()
    assert house.states(finished) == {"scheduled": 5}
    second = house.start("coordinator")
    second.said("Nothing is released until a person accepts it")
    eventually(lambda: time.time() > (house.row(waiting).due_at or 0) + 1)
    assert house.states([*finished, waiting]) == {"scheduled": 6}
    assert all(house.starts()[id] == 1 for id in finished)
    for id in finished:  # a person looks at what is waiting, as the command says
        house.jobs.program.receipt(id).delete()
    with house.store.transaction() as transaction:
        transaction.accept_restored()
    house.succeeded([waiting])
    after = house.enqueue(5)
    house.succeeded(after)
    assert set(house.starts().values()) == {1}
    house.is_in(finished[0], State.DELETED)

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
from tests.support.system import System
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq


def test_a_locked_database_file_delays_and_loses_nothing(system: System) -> None:
    coordinator = system.here("coordinator", "worker", concurrency=4)
    ids = system.enqueue(100, 0.02)
    eventually(lambda: system.rows(ids))
    other = sqlite3.connect(system.folder / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ids += [system.jobs.stumble.enqueue(1).id for _ in range(10)]
    ids += [system.jobs.work.schedule(timedelta(seconds=0.5)).id for _ in range(10)]
    time.sleep(3)
    other.execute("ROLLBACK")
    other.close()
    system.succeeded(ids)
    assert sorted(system.starts().values()) == [1] * 110 + [2] * 10
    assert coordinator.fatal == []
    system.nothing_broken()


@pytest.fixture
def postgres_system(vhost: Vhost, tmp_path: Path, postgres_url: str) -> Iterator[System]:
    system = System(vhost, tmp_path, postgres_url)
    yield system
    system.close()


@pytest.mark.postgres
@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_a_database_server_that_goes_away_under_load_loses_nothing(
    postgres_system: System, postgres: Postgres, end: str
) -> None:
    system = postgres_system
    coordinators = [system.here("coordinator") for _ in range(2)]
    system.start("worker", concurrency=4, slot="1").said("serves the queues")
    ids = system.enqueue(200, 0.02)
    stumbling = [system.jobs.stumble.enqueue(1).id for _ in range(10)]
    eventually(lambda: len(system.ended()) > 10)
    postgres.stop() if end == "stop" else postgres.kill9()
    ids += system.enqueue(100)
    ids += [system.jobs.work.schedule(timedelta(seconds=0.5)).id for _ in range(10)]

    def told() -> bool:
        reports = [here.program.coordinator.healthy() for here in coordinators if here.program.coordinator]
        return any(said.startswith("the store does not answer: ") for healthy, said in reports if not healthy)

    eventually(told, what="a coordinator says that the store does not answer")
    postgres.start()
    eventually(lambda: answers(system), 30)
    system.succeeded(ids + stumbling)
    starts = system.starts()
    assert {starts[id] for id in ids} == {1}
    assert {starts[id] for id in stumbling} == {2}
    assert [here.fatal for here in coordinators] == [[], []]
    system.nothing_broken()


def answers(system: System) -> bool:
    with contextlib.suppress(Exception):
        system.store.reader.meta()
        return True
    return False


def put_back(copy: Path, store: Path) -> None:
    for rest in store.parent.glob(f"{store.name}-*"):
        rest.unlink()
    shutil.copy(copy, store)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["leave", "kill9"])
def test_a_restored_store_releases_nothing_until_a_person_accepts_it(system: System, end: str) -> None:
    store, copy = system.folder / "store.db", system.folder / "backup.db"
    first = system.start("coordinator")
    worker = system.start("worker", concurrency=2, slot="1")
    worker.said("serves the queues")
    before = system.enqueue(5)
    system.succeeded(before)
    finished = [system.jobs.work.schedule(timedelta(seconds=2)).id for _ in range(5)]
    waiting = system.jobs.work.schedule(timedelta(seconds=8)).id
    eventually(lambda: system.states([*finished, waiting]) == {"scheduled": 6})
    with contextlib.closing(sqlite3.connect(store)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    system.succeeded(finished)
    if end == "leave":
        first.leave()
        first.left()
    else:
        first.kill9()
    system.store.close()
    put_back(copy, store)
    system.store.open()
    assert system.states(finished) == {"scheduled": 5}
    second = system.start("coordinator")
    second.said("Nothing is released until a person accepts it")
    eventually(lambda: time.time() > (system.row(waiting).due_at or 0) + 1)
    assert system.states([waiting]) == {"scheduled": 1}
    # A success that the killed coordinator had not acknowledged comes again, and is believed.
    assert {*system.states(finished)} <= {"scheduled", "succeeded"}
    assert all(system.starts()[id] == 1 for id in finished)
    for id in finished:  # a person looks at what is waiting, as the command says
        system.jobs.program.receipt(id).delete()
    with system.store.transaction() as transaction:
        transaction.accept_restored()
    system.succeeded([waiting])
    after = system.enqueue(5)
    system.succeeded(after)
    assert set(system.starts().values()) == {1}
    system.is_in(finished[0], State.DELETED)

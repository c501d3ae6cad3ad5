"""Several coordinators: one decides, the others stand by, and whatever becomes of one, each thing happens once."""

import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs.broker import names
from broker_jobs.coordinator.service import PAUSE_SECONDS
from broker_jobs.errors import StoreError
from broker_jobs.messages.state import State
from broker_jobs.store.retention import PurgeProgress
from tests.support.rabbitmq import Vhost
from tests.support.system import Lodger, System
from tests.support.wait import eventually, while_it_moves

pytestmark = pytest.mark.rabbitmq

ACTIVE = "is the active one"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def system(request: pytest.FixtureRequest, vhost: Vhost, tmp_path: Path) -> Iterator[System]:
    store = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    system = System(vhost, tmp_path, store)
    yield system
    system.close()


def active_and_standby(system: System) -> tuple[Lodger, Lodger]:
    first = system.start("coordinator")
    first.said(ACTIVE)
    second = system.start("coordinator")
    second.said("started on store")
    return first, second


def freeze_between_transactions(active: Lodger, system: System) -> None:
    """A program that is frozen inside a transaction keeps the store's lock: that is another story."""
    while True:
        active.freeze()
        if is_free(system):
            return
        active.thaw()
        time.sleep(0.1)  # long enough to end its transaction


def is_free(system: System) -> bool:
    """Whether nobody is inside a transaction of the store; asked at once, as jobs come due meanwhile."""
    if system.store_url.startswith("sqlite"):
        with contextlib.closing(
            sqlite3.connect(system.store_url.removeprefix("sqlite:///"), timeout=0.2)
        ) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            return True
    try:
        with system.store.transaction():
            return True
    except StoreError:
        return False


@pytest.mark.slow
def test_a_killed_coordinator_under_load_loses_nothing_and_runs_nothing_twice(system: System) -> None:
    active, standby = active_and_standby(system)
    system.start("worker", concurrency=4, slot="1").said("serves the queues")
    ids = system.enqueue(200, 0.02)
    own = [system.jobs.work.using(id=f"own-{n}").enqueue(0.01).id for n in range(100)]
    stumbling = [system.jobs.stumble.enqueue(2).id for _ in range(40)]
    delayed = [system.jobs.work.schedule(timedelta(seconds=random.uniform(0.5, 4))).id for _ in range(50)]
    eventually(lambda: len(system.ended()) > random.randrange(10, 100), 30)
    active.kill9()
    standby.said(ACTIVE)
    system.succeeded_soon(ids + own + stumbling + delayed)
    starts = system.starts()
    assert {starts[id] for id in ids + own + delayed} == {1}
    assert {starts[id] for id in stumbling} == {3}
    assert all(mark.at >= (system.row(mark.id).due_at or 0) for mark in system.marks("started") if mark.id in delayed)
    system.nothing_broken()


def test_a_delayed_job_runs_in_time_though_the_active_coordinator_dies_while_all_is_idle(system: System) -> None:
    active, _ = active_and_standby(system)
    system.here("worker", concurrency=2)
    receipt = system.jobs.work.schedule(timedelta(seconds=3))
    system.is_in(receipt.id, State.SCHEDULED)
    active.kill9()
    row = system.is_in(receipt.id, State.SUCCEEDED)
    assert 0 <= system.marks("started")[0].at - (row.due_at or 0) < 3
    assert system.starts() == {receipt.id: 1}


def test_a_frozen_coordinator_is_replaced_and_releases_nothing_when_it_thaws(system: System) -> None:
    """The broker does not notice a frozen program for a whole AMQP heartbeat, so its connections are closed here."""
    active, standby = active_and_standby(system)
    system.here("worker", concurrency=2)
    receipts = [system.jobs.work.schedule(timedelta(seconds=3 + n / 10)) for n in range(10)]
    ids = [receipt.id for receipt in receipts]
    eventually(lambda: system.states(ids) == {"scheduled": 10})
    freeze_between_transactions(active, system)
    system.vhost.close_connections()
    standby.said(ACTIVE)
    system.succeeded(ids)
    late = [mark.at - (system.row(mark.id).due_at or 0) for mark in system.marks("started")]
    assert min(late) >= 0
    assert max(late) < 5
    active.thaw()
    after = system.enqueue(20)
    system.succeeded(after)
    time.sleep(2)  # that nothing more is released can only be waited for
    assert set(system.starts().values()) == {1}
    system.nothing_broken()


def test_a_coordinator_that_thaws_decides_nothing_of_what_it_held(system: System) -> None:
    """Else a job that has ended and was purged meanwhile would be a new one to it, and run again."""
    active, standby = active_and_standby(system)
    ids: list[str] = []
    while not ids or not is_free(system):
        active.thaw()
        ids += system.enqueue(8)
        active.freeze()  # it holds their copies for a moment, as they may end in it
    system.vhost.close_connections()
    standby.said(ACTIVE)
    system.here("worker", concurrency=2)
    system.succeeded(ids)
    time.sleep(PAUSE_SECONDS)  # in less no job can have ended and be purged, but here
    with system.store.transaction() as tx:
        progress = PurgeProgress()
        for _ in range(3):
            tx.purge(
                now=time.time() + 3_600, keep_succeeded=1.0, keep_deleted=1.0, keep_failed=1.0, limit=100,
                progress=progress,
            )  # fmt: skip
    assert system.store.reader.jobs.newest() == []
    active.thaw()
    active.said("stands by")
    after = system.enqueue(20)
    system.succeeded(after)
    assert {row.id for row in system.store.reader.jobs.newest()} == set(after)
    assert set(system.starts().values()) == {1}


@pytest.mark.slow
def test_each_planned_time_of_a_recurring_job_runs_once_with_two_beats_and_two_coordinators(system: System) -> None:
    active, standby = active_and_standby(system)
    beats = [system.start("beat") for _ in range(2)]
    system.here("worker", concurrency=2)
    system.jobs.program.recurring.put("each second", "* * * * * *", system.jobs.work.bind(), misfire="all")
    eventually(lambda: len(system.ended()) >= 3, 20)
    active.kill9()
    standby.said(ACTIVE)
    beats[0].kill9()
    count = len(system.ended())
    eventually(lambda: len(system.ended()) >= count + 3, 20)
    system.jobs.program.recurring.remove("each second")
    ids = list(system.starts())
    system.succeeded(ids)
    planned = sorted(row.due_at or 0 for row in system.rows(ids).values())
    assert [at - planned[0] for at in planned] == [float(n) for n in range(len(planned))]
    assert set(system.starts().values()) == {1}
    system.nothing_broken()


@pytest.mark.slow
def test_a_rolling_restart_of_everything_runs_nothing_twice(system: System) -> None:
    coordinators = list(active_and_standby(system))
    workers = [system.start("worker", concurrency=4) for _ in range(2)]
    for worker in workers:
        worker.said("serves the queues")
    ids = [system.jobs.work.using(id=f"own-{n}").enqueue(0.01).id for n in range(100)]
    with system.busy(ids):
        for n in range(2):
            coordinators.append(system.start("coordinator"))
            coordinators[-1].said("started on store")
            workers.append(system.start("worker", concurrency=4))
            workers[-1].said("serves the queues")
            eventually(lambda: workers[-1].pid in {mark.pid for mark in system.marks("started")}, what="it runs jobs")
            for old in (coordinators[n], workers[n]):
                old.leave()
                old.left()
    system.succeeded(ids)
    assert {mark.pid for mark in system.marks("started")} == {worker.pid for worker in workers}
    assert set(system.starts().values()) == {1}
    assert not any("may have run" in reason for row in system.rows(ids).values() for _, _, reason in row.history)
    system.nothing_broken()


@pytest.mark.slow
def test_commands_and_questions_overtake_a_backlog_of_events(system: System) -> None:
    waiting = system.hold("never", queue="other")
    ids = system.enqueue(30_000)
    system.start("coordinator").said(ACTIVE)
    queues, took = system.jobs.program.queues, []
    commands: list[Callable[[], object]] = [
        lambda: queues.pause("default"), waiting.delete, system.jobs.program.receipt(ids[-1]).delete,
        lambda: queues.resume("default"),
    ]  # fmt: skip
    for command in commands:
        began = time.monotonic()
        command()
        took.append(time.monotonic() - began)
    assert system.vhost.ready(names.LOG) > 0, "there was no backlog any more"
    assert max(took) < 2, took
    counts = while_it_moves(system.store.reader.statistics.counts, lambda seen: seen[State.ENQUEUED] == len(ids) - 1)
    assert counts[State.DELETED] == 2
    assert system.row(ids[-1]).state is State.DELETED


def test_a_coordinator_with_another_store_refuses_and_the_first_goes_on(system: System) -> None:
    first = system.here("coordinator", "worker", concurrency=2)
    assert first.program.coordinator is not None
    system.succeeded(system.enqueue(5))
    newcomer = system.here("coordinator", store=f"sqlite:///{system.folder / 'other.db'}")
    assert newcomer.program.coordinator is not None
    reason = eventually(lambda: newcomer.fatal, 20)[0]
    assert "writes another store" in reason
    assert "Give all coordinators one BROKER_JOBS_STORE" in reason
    assert newcomer.program.coordinator.healthy()[0] is False
    ids = system.enqueue(5)
    system.succeeded(ids)
    assert first.program.coordinator.healthy() == (True, "active")
    assert first.fatal == []
    assert set(system.starts().values()) == {1}


def test_retries_go_on_with_the_next_coordinator(system: System) -> None:
    active, standby = active_and_standby(system)
    system.here("worker", concurrency=2)
    receipt = system.jobs.stumble.using(backoff=[4]).enqueue(1)
    eventually(lambda: system.row(receipt.id).reason_code == "retry")
    active.kill9()
    standby.said(ACTIVE)
    row = system.is_in(receipt.id, State.SUCCEEDED)
    assert (row.attempt, Counter(system.starts())) == (2, {receipt.id: 2})

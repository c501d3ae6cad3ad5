"""The all-in-one on the embedded exchange: starts in order, stops in order, tolerates twice and never."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs, State
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.errors import UsageError
from broker_jobs.function.registry import Registry
from broker_jobs.processes.program import Program
from broker_jobs.settings import Settings
from tests.support.wait import eventually


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    broker = MemoryBroker("memory://")
    yield broker
    broker.stop()


SETTINGS = Settings(url="memory://", store="sqlite://")


def test_it_is_started_and_stopped_twice_and_never(broker: MemoryBroker) -> None:
    program = Program(Registry(), SETTINGS, broker)
    assert program.stop()
    program.stop_now()
    program.start()
    program.start()
    assert program.health().ok
    assert program.stop()
    assert program.stop()
    assert not program.health().ok


def test_it_can_be_started_again(broker: MemoryBroker) -> None:
    program = Program(Registry(), SETTINGS, broker)
    for _ in range(2):
        program.start()
        assert program.health().components["coordinator"]["healthy"]
        program.stop()


@pytest.mark.parametrize("roles", [[], ["werker"], ["worker", "dashboard"]])
def test_wrong_roles_are_refused(broker: MemoryBroker, roles: list[str]) -> None:
    with pytest.raises(UsageError, match="coordinator, worker, beat"):
        Program(Registry(), SETTINGS, broker, roles=roles)


def test_only_the_roles_asked_for_are_started(broker: MemoryBroker) -> None:
    program = Program(None, SETTINGS, broker, roles=["coordinator"])
    program.start()
    assert set(program.health().components) == {"broker", "coordinator"}
    program.stop()


def test_what_was_started_is_stopped_when_the_next_part_cannot_start(broker: MemoryBroker) -> None:
    threads = set(threading.enumerate())
    program = Program(Registry(), SETTINGS.model_copy(update={"store": "mysql://nowhere"}), broker)
    with pytest.raises(Exception, match="store"):
        program.start()
    assert not program.started
    broker.stop()
    eventually(lambda: set(threading.enumerate()) <= threads, 10, "no thread left behind")


def test_it_runs_jobs_and_counts_them() -> None:
    jobs = BrokerJobs("memory://")

    @jobs.job
    def double(n: int) -> int:
        return 2 * n

    with jobs:
        receipt = double.enqueue(21)
        assert receipt.result(timeout=10) == 42
        assert receipt.state() is State.SUCCEEDED


def test_a_coordinator_that_waits_for_its_store_is_not_well_yet(broker: MemoryBroker, tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    program = Program(None, Settings(url="memory://", store=f"sqlite:///{file}"), broker, roles=["coordinator"])
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    starting = threading.Thread(target=program.start)
    starting.start()
    try:
        eventually(lambda: program.started and broker.connected, 10, "all but the store is there")
        assert not program.health().ok
    finally:
        other.close()
        starting.join(30)
    assert program.health().ok
    program.stop()

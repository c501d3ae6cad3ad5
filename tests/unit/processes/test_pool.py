"""A pool restarts worker processes that end, adds up their metrics, and stops them all."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from broker_jobs import metrics as m
from broker_jobs.processes.child import ChildProcess
from broker_jobs.processes.pool import Pool
from broker_jobs.processes.run_board import RunBoard
from broker_jobs.processes.signals import ComponentFailed
from tests.support.wait import eventually
from tests.unit.processes import children


class Recorded:
    """What a pool has said of its children."""

    def __init__(self) -> None:
        self.alive: list[str] = []
        self.ended_ids: list[str] = []
        self.how: list[str] = []

    def look(self, children: list[ChildProcess]) -> None:
        self.alive = [child.worker_id for child in children]

    def ended(self, child: ChildProcess) -> None:
        self.ended_ids.append(child.worker_id)
        self.how.append(child.how_it_ended())


class Pools:
    """Starts pools; they end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed: list[ComponentFailed] = []
        self._started: list[Pool] = []

    def __call__(self, target: Callable[..., None], size: int) -> Pool:
        self.spokesman = Recorded()
        pool = Pool(
            target, (str(self.folder),), size, on_failed=self.failed.append, spokesman=self.spokesman, leave_timeout=0.1
        )
        self._started.append(pool)
        pool.start()
        pool.start()
        return pool

    def slots(self) -> list[str]:
        return sorted(path.read_text() for path in self.folder.glob("*.slot"))

    def end(self) -> None:
        for pool in self._started:
            pool.stop_now()


@pytest.fixture
def pools(tmp_path: Path) -> Iterator[Pools]:
    pools = Pools(tmp_path)
    yield pools
    pools.end()


def total(pool: Pool, family: m.MetricFamily) -> float:
    whole = m.Snapshot()
    for snapshot in pool.snapshots():
        whole.add(snapshot)
    return whole.values.get(family.name, {}).get(("worker",) if family.labels else (), 0.0)


def test_a_killed_child_is_started_again_in_its_slot_and_its_counts_stay(pools: Pools) -> None:
    pool = pools(children.obedient, 2)
    eventually(lambda: pool.health().ok, 30, "both have reported")
    assert total(pool, m.RELEASES) == 2
    assert total(pool, m.IN_FLIGHT) == 2
    assert total(pool, m.PROCESSES) == 2
    eventually(lambda: len(pools.slots()) == 2, 30, "both have written down their slots")
    first = pools.slots()
    assert len(set(first)) == 2

    victim = pool.processes()[0].pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(pools.slots()) == 3, 30, "a third child")
    assert set(pools.slots()) == set(first), "the new child has the slot of the dead one"
    eventually(lambda: pool.health().ok, 30, "healthy again")
    assert total(pool, m.RELEASES) == 3
    assert total(pool, m.IN_FLIGHT) == 2
    assert total(pool, m.RESTARTS) == 1

    (pools.folder / "finish").touch()
    assert pool.stop(20)
    assert pool.stop(20)
    assert pool.processes() == []


def test_slots_of_two_pools_differ(pools: Pools) -> None:
    one, other = pools(children.obedient, 1), pools(children.obedient, 1)
    eventually(lambda: one.health().ok and other.health().ok, 30, "both have reported")
    eventually(lambda: len(pools.slots()) == 2, 30, "both have written down their slots")
    assert len(set(pools.slots())) == 2


def test_stop_now_does_not_wait_for_running_jobs(pools: Pools) -> None:
    pool = pools(children.obedient, 2)
    eventually(lambda: pool.health().ok, 30, "both have reported")
    started = time.monotonic()
    pool.stop_now()
    eventually(lambda: pool.processes() == [], 5, "gone")
    assert time.monotonic() - started < 5


def test_a_child_that_does_not_stop_is_killed(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_jobs.processes.pool.KILL_AFTER_SECONDS", 1.0)
    pool = pools(children.deaf, 1)
    eventually(pools.slots, 30, "started")
    assert not pool.stop(0.1)
    assert pool.processes() == []


def test_a_child_that_cannot_start_is_reported_and_not_restarted(pools: Pools) -> None:
    pool = pools(children.misconfigured, 1)
    eventually(lambda: pools.failed, 30, "reported")
    assert pools.failed[0].code == 2
    assert "no such queue" in pools.failed[0].reason
    assert pool.stop(5)


def test_an_exit_code_of_2_does_not_end_the_pool(pools: Pools) -> None:
    pools(children.leaving_with_two, 1)
    eventually(lambda: len(pools.slots()) >= 2, 60, "started again")
    assert not pools.failed


def test_a_child_that_cannot_start_does_not_end_a_pool_that_was_healthy(pools: Pools) -> None:
    pools(children.refusing_the_second, 1)
    eventually(lambda: len(pools.slots()) >= 3, 60, "tried again")
    assert not pools.failed


def test_a_start_that_the_machine_refuses_is_tried_again(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pools(children.obedient, 2)
    eventually(lambda: pool.health().ok, 30, "both have reported")
    refusals: list[int] = []
    start = SpawnProcess.start

    def refuse_once(process: SpawnProcess) -> None:
        if not refusals:
            refusals.append(1)
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", refuse_once)
    for process in pool.processes():
        process.kill()
    eventually(lambda: len(pools.slots()) == 4, 60, "both are started again")
    eventually(lambda: pool.health().ok, 30, "healthy again")
    assert refusals
    (pools.folder / "finish").touch()
    assert pool.stop(20)


def test_a_child_that_keeps_dying_is_started_with_growing_pauses(
    pools: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    pools(children.crashing, 1)
    eventually(lambda: len(pools.slots()) >= 3, 60, "started three times")
    said = [record.getMessage() for record in caplog.records if "starting it again" in record.getMessage()]
    assert "exited with code 77; starting it again in 0.5 s" in said[0]
    assert "in 1.0 s" in said[1]
    assert not pools.failed


def test_a_silent_child_without_a_job_is_killed_and_replaced(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_jobs.processes.pool.KILL_SILENT_SECONDS", 3.0)
    pool = pools(children.silent, 1)
    eventually(lambda: len(pools.slots()) == 1, 60, "started")
    first = pool.processes()[0].pid
    eventually(lambda: len(pools.slots()) == 2, 60, "replaced")
    assert pool.processes()[0].pid != first
    assert pools.spokesman.how[0] == "was killed: it did not answer"


def test_a_silent_child_with_a_job_is_busy_and_lives_on(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    (pools.folder / "job").touch()
    pool = pools(children.silent, 1)
    eventually(lambda: len(pools.slots()) == 1, 60, "started")
    monkeypatch.setattr("broker_jobs.processes.pool.KILL_SILENT_SECONDS", 0.5)
    monkeypatch.setattr("broker_jobs.processes.child_health.SILENT_SECONDS", 0.5)
    (process,) = pool.processes()

    def runs() -> list[str]:
        (child,) = pool.health().components["processes"]
        return [run["id"] for run in child.get("runs", [])]

    eventually(lambda: runs() == ["job-1"], 30, "shown with its job")
    assert pool.health().ok, "busy is not dead"
    assert [each.pid for each in pool.processes()] == [process.pid]
    assert pools.spokesman.alive
    assert not pools.spokesman.ended_ids


def test_time_at_which_the_supervisor_stood_still_is_no_silence_of_its_children() -> None:
    child = ChildProcess("0", RunBoard(1), None, None, "w", started_at=0.0)  # type: ignore[arg-type]
    child.pass_time(600.0)
    assert child.silent_seconds == 2.0
    assert child.lived_seconds == 600.0


@pytest.mark.parametrize("how", ["patient", "bounded"])
def test_a_child_that_leaves_is_replaced_at_once(pools: Pools, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr("broker_jobs.processes.pool.KILL_LEAVING_SECONDS", 1.0)
    (pools.folder / "leave").write_text(how)
    pool = pools(children.leaving, 1)
    eventually(lambda: len(pools.slots()) == 2, 60, "both are there")
    one, other = pools.slots()
    assert one != other, "two workers of one place would replace each other"
    eventually(lambda: pool.health().ok, 30, "the replacement has reported")
    assert total(pool, m.RECYCLED) == 1
    assert total(pool, m.RESTARTS) == 0
    if how == "bounded":
        eventually(lambda: pools.spokesman.how == ["was killed: it did not leave in time"], 30, "killed")
    else:
        (leaving,) = pool.health().components["leaving"]
        assert leaving["reason"] == "it has run enough"
        assert len(pool.processes()) == 2
        (pools.folder / "finish").touch()
        eventually(lambda: "exited with code 0" in pools.spokesman.how, 30, "it has left")


def test_children_that_die_before_any_was_ready_end_the_pool(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_jobs.processes.pool.LONGEST_PAUSE_SECONDS", 0.5)
    pool = pools(children.crashing, 2)
    eventually(lambda: pools.failed, 60, "failed")
    assert "5 worker processes ended before one was ready; the last exited with code 77" in pools.failed[0].reason
    assert pools.failed[0].code == 70
    pool.stop(5)
    assert len(pools.failed) == 1


def test_connections_of_several_processes_are_shown_by_the_worst(pools: Pools) -> None:
    pool = pools(children.disconnected, 2)
    eventually(lambda: total(pool, m.RECONNECTS) == 4, 60, "both have reported; counters are added up")
    assert total(pool, m.CONNECTION_UP) == 0, "one of them is not connected"
    assert total(pool, m.BLOCKED) == 1, "one of them is blocked"
    health = pool.health()
    assert not health.ok
    assert [reason.split(": ", 1)[1] for reason in health.reasons] == ["not connected"]

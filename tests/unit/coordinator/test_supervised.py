"""A supervisor speaks for a worker that is busy: its jobs go on, and its end is the end of its runs."""

from __future__ import annotations

import pytest

from broker_jobs.clock import LogTime, WallTime
from broker_jobs.coordinator.inputs import Input, SupervisedReceived
from broker_jobs.coordinator.liveness import LEASE_SECONDS, DepthSeen, LostMessageDetector
from broker_jobs.messages.events import Supervised, WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.records import WorkerRow
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def supervised(
    harness: EngineHarness, *, running: list[tuple[str, int]] | None = None, silent_since: float | None = None,
    ended: str | None = None, worker: str = "w1",
) -> SupervisedReceived:  # fmt: skip
    event = Supervised(
        at=harness.now, running=running or [], queues=["default"], silent_since=silent_since, ended=ended
    )
    return SupervisedReceived(WorkerRef(id=worker, host="h", slot="1"), event, harness.now)


def judge(harness: EngineHarness) -> None:
    """What follows from log time, as the coordinator's thread asks for it."""
    liveness = harness.engine.liveness
    with harness.store.transaction() as tx:
        log_now = LogTime(tx.meta.log_time)
        records = liveness.judge(tx, liveness.dead_workers(log_now), WallTime(harness.now), log_now)
    if records:
        inputs: list[Input] = [*records]
        harness.apply(*inputs)


def only_worker(harness: EngineHarness) -> WorkerRow:
    (row,) = harness.store.reader.processes.workers()
    return row


def test_a_job_of_a_busy_worker_is_not_started_elsewhere_when_its_delivery_comes_back(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    harness.apply(harness.beat(running=[]))
    silent_since = harness.now
    harness.ticks(5)
    # It could not say itself that the job has started: the job keeps the GIL.
    harness.apply(harness.started(), supervised(harness, running=[("j", 1)], silent_since=silent_since))
    assert (harness.row().state, harness.row().owner, harness.row().owned) == (State.PROCESSING, "w1", False)
    assert only_worker(harness).silent_since == silent_since
    harness.apply(harness.returned("redelivered"))
    assert (harness.row().state, harness.row().owner, harness.row().owned) == (State.PROCESSING, "w1", True)

    for _ in range(20):  # three leases
        harness.ticks(5)
        harness.apply(supervised(harness, running=[("j", 1)], silent_since=silent_since))
        judge(harness)
    assert (harness.row().state, harness.row().owner, harness.row().epoch) == (State.PROCESSING, "w1", 1)
    harness.apply(harness.succeeded(), harness.beat())
    assert (harness.row().state, harness.row().crashes) == (State.SUCCEEDED, 0)
    assert only_worker(harness).silent_since is None


def test_a_run_that_a_supervisor_does_not_list_goes_on(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(owned=True), harness.beat(running=[("j", 1)]))
    for _ in range(5):
        harness.ticks(5)
        harness.apply(supervised(harness, running=[]))
        judge(harness)
    assert harness.row().state is State.PROCESSING


def test_a_worker_whose_supervisor_has_fallen_silent_too_is_dead_after_its_lease(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(owned=True), supervised(harness, running=[("j", 1)]))
    harness.ticks(int(LEASE_SECONDS) + 1)
    judge(harness)
    assert (harness.row().state, harness.row().crashes) == (State.SCHEDULED, 1)


@pytest.mark.parametrize("owned", [True, False])
def test_the_end_of_a_process_ends_its_runs_at_once(harness: EngineHarness, owned: bool) -> None:
    harness.apply(harness.ready(), harness.started(owned=owned), harness.beat(running=[("j", 1)]))
    harness.apply(supervised(harness, running=[("j", 1)], ended="was killed by signal 9"))
    judge(harness)
    assert harness.row().state is State.PROCESSING, "what it said before its end may come later in the log"
    harness.ticks(3)
    judge(harness)
    row = harness.row()
    assert row.state is (State.SCHEDULED if owned else State.ENQUEUED)
    assert row.reason == "its worker process was killed by signal 9"
    assert harness.store.reader.processes.workers() == []


def test_the_end_of_a_process_whose_runs_have_ended_ends_nothing(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(), harness.beat(running=[("j", 1)]))
    harness.apply(supervised(harness, ended="exited with code 0"), harness.succeeded())
    harness.ticks(3)
    judge(harness)
    assert harness.row().state is State.SUCCEEDED


def test_the_end_of_an_unknown_worker_says_nothing(harness: EngineHarness) -> None:
    harness.apply(supervised(harness, ended="exited with code 0"))
    harness.ticks(3)
    judge(harness)
    assert harness.store.reader.processes.workers() == []


def test_an_empty_queue_proves_nothing_while_a_worker_of_it_cannot_say_what_it_holds() -> None:
    detector = LostMessageDetector()

    def look(queue: str, log_at: float) -> object:
        return detector.seen(DepthSeen(queue, 0, LogTime(log_at), WallTime(log_at), log_at))

    assert look("default", 0.0) is None
    assert look("mail", 0.0) is None
    detector.held_unseen(["default"])
    assert look("default", 61.0) is None
    assert look("mail", 61.0) is not None
    assert look("default", 122.0) is not None

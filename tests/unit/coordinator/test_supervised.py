"""A supervisor speaks for a worker that is busy: its jobs go on, and its end is the end of its runs."""

from __future__ import annotations

import pytest

from broker_jobs.clock import LogTime, WallTime
from broker_jobs.coordinator.inputs import Input, SupervisedReceived
from broker_jobs.coordinator.liveness import LEASE_SECONDS, DepthSeen, LostMessageDetector
from broker_jobs.messages.commands import RequeueJob
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


@pytest.mark.parametrize("comes_back", ["before", "with it", "after"])
def test_what_a_process_ran_when_it_ended_has_crashed_though_it_had_no_time_to_say_so(
    harness: EngineHarness, comes_back: str
) -> None:
    harness.apply(harness.ready(), harness.beat(running=[]))
    end, returned = supervised(harness, running=[("j", 1)], ended="exited with code 7"), harness.returned("redelivered")
    if comes_back == "before":
        harness.apply(returned)
    effects = harness.apply(end, returned) if comes_back == "with it" else harness.apply(end)
    harness.apply(*effects.next)
    assert (harness.row().state, harness.row().owner) == (State.PROCESSING, "w1")
    harness.ticks(3)
    judge(harness)
    if comes_back == "after":
        harness.apply(returned)
    row = harness.row()
    assert (row.state, row.crashes, row.returns) == (State.SCHEDULED, 1, int(comes_back != "after"))
    (attempt,) = harness.store.reader.attempts.of("j")
    assert (attempt.ended, attempt.reason) == ("crashed", "its worker process exited with code 7")


@pytest.mark.parametrize("known", [True, False])
def test_a_worker_that_died_before_it_was_heard_has_crashed_with_its_runs(harness: EngineHarness, known: bool) -> None:
    harness.apply(harness.ready())
    if known:
        harness.apply(harness.beat(running=[]))
    effects = harness.apply(supervised(harness, running=[("j", 1)], ended="was killed by signal 9"))
    harness.apply(*effects.next)
    harness.ticks(3)
    judge(harness)
    harness.apply(harness.returned("redelivered"))
    assert harness.row().crashes == 1


def test_a_run_that_was_cut_off_as_its_worker_left_has_not_crashed_with_its_process(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.beat(running=[]), harness.interrupted())
    effects = harness.apply(supervised(harness, running=[("j", 1)], ended="exited with code 0"))
    harness.apply(*effects.next)
    harness.ticks(3)
    judge(harness)
    harness.apply(harness.returned("redelivered"))
    row = harness.row()
    assert (row.crashes, row.interruptions) == (0, 1)


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


# ---- runs that were taken for lost


def lost(harness: EngineHarness) -> None:
    """A job whose worker is cut off: its lease is over, and the next epoch is released."""
    harness.apply(harness.ready(), harness.started(owned=True), harness.beat(running=[("j", 1)]))
    harness.ticks(int(LEASE_SECONDS) + 1)
    judge(harness)
    harness.now += 60.0
    harness.release()
    assert (harness.row().state, harness.row().epoch) == (State.ENQUEUED, 2)


def test_the_success_of_a_run_that_was_taken_for_lost_counts_while_the_next_one_runs(harness: EngineHarness) -> None:
    lost(harness)
    harness.apply(harness.started(epoch=2, worker="w2", owned=True))
    effects = harness.apply(harness.succeeded(result="1"))
    row = harness.row()
    assert (row.state, row.result, row.ran_on, row.owner) == (State.SUCCEEDED, "1", "w1", None)
    assert effects.control is not None
    assert effects.control.cancel == ["j"], "the newer run is asked to stop"
    before = harness.row()
    harness.apply(harness.succeeded(result="1"))
    assert harness.row() == before, "told twice it changes nothing"
    harness.apply(harness.failed(epoch=2, worker="w2", ended="cancelled"))
    assert (harness.row().state, harness.row().result) == (State.SUCCEEDED, "1")
    attempts = [(one.epoch, one.attempt, one.ended) for one in harness.store.reader.attempts.of("j")]
    assert sorted(attempts) == [(1, 1, "succeeded"), (2, 2, "cancelled")]


def test_the_success_of_a_run_that_was_taken_for_lost_fences_the_message_of_the_next_one(
    harness: EngineHarness,
) -> None:
    lost(harness)
    harness.apply(harness.succeeded())
    assert (harness.row().state, harness.row().fence) == (State.SUCCEEDED, 2)
    harness.apply(harness.returned("fenced", epoch=2))
    assert (harness.row().state, harness.row().fence) == (State.SUCCEEDED, 0)


def test_the_success_of_a_run_that_was_taken_for_lost_ends_the_wait_for_a_retry(harness: EngineHarness) -> None:
    lost(harness)
    harness.apply(harness.failed(epoch=2, worker="w2"))
    assert harness.row().state is State.SCHEDULED
    harness.apply(harness.succeeded())
    assert harness.row().state is State.SUCCEEDED


def test_the_success_of_an_earlier_life_does_not_end_a_requeued_job(harness: EngineHarness) -> None:
    lost(harness)
    harness.apply(harness.succeeded(epoch=2, worker="w2"))
    harness.apply(harness.ask(RequeueJob, job_id="j"))
    harness.release()
    assert harness.row().epoch == 3
    harness.apply(harness.succeeded(epoch=1), harness.succeeded(epoch=2, worker="w2"))
    assert harness.row().state is State.ENQUEUED, "a person asked for another run"


def test_a_success_after_the_end_of_the_job_changes_nothing(harness: EngineHarness) -> None:
    lost(harness)
    harness.apply(harness.failed(epoch=2, worker="w2", final=True))
    before = harness.row()
    harness.apply(harness.succeeded())
    assert (before.state, harness.row()) == (State.FAILED, before)


def test_the_failure_of_a_run_that_was_taken_for_lost_changes_nothing(harness: EngineHarness) -> None:
    lost(harness)
    harness.apply(harness.started(epoch=2, worker="w2"))
    before = harness.row()
    harness.apply(harness.failed(final=True))
    assert harness.row() == before

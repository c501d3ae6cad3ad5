"""How each attempt of a job ended, and where ended jobs ran: kept but for jobs that succeed on their first attempt."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from broker_jobs.clock import LogTime, WallTime
from broker_jobs.coordinator.inputs import CommandReceived, HeartbeatReceived, Input
from broker_jobs.coordinator.records import FromWorker, LeaseOver, ReadyCopy
from broker_jobs.messages.commands import DeleteJob, Hello, RequeueJob
from broker_jobs.messages.envelope import LimitKey
from broker_jobs.messages.events import ErrorInfo, Failed, FailureKind, Heartbeat, ReturnReason, WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.attempts import KEPT
from broker_jobs.store.records import AttemptRow
from tests.unit.coordinator.engine_harness import EngineHarness

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/jobs.py", line 12, in work
    charge(42)
ValueError: boom
"""


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def attempts(harness: EngineHarness, id: str = "j") -> list[AttemptRow]:
    return harness.store.reader.attempts.of(id)


def ends(harness: EngineHarness, id: str = "j") -> list[tuple[int, int, str]]:
    return [(one.epoch, one.attempt, one.ended) for one in attempts(harness, id)]


def from_host(record: FromWorker, host: str = "node-1") -> FromWorker:
    return FromWorker(record.worker, record.event, host)


def failed(harness: EngineHarness, error: ErrorInfo, **more: Any) -> FromWorker:
    made = Failed(
        id="j",
        epoch=1,
        started_at=harness.now - 2.0,
        ended_at=harness.now,
        error=error,
        envelope=harness.body(),
        **more,
    )
    return FromWorker("w1", made, "node-1")


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_a_job_that_succeeds_on_its_first_attempt_has_no_attempt_kept(
    harness: EngineHarness, told: bool, together: bool
) -> None:
    inputs: list[Input] = [harness.ready(), *([harness.started()] if told else []), harness.succeeded()]
    for part in [inputs] if together else [[one] for one in inputs]:
        harness.apply(*part)
    assert harness.row().state is State.SUCCEEDED
    assert attempts(harness) == []


def test_a_delayed_job_and_one_under_a_limit_that_succeed_at_once_have_no_attempt_kept(harness: EngineHarness) -> None:
    limit = LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(harness.held("late", delay=5.0), harness.held("a", limits=[limit]), harness.held("b", limits=[limit]))
    harness.now += 5.0
    for id in ("late", "a", "b"):
        harness.release(id)
        harness.apply(harness.succeeded(id, harness.row(id).epoch))
        assert harness.row(id).state is State.SUCCEEDED
        assert attempts(harness, id) == []


def test_the_straight_path_asks_nothing_and_writes_nothing_of_attempts(harness: EngineHarness) -> None:
    harness.apply(harness.ready("warm"), harness.succeeded("warm"))
    said: list[str] = []
    engine = harness.store._engines[0]  # type: ignore[index]
    event.listen(engine, "before_cursor_execute", lambda *args: said.append(args[2]))
    harness.apply(*(record for n in range(20) for record in (harness.ready(f"j{n}"), harness.succeeded(f"j{n}"))))
    assert not [statement for statement in said if " attempts" in statement]
    assert len([statement for statement in said if "kind_" in statement]) == 2  # of any number of jobs


def test_a_run_that_raised_is_kept_with_its_error_and_the_success_after_it(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started())
    error = ErrorInfo(type="ValueError", message="boom", traceback=TRACEBACK)
    harness.apply(failed(harness, error))
    began = harness.now - 2.0
    harness.now += 10.0
    harness.release()
    harness.apply(from_host(harness.succeeded(epoch=2, worker="w2"), "node-2"))
    first, second = attempts(harness)
    assert (first.epoch, first.attempt, first.ended, first.worker, first.host) == (1, 1, "raised", "w1", "node-1")
    assert (first.started_at, first.ended_at, first.at) == (began, began + 2.0, began + 2.0)
    assert ErrorInfo.model_validate_json(first.error or "") == error
    assert first.fingerprint
    assert (second.epoch, second.attempt, second.ended, second.host) == (2, 2, "succeeded", "node-2")
    assert (second.error, second.fingerprint) == (None, None)


@pytest.mark.parametrize("ended", ["raised", "timed out", "crashed"])
def test_a_run_is_kept_as_its_worker_says_that_it_ended(harness: EngineHarness, ended: FailureKind) -> None:
    harness.apply(harness.ready(), failed(harness, ErrorInfo(type="TimedOut", message="mine"), ended=ended))
    assert ends(harness) == [(1, 1, ended)]
    assert attempts(harness)[0].fingerprint


def test_runs_that_timed_out_at_two_places_have_one_fingerprint() -> None:
    found = set()
    for place in ("work", "rest"):
        harness = EngineHarness()
        where = TRACEBACK.replace("work", place)
        error = ErrorInfo(type="TimedOut", message="timed out after 3 s", traceback=where)
        harness.apply(harness.ready(), failed(harness, error, ended="timed out"))
        found.add(attempts(harness)[0].fingerprint)
    assert len(found) == 1


@pytest.mark.parametrize("record", ["failed", "interrupted"])
def test_a_run_that_stops_as_asked_was_cancelled(harness: EngineHarness, record: str) -> None:
    harness.apply(harness.ready(), harness.started(), harness.ask(DeleteJob, job_id="j"))
    harness.apply(harness.failed(ended="cancelled") if record == "failed" else harness.interrupted())
    assert harness.row().state is State.DELETED
    assert ends(harness) == [(1, 1, "cancelled")]
    assert attempts(harness)[0].fingerprint is None


def test_a_run_that_was_interrupted_is_kept_and_its_redelivery_does_not_replace_it(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(), harness.interrupted())
    harness.apply(harness.returned("redelivered"))
    assert ends(harness) == [(1, 1, "interrupted")]
    harness.apply(harness.succeeded(epoch=2))
    assert ends(harness) == [(1, 1, "interrupted"), (2, 1, "succeeded")]


@pytest.mark.parametrize("owned", [False, True])
def test_a_run_whose_worker_died_crashed_on_the_host_it_had_begun_on(harness: EngineHarness, owned: bool) -> None:
    harness.apply(harness.ready(), from_host(harness.started(owned=owned)))
    harness.now += 40.0
    harness.apply(LeaseOver("j", "w1", "its worker vanished"))
    harness.apply(harness.returned("redelivered"))
    (only,) = attempts(harness)
    assert (only.ended, only.reason, only.worker, only.host) == ("crashed", "its worker vanished", "w1", "node-1")
    assert (only.started_at, only.ended_at) == (harness.now - 40.0, harness.now)


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("ending", ["succeeded", "failed"])
def test_what_is_told_of_a_run_that_was_thought_lost_replaces_the_crash(
    harness: EngineHarness, ending: str, owned: bool
) -> None:
    harness.apply(harness.ready(), harness.started(owned=owned), LeaseOver("j", "w1", "its worker vanished"))
    crashed_at = harness.now
    harness.now += 1.0
    harness.apply(harness.succeeded() if ending == "succeeded" else harness.failed())
    (only,) = attempts(harness)
    assert (only.ended, only.reason) == ({"succeeded": "succeeded", "failed": "raised"}[ending], "")
    assert only.at == crashed_at


@pytest.mark.parametrize("reason", ["shutdown", "waited too long", "pause", "unknown job", "redelivered"])
def test_a_delivery_that_was_returned_without_a_run_has_no_start(harness: EngineHarness, reason: ReturnReason) -> None:
    harness.apply(harness.ready(), harness.returned(reason))
    (only,) = attempts(harness)
    assert (only.epoch, only.ended, only.reason, only.started_at) == (1, "returned", reason, None)


def test_a_success_on_the_second_release_is_kept_beside_the_delivery_that_was_returned(
    harness: EngineHarness,
) -> None:
    harness.apply(harness.ready(), harness.returned("pause"))
    harness.apply(harness.succeeded(epoch=2))
    assert ends(harness) == [(1, 1, "returned"), (2, 1, "succeeded")]


def test_a_delivery_that_comes_back_beside_a_runner_ends_no_attempt(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(), harness.returned("redelivered"))
    assert attempts(harness) == []
    harness.apply(harness.succeeded())
    assert attempts(harness) == []


def test_an_event_of_an_older_epoch_or_one_told_again_adds_no_attempt(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.failed())
    harness.now += 100.0
    harness.release()
    before = attempts(harness)
    harness.apply(harness.failed(), harness.succeeded())
    assert attempts(harness) == before
    again = harness.failed(epoch=2)
    harness.apply(again)
    before = attempts(harness)
    harness.now += 1.0
    harness.apply(again)
    assert attempts(harness) == before


def test_a_job_that_is_run_again_after_its_success_keeps_both_runs(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), from_host(harness.succeeded()))
    first_at = harness.now
    harness.now += 60.0
    harness.apply(harness.ask(RequeueJob, job_id="j"))
    harness.release()
    harness.apply(harness.succeeded(epoch=2))
    assert ends(harness) == [(1, 1, "succeeded"), (2, 1, "succeeded")]
    first = attempts(harness)[0]
    assert (first.started_at, first.at, first.worker, first.host) == (first_at, first_at, "w1", "node-1")


def test_of_a_job_that_is_run_without_end_the_newest_attempts_stay(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    for epoch in range(1, KEPT + 4):
        harness.apply(harness.returned("shutdown", epoch=epoch))
    assert [one.epoch for one in attempts(harness)] == list(range(4, KEPT + 4))


# ---- the release of a worker


def beat(harness: EngineHarness, version: str) -> HeartbeatReceived:
    worker = WorkerRef(id="w1", host="node-1", slot="1")
    return HeartbeatReceived(worker, Heartbeat(at=harness.now, version=version, running=[("j", 1)]), harness.now)


@pytest.mark.parametrize("together", [False, True])
def test_an_attempt_has_the_release_that_its_worker_reported(harness: EngineHarness, together: bool) -> None:
    inputs: list[Input] = [harness.ready(), harness.failed()]
    if together:
        inputs.append(beat(harness, "1.2.3"))
    else:
        harness.apply(beat(harness, "1.2.3"))
    harness.apply(*inputs)
    assert [one.release for one in attempts(harness)] == ["1.2.3"]


def test_the_release_of_a_worker_that_died_is_kept_though_the_worker_is_forgotten(harness: EngineHarness) -> None:
    harness.apply(beat(harness, "1.2.3"), harness.ready(), harness.started(owned=True))
    with harness.store.transaction() as tx:
        liveness = harness.engine.liveness
        records = liveness.judge(tx, [("w1", "its worker vanished")], WallTime(harness.now), LogTime(1_000.0))
    assert harness.store.reader.processes.workers() == []
    harness.apply(*records)
    assert [(one.ended, one.release) for one in attempts(harness)] == [("crashed", "1.2.3")]


@pytest.mark.parametrize("crashes", [False, True])
def test_the_release_of_a_worker_is_known_before_its_first_heartbeat(harness: EngineHarness, crashes: bool) -> None:
    worker = WorkerRef(id="w1", host="node-1", slot="1")
    hello = Hello(id="hello", at=harness.now, worker=worker, queues=["default"], version="1.2.3")
    harness.apply(CommandReceived(hello, None, None), harness.ready())
    harness.apply(harness.started(owned=True) if crashes else harness.failed())
    if crashes:
        with harness.store.transaction() as tx:
            records = harness.engine.liveness.judge(tx, [("w1", "gone")], WallTime(harness.now), LogTime(1_000.0))
        harness.apply(*records)
    assert [(one.ended, one.release) for one in attempts(harness)] == [("crashed" if crashes else "raised", "1.2.3")]


def test_a_worker_that_is_connected_again_keeps_what_its_heartbeats_told(harness: EngineHarness) -> None:
    harness.apply(beat(harness, "1.2.3"))
    (before,) = harness.store.reader.processes.workers()
    hello = Hello(
        id="hello", at=harness.now + 1.0, worker=WorkerRef(id="w1", host="node-1", slot="1"), queues=["default"]
    )
    harness.apply(CommandReceived(hello, None, None))
    assert harness.store.reader.processes.workers() == [replace(before, queues=("default",))]


def test_where_no_release_was_reported_none_is_kept(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.failed())
    assert [one.release for one in attempts(harness)] == [""]


# ---- where a job ran


@pytest.mark.parametrize(
    "end",
    [
        lambda harness: harness.succeeded(),
        lambda harness: harness.failed(final=True),
        lambda harness: harness.failed(),
        lambda harness: harness.interrupted(),
    ],
)
@pytest.mark.parametrize("told", [False, True])
def test_the_worker_and_host_of_the_last_run_stay_when_it_has_ended(
    harness: EngineHarness, end: Callable[[EngineHarness], FromWorker], told: bool
) -> None:
    ready: ReadyCopy = harness.ready()
    harness.apply(ready, *([from_host(harness.started())] if told else []), from_host(end(harness)))
    row = harness.row()
    assert row.owner is None
    assert (row.ran_on, row.ran_host) == ("w1", "node-1")


def test_where_a_job_ran_changes_with_its_next_run(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), from_host(harness.failed()))
    harness.now += 100.0
    harness.release()
    assert (harness.row().ran_on, harness.row().ran_host) == ("w1", "node-1")
    harness.apply(from_host(harness.started(epoch=2, worker="w2"), "node-2"))
    assert (harness.row().ran_on, harness.row().ran_host) == ("w2", "node-2")

"""A job that no living worker of its queue knows is held, without slots, until one says hello that does."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from broker_jobs.clock import LogTime, WallTime
from broker_jobs.coordinator.conditions.known import FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS, TRIES
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.inputs import CommandReceived, HeartbeatReceived, WorkItemsWaiting
from broker_jobs.coordinator.records import Released
from broker_jobs.messages import codec
from broker_jobs.messages.commands import (
    BulkDelete,
    BulkFail,
    DeleteJob,
    Hello,
    JobFilter,
    Reply,
    RequeueJob,
    RescheduleJob,
)
from broker_jobs.messages.envelope import LimitKey, Policy, UniqueKey
from broker_jobs.messages.events import Heartbeat, WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, WaitReason
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def digest(*jobs: str) -> str:
    return hashlib.sha256("\n".join(jobs).encode()).hexdigest()[:32]


def hello(
    harness: EngineHarness, worker: str, *jobs: str, queues: tuple[str, ...] = ("default",), service: str = ""
) -> Effects:
    """A worker says hello, of a program that has these jobs."""
    said = harness.ask(
        Hello, worker=WorkerRef(id=worker, host="h", slot=worker), queues=list(queues), service=service,
        code=digest(*jobs), jobs=list(jobs),
    )  # fmt: skip
    return confirmed(harness, harness.apply(said))


def confirmed(harness: EngineHarness, effects: Effects) -> Effects:

    harness.apply(*(Released(row.id, row.epoch) for row in effects.releases))
    return effects


def beat(
    harness: EngineHarness, worker: str, *jobs: str, running: int = 0, queues: tuple[str, ...] = ("default",)
) -> Effects:
    """A worker's heartbeat."""
    runs = [(f"r{n}", 1) for n in range(running)]
    told = Heartbeat(at=harness.now, queues=list(queues), concurrency=2, code=digest(*jobs), running=runs)
    return harness.apply(HeartbeatReceived(WorkerRef(id=worker, host="h", slot=worker), told, harness.now))


def gone(harness: EngineHarness, worker: str) -> None:
    """The lease of a worker is over."""
    with harness.store.transaction() as tx:
        log_now = LogTime(tx.meta.log_time)
        harness.engine.liveness.judge(tx, [(worker, "its worker vanished")], WallTime(harness.now), log_now)


def is_held(harness: EngineHarness, id: str = "j") -> bool:
    row = harness.row(id)
    held = bool(row.waits & WaitReason.UNKNOWN)
    assert held == (row.state is State.AWAITING and "knows a job named" in row.reason), row
    return held


def taken(harness: EngineHarness, key: str) -> int:
    """How many slots of a limit are taken."""
    with harness.store.transaction() as tx:
        return sum(line.taken for line in tx.lines.lines([key]))


def test_a_job_that_nobody_knows_is_held_until_a_worker_that_knows_it_says_hello(harness: EngineHarness) -> None:
    hello(harness, "w2", "other")
    harness.apply(harness.ready())
    assert harness.apply(harness.returned("unknown job")).releases == []
    assert is_held(harness)
    assert harness.row().publication is Publication.NONE
    harness.now += 86_400.0
    assert harness.release().releases == []
    assert hello(harness, "w3", "another").releases == []
    assert hello(harness, "w4", "work", queues=("mail",)).releases == []
    effects = hello(harness, "w1", "other", "work")
    assert [(row.id, row.epoch, row.attempt) for row in effects.releases] == [("j", 2, 1)]
    assert not is_held(harness)
    harness.apply(harness.started(epoch=2), harness.succeeded(epoch=2))
    assert harness.row().state is State.SUCCEEDED


def expires_at(effects: Effects) -> float:
    """When the job in the last release expires, as its worker reads it."""
    moment = codec.decode(effects.release_messages[-1].body).expires_at()
    assert moment is not None
    return moment.timestamp()


@pytest.mark.parametrize("delay", [0.0, 100.0])
def test_a_job_expires_as_asked_however_often_it_was_given_back_or_held(harness: EngineHarness, delay: float) -> None:
    policy = Policy(expires=60.0)
    asked = round(harness.now) + delay + 60.0
    hello(harness, "w2", "other")
    if delay:
        harness.apply(harness.held(delay=delay, policy=policy))
        harness.now += delay
        assert expires_at(harness.release()) == pytest.approx(asked, abs=1.0)
    else:
        harness.apply(harness.ready(policy=policy))
    harness.now += 10.0
    epoch = harness.row().epoch
    effects = confirmed(harness, harness.apply(harness.returned("shutdown", epoch=epoch)))
    assert expires_at(effects) == pytest.approx(asked, abs=1.0)
    assert effects.late == [0.0], "it came back, and was released at once"
    harness.apply(harness.returned("unknown job", epoch=epoch + 1))
    assert is_held(harness)
    harness.now += 1_000.0
    effects = hello(harness, "w1", "work")
    assert expires_at(effects) == pytest.approx(asked, abs=1.0)
    for tries in range(TRIES * 2 + 3):  # pauses between tries
        effects = confirmed(harness, harness.apply(harness.returned("unknown job", epoch=epoch + 2 + tries)))
        harness.now += MOST_PAUSE_SECONDS
        effects = effects if effects.releases else harness.release()
        assert expires_at(effects) == pytest.approx(asked, abs=1.0)


def test_a_job_that_another_worker_of_the_queue_knows_is_not_held(harness: EngineHarness) -> None:
    hello(harness, "w1", "work")
    hello(harness, "w2", "other")
    harness.apply(harness.ready())
    effects = harness.apply(harness.returned("unknown job"))
    assert [(row.id, row.epoch) for row in effects.releases] == [("j", 2)]


def test_it_is_held_when_the_last_worker_that_knows_it_has_gone(harness: EngineHarness) -> None:
    hello(harness, "w1", "work")
    hello(harness, "w2", "other")
    harness.apply(harness.ready())
    gone(harness, "w1")
    harness.apply(harness.returned("unknown job"))
    assert is_held(harness)


def test_a_job_that_reaches_the_wrong_workers_again_and_again_has_growing_pauses(harness: EngineHarness) -> None:
    hello(harness, "w1", "work")
    hello(harness, "w2", "other")
    harness.apply(harness.ready())
    tries = TRIES * 2
    for epoch in range(1, tries + 1):
        effects = confirmed(harness, harness.apply(harness.returned("unknown job", epoch=epoch)))
        assert [row.epoch for row in effects.releases] == [epoch + 1]
    pauses = []
    for epoch in range(tries + 1, tries + 12):
        assert harness.apply(harness.returned("unknown job", epoch=epoch)).releases == []
        pauses.append((harness.row().due_at or 0.0) - harness.now)
        harness.now += pauses[-1]
        assert harness.release().releases != []
    assert pauses[0] == FIRST_PAUSE_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == MOST_PAUSE_SECONDS
    harness.apply(harness.started(epoch=tries + 12))
    assert harness.row().unknowns == 0


def test_a_job_does_not_go_round_while_those_that_know_it_are_busy(harness: EngineHarness) -> None:
    hello(harness, "w1", "work")
    hello(harness, "w2", "other")
    beat(harness, "w1", "work", running=2)
    harness.apply(harness.ready())
    confirmed(harness, harness.apply(harness.returned("unknown job")))
    harness.apply(harness.returned("unknown job", epoch=2))
    assert harness.row().due_at == harness.now + FIRST_PAUSE_SECONDS


def test_a_worker_that_serves_another_queue_from_now_on_lets_held_jobs_of_it_go(harness: EngineHarness) -> None:
    hello(harness, "w2", "other")
    hello(harness, "w1", "work", queues=("mail",))
    harness.apply(harness.ready(), harness.returned("unknown job"))
    assert is_held(harness)
    assert beat(harness, "w1", "work", queues=("mail",)).releases == []
    effects = beat(harness, "w1", "work", queues=("mail", "default"))
    assert [row.id for row in effects.releases] == ["j"]


def test_a_worker_whose_jobs_the_store_does_not_know_is_asked_to_say_hello(harness: EngineHarness) -> None:
    effects = beat(harness, "w1", "work")
    assert effects.control is not None
    assert effects.control.untold == ["w1"]
    hello(harness, "w1", "work")
    assert beat(harness, "w1", "work").control is None


def test_many_held_jobs_go_in_pages_and_each_once(harness: EngineHarness) -> None:
    hello(harness, "w2", "other")
    ids = [f"j{n:04}" for n in range(1_500)]
    harness.apply(*(harness.ready(id) for id in ids))
    harness.apply(*(harness.returned("unknown job", id=id) for id in ids))
    assert all(is_held(harness, id) for id in ids)
    released = [len(hello(harness, "w1", "work").releases)]
    while released[-1]:
        released.append(len(confirmed(harness, harness.apply(WorkItemsWaiting())).releases))
    assert sum(released) == 1_500
    assert max(released) <= 400
    assert {harness.row(id).epoch for id in ids} == {2}


def test_a_held_job_keeps_no_slot_and_lets_others_of_its_limits_go(harness: EngineHarness) -> None:
    hello(harness, "w2", "other")
    limits = (LimitKey(kind="ordered", key="a"), LimitKey(kind="concurrency", key="b", limit=1))
    for id in ("j", "k"):
        harness.apply(harness.held(id, limits=limits))
        harness.release(id)
    assert (harness.row("j").state, harness.row("k").state) == (State.ENQUEUED, State.AWAITING)
    confirmed(harness, harness.apply(harness.returned("unknown job")))
    assert is_held(harness)
    assert harness.row("k").state is State.ENQUEUED
    assert (taken(harness, "ordered:a"), taken(harness, "concurrency:b")) == (1, 1)
    assert hello(harness, "w1", "work").releases == []  # the other one has the slot
    assert harness.row("j").waits == WaitReason.LINE
    effects = harness.apply(harness.started("k"), harness.succeeded("k"))
    assert [row.id for row in effects.releases] == ["j"]


def test_a_held_job_goes_before_later_ones_of_its_order(harness: EngineHarness) -> None:
    hello(harness, "w2", "other")
    limits = (LimitKey(kind="ordered", key="a"),)
    for id in ("j", "k", "l"):
        harness.apply(harness.held(id, limits=limits))
        harness.release(id)
    confirmed(harness, harness.apply(harness.returned("unknown job")))
    assert harness.row("k").state is State.ENQUEUED
    hello(harness, "w1", "work")
    harness.apply(harness.started("k"), harness.succeeded("k"))
    assert (harness.row("j").state, harness.row("l").state) == (State.ENQUEUED, State.AWAITING)


def test_a_held_job_keeps_its_unique_key(harness: EngineHarness) -> None:
    hello(harness, "w2", "other")
    unique = UniqueKey(key="once", scope="running")
    harness.apply(harness.held(unique=unique))
    harness.release()
    harness.apply(harness.returned("unknown job"))
    assert is_held(harness)
    harness.apply(harness.held("k", unique=unique))
    assert harness.row("k").is_alias


def test_held_jobs_are_failed_or_deleted_together(harness: EngineHarness) -> None:
    hello(harness, "w2", "other")
    for id, job in (("a", "work"), ("b", "work"), ("c", "mail")):
        harness.apply(harness.ready(id, job=job))
        returned = harness.returned("unknown job", id=id)
        harness.apply(returned)
    harness.apply(harness.held("d", delay=60.0))
    failed = harness.apply(harness.ask(BulkFail, "me", filter=JobFilter(job="work"), by="ann"))
    assert Reply.model_validate_json(failed.messages[-1].body).ok
    states = [harness.row(id).state for id in "abcd"]
    assert states == [State.FAILED, State.FAILED, State.AWAITING, State.SCHEDULED]
    assert harness.row("a").reason == "failed by ann, as no worker of queue 'default' knows a job named 'work'"
    harness.apply(harness.ask(BulkDelete, "me", filter=JobFilter(unknown=True)))
    assert [harness.row(id).state for id in "cd"] == [State.DELETED, State.SCHEDULED]


@pytest.mark.parametrize("state", [State.FAILED, State.ENQUEUED])
def test_only_held_jobs_can_be_failed(harness: EngineHarness, state: State) -> None:
    harness.apply(harness.ready())
    refused = harness.apply(harness.ask(BulkFail, "me", filter=JobFilter(state=state)))
    assert "only held jobs can be failed" in (Reply.model_validate_json(refused.messages[-1].body).refused or "")
    harness.apply(harness.ask(BulkFail, "me", filter=JobFilter(ids=["j"])))
    assert harness.row().state is State.ENQUEUED


@pytest.mark.parametrize(
    ("kind", "more", "state"),
    [
        (DeleteJob, {}, State.DELETED),
        (RequeueJob, {}, State.ENQUEUED),
        (RescheduleJob, {"due_at": 4e9}, State.AWAITING),
    ],
)
def test_a_person_may_delete_a_held_job_or_let_it_try_again(
    harness: EngineHarness, kind: Any, more: dict[str, Any], state: State
) -> None:
    hello(harness, "w2", "other")
    harness.apply(harness.ready(), harness.returned("unknown job"))
    asked: CommandReceived = harness.ask(kind, job_id="j", **more)
    harness.apply(asked)
    assert harness.row().state is state
    hello(harness, "w1", "work")
    assert harness.row().state is (State.SCHEDULED if kind is RescheduleJob else state)


def test_the_jobs_of_a_code_are_forgotten_with_its_last_worker(harness: EngineHarness) -> None:
    hello(harness, "w1", "work")
    hello(harness, "w2", "work")
    gone(harness, "w1")
    assert harness.store.reader.known_jobs.jobs_by_code() == {digest("work"): frozenset({"work"})}
    gone(harness, "w2")
    with harness.store.transaction() as tx:
        assert not tx.known_jobs.is_told(digest("work"))

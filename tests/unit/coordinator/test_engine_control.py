"""What workers are told stays small and seldom, however many jobs are fenced and however many workers ask."""

from __future__ import annotations

import pytest

from broker_jobs.broker.interface import Delivery
from broker_jobs.coordinator import broadcasts
from broker_jobs.coordinator.inputs import CommandReceived, Input, Unreadable
from broker_jobs.coordinator.records import LeaseOver
from broker_jobs.messages.commands import (
    AcceptStore,
    DeleteJob,
    Hello,
    ReplayDeadLetter,
    Reply,
)
from broker_jobs.messages.control import Control
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.events import WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.dead_letters import DeadLetterStore
from broker_jobs.store.due import JobsInFlight
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def hello(harness: EngineHarness, worker: str = "w1", running: list[tuple[str, int]] | None = None) -> CommandReceived:
    said = Hello(id=new_id(), at=harness.now, worker=WorkerRef(id=worker), queues=["default"], running=running or [])
    return CommandReceived(said, f"reply-{worker}", said.id)


def fenced(harness: EngineHarness, count: int) -> None:
    harness.apply(*(harness.ready(f"j{n}") for n in range(count)))
    harness.apply(*(harness.ask(DeleteJob, job_id=f"j{n}") for n in range(count)))


def test_many_fences_travel_in_several_messages(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcasts, "MOST_FENCES", 10)
    fenced(harness, 25)
    *before, answer = harness.apply(hello(harness)).messages
    told = [Control.model_validate_json(message.body) for message in before]
    told.append(Control.model_validate(Reply.model_validate_json(answer.body).detail))
    assert max(len(control.fences) for control in told) <= 10
    assert {fence.id for control in told for fence in control.fences} == {f"j{n}" for n in range(25)}
    assert [control.version for control in told[:-1]] == [0] * (len(told) - 1)  # what is not all must not count as all
    effects = harness.apply(harness.beat())
    assert effects.control is not None
    assert effects.control.snapshot
    assert sum(len(control.fences) for control in (*effects.control_before, effects.control)) == 25
    assert max(len(control.fences) for control in (*effects.control_before, effects.control)) <= 10


def test_a_hundred_hellos_of_one_transaction_read_the_fences_once(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    fenced(harness, 3)
    reads: list[int] = []
    read = JobsInFlight.fences

    def counted(self: JobsInFlight) -> list[tuple[str, int]]:
        reads.append(1)
        return read(self)

    monkeypatch.setattr(JobsInFlight, "fences", counted)
    assert len(harness.apply(*(hello(harness, f"w{n}") for n in range(100))).messages) == 100
    assert len(reads) == 1


def test_all_news_is_told_again_at_most_every_few_seconds(harness: EngineHarness) -> None:
    fenced(harness, 3)
    assert harness.apply(harness.beat("w1")).control is not None
    assert harness.apply(harness.beat("w2")).control is None
    harness.now += 6.0
    assert harness.apply(harness.beat("w2")).control is not None


def test_news_that_could_not_be_published_is_told_again(harness: EngineHarness) -> None:
    fenced(harness, 3)
    harness.engine.memory.broadcast_failed = True
    control = harness.apply(harness.ready("other")).control
    assert control is not None
    assert control.snapshot
    assert not harness.engine.memory.broadcast_failed


def test_a_worker_that_comes_back_is_told_which_of_its_runs_are_no_longer_its_own(harness: EngineHarness) -> None:
    harness.apply(harness.ready("lost"), harness.ready("mine"))
    harness.apply(harness.started("lost", owned=True), harness.started("mine", owned=True))
    harness.apply(LeaseOver("lost", "w1", "its worker vanished"))
    harness.now += 60.0
    harness.release("lost")
    answer = harness.apply(hello(harness, running=[("lost", 1), ("mine", 1), ("unknown", 1)])).messages[-1]
    assert Reply.model_validate_json(answer.body).detail["cancel"] == ["lost"]


@pytest.mark.parametrize("owned", [False, True])
def test_a_worker_that_had_begun_what_was_deleted_is_asked_to_stop(harness: EngineHarness, owned: bool) -> None:
    harness.apply(harness.ready())
    harness.apply(harness.ask(DeleteJob, job_id="j"))
    control = harness.apply(harness.started(owned=owned)).control
    assert control is not None
    assert (control.cancel, [(fence.id, fence.epoch) for fence in control.fences]) == (["j"], [("j", 1)])


def test_replaying_one_message_does_not_read_the_others(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = []
    for n, body in enumerate((b"one", harness.body("k").encode(), b"another")):
        arrived = Delivery(1, n, "jobs.v1.log", body, False, "jobs.v1.submit", "default", "", "m", None, None, 0)
        unread.append(Unreadable("dead", "a worker could not read it", arrived))
        harness.apply(unread[-1])
    monkeypatch.setattr(DeadLetterStore, "oldest", None)
    harness.apply(harness.ask(ReplayDeadLetter, dead_letter_id=unread[1].id))
    assert harness.row("k").state is State.ENQUEUED


def test_what_changes_in_the_transaction_of_an_accepted_store_leaps_too(harness: EngineHarness) -> None:
    harness.apply(harness.held("a", delay=3_600.0), harness.held("b", delay=3_600.0))
    again: list[Input] = [harness.ask(AcceptStore), harness.held("a"), harness.ask(DeleteJob, job_id="b")]
    harness.apply(*again, harness.returned("redelivered", "a", epoch=0))
    assert {harness.row(id).epoch for id in ("a", "b")} == {1_000}


def test_workers_hear_of_pauses_after_a_store_went_back(harness: EngineHarness) -> None:
    fenced(harness, 1)
    before = harness.store.reader.meta().control_version
    harness.apply(harness.ask(AcceptStore))
    assert harness.store.reader.meta().control_version > before + 1_000

"""What workers are told stays small and seldom, however many jobs are fenced and however many workers ask."""

from __future__ import annotations

import pytest

from broker_jobs.broker.interface import Delivery
from broker_jobs.coordinator import broadcasts
from broker_jobs.coordinator.inputs import CommandReceived, Input, Unreadable
from broker_jobs.coordinator.records import LeaseOver
from broker_jobs.messages.commands import AcceptStore, Control, DeleteJob, Hello, ReplayDeadLetter, Reply
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.events import WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.administration import Administration
from broker_jobs.store.due import DueJobs
from tests.unit.coordinator.engine_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def hello(desk: Desk, worker: str = "w1", running: list[tuple[str, int]] | None = None) -> CommandReceived:
    said = Hello(id=new_id(), at=desk.now, worker=WorkerRef(id=worker), queues=["default"], running=running or [])
    return CommandReceived(said, f"reply-{worker}", said.id)


def fenced(desk: Desk, count: int) -> None:
    desk.apply(*(desk.ready(f"j{n}") for n in range(count)))
    desk.apply(*(desk.ask(DeleteJob, job_id=f"j{n}") for n in range(count)))


def test_many_fences_travel_in_several_messages(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcasts, "MOST_FENCES", 10)
    fenced(desk, 25)
    *before, answer = desk.apply(hello(desk)).messages
    told = [Control.model_validate_json(message.body) for message in before]
    told.append(Control.model_validate(Reply.model_validate_json(answer.body).detail))
    assert max(len(control.fences) for control in told) <= 10
    assert {fence.id for control in told for fence in control.fences} == {f"j{n}" for n in range(25)}
    assert [control.version for control in told[:-1]] == [0] * (len(told) - 1)  # what is not all must not count as all
    effects = desk.apply(desk.beat())
    assert effects.control is not None
    assert effects.control.snapshot
    assert sum(len(control.fences) for control in (*effects.control_before, effects.control)) == 25
    assert max(len(control.fences) for control in (*effects.control_before, effects.control)) <= 10


def test_a_hundred_hellos_of_one_transaction_read_the_fences_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    fenced(desk, 3)
    reads: list[int] = []
    read = DueJobs.fences

    def counted(self: DueJobs) -> list[tuple[str, int]]:
        reads.append(1)
        return read(self)

    monkeypatch.setattr(DueJobs, "fences", counted)
    assert len(desk.apply(*(hello(desk, f"w{n}") for n in range(100))).messages) == 100
    assert len(reads) == 1


def test_all_news_is_told_again_at_most_every_few_seconds(desk: Desk) -> None:
    fenced(desk, 3)
    assert desk.apply(desk.beat("w1")).control is not None
    assert desk.apply(desk.beat("w2")).control is None
    desk.now += 6.0
    assert desk.apply(desk.beat("w2")).control is not None


def test_news_that_could_not_be_published_is_told_again(desk: Desk) -> None:
    fenced(desk, 3)
    desk.engine.untold = True
    control = desk.apply(desk.ready("other")).control
    assert control is not None
    assert control.snapshot
    assert not desk.engine.untold


def test_a_worker_that_comes_back_is_told_which_of_its_runs_are_no_longer_its_own(desk: Desk) -> None:
    desk.apply(desk.ready("lost"), desk.ready("mine"))
    desk.apply(desk.started("lost", owned=True), desk.started("mine", owned=True))
    desk.apply(LeaseOver("lost", "w1", "its worker vanished"))
    desk.now += 60.0
    desk.release("lost")
    answer = desk.apply(hello(desk, running=[("lost", 1), ("mine", 1), ("unknown", 1)])).messages[-1]
    assert Reply.model_validate_json(answer.body).detail["cancel"] == ["lost"]


def test_replaying_one_message_does_not_read_the_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    unread = []
    for n, body in enumerate((b"one", desk.body("k").encode(), b"another")):
        arrived = Delivery(1, n, "jobs.v1.log", body, False, "jobs.v1.submit", "default", "", "m", None, None, 0)
        unread.append(Unreadable("dead", "a worker could not read it", arrived))
        desk.apply(unread[-1])
    monkeypatch.setattr(Administration, "dead_letters", None)
    desk.apply(desk.ask(ReplayDeadLetter, dead_letter_id=unread[1].id))
    assert desk.row("k").state is State.ENQUEUED


def test_what_changes_in_the_transaction_of_an_accepted_store_leaps_too(desk: Desk) -> None:
    desk.apply(desk.held("a", delay=3_600.0), desk.held("b", delay=3_600.0))
    again: list[Input] = [desk.ask(AcceptStore), desk.held("a"), desk.ask(DeleteJob, job_id="b")]
    desk.apply(*again, desk.returned("redelivered", "a", epoch=0))
    assert {desk.row(id).epoch for id in ("a", "b")} == {1_000}


def test_workers_hear_of_pauses_after_a_store_went_back(desk: Desk) -> None:
    fenced(desk, 1)
    before = desk.store.reader.meta().control_version
    desk.apply(desk.ask(AcceptStore))
    assert desk.store.reader.meta().control_version > before + 1_000

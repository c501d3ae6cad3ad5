"""What coordinators, beats and programs tell of themselves is kept, so that who is silent can be told."""

from __future__ import annotations

import pytest

from broker_jobs.messages.commands import BeatHeartbeat, DeclareFunctions, FunctionInfo, ParameterInfo
from broker_jobs.messages.events import Tick
from broker_jobs.messages.state import State
from tests.unit.coordinator.engine_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def tick(desk: Desk, coordinator: str, at: float = 0.0) -> Tick:
    meta = desk.store.reader.meta()
    return Tick(
        coordinator=coordinator, store=meta.store_id, serial=meta.serial, sent_at=desk.now + at, host="h", pid=7,
        version="1.2",
    )  # fmt: skip


def components(desk: Desk) -> dict[str, tuple[str, bool, float]]:
    return {one.id: (one.kind, one.active, one.seen_at - desk.now) for one in desk.store.reader.components()}


def test_who_reads_the_log_is_the_active_coordinator_and_others_stand_by(desk: Desk) -> None:
    desk.apply(tick(desk, "c1"), tick(desk, "c2"))
    assert components(desk) == {"c1": ("coordinator", True, 0.0), "c2": ("coordinator", False, 0.0)}
    one = desk.store.reader.components()[0]
    assert (one.host, one.pid, one.version) == ("h", 7, "1.2")


def test_a_coordinator_is_not_written_with_each_of_its_ticks(desk: Desk) -> None:
    for second in range(8):
        desk.apply(tick(desk, "c1", float(second)))
    assert components(desk)["c1"][2] == 5.0


def test_who_takes_over_is_active_and_who_was_is_not(desk: Desk) -> None:
    desk.apply(tick(desk, "c1"), tick(desk, "c2"))
    other = Desk(desk.store, id="c2")
    other.apply(tick(desk, "c2", 6.0))
    assert components(desk) == {"c1": ("coordinator", False, 0.0), "c2": ("coordinator", True, 6.0)}


def test_a_coordinator_of_another_store_is_not_ours(desk: Desk) -> None:
    desk.apply(Tick(coordinator="c9", store="another", serial=1, sent_at=desk.now))
    assert components(desk) == {}


def test_a_beat_that_says_that_it_lives_is_kept_and_not_audited(desk: Desk) -> None:
    effects = desk.apply(desk.ask(BeatHeartbeat, by="beat-1", host="h", pid=3, version="1"))
    assert components(desk) == {"beat-1": ("beat", True, 0.0)}
    assert (desk.store.reader.audit(), effects.messages) == ([], [])


def test_what_a_program_can_run_is_kept_answered_and_not_audited(desk: Desk) -> None:
    to = ParameterInfo(name="to", kind="either", required=True, type="str", json_schema={"type": "string"})
    send = FunctionInfo(name="send", queue="mail", doc="Sends.", parameters=[to])
    old = FunctionInfo(name="old", queue="default")
    desk.apply(desk.ask(DeclareFunctions, origin="shop", functions=[old]))
    desk.now += 1.0
    first = desk.ask(DeclareFunctions, "me", origin="shop", functions=[send], last=False)
    effects = desk.apply(first, desk.ask(DeclareFunctions, "me", origin="shop", functions=[]))
    assert len(effects.messages) == 2
    assert desk.store.reader.audit() == []
    assert [one.name for one in desk.store.reader.functions()] == ["send"]
    told = desk.store.reader.function("send")
    assert told is not None
    assert (told.origin, told.queue, told.doc, told.seen_at) == ("shop", "mail", "Sends.", desk.now)
    assert told.parameters == [to.model_dump(mode="json")]


def test_a_link_to_a_parent_stays_visible_after_it_was_met(desk: Desk) -> None:
    desk.apply(desk.ready("parent"))
    desk.apply(desk.child("early", "parent"), desk.chunk("b", ["member"]), desk.commit("b", parents=[]))
    desk.apply(desk.child("of-batch", batches=("b",), on="finished"))
    desk.apply(desk.succeeded("parent"))
    desk.work()
    desk.apply(desk.child("late", "parent", on="finished"))
    reader = desk.store.reader
    assert desk.row("early").state is not State.AWAITING
    assert [(one.id, one.on, one.state) for one in reader.children("parent")] == [
        ("early", "succeeded", desk.row("early").state.value),
        ("late", "finished", desk.row("late").state.value),
    ]
    assert [one.id for one in reader.parents("late")] == ["parent"]
    assert [(one.id, one.is_batch) for one in reader.parents("of-batch")] == [("b", True)]
    assert [one.id for one in reader.children("b", is_batch=True)] == ["of-batch"]


def test_a_worker_that_does_not_know_a_job_is_no_return_of_it(desk: Desk) -> None:
    desk.apply(desk.ready())
    desk.apply(desk.returned("unknown job"))
    assert (desk.row().unknowns, desk.row().returns) == (1, 0)
    desk.now += 30.0
    desk.release()
    desk.apply(desk.returned("redelivered", epoch=2))
    assert (desk.row().unknowns, desk.row().returns) == (1, 1)

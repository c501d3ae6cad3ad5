"""What coordinators, beats and programs tell of themselves is kept, so that who is silent can be told."""

from __future__ import annotations

import pytest

from broker_jobs.messages.commands import BeatHeartbeat, DeclareFunctions, FunctionInfo, ParameterInfo
from broker_jobs.messages.events import Tick
from broker_jobs.messages.state import State
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def tick(harness: EngineHarness, coordinator: str, at: float = 0.0) -> Tick:
    meta = harness.store.reader.meta()
    return Tick(
        coordinator=coordinator, store=meta.store_id, serial=meta.serial, sent_at=harness.now + at, host="h", pid=7,
        version="1.2",
    )  # fmt: skip


def components(harness: EngineHarness) -> dict[str, tuple[str, bool, float]]:
    return {
        one.id: (one.kind, one.active, one.seen_at - harness.now) for one in harness.store.reader.processes.components()
    }


def test_who_reads_the_log_is_the_active_coordinator_and_others_stand_by(harness: EngineHarness) -> None:
    harness.apply(tick(harness, "c1"), tick(harness, "c2"))
    assert components(harness) == {"c1": ("coordinator", True, 0.0), "c2": ("coordinator", False, 0.0)}
    one = harness.store.reader.processes.components()[0]
    assert (one.host, one.pid, one.version) == ("h", 7, "1.2")


def test_a_coordinator_is_not_written_with_each_of_its_ticks(harness: EngineHarness) -> None:
    for second in range(8):
        harness.apply(tick(harness, "c1", float(second)))
    assert components(harness)["c1"][2] == 5.0


def test_who_takes_over_is_active_and_who_was_is_not(harness: EngineHarness) -> None:
    harness.apply(tick(harness, "c1"), tick(harness, "c2"))
    other = EngineHarness(harness.store, id="c2")
    other.apply(tick(harness, "c2", 6.0))
    assert components(harness) == {"c1": ("coordinator", False, 0.0), "c2": ("coordinator", True, 6.0)}


def test_a_coordinator_of_another_store_is_not_ours(harness: EngineHarness) -> None:
    harness.apply(Tick(coordinator="c9", store="another", serial=1, sent_at=harness.now))
    assert components(harness) == {}


def test_a_beat_that_says_that_it_lives_is_kept_and_not_audited(harness: EngineHarness) -> None:
    effects = harness.apply(harness.ask(BeatHeartbeat, by="beat-1", host="h", pid=3, version="1"))
    assert components(harness) == {"beat-1": ("beat", True, 0.0)}
    assert (harness.store.reader.audit.newest(), effects.messages) == ([], [])


def test_what_a_program_can_run_is_kept_answered_and_not_audited(harness: EngineHarness) -> None:
    to = ParameterInfo(name="to", kind="either", required=True, type="str", json_schema={"type": "string"})
    send = FunctionInfo(name="send", queue="mail", doc="Sends.", parameters=[to])
    old = FunctionInfo(name="old", queue="default")
    harness.apply(harness.ask(DeclareFunctions, service="shop", functions=[old]))
    harness.now += 1.0
    first = harness.ask(DeclareFunctions, "me", service="shop", functions=[send], last=False)
    effects = harness.apply(first, harness.ask(DeclareFunctions, "me", service="shop", functions=[]))
    assert len(effects.messages) == 2
    assert harness.store.reader.audit.newest() == []
    assert [one.name for one in harness.store.reader.declarations.functions()] == ["send"]
    told = harness.store.reader.declarations.function("send")
    assert told is not None
    assert (told.service, told.queue, told.doc, told.seen_at) == ("shop", "mail", "Sends.", harness.now)
    assert told.parameters == [to.model_dump(mode="json")]


def test_a_link_to_a_parent_stays_visible_after_it_was_met(harness: EngineHarness) -> None:
    harness.apply(harness.ready("parent"))
    harness.apply(harness.child("early", "parent"), harness.chunk("b", ["member"]), harness.commit("b", parents=[]))
    harness.apply(harness.child("of-batch", batches=("b",), on="finished"))
    harness.apply(harness.succeeded("parent"))
    harness.work()
    harness.apply(harness.child("late", "parent", on="finished"))
    reader = harness.store.reader
    assert harness.row("early").state is not State.AWAITING
    assert [(one.id, one.on, one.state) for one in reader.relations.children("parent")] == [
        ("early", "succeeded", harness.row("early").state.value),
        ("late", "finished", harness.row("late").state.value),
    ]
    assert [one.id for one in reader.relations.parents("late")] == ["parent"]
    assert [(one.id, one.is_batch) for one in reader.relations.parents("of-batch")] == [("b", True)]
    assert [one.id for one in reader.relations.children("b", is_batch=True)] == ["of-batch"]


def test_a_worker_that_does_not_know_a_job_is_no_return_of_it(harness: EngineHarness) -> None:
    harness.apply(harness.ready())
    harness.apply(harness.beat("w1"), harness.beat("w2"))  # they do not tell which jobs they have
    harness.apply(harness.returned("unknown job"))
    assert (harness.row().unknowns, harness.row().returns) == (1, 0)
    harness.apply(harness.returned("redelivered", epoch=2))
    assert (harness.row().unknowns, harness.row().returns) == (1, 1)

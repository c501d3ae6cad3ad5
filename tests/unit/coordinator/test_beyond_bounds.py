"""What a message made up brings near the bounds of the wire: what follows from it can be read by everybody still."""

from __future__ import annotations

from typing import Any

from broker_jobs.coordinator.queries import failure_view
from broker_jobs.coordinator.records import FromWorker
from broker_jobs.messages import codec
from broker_jobs.messages.commands import ListFailures, Reply
from broker_jobs.messages.envelope import MAX_NUMBER
from broker_jobs.messages.events import Returned
from broker_jobs.messages.state import State
from tests.unit.coordinator.engine_harness import EngineHarness


def test_a_job_whose_epoch_is_the_last_one_fails_and_nothing_unreadable_is_released() -> None:
    harness = EngineHarness()
    harness.apply(harness.ready(), harness.started(epoch=MAX_NUMBER), harness.failed(epoch=MAX_NUMBER))
    harness.now += 3_600
    effects = harness.release()
    assert effects.releases == []
    row = harness.row()
    assert row.state is State.FAILED
    assert f"its epoch is {MAX_NUMBER}" in row.reason
    codec.decode(row.envelope)


def test_what_is_said_of_one_job_with_the_envelope_of_another_one_changes_neither() -> None:
    harness = EngineHarness()
    harness.apply(harness.chunk("b", ["member"]))
    returned = Returned(
        id="other", epoch=2, at=1.0, reason="not released", redelivered=False, envelope=harness.body("member")
    )
    before = harness.row("member")
    harness.apply(FromWorker("w1", returned))
    assert harness.row("member") == before
    assert harness.row("other").envelope == ""
    assert harness.batch("b").open == 1


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_a_list_of_failures_leaves_out_arguments_too_deep_for_a_reply_around_them() -> None:
    harness = EngineHarness()
    deep, flat = nested(190), nested(10)
    harness.apply(harness.chunk("b", ["deep"], args=[deep]), harness.chunk("b", ["flat"], number=1, args=[flat]))
    harness.apply(harness.commit("b", 2))
    harness.work()
    for id in ("deep", "flat"):
        harness.apply(harness.started(id), harness.failed(id, final=True))
    effects = harness.apply(harness.ask(ListFailures, "jobs.v1.reply." + "0" * 32, batch_id="b"))
    (message,) = effects.messages
    shown = Reply.model_validate_json(message.body).detail["failures"]
    assert {one["id"]: one.get("args") for one in shown} == {"deep": [], "flat": [flat]}
    assert failure_view(harness.row("flat"), harness.row("flat")).args == [flat]


def test_a_job_that_names_its_batch_and_came_outside_of_a_chunk_is_counted_once_and_its_batch_ends() -> None:
    harness = EngineHarness()
    harness.apply(harness.chunk("b", ["member"]))
    harness.apply(harness.commit("b"))
    harness.work()
    harness.apply(harness.child("alone", "parent", batch="b"))
    assert harness.row("alone").counted_as == "open"
    harness.apply(harness.started("member"), harness.succeeded("member"))
    harness.apply(harness.ready("parent"), harness.succeeded("parent"))
    harness.work()
    harness.release("alone")
    harness.apply(harness.succeeded("alone"))
    batch = harness.batch("b")
    assert (batch.open, batch.succeeded, batch.state) == (0, 2, State.SUCCEEDED.value)

"""A person runs a job again with other arguments."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker_jobs.coordinator.records import Released, TimerDue
from broker_jobs.messages import codec
from broker_jobs.messages.commands import DeleteJob, Reply, RequeueJob, RescheduleJob
from broker_jobs.messages.envelope import ResultArgument, UniqueKey
from broker_jobs.messages.state import State
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def _requeue(harness: EngineHarness, id: str = "j", **fields: Any) -> Reply:
    effects = harness.apply(harness.ask(RequeueJob, reply_to="me", job_id=id, **fields))
    replies = [message for message in effects.messages if message.type == "reply"]
    return Reply.model_validate_json(replies[0].body)


def test_a_failed_job_runs_again_with_other_arguments(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=[1], kwargs={"to": "ada"}), harness.failed(final=True))
    effects = harness.apply(harness.ask(RequeueJob, job_id="j", args=[2], kwargs={"to": "bob"}, by="eve"))
    (message,) = effects.release_messages
    sent = codec.decode(message.body)
    assert (sent.args, sent.kwargs, sent.epoch, sent.attempt) == ([2], {"to": "bob"}, 2, 1)
    assert [(state, reason) for _, state, reason in harness.row().history] == [
        ("enqueued", ""),
        ("processing", ""),
        ("failed", "failed: ValueError: boom"),
        ("scheduled", "requeued with changed arguments by eve"),
        ("enqueued", ""),
    ]


def test_what_is_not_given_stays(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=[1], kwargs={"to": "ada"}, tags=("a",)), harness.failed(final=True))
    harness.apply(harness.ask(RequeueJob, job_id="j", args=[]))
    kept = codec.decode(harness.row().envelope)
    assert (kept.args, kept.kwargs, kept.tags) == ([], {"to": "ada"}, ("a",))


def test_a_job_that_waits_for_its_time_runs_now_with_other_arguments(harness: EngineHarness) -> None:
    harness.apply(harness.held(delay=600, args=[1]))
    (row,) = harness.apply(harness.ask(RequeueJob, job_id="j", args=[2], by="eve")).releases
    assert codec.decode(row.envelope).args == [2]
    assert [reason for _, _, reason in row.history] == ["", "requeued with changed arguments by eve", ""]


def test_the_audit_says_that_arguments_were_changed_and_not_which(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=["old secret"]), harness.failed(final=True))
    assert _requeue(harness, args=["new secret"]).detail["arguments"] == "changed"
    (audited,) = harness.store.reader.audit.newest()
    assert json.loads(audited.detail)["detail"]["arguments"] == "changed"
    assert "secret" not in audited.detail


def test_a_plain_requeue_says_nothing_of_arguments(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.failed(final=True))
    assert "arguments" not in _requeue(harness).detail


def test_a_running_job_keeps_its_arguments(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=[1]), harness.started())
    assert _requeue(harness, args=[2]).refused == "it is running: delete it first, then requeue it"
    assert codec.decode(harness.row().envelope).args == [1]


def test_an_enqueued_job_keeps_its_arguments(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=[1]))
    assert _requeue(harness, args=[2]).refused == "it is already on its way: delete it first, then requeue it"


def test_a_job_whose_old_message_may_still_be_run_keeps_its_arguments(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=[1]), harness.ask(DeleteJob, job_id="j"))
    assert "still out" in (_requeue(harness, args=[2]).refused or "")
    harness.apply(harness.returned("fenced"))
    assert _requeue(harness, args=[2]).refused is None


def test_a_rescheduled_job_whose_old_message_is_out_keeps_its_arguments(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=[1]), harness.ask(RescheduleJob, job_id="j", due_at=harness.now + 60))
    assert "still out" in (_requeue(harness, args=[2]).refused or "")


def test_a_job_that_somebody_may_be_running_keeps_its_arguments_until_that_is_known(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=[1]), harness.returned("redelivered"))
    assert "ask again in ten seconds" in (_requeue(harness, args=[2]).refused or "")
    harness.ticks(11)
    released = harness.apply(TimerDue("j")).releases
    harness.apply(*(Released(row.id, row.epoch) for row in released), harness.failed(epoch=2, final=True))
    assert _requeue(harness, args=[2]).refused is None


def test_a_job_deleted_while_that_was_not_known_is_given_arguments_when_it_is(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=[1]), harness.returned("redelivered"), harness.ask(DeleteJob, job_id="j"))
    assert "ask again in ten seconds" in (_requeue(harness, args=[2]).refused or "")
    harness.ticks(11)
    assert _requeue(harness, args=[2]).refused is None
    assert (harness.row().epoch, harness.row().fence, codec.decode(harness.row().envelope).args) == (2, 1, [2])


def test_a_duplicate_names_the_job_to_requeue(harness: EngineHarness) -> None:
    unique = UniqueKey(key="k")
    harness.apply(harness.held("a", delay=60, unique=unique), harness.held("b", delay=60, unique=unique))
    assert harness.row("b").state is State.DELETED
    assert _requeue(harness, "b", args=[2]).refused == "it is a duplicate of a: requeue that one"


def test_a_message_that_would_be_too_large_is_refused_with_the_setting(harness: EngineHarness) -> None:
    harness.apply(harness.ready(args=[1]), harness.failed(final=True))
    refused = _requeue(harness, args=["x" * harness.engine.max_body]).refused or ""
    assert "BROKER_JOBS_MAX_BODY" in refused
    assert harness.row().state is State.FAILED


def test_a_job_of_which_only_the_id_is_known_cannot_be_given_arguments(harness: EngineHarness) -> None:
    harness.apply(harness.ask(DeleteJob, job_id="j"))
    assert _requeue(harness, args=[2]).refused == "its arguments are not known: enqueue it anew"


def test_an_unknown_job_is_refused_as_ever(harness: EngineHarness) -> None:
    assert _requeue(harness, args=[2]).refused == "there is no job with this id"


def test_a_given_argument_takes_the_place_of_a_parent_s_result(harness: EngineHarness) -> None:
    result_args = (ResultArgument(place=0, parents=("p",)),)
    harness.apply(harness.ready("p"), harness.child("c", "p", args=[None], result_args=result_args))
    (row,) = harness.apply(harness.ask(RequeueJob, job_id="c", args=[7])).releases
    assert codec.decode(row.envelope).args == [7]
    assert codec.decode(row.envelope).result_args == ()


def test_a_job_whose_other_arguments_are_refused_waits_on_for_its_parent(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("j", "p"))
    assert "its message would have" in (_requeue(harness, args=["x" * 300_000]).refused or "")
    assert harness.row().state is State.AWAITING
    assert [row.id for row in harness.apply(harness.succeeded("p")).releases] == ["j"]

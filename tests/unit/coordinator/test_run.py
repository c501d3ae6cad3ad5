"""A job that a person describes becomes one job, in their name, with all its keys; the audit says what was done."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker_jobs.coordinator.effects import Effects
from broker_jobs.messages import codec
from broker_jobs.messages.commands import PauseQueue, Reply, RescheduleJob, RunJob, SetLimit
from broker_jobs.messages.envelope import Dependencies, LimitKey, Parent
from broker_jobs.messages.state import State
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def run(harness: EngineHarness, id: str = "run", job_id: str = "j", **fields: Any) -> Effects:
    """Ann describes a job."""
    call = codec.encode(harness.envelope(job_id, **fields)).decode()
    return harness.apply(harness.ask(RunJob, reply_to="me", id=id, by="ann", call=call))


def said(effects: Effects) -> Reply:
    return Reply.model_validate_json(next(m for m in effects.messages if m.type == "reply").body)


def test_a_described_job_is_released_and_audited(harness: EngineHarness) -> None:
    effects = run(harness, args=[42])
    assert [row.id for row in effects.releases] == ["j"]
    assert said(effects).detail == {"job": "work"}
    assert json.loads(harness.row().envelope)["args"] == [42]
    (line,) = harness.store.reader.audit.newest()
    assert (line.by, line.kind, line.subject) == ("ann", "run", "j")


def test_a_described_job_waits_for_its_time(harness: EngineHarness) -> None:
    due_at = datetime.fromtimestamp(harness.now, UTC) + timedelta(hours=1)
    assert run(harness, due_at=due_at).releases == []
    assert harness.row().state is State.SCHEDULED
    assert harness.row().due_at == due_at.timestamp()


def test_a_described_job_keeps_its_limits(harness: EngineHarness) -> None:
    limits = (LimitKey(kind="concurrency", key="one", limit=1),)
    run(harness, id="first", job_id="a", limits=limits)
    run(harness, id="second", job_id="b", limits=limits)
    assert harness.row("b").state is State.AWAITING


def test_the_same_command_twice_makes_one_job(harness: EngineHarness) -> None:
    run(harness)
    effects = run(harness)
    assert effects.releases == []
    assert said(effects).refused is None
    assert len(harness.store.reader.audit.newest()) == 1


def test_a_described_job_with_a_known_id_is_refused(harness: EngineHarness) -> None:
    run(harness, id="first")
    effects = run(harness, id="second")
    assert said(effects).refused == "a job with the id j is known already"


@pytest.mark.parametrize("call", ["", "{}", "no JSON", '{"id": 7}'])
def test_a_call_that_cannot_be_read_is_refused(harness: EngineHarness, call: str) -> None:
    refused = said(harness.apply(harness.ask(RunJob, reply_to="me", id="run", call=call))).refused
    assert refused is not None
    assert refused.startswith("the call cannot be read: ")
    assert harness.store.reader.jobs.newest() == []


def test_a_described_job_does_not_wait_for_others(harness: EngineHarness) -> None:
    effects = run(harness, after=Dependencies(parents=(Parent(id="p"),)))
    assert said(effects).refused == (
        "such a job waits for its time and for nothing else: leave out after, result_args and batch"
    )
    assert harness.store.reader.jobs.newest() == []


def test_the_audit_says_what_was_done(harness: EngineHarness) -> None:
    run(harness, id="run", due_at=datetime.fromtimestamp(harness.now + 60, UTC))
    harness.apply(
        harness.ask(PauseQueue, id="1", queue="default", paused=True),
        harness.ask(SetLimit, id="2", key="smtp", limit=7),
        harness.ask(RescheduleJob, id="3", job_id="j", due_at=harness.now + 90),
    )
    details = {row.id: json.loads(row.detail)["detail"] for row in harness.store.reader.audit.newest()}
    assert details["1"] == {"paused": True}
    assert details["2"] == {"limit": 7}
    assert details["3"]["due_at"] == harness.now + 90

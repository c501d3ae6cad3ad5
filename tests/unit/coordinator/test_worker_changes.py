"""A person changes what workers do: who is meant, what is refused, and who is told."""

from __future__ import annotations

from typing import Any

import pytest

from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.inputs import HeartbeatReceived
from broker_jobs.messages.commands import ChangeWorker, Hello, Reply
from broker_jobs.messages.control import WorkerChange
from broker_jobs.messages.events import Heartbeat, WorkerRef
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    harness = EngineHarness()
    for worker, host in (("w1", "a"), ("w2", "a"), ("w3", "b")):
        harness.apply(heartbeat(harness, worker, host))
    return harness


def heartbeat(harness: EngineHarness, worker: str, host: str, **fields: Any) -> HeartbeatReceived:
    told: dict[str, Any] = {"queues": ["mail", "bulk"], "concurrency": 4, **fields}
    return HeartbeatReceived(WorkerRef(id=worker, host=host), Heartbeat(at=harness.now, **told), harness.now)


def asked(harness: EngineHarness, **fields: Any) -> tuple[Effects, Reply]:
    effects = harness.apply(harness.ask(ChangeWorker, reply_to="me", **fields))
    (answer,) = effects.messages
    return effects, Reply.model_validate_json(answer.body)


def test_a_worker_is_told_what_it_does_now(harness: EngineHarness) -> None:
    effects, reply = asked(harness, id="1", worker="w1", concurrency=9)
    assert (reply.ok, reply.detail) == (True, {"workers": ["w1"], "concurrency": 9})
    assert effects.control is not None
    assert effects.control.changes == [WorkerChange(id="1", workers=["w1"], concurrency=9)]


def test_all_workers_of_a_host_are_told(harness: EngineHarness) -> None:
    effects, reply = asked(harness, id="1", host="a", queues=["mail:3", "bulk:1"], queue_limits={"bulk": 2})
    assert reply.detail["workers"] == ["w1", "w2"]
    assert effects.control is not None
    assert [change.workers for change in effects.control.changes] == [["w1"], ["w2"]]


def test_what_was_changed_before_stays(harness: EngineHarness) -> None:
    asked(harness, id="1", worker="w1", concurrency=9, queue_limits={"mail": 1, "bulk": 2})
    effects, _ = asked(harness, id="2", worker="w1", queues=["mail"])
    assert effects.control is not None
    assert effects.control.changes == [
        WorkerChange(id="2", workers=["w1"], concurrency=9, queues=["mail"], queue_limits={"mail": 1})
    ]


def test_a_worker_that_missed_it_or_has_reconnected_is_told_again(harness: EngineHarness) -> None:
    asked(harness, id="1", worker="w1", concurrency=9)
    control = harness.apply(heartbeat(harness, "w1", "a")).control
    assert control is not None
    assert (control.snapshot, [change.id for change in control.changes]) == (True, ["1"])
    hello = harness.ask(Hello, reply_to="w1", worker=WorkerRef(id="w1", host="a"), queues=["mail"])
    answer = harness.apply(hello).messages[-1]
    assert Reply.model_validate_json(answer.body).detail["changes"][0]["concurrency"] == 9


def test_a_worker_that_has_left_is_forgotten_with_its_change(harness: EngineHarness) -> None:
    asked(harness, id="1", worker="w1", concurrency=9)
    harness.apply(heartbeat(harness, "w1", "a", leaving=True))
    assert asked(harness, id="2", worker="w1", concurrency=3)[1].refused == (
        "no worker with the id w1 is running; it has left or was declared dead"
    )
    with harness.store.transaction() as tx:
        tx.processes.remove_worker("w1")
        assert tx.processes.changes() == {}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"worker": "w9", "concurrency": 1}, "no worker with the id w9 is running"),
        ({"host": "c", "concurrency": 1}, "no worker with host c is running"),
        ({"worker": "w1"}, "nothing changes: give a concurrency, queues or limits of queues"),
        ({"concurrency": 1}, "name either one worker or a host"),
        ({"worker": "w1", "host": "a", "concurrency": 1}, "name either one worker or a host"),
        ({"worker": "w1", "queues": ["mail:3", "bulk"]}, "give each queue a weight, such as bulk:1"),
        ({"worker": "w1", "queues": []}, "name at least one queue, such as default"),
        ({"worker": "w1", "queue_limits": {"rest": 1}}, "queue 'rest' has a limit and is not served"),
        ({"host": "a", "queue_limits": {"rest": 1}}, "worker w1: queue 'rest' has a limit and is not served"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(
    harness: EngineHarness, fields: dict[str, Any], says: str
) -> None:
    effects, reply = asked(harness, **fields)
    assert not reply.ok
    assert says in str(reply.refused)
    assert effects.control is None
    with harness.store.transaction() as tx:
        assert tx.processes.changes() == {}

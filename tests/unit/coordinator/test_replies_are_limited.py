"""No reply is larger than a broker takes: lists come in pages, and what is too large is refused instead."""

from __future__ import annotations

import pytest

from broker_jobs.broker.interface import Message
from broker_jobs.coordinator import queries
from broker_jobs.coordinator.queries import MAX_REPLY_BYTES, reply
from broker_jobs.messages.commands import GetJob, ListFailures, ListSchedules, PutRecurring, Reply, Schedule
from tests.unit.coordinator.engine_harness import EngineHarness
from tests.unit.coordinator.test_dependencies import run


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def answer(message: Message) -> Reply:
    assert len(message.body) <= queries.MAX_REPLY_BYTES
    return Reply.model_validate_json(message.body)


def test_all_schedules_come_in_pages(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MAX_REPLY_BYTES", 4_000)
    names = [f"recurring {n:02d}" for n in range(40)]
    for name in names:
        schedule = Schedule(name=name, cron="0 0 1 1 *", call=harness.body("template"))
        harness.apply(harness.ask(PutRecurring, schedule=schedule))
    found: list[str] = []
    pages = 0
    more = True
    while more:
        asked = harness.ask(ListSchedules, reply_to="me", after=found[-1] if found else "")
        detail = answer(harness.apply(asked).messages[-1]).detail
        found += [each["name"] for each in detail["schedules"]]
        more = detail["more"]
        pages += 1
    assert found == names
    assert pages > 1


def test_failures_with_long_arguments_come_in_pages_and_the_longest_without_them(harness: EngineHarness) -> None:
    sizes = {"a": 300_000, "b": 300_000, "c": 900_000, "d": 300_000, "e": 300_000, "f": 300_000}
    for number, (id, size) in enumerate(sizes.items()):
        harness.apply(harness.chunk("b", [id], submission=f"s{number}", args=["x" * size]))
        harness.apply(harness.commit("b", submission=f"s{number}"))
        run(harness, id, fail=True)
    found: dict[str, int] = {}
    pages = 0
    while True:
        asked = harness.ask(ListFailures, reply_to="me", batch_id="b", after=max(found, default=""))
        failures = answer(harness.apply(asked).messages[-1]).detail["failures"]
        if not failures:
            break
        pages += 1
        found |= {each["id"]: len(each["args"][0]) if each["args"] else 0 for each in failures}
    assert found == sizes | {"c": 0}
    assert pages > 1


def test_of_many_who_wait_for_one_end_some_are_told_and_the_others_when_they_ask_again(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MOST_WAITERS", 3)
    harness.apply(harness.ready("j"))
    asked = [harness.ask(GetJob, reply_to=f"asker {n}", job_id="j", until_ended=True) for n in range(5)]
    harness.apply(*asked, *asked)
    first = [message.key for message in harness.apply(harness.succeeded("j", result="1")).messages]
    assert first == ["asker 0", "asker 1", "asker 2"]
    again = harness.apply(*asked[3:]).messages
    assert [(message.key, answer(message).detail["result"]) for message in again] == [
        ("asker 3", "1"),
        ("asker 4", "1"),
    ]


def test_a_reply_that_is_too_large_is_a_refusal() -> None:
    refusal = answer(reply("me", Reply(id="q", detail={"text": "x" * (MAX_REPLY_BYTES + 1)})))
    assert (refusal.id, refusal.ok) == ("q", False)
    assert "the answer has" in (refusal.refused or "")

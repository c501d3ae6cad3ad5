"""Every subscription gets one job for an event, whoever subscribes and however often the event comes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker_jobs.messages import codec
from broker_jobs.messages.commands import DeclareSubscriptions, PutRecurring, Reply, Schedule, Subscription
from broker_jobs.messages.envelope import Dependencies, Parent, ResultArgument
from broker_jobs.messages.published import PublishedEvent
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def subscribe(harness: EngineHarness, service: str, *jobs: str, event: str = "user.registered") -> None:
    made = [
        Subscription(event=event, call=codec.encode(harness.envelope("t", epoch=0, job=job, queue=service)).decode())
        for job in jobs
    ]
    harness.apply(harness.ask(DeclareSubscriptions, service=service, subscriptions=made))


def published(harness: EngineHarness, id: str = "e1") -> PublishedEvent:
    at = datetime.fromtimestamp(harness.now, UTC)
    return PublishedEvent(id=id, event="user.registered", created_at=at, args=[7], kwargs={"name": "x"})


def test_each_subscription_gets_one_job_with_the_event_s_arguments(harness: EngineHarness) -> None:
    subscribe(harness, "mail", "welcome")
    subscribe(harness, "billing", "open_account", "send_offer")
    effects = harness.apply(published(harness))
    assert sorted((row.job, row.queue) for row in effects.releases) == [
        ("open_account", "billing"),
        ("send_offer", "billing"),
        ("welcome", "mail"),
    ]
    envelope = codec.decode(effects.releases[0].envelope)
    assert (envelope.args, envelope.kwargs) == ([7], {"name": "x"})


def test_an_event_that_comes_again_makes_no_other_jobs(harness: EngineHarness) -> None:
    subscribe(harness, "mail", "welcome")
    event = published(harness)
    assert len(harness.apply(event).releases) == 1
    assert harness.apply(event, event).releases == []
    assert len(harness.apply(published(harness, "e2")).releases) == 1


def test_who_no_longer_subscribes_gets_nothing_and_who_subscribes_later_gets_later_events(
    harness: EngineHarness,
) -> None:
    subscribe(harness, "mail", "welcome")
    subscribe(harness, "mail")
    assert harness.apply(published(harness)).releases == []
    subscribe(harness, "shop", "greet")
    assert [row.job for row in harness.apply(published(harness, "e2")).releases] == ["greet"]


@pytest.mark.parametrize("waits", ["after", "result_args", "batch"])
def test_a_call_that_jobs_are_made_of_waits_for_nothing(harness: EngineHarness, waits: str) -> None:
    """The arguments of an event take the place of those that a parent's result would have been put in."""
    fields: dict[str, object] = {
        "after": Dependencies(parents=(Parent(id="p"),)),
        "result_args": (ResultArgument(place=0, parents=("p",)),),
        "batch": "b",
    }
    call = codec.encode(harness.envelope("t", epoch=0, args=[None], **{waits: fields[waits]})).decode()
    given = [Subscription(event="user.registered", call=call)]
    for effects in (
        harness.apply(harness.ask(DeclareSubscriptions, "me", service="mail", subscriptions=given)),
        harness.apply(harness.ask(PutRecurring, "me", schedule=Schedule(name="r", cron="* * * * *", call=call))),
    ):
        assert "waits for its time and for nothing else" in (
            Reply.model_validate_json(effects.messages[0].body).refused or ""
        )
    assert harness.apply(published(harness)).releases == []

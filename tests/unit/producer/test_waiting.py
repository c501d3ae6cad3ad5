"""What is published for jobs with a unique key or limits, for events, and for a change of a limit."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker_jobs import (
    ArgumentsError,
    BrokerJobs,
    Concurrency,
    DefinitionError,
    EnqueueError,
    OptionError,
    Ordered,
    Unique,
    result_of,
)
from broker_jobs.broker import names
from broker_jobs.broker.interface import PublishFailure, Unconfirmed
from broker_jobs.messages import codec
from broker_jobs.messages.batch import CHUNK
from broker_jobs.messages.commands import Reply, SetLimit
from broker_jobs.messages.envelope import LimitKey, UniqueKey, new_id
from broker_jobs.messages.published import PUBLISHED
from tests.unit.producer.recording import RecordingBroker


@pytest.fixture
def welcome(jobs: BrokerJobs) -> Any:
    @jobs.job(unique="user:{user_id}", limit=Concurrency("smtp:{domain}", 3))
    def welcome(user_id: int, domain: str = "example.org") -> None: ...

    return welcome


def plain() -> None: ...


def is_held(broker: RecordingBroker) -> bool:
    message = broker.last
    way = (message.exchange, message.key, message.type)
    return way == (names.OFFER, names.LOG_KEY, "job") and broker.envelope.epoch == 0


def test_a_job_with_a_key_is_always_held(broker: RecordingBroker, welcome: Any) -> None:
    welcome.enqueue(7)
    assert is_held(broker)
    assert broker.envelope.unique == UniqueKey(key="user:7")
    assert broker.envelope.limits == (LimitKey(kind="concurrency", key="smtp:example.org", limit=3),)
    welcome.using(id=new_id()).enqueue(7)
    assert is_held(broker)
    welcome.using(id="mine").enqueue(7)
    assert is_held(broker)
    welcome.schedule(timedelta(seconds=1), 7)
    assert is_held(broker)
    assert broker.envelope.due_at is not None


def test_a_delayed_one_goes_by_its_delay(broker: RecordingBroker, welcome: Any) -> None:
    welcome.schedule(timedelta(hours=1), 7)
    assert (broker.last.exchange, broker.last.key) == (names.OFFER, names.delay_key(11))
    assert (broker.envelope.epoch, broker.envelope.unique) == (0, UniqueKey(key="user:7"))


def test_one_call_may_have_other_keys(broker: RecordingBroker, jobs: BrokerJobs, welcome: Any) -> None:
    welcome.using(unique=Unique("once", scope="running"), limit=Ordered("line:{user_id}")).enqueue(7)
    assert broker.envelope.unique == UniqueKey(key="once", scope="running")
    assert broker.envelope.limits == (LimitKey(kind="ordered", key="line:7"),)
    jobs.remote("billing.charge").using(limit=Ordered("order:{order_id}")).enqueue(order_id=3)
    assert broker.envelope.limits == (LimitKey(kind="ordered", key="order:3"),)
    with pytest.raises(OptionError, match=r"^unique=\"\{id\}\" of welcome\(user_id, domain\): no parameter 'id'; did"):
        welcome.using(unique="{id}")


def test_keys_go_along_in_batches_and_continuations(broker: RecordingBroker, jobs: BrokerJobs, welcome: Any) -> None:
    parent = jobs.receipt("parent")
    welcome.after(parent).enqueue(7)
    assert is_held(broker)
    assert broker.envelope.unique == UniqueKey(key="user:7")
    with jobs.batch() as batch:
        batch.enqueue(welcome, 8)
    chunk = next(message for message in broker.messages if message.type == "chunk")
    member = codec.decode(CHUNK.validate_json(chunk.body).jobs[0])
    assert (member.epoch, member.unique) == (0, UniqueKey(key="user:8"))


def test_nothing_is_published_when_a_key_cannot_be_made(
    broker: RecordingBroker, jobs: BrokerJobs, welcome: Any
) -> None:
    with pytest.raises(ArgumentsError, match="the key has 517 characters"):
        welcome.enqueue(7, "x" * 512)
    with pytest.raises(ArgumentsError, match=r"user_id is not known yet, as it is the result of another job"):
        welcome.enqueue(result_of(jobs.receipt("parent")))
    assert broker.messages == []


def test_a_recurring_job_takes_its_keys_along(jobs: BrokerJobs, welcome: Any) -> None:
    jobs.recurring("weekly", "0 9 * * MON", welcome.bind(7))
    call = codec.decode(jobs.recurring.declared("shop")[0].call)
    assert call.unique == UniqueKey(key="user:7")


# ---- limits at run time


def test_a_limit_is_set_and_cleared_by_commands(broker: RecordingBroker, jobs: BrokerJobs) -> None:
    broker.answer = lambda command: Reply(id=command.id)
    jobs.limits.set("smtp", 3)
    jobs.limits.set("smtp", 0)
    jobs.limits.clear("smtp")
    sent = [(each.key, each.limit) for each in broker.commands if isinstance(each, SetLimit)]
    assert sent == [("smtp", 3), ("smtp", 0), ("smtp", None)]


def test_a_limit_that_cannot_be_is_not_sent(broker: RecordingBroker, jobs: BrokerJobs) -> None:
    for key, limit in [("smtp", -1), ("", 1), ("x" * 513, 1), ("a\0", 1), ("smtp", True)]:
        with pytest.raises(OptionError):
            jobs.limits.set(key, limit)
    with pytest.raises(OptionError, match=r"^limits.set\('smtp', …\): limit must be an int from 0 to"):
        jobs.limits.set("smtp", -2)
    assert broker.messages == []


# ---- events


def test_an_event_is_one_message_in_the_log(broker: RecordingBroker, jobs: BrokerJobs) -> None:
    id = jobs.publish("user.registered", 7, at=datetime(2026, 1, 2, tzinfo=UTC), tags=("a", b"\xff"), event="x")
    assert (broker.last.exchange, broker.last.key, broker.last.type) == (names.OFFER, names.LOG_KEY, "published")
    event = PUBLISHED.validate_json(broker.last.body)
    assert (event.id, event.event, event.args) == (id, "user.registered", [7])
    assert event.kwargs == {"at": "2026-01-02T00:00:00Z", "tags": ["a", "_w=="], "event": "x"}
    assert broker.last.message_id == id


@pytest.mark.parametrize(
    "value",
    [float("nan"), [float("inf")], {"x": {"y": [float("nan")]}}, pytest.param(object(), id="object()"), "\ud800"],
    ids=repr,
)
def test_what_would_not_survive_is_refused(broker: RecordingBroker, jobs: BrokerJobs, value: object) -> None:
    with pytest.raises(
        ArgumentsError, match=r"^user.registered: .* cannot be sent as JSON: .*Nothing was published\.$"
    ):
        jobs.publish("user.registered", 1, value)
    assert broker.messages == []


def test_a_result_to_come_is_no_argument_of_an_event(broker: RecordingBroker, jobs: BrokerJobs) -> None:
    with pytest.raises(ArgumentsError, match="user_id is the result of a job that has not ended"):
        jobs.publish("user.registered", user_id=result_of(jobs.receipt("x")))
    assert broker.messages == []


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b"])
def test_an_event_has_a_name(broker: RecordingBroker, jobs: BrokerJobs, name: str) -> None:
    with pytest.raises(ArgumentsError, match="the name of an event is a str of 1 to 200 characters"):
        jobs.publish(name)
    with pytest.raises(ArgumentsError, match="the name of an event is a str of 1 to 200 characters"):
        jobs.subscribe(name)
    assert broker.messages == []


def test_an_event_without_a_confirm_is_sent_again_with_its_id(broker: RecordingBroker, jobs: BrokerJobs) -> None:
    fails = [PublishFailure(Unconfirmed.UNKNOWN, "no confirm"), PublishFailure(Unconfirmed.UNKNOWN, "no confirm"), None]
    broker.fail = lambda _: fails.pop(0)
    id = jobs.publish("user.registered")
    assert [message.message_id for message in broker.messages] == [id] * 3
    broker.fail = lambda _: PublishFailure(Unconfirmed.UNKNOWN, "no confirm")
    with pytest.raises(EnqueueError, match=r"^user.registered \S+ may be published or not: no confirm$"):
        jobs.publish("user.registered")
    broker.fail = lambda _: PublishFailure(Unconfirmed.NOT_SENT, "blocked")
    with pytest.raises(EnqueueError, match=r"^user.registered \S+ was not published: blocked$"):
        jobs.publish("user.registered")


def test_an_event_that_is_too_large_is_refused(broker: RecordingBroker, jobs: BrokerJobs) -> None:
    with pytest.raises(EnqueueError, match=r"^user.registered was not published: its message has "):
        jobs.publish("user.registered", "x" * 5000)
    assert broker.messages == []


def test_events_are_published_on_an_event_loop(broker: RecordingBroker, jobs: BrokerJobs) -> None:
    async def signup() -> None:
        id = await jobs.publish_async("user.registered", 7)
        assert PUBLISHED.validate_json(broker.last.body).id == id
        with pytest.warns(RuntimeWarning, match=r"^publish\(\) blocks the event loop until RabbitMQ confirms; write"):
            jobs.publish("user.registered", 7)

    asyncio.run(signup())


def test_a_subscribed_function_is_a_job_with_its_options(broker: RecordingBroker, jobs: BrokerJobs) -> None:
    @jobs.subscribe("user.changed")
    @jobs.subscribe("user.registered", queue="mail", retries=3, limit=Concurrency("smtp", 2))
    def welcome(user_id: int) -> int:
        return user_id

    assert welcome(7) == 7
    welcome.enqueue(7)
    assert broker.envelope.queue == "mail"
    declared = jobs.subscriptions.declared()
    assert sorted(each.event for each in declared) == ["user.changed", "user.registered"]
    call = codec.decode(declared[0].call)
    assert (call.job, call.queue, call.policy.retries, call.epoch, call.args) == ("welcome", "mail", 3, 0, [])
    assert call.limits == (LimitKey(kind="concurrency", key="smtp", limit=2),)


def test_a_subscription_has_no_key_made_of_arguments_and_waits_for_nothing(jobs: BrokerJobs) -> None:
    with pytest.raises(
        DefinitionError, match=r"^welcome subscribes to 'user.registered' and cannot have the key 'u:\{"
    ):

        @jobs.subscribe("user.registered", unique="u:{user_id}")
        def welcome(user_id: int) -> None: ...

    with pytest.raises(DefinitionError, match=r"^ping belongs to another BrokerJobs; subscribe it there"):
        jobs.subscribe("user.registered")(BrokerJobs().job(name="ping")(plain))
    ping = jobs.job(name="ping")(plain)
    with pytest.raises(DefinitionError, match=r"cannot wait for jobs: leave out \.after"):
        jobs.subscribe("user.registered")(ping.after(jobs.receipt("x")))  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="no option 'quee'"):
        jobs.subscribe("user.registered", quee="x")  # type: ignore[call-arg]

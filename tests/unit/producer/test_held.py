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
from broker_jobs.exchange import names
from broker_jobs.exchange.port import Failure, Unsent
from broker_jobs.job import codec
from broker_jobs.job.envelope import LimitKey, UniqueKey, new_id
from broker_jobs.outcome.batch import CHUNK
from broker_jobs.outcome.command import Reply, SetLimit
from broker_jobs.outcome.published import PUBLISHED
from tests.unit.producer.recording import RecordingExchange


@pytest.fixture
def welcome(jobs: BrokerJobs) -> Any:
    @jobs.job(unique="user:{user_id}", limit=Concurrency("smtp:{domain}", 3))
    def welcome(user_id: int, domain: str = "example.org") -> None: ...

    return welcome


def plain() -> None: ...


def is_held(exchange: RecordingExchange) -> bool:
    message = exchange.last
    way = (message.exchange, message.key, message.type)
    return way == (names.REPORT, names.LOG_KEY, "job") and exchange.envelope.epoch == 0


def test_a_job_with_a_key_is_always_held(exchange: RecordingExchange, welcome: Any) -> None:
    welcome.enqueue(7)
    assert is_held(exchange)
    assert exchange.envelope.unique == UniqueKey(key="user:7")
    assert exchange.envelope.limits == (LimitKey(kind="concurrency", key="smtp:example.org", limit=3),)
    welcome.using(id=new_id()).enqueue(7)
    assert is_held(exchange)
    welcome.using(id="mine").enqueue(7)
    assert is_held(exchange)
    welcome.schedule(timedelta(seconds=1), 7)
    assert is_held(exchange)
    assert exchange.envelope.due_at is not None


def test_a_delayed_one_goes_by_its_delay(exchange: RecordingExchange, welcome: Any) -> None:
    welcome.schedule(timedelta(hours=1), 7)
    assert (exchange.last.exchange, exchange.last.key) == (names.DELAY, names.delay_key(11, new=True))
    assert (exchange.envelope.epoch, exchange.envelope.unique) == (0, UniqueKey(key="user:7"))


def test_one_call_may_have_other_keys(exchange: RecordingExchange, jobs: BrokerJobs, welcome: Any) -> None:
    welcome.using(unique=Unique("once", scope="running"), limit=Ordered("line:{user_id}")).enqueue(7)
    assert exchange.envelope.unique == UniqueKey(key="once", scope="running")
    assert exchange.envelope.limits == (LimitKey(kind="ordered", key="line:7"),)
    jobs.remote("billing.charge").using(limit=Ordered("order:{order_id}")).enqueue(order_id=3)
    assert exchange.envelope.limits == (LimitKey(kind="ordered", key="order:3"),)
    with pytest.raises(OptionError, match=r"^unique=\"\{id\}\" of welcome\(user_id, domain\): no parameter 'id'; did"):
        welcome.using(unique="{id}")


def test_keys_go_along_in_batches_and_continuations(
    exchange: RecordingExchange, jobs: BrokerJobs, welcome: Any
) -> None:
    parent = jobs.receipt("parent")
    welcome.after(parent).enqueue(7)
    assert is_held(exchange)
    assert exchange.envelope.unique == UniqueKey(key="user:7")
    with jobs.batch() as batch:
        batch.enqueue(welcome, 8)
    chunk = next(message for message in exchange.messages if message.type == "chunk")
    member = codec.decode(CHUNK.validate_json(chunk.body).jobs[0])
    assert (member.epoch, member.unique) == (0, UniqueKey(key="user:8"))


def test_nothing_is_published_when_a_key_cannot_be_made(
    exchange: RecordingExchange, jobs: BrokerJobs, welcome: Any
) -> None:
    with pytest.raises(ArgumentsError, match="the key has 517 characters"):
        welcome.enqueue(7, "x" * 512)
    with pytest.raises(ArgumentsError, match=r"user_id is not known yet, as it is a result to come"):
        welcome.enqueue(result_of(jobs.receipt("parent")))
    assert exchange.messages == []


def test_a_recurring_job_takes_its_keys_along(jobs: BrokerJobs, welcome: Any) -> None:
    jobs.recurring("weekly", "0 9 * * MON", welcome.bind(7))
    call = codec.decode(jobs.recurring.declared("shop")[0].call)
    assert call.unique == UniqueKey(key="user:7")


# ---- limits at run time


def test_a_limit_is_set_and_cleared_by_commands(exchange: RecordingExchange, jobs: BrokerJobs) -> None:
    exchange.answer = lambda command: Reply(id=command.id)
    jobs.limits.set("smtp", 3)
    jobs.limits.clear("smtp")
    sent = [(each.key, each.limit) for each in exchange.commands if isinstance(each, SetLimit)]
    assert sent == [("smtp", 3), ("smtp", None)]


def test_a_limit_that_cannot_be_is_not_sent(exchange: RecordingExchange, jobs: BrokerJobs) -> None:
    for key, limit in [("smtp", 0), ("smtp", -1), ("", 1), ("x" * 513, 1), ("a\0", 1), ("smtp", True)]:
        with pytest.raises(OptionError):
            jobs.limits.set(key, limit)
    with pytest.raises(OptionError, match=r"^limits.set\('smtp', …\): limit must be an int from 1 to 1_000_000, not 0"):
        jobs.limits.set("smtp", 0)
    assert exchange.messages == []


# ---- events


def test_an_event_is_one_message_in_the_log(exchange: RecordingExchange, jobs: BrokerJobs) -> None:
    id = jobs.publish("user.registered", 7, at=datetime(2026, 1, 2, tzinfo=UTC), tags=("a", b"\xff"), event="x")
    assert (exchange.last.exchange, exchange.last.key, exchange.last.type) == (names.REPORT, names.LOG_KEY, "published")
    event = PUBLISHED.validate_json(exchange.last.body)
    assert (event.id, event.event, event.args) == (id, "user.registered", [7])
    assert event.kwargs == {"at": "2026-01-02T00:00:00Z", "tags": ["a", "_w=="], "event": "x"}
    assert exchange.last.message_id == id


@pytest.mark.parametrize(
    "value",
    [float("nan"), [float("inf")], {"x": {"y": [float("nan")]}}, pytest.param(object(), id="object()"), "\ud800"],
    ids=repr,
)
def test_what_would_not_survive_is_refused(exchange: RecordingExchange, jobs: BrokerJobs, value: object) -> None:
    with pytest.raises(ArgumentsError, match=r"^user.registered: .* cannot travel as JSON: .*Nothing was published\.$"):
        jobs.publish("user.registered", 1, value)
    assert exchange.messages == []


def test_a_result_to_come_is_no_argument_of_an_event(exchange: RecordingExchange, jobs: BrokerJobs) -> None:
    with pytest.raises(ArgumentsError, match="user_id is a result to come"):
        jobs.publish("user.registered", user_id=result_of(jobs.receipt("x")))
    assert exchange.messages == []


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b"])
def test_an_event_has_a_name(exchange: RecordingExchange, jobs: BrokerJobs, name: str) -> None:
    with pytest.raises(ArgumentsError, match="the name of an event is a str of 1 to 200 characters"):
        jobs.publish(name)
    with pytest.raises(ArgumentsError, match="the name of an event is a str of 1 to 200 characters"):
        jobs.subscribe(name)
    assert exchange.messages == []


def test_an_event_without_a_confirm_is_sent_again_with_its_id(exchange: RecordingExchange, jobs: BrokerJobs) -> None:
    fails = [Failure(Unsent.UNKNOWN, "no confirm"), Failure(Unsent.UNKNOWN, "no confirm"), None]
    exchange.fail = lambda _: fails.pop(0)
    id = jobs.publish("user.registered")
    assert [message.message_id for message in exchange.messages] == [id] * 3
    exchange.fail = lambda _: Failure(Unsent.UNKNOWN, "no confirm")
    with pytest.raises(EnqueueError, match=r"^user.registered \S+ may be published or not: no confirm$"):
        jobs.publish("user.registered")
    exchange.fail = lambda _: Failure(Unsent.NOT_SENT, "blocked")
    with pytest.raises(EnqueueError, match=r"^user.registered \S+ was not published: blocked$"):
        jobs.publish("user.registered")


def test_an_event_that_is_too_large_is_refused(exchange: RecordingExchange, jobs: BrokerJobs) -> None:
    with pytest.raises(EnqueueError, match=r"^user.registered was not published: its message has "):
        jobs.publish("user.registered", "x" * 5000)
    assert exchange.messages == []


def test_events_are_published_on_an_event_loop(exchange: RecordingExchange, jobs: BrokerJobs) -> None:
    async def signup() -> None:
        id = await jobs.publish_async("user.registered", 7)
        assert PUBLISHED.validate_json(exchange.last.body).id == id
        with pytest.warns(RuntimeWarning, match=r"^publish\(\) blocks the event loop until RabbitMQ confirms; write"):
            jobs.publish("user.registered", 7)

    asyncio.run(signup())


def test_a_subscribed_function_is_a_job_with_its_options(exchange: RecordingExchange, jobs: BrokerJobs) -> None:
    @jobs.subscribe("user.changed")
    @jobs.subscribe("user.registered", queue="mail", retries=3, limit=Concurrency("smtp", 2))
    def welcome(user_id: int) -> int:
        return user_id

    assert welcome(7) == 7
    welcome.enqueue(7)
    assert exchange.envelope.queue == "mail"
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
    with pytest.raises(DefinitionError, match=r"waits for nothing else: leave out \.after"):
        jobs.subscribe("user.registered")(ping.after(jobs.receipt("x")))  # type: ignore[call-overload]
    with pytest.raises(OptionError, match="no option 'quee'"):
        jobs.subscribe("user.registered", quee="x")  # type: ignore[call-arg]

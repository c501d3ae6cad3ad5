"""`publish_timeout` and `fail_fast`, of one call and of the settings: every call that publishes honours them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from broker_jobs import BrokerError, BrokerJobs, EnqueueError, OptionError
from broker_jobs.producer.with_options import WithOptions
from tests.support.process import free_port
from tests.support.proxy import TcpProxy
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq

LONG = 600.0
"""The publish timeout of the settings: a call that waits for it fails its test."""


@pytest.fixture(params=["memory", "rabbitmq"])
def jobs(request: pytest.FixtureRequest, vhost: Vhost, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerJobs]:
    """A producer that is connected to each broker."""
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", str(LONG))
    producer = BrokerJobs("memory://" if request.param == "memory" else vhost.url)
    producer.queues.declare("nobody-serves")
    producer.remote("tell", queue="nobody-serves").enqueue("first")
    yield producer
    unblock(producer, vhost)
    producer.stop()


def block(jobs: BrokerJobs, vhost: Vhost) -> None:
    """Have the broker block publishing, and the producer know it."""
    broker: Any = jobs._connection.broker()
    if jobs.settings.in_memory:
        broker.block()
        return
    vhost.broker.alarm(memory=True)
    first = broker.publish([_message()], 0.5)  # RabbitMQ says that it blocks when a message comes
    eventually(lambda: broker.blocked, 30, "blocked")
    first.result(60)


def unblock(jobs: BrokerJobs, vhost: Vhost) -> None:
    """End the alarm."""
    broker: Any = jobs._connection.broker()
    if jobs.settings.in_memory:
        broker.unblock()
    else:
        vhost.broker.alarm(memory=False)
    eventually(lambda: not broker.blocked, 30, "unblocked")


def _message() -> Any:
    from broker_jobs.broker.interface import Message

    return Message("jobs.v1.offer", "log", b"{}")


def calls(jobs: BrokerJobs, **options: Any) -> dict[str, Callable[[], object]]:
    """Every call that publishes, with these options."""
    job = jobs.remote("tell", queue="nobody-serves").using(**options)
    plain = jobs.remote("tell", queue="nobody-serves")
    given: WithOptions = jobs.using(**options)

    def batch() -> None:
        with given.batch("import") as made:
            made.enqueue(plain, "text")

    async def batch_async() -> None:
        async with given.batch("import") as made:
            made.enqueue(plain, "text")

    return {
        "enqueue": lambda: job.enqueue("text"),
        "schedule": lambda: job.schedule(timedelta(days=1), "text"),
        "enqueue_many of calls": lambda: jobs.enqueue_many([plain.using(**options).bind(each) for each in range(3)]),
        "enqueue_many": lambda: given.enqueue_many([plain.bind(each) for each in range(3)]),
        "publish": lambda: given.publish("told", "text"),
        "batch": batch,
        "enqueue_async": lambda: asyncio.run(job.enqueue_async("text")),
        "schedule_async": lambda: asyncio.run(job.schedule_async(timedelta(days=1), "text")),
        "enqueue_many_async": lambda: asyncio.run(given.enqueue_many_async([plain.bind(each) for each in range(3)])),
        "publish_async": lambda: asyncio.run(given.publish_async("told", "text")),
        "batch_async": lambda: asyncio.run(batch_async()),
    }


@pytest.mark.parametrize("option", [{"publish_timeout": timedelta(seconds=0.2)}, {"fail_fast": True}])
def test_no_call_waits_longer_than_it_says_while_the_broker_blocks(
    jobs: BrokerJobs, vhost: Vhost, option: dict[str, Any]
) -> None:
    block(jobs, vhost)
    reason = "fail_fast" if "fail_fast" in option else "block"
    for name, call in calls(jobs, **option).items():
        started = time.monotonic()
        with pytest.raises(EnqueueError, match=reason):
            call()
        assert time.monotonic() - started < LONG / 2, name
    unblock(jobs, vhost)
    for call in calls(jobs, **option | {"publish_timeout": 60}).values():
        call()


def test_the_setting_fail_fast_is_for_every_call_that_does_not_say_otherwise(jobs: BrokerJobs, vhost: Vhost) -> None:
    jobs.stop()
    jobs.configure({"fail_fast": True})
    job = jobs.remote("tell", queue="nobody-serves")
    eventually(lambda: _gets_through(job.enqueue), 30, "connected")
    block(jobs, vhost)
    for call in calls(jobs).values():
        with pytest.raises(EnqueueError, match="fail_fast"):
            call()
    with pytest.raises(EnqueueError, match="block"):
        job.using(fail_fast=False, publish_timeout=0.2).enqueue("waits")


def _gets_through(call: Callable[[str], object]) -> bool:
    try:
        call("text")
    except EnqueueError:
        return False
    return True


def test_an_enqueue_that_fails_fast_waits_for_no_connection_that_is_lost_and_works_when_it_is_back(
    vhost: Vhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", str(LONG))
    with TcpProxy(vhost.broker.amqp_port) as proxy:
        jobs = BrokerJobs(vhost.url_through(proxy.port))
        jobs.queues.declare("nobody-serves")
        try:
            job = jobs.remote("tell", queue="nobody-serves").using(fail_fast=True)
            eventually(lambda: _gets_through(job.enqueue), 30, "connected")
            proxy.refuse()
            eventually(lambda: not jobs._connection.broker().connected, 30, "the loss is known")
            with pytest.raises(EnqueueError, match="lost"):
                job.enqueue("text")
            proxy.behave()
            eventually(lambda: _gets_through(job.enqueue), 60, "back")
        finally:
            proxy.behave()
            jobs.stop()


def test_a_first_connect_goes_on_behind_an_enqueue_that_does_not_wait_for_it(
    vhost: Vhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", str(LONG))
    with TcpProxy(vhost.broker.amqp_port) as proxy:
        proxy.refuse()
        jobs = BrokerJobs(vhost.url_through(proxy.port))
        try:
            job = jobs.remote("tell").using(publish_timeout=0.2)
            with pytest.raises(EnqueueError, match=r"not connected to RabbitMQ in 0.2 s"):
                job.enqueue("text")
            with pytest.raises(EnqueueError, match=r"not connected to RabbitMQ in 0.2 s"):
                asyncio.run(job.enqueue_async("text"))
            proxy.behave()
            eventually(lambda: _gets_through(job.enqueue), 60, "the connect of the first call has ended")
        finally:
            proxy.behave()
            jobs.stop()


def test_a_broker_that_could_not_be_reached_once_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "1")
    jobs = BrokerJobs(f"amqp://127.0.0.1:{free_port()}/")
    with pytest.raises(BrokerError):
        jobs.queues.declare("default")
    jobs.configure({"publish_timeout": LONG})
    with pytest.raises(EnqueueError, match="cannot be reached"):
        jobs.remote("tell").using(fail_fast=True).enqueue("text")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"publish_timeout": 0}, "more than 0"),
        ({"publish_timeout": 601}, "600 seconds or less"),
        ({"publish_timeout": "2"}, "seconds or a timedelta"),
        ({"fail_fast": 1}, "True or False"),
        ({"publish_timeot": 2}, "did you mean 'publish_timeout'"),
        ({"queue": "mail"}, "belongs to"),
    ],
)
def test_a_wrong_option_says_what_to_write(option: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        BrokerJobs("memory://").using(**option)

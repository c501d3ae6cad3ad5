"""Enqueueing on a real RabbitMQ: when it returns the job is there, once; when it cannot, it says so in time."""

import asyncio
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from broker_jobs import BrokerJobs, EnqueueError, EnqueueUnknown, Receipt, ResultTimeout, State
from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery, Message
from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.messages.codec import decode
from broker_jobs.messages.commands import COMMAND, Command, GetJob, JobReply, Reply
from broker_jobs.messages.envelope import Envelope
from tests.support.consume import consume
from tests.support.rabbitmq import Broker, Vhost
from tests.support.wait import eventually

pytestmark = pytest.mark.rabbitmq

MAIL = names.work_queue("mail")


@pytest.fixture
def jobs(vhost: Vhost) -> Iterator[BrokerJobs]:
    program = BrokerJobs(vhost.url)
    yield program
    program.stop()


@pytest.fixture
def welcome(jobs: BrokerJobs) -> Any:
    @jobs.job(queue="mail")
    def welcome(user_id: int) -> str:
        return str(user_id)

    jobs.queues.declare("mail")
    return welcome


def ids(vhost: Vhost, queue: str) -> list[str]:
    return [decode(body).id for body in vhost.drain(queue)]


def logged(vhost: Vhost, count: int) -> list[tuple[str | None, Envelope]]:
    """The types and envelopes in the log, which has a single active consumer; `count` of them, and no more."""
    found: list[tuple[str | None, Envelope]] = []
    assert vhost.ready(names.LOG) == count
    with vhost.channel() as channel:
        for method, properties, body in channel.consume(names.LOG, auto_ack=True, inactivity_timeout=20):
            assert method is not None and properties is not None and body is not None, f"only {found} in the log"  # noqa: PT018
            found.append((properties.type, decode(body)))
            if len(found) == count:
                break
        channel.cancel()
    return found


def test_when_it_returns_the_job_is_in_its_queue_and_in_the_log(vhost: Vhost, welcome: Any) -> None:
    receipt = welcome.enqueue(42)
    assert vhost.ready(MAIL) == 1
    assert [envelope.id for _, envelope in logged(vhost, 1)] == [receipt.id]
    found = vhost.get(MAIL)
    assert found is not None
    body, properties = found
    envelope = decode(body)
    assert (envelope.id, envelope.args, envelope.epoch) == (receipt.id, [42], 1)
    assert (properties.delivery_mode, properties.type, properties.message_id) == (2, "job", receipt.id)


def test_threads_enqueue_at_once(vhost: Vhost, welcome: Any) -> None:
    with ThreadPoolExecutor(16) as pool:
        receipts = list(pool.map(welcome.enqueue, range(200)))
    assert sorted(ids(vhost, MAIL)) == sorted(receipt.id for receipt in receipts)


def test_coroutines_enqueue_at_once_and_the_loop_goes_on(vhost: Vhost, welcome: Any) -> None:
    async def handler() -> list[Receipt[str]]:
        return list(await asyncio.gather(*(welcome.enqueue_async(i) for i in range(200))))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        receipts = asyncio.run(handler())
    assert sorted(ids(vhost, MAIL)) == sorted(receipt.id for receipt in receipts)


def test_many_are_confirmed_in_order(vhost: Vhost, jobs: BrokerJobs, welcome: Any) -> None:
    receipts = jobs.enqueue_many(welcome.bind(i) for i in range(5000))
    assert vhost.ready(MAIL) == 5000
    assert ids(vhost, MAIL) == [receipt.id for receipt in receipts]


def test_many_from_a_coroutine(vhost: Vhost, jobs: BrokerJobs, welcome: Any) -> None:
    receipts = asyncio.run(jobs.enqueue_many_async([welcome.bind(i) for i in range(1500)]))
    assert ids(vhost, MAIL) == [receipt.id for receipt in receipts]


def test_a_repeat_goes_to_the_log_alone(vhost: Vhost, welcome: Any) -> None:
    receipt = welcome.enqueue(42)
    again = welcome.using(id=receipt.id).enqueue(42)
    assert again == receipt
    assert ids(vhost, MAIL) == [receipt.id]
    assert [kind for kind, _ in logged(vhost, 2)] == ["job", "repeat"]


def test_an_id_of_ones_own_goes_to_the_log_alone(vhost: Vhost, welcome: Any) -> None:
    welcome.using(id="welcome-42").enqueue(42)
    assert vhost.ready(MAIL) == 0
    ((kind, envelope),) = logged(vhost, 1)
    assert (kind, envelope.id, envelope.epoch, envelope.due_at) == ("job", "welcome-42", 0, None)


@pytest.mark.parametrize(
    ("delay", "queue"),
    [
        (timedelta(seconds=1), None),
        (timedelta(seconds=40), names.delay_queue(5)),
        (timedelta(days=3650), names.delay_queue(28)),
    ],
)
def test_a_delayed_job_is_in_the_log_and_in_its_step(
    vhost: Vhost, welcome: Any, delay: timedelta, queue: str | None
) -> None:
    receipt = welcome.schedule(delay, 42)
    assert vhost.ready(MAIL) == 0
    assert [envelope.id for _, envelope in logged(vhost, 1)] == [receipt.id]
    if queue is not None:
        assert vhost.ready(queue) == 1


@pytest.mark.parametrize("queue", ["a b", "ü", "", "x" * 101, "a#"])
def test_a_wrong_queue_name_is_refused_before_anything_is_published(vhost: Vhost, welcome: Any, queue: str) -> None:
    with pytest.raises(ValueError, match="is not a queue name: use 1 to 100 of the characters"):
        welcome.using(queue=queue)
    assert vhost.ready(names.LOG) == 0


def test_a_queue_nobody_declared_is_taken_and_dead_lettered(vhost: Vhost, welcome: Any) -> None:
    receipt = welcome.using(queue="nobody").enqueue(42)
    assert ids(vhost, names.DEAD_LETTERS) == [receipt.id]
    assert [envelope.id for _, envelope in logged(vhost, 1)] == [receipt.id]


def test_a_body_over_the_limit_is_refused_before_it_is_published(vhost: Vhost, jobs: BrokerJobs) -> None:
    @jobs.job
    def keep(text: str) -> None: ...

    with pytest.raises(EnqueueError, match=r"the limit is 262_144 .*; store it elsewhere and pass a reference$"):
        keep.enqueue("x" * 300_000)


def test_a_broker_that_is_not_there_is_told_in_time(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "1")
    jobs = BrokerJobs(f"amqp://user:secret@127.0.0.1:{unused_port}/")

    @jobs.job
    def welcome(user_id: int) -> None: ...

    began = time.monotonic()
    with pytest.raises(EnqueueError) as caught:
        welcome.enqueue(42)
    assert time.monotonic() - began < 4
    assert "was not enqueued: " in str(caught.value)
    assert str(unused_port) in str(caught.value)
    assert "secret" not in str(caught.value)
    jobs.stop()


def test_a_broker_that_goes_down_is_told_in_time_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, broker: Broker, vhost: Vhost
) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "4")
    jobs = BrokerJobs(vhost.url)

    @jobs.job(queue="mail")
    def welcome(user_id: int) -> None: ...

    jobs.queues.declare("mail")
    welcome.enqueue(1)
    broker.stop()
    began = time.monotonic()
    with pytest.raises(EnqueueError, match=r"welcome \S+ was not enqueued: RabbitMQ at .* did not answer in 4 s"):
        welcome.enqueue(2)
    assert time.monotonic() - began < 8
    broker.start()

    def enqueued() -> bool:
        try:
            welcome.enqueue(3)
        except EnqueueError:
            return False
        return True

    eventually(enqueued, timeout=60, what="an enqueue after the broker came back")
    first, *others = [decode(body).args for body in vhost.drain(MAIL)]
    assert first == [1]
    assert others == [[3]] * len(others)  # one whose enqueue could not say may be there too
    assert others
    jobs.stop()


def test_a_frozen_broker_leaves_the_job_unknown_and_its_repeat_is_harmless(
    monkeypatch: pytest.MonkeyPatch, broker: Broker, vhost: Vhost
) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "4")  # for the declaration too, on a busy machine
    jobs = BrokerJobs(vhost.url)

    @jobs.job(queue="mail")
    def welcome(user_id: int) -> None: ...

    jobs.queues.declare("mail")
    welcome.enqueue(1)
    broker.freeze()
    with pytest.raises(EnqueueUnknown, match=r"repeat with the same id: welcome\.using\(id=") as caught:
        welcome.enqueue(2)
    broker.thaw()
    receipt = caught.value.receipt
    eventually(lambda: vhost.ready(MAIL) == 2, what="both jobs in the queue")
    assert welcome.using(id=receipt.id).enqueue(2) == receipt
    assert vhost.ready(MAIL) == 2
    jobs.stop()


# ---- questions, with a coordinator that answers as it is told ----


class Answering:
    """Reads the command queue and answers; what a coordinator does, and nothing else of it."""

    def __init__(self, url: str, answer: Callable[[Command], Reply | None]) -> None:
        self.broker = RabbitBroker(url, name="answering")
        self.answer = answer
        self.seen: list[Command] = []

    def __enter__(self) -> "Answering":
        self.broker.start()
        consume(self.broker, [names.COMMAND], self._on_deliveries, prefetch=100)
        return self

    def __exit__(self, *error: object) -> None:
        self.broker.stop()

    def _on_deliveries(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            command = COMMAND.validate_json(delivery.body)
            self.seen.append(command)
            consumer.ack(delivery.channel, delivery.tag)
            reply = self.answer(command)
            if reply is not None and delivery.reply_to is not None:
                body = reply.model_dump_json().encode()
                self.broker.publish(
                    [Message("", delivery.reply_to, body, "reply", reply.id, correlation_id=delivery.correlation_id)]
                )


def view(command: Command, **fields: Any) -> Reply:
    assert isinstance(command, GetJob)
    found = JobReply(id=command.job_id, **{"known": True, "job": "welcome", **fields})
    return Reply(id=command.id, detail=found.model_dump())


def test_a_result_comes_over_the_broker(vhost: Vhost, welcome: Any) -> None:
    receipt = welcome.enqueue(42)
    with Answering(vhost.url, lambda command: view(command, state="succeeded", result='"42"')):
        assert receipt.result(timeout=120) == "42"
        assert receipt.state() is State.SUCCEEDED

        async def ask() -> tuple[str, State]:
            return await receipt.result_async(20), await receipt.state_async()

        assert asyncio.run(ask()) == ("42", State.SUCCEEDED)


def test_many_wait_at_once_without_an_extra_queue_each(vhost: Vhost, welcome: Any) -> None:
    receipts = [welcome.enqueue(i) for i in range(20)]
    with (
        Answering(vhost.url, lambda command: view(command, state="succeeded", result='"x"')),
        ThreadPoolExecutor(20) as pool,
    ):
        assert list(pool.map(lambda receipt: receipt.result(timeout=120), receipts)) == ["x"] * 20
        assert len([queue for queue in vhost.queues() if queue["name"].startswith("jobs.v1.reply.")]) <= 2


def test_a_question_survives_the_loss_of_all_connections(vhost: Vhost, welcome: Any) -> None:
    receipt = welcome.enqueue(42)
    ended = threading.Event()

    def answer(command: Command) -> Reply | None:
        return view(command, state="succeeded", result='"42"') if ended.is_set() else None

    with Answering(vhost.url, answer) as coordinator, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receipt.result, 60)
        eventually(lambda: coordinator.seen, what="the question")
        vhost.close_connections()
        ended.set()
        assert waiting.result(60) == "42"


def test_without_a_coordinator_the_error_says_so(monkeypatch: pytest.MonkeyPatch, vhost: Vhost) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "5")  # it also bounds how long connecting may take
    jobs = BrokerJobs(vhost.url)
    try:
        with pytest.raises(ResultTimeout, match=r"no coordinator answered in 5 s: is one running\?"):
            jobs.receipt("0190").state()
    finally:
        jobs.stop()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

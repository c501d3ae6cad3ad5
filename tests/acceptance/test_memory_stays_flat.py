"""What was given up is forgotten: enqueues and batches that an alarm refuses, questions that nobody answers."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from broker_jobs import BrokerJobs, EnqueueError, ResultTimeout
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq]

ROUNDS = 8
AT_ONCE = 500


@pytest.fixture
def jobs(vhost: Vhost) -> Iterator[BrokerJobs]:
    """A producer that is connected, with a queue that nobody serves and no coordinator."""
    producer = BrokerJobs(vhost.url)
    producer.queues.declare("nobody-serves")
    producer.remote("tell", queue="nobody-serves").enqueue("first")
    yield producer
    vhost.broker.alarm(memory=False)
    producer.stop()


def objects_after(jobs: BrokerJobs, repeat: Callable[[], object]) -> list[int]:
    """How many objects there are after each repetition."""
    counts = []
    publisher: Any = jobs._connection.broker()._publisher  # type: ignore[attr-defined]
    for _ in range(ROUNDS):
        repeat()
        eventually(lambda: publisher.idle, 30, "what batches say when they are abandoned is given up too")
        gc.collect()
        counts.append(len(gc.get_objects()))
    return counts


def check_flat(counts: list[int]) -> None:
    """The first rounds fill caches; of 500 calls in each of the others nothing is kept."""
    assert counts[-1] - counts[2] < AT_ONCE / 2, counts


@pytest.mark.parametrize("options", [{"publish_timeout": 0.3}, {"fail_fast": True}])
def test_refused_enqueues_and_batches_are_forgotten_during_an_alarm(
    jobs: BrokerJobs, vhost: Vhost, options: dict[str, Any]
) -> None:
    vhost.broker.alarm(memory=True)
    job = jobs.remote("tell", queue="nobody-serves")
    broker: Any = jobs._connection.broker()
    with pytest.raises(EnqueueError):
        job.using(publish_timeout=1).enqueue("RabbitMQ says that it blocks when a message comes")
    eventually(lambda: broker.blocked, 30, "blocked")

    async def batch() -> None:
        async with jobs.using(**options).batch("refused") as refused:
            refused.enqueue(job, "x" * 1_000)

    async def refused() -> None:
        given = job.using(**options)
        calls = [given.enqueue_async("x" * 1_000) for _ in range(AT_ONCE)] + [batch() for _ in range(AT_ONCE)]
        assert all(isinstance(error, EnqueueError) for error in await asyncio.gather(*calls, return_exceptions=True))

    check_flat(objects_after(jobs, lambda: asyncio.run(refused())))
    assert (len(broker._publisher._waiting), len(broker._publisher._batches)) == (0, 0)
    vhost.broker.alarm(memory=False)
    assert job.using(publish_timeout=60).enqueue("after").id


def test_questions_that_nobody_answers_and_waits_that_were_not_waited_for_are_forgotten(jobs: BrokerJobs) -> None:
    receipts = [jobs.receipt(f"unknown-{number}") for number in range(AT_ONCE)]

    async def not_waited_for() -> None:
        waits = [asyncio.ensure_future(receipt.result_async()) for receipt in receipts]
        questions = [receipt.result_async(timeout=0.3) for receipt in receipts]
        answers = await asyncio.gather(*questions, return_exceptions=True)
        assert all(isinstance(answer, ResultTimeout) for answer in answers)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    check_flat(objects_after(jobs, lambda: asyncio.run(not_waited_for())))
    assert not jobs._requests._reply_queue._waiting


def test_a_question_that_is_repeated_for_long_keeps_nothing_of_its_repeats(
    jobs: BrokerJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_jobs.producer.requests.REPEAT_SECONDS", 0.005)

    async def wait() -> None:
        waiting = asyncio.ensure_future(jobs.receipt("unknown").result_async())
        queue = jobs._requests._reply_queue
        await asyncio.to_thread(eventually, lambda: queue._waiting, 30)
        (answered,) = queue._waiting.values()
        await asyncio.sleep(1)  # two hundred repeats
        assert len(answered._callbacks) <= 1  # type: ignore[attr-defined]
        waiting.cancel()

    asyncio.run(wait())

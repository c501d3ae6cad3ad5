"""Jobs: enqueue, schedule, options; every mistake raises before anything is published."""

import asyncio
import inspect
import os
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from broker_jobs import AsyncJob, BrokerJobs, Depends, EnqueueUnknown, Receipt, SyncJob
from broker_jobs.broker.interface import PublishFailure, Unconfirmed
from broker_jobs.errors import ArgumentsError, BrokerError, DefinitionError, EnqueueError, OptionError, UsageError
from broker_jobs.producer.errors import EnqueueManyError
from tests.unit.producer.recording import RecordingBroker


def test_a_sync_job_stays_an_ordinary_function(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int, greeting: str = Depends(lambda: "hello")) -> str:
        """Greets."""
        return f"{greeting} {user_id}"

    assert isinstance(welcome, SyncJob)
    assert welcome(42) == "hello 42"
    assert welcome(42, "hi") == "hi 42"
    assert welcome.__doc__ == "Greets."
    assert list(inspect.signature(welcome).parameters) == ["user_id", "greeting"]
    assert broker.messages == []


def test_an_async_job_stays_a_coroutine_function(jobs: BrokerJobs) -> None:
    @jobs.job
    async def fetch(url: str) -> bytes:
        return url.encode()

    assert isinstance(fetch, AsyncJob)
    assert asyncio.run(fetch("u")) == b"u"
    assert inspect.iscoroutinefunction(type(fetch).__call__)


def test_importing_and_defining_connects_to_nothing(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def ping() -> None: ...

    jobs.recurring("ping", "* * * * *", ping)
    assert broker.started == 0
    ping.enqueue()
    ping.enqueue()
    assert broker.started == 1
    assert broker.topologies != []


def test_our_own_parameters_do_not_clash_with_a_jobs(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def odd(when: int, job: int, self: int) -> None: ...

    odd.schedule(timedelta(0), when=1, job=2, self=3)
    assert broker.envelope.kwargs == {"when": 1, "job": 2, "self": 3}


def test_arguments_are_refused_before_anything_is_published(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    for wrong in (lambda: welcome.enqueue("x"), lambda: welcome.bind("x"), lambda: welcome.schedule(timedelta(1), "x")):  # type: ignore[arg-type]
        with pytest.raises(ArgumentsError, match="user_id must be an int"):
            wrong()
    assert broker.messages == []


def test_of_two_using_the_later_wins(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job(queue="mail", retries=5)
    def welcome(user_id: int) -> None: ...

    welcome.using(queue="slow", tags=["a"]).using(queue="slower").enqueue(42)
    envelope = broker.envelope
    assert (envelope.queue, envelope.tags, envelope.policy.retries) == ("slower", ("a",), 5)
    welcome.enqueue(42)
    assert broker.envelope.queue == "mail"


def test_using_names_the_nearest_option(jobs: BrokerJobs) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    with pytest.raises(OptionError, match=r"^no option 'quee'; did you mean 'queue'\? Options of one call: backoff, "):
        welcome.using(quee="slow")  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="did you mean 'queue'"):
        jobs.job(quee="slow")  # type: ignore[call-overload]


@pytest.mark.parametrize("peer", ["delay", "send", "apply_async", "kiq", "defer"])
def test_the_words_of_other_libraries_are_answered(jobs: BrokerJobs, peer: str) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    with pytest.raises(AttributeError) as caught:
        getattr(welcome, peer)
    assert str(caught.value) == f"jobs have no {peer!r}; write welcome.enqueue(42)"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(welcome, "nothing")  # noqa: B009


def test_a_name_in_place_of_a_function_is_explained(jobs: BrokerJobs) -> None:
    with pytest.raises(DefinitionError, match=r"^write @jobs\.job\(name='mail'\) or @jobs\.job\(queue='mail'\)$"):
        jobs.job("mail")  # type: ignore[call-overload]


def test_not_sent_is_an_enqueue_error(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    broker.fail = lambda _: PublishFailure(
        Unconfirmed.NOT_SENT, "RabbitMQ at amqp://user:***@host did not answer in 10 s"
    )
    with pytest.raises(EnqueueError) as caught:
        welcome.enqueue(42)
    job_id = broker.envelope.id
    assert str(caught.value) == (
        f"welcome {job_id} was not enqueued: RabbitMQ at amqp://user:***@host did not answer in 10 s"
    )
    assert not isinstance(caught.value, EnqueueUnknown)


def test_no_confirm_says_how_to_repeat(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    broker.fail = lambda _: PublishFailure(Unconfirmed.UNKNOWN, "no confirm came")
    with pytest.raises(EnqueueUnknown) as caught:
        welcome.enqueue(42)
    job_id = broker.envelope.id
    assert caught.value.receipt == Receipt(job_id, jobs._requests)
    assert str(caught.value) == (
        f"welcome {job_id} may be enqueued or not: no confirm came; "
        f'repeat with the same id: welcome.using(id="{job_id}").enqueue(42)'
    )


def test_an_unreachable_broker_is_an_enqueue_error_and_the_next_call_tries_again(
    jobs: BrokerJobs, broker: RecordingBroker
) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    broker.unreachable = "RabbitMQ at amqp://user:***@host cannot be reached"
    with pytest.raises(EnqueueError, match=r"was not enqueued: RabbitMQ at amqp://user:\*\*\*@host cannot be reached"):
        welcome.enqueue(42)
    broker.unreachable = None
    welcome.enqueue(42)


def test_threads_that_wait_for_one_failed_attempt_do_not_wait_for_another(
    jobs: BrokerJobs, broker: RecordingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    @jobs.job
    def ping() -> None: ...

    attempts: list[float] = []
    waiting = threading.Barrier(9)

    def start(_timeout: float) -> None:
        attempts.append(_timeout)
        waiting.wait(20)  # all eight are on their way
        time.sleep(0.2)  # and have come to the lock
        raise BrokerError("away")

    def enqueue() -> str:
        threading.Thread(target=waiting.wait, args=(20,), daemon=True).start()
        with pytest.raises(EnqueueError, match="away") as caught:
            ping.enqueue()
        return str(caught.value)

    monkeypatch.setattr(broker, "start", start)
    with ThreadPoolExecutor(8) as pool:
        assert len([*pool.map(lambda _: enqueue(), range(8))]) == 8
    assert len(attempts) == 1


def test_blocking_calls_warn_in_an_event_loop(jobs: BrokerJobs) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    async def handler() -> None:
        for _ in range(3):
            welcome.enqueue(42)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        asyncio.run(handler())
    assert [str(warning.message) for warning in seen] == [
        "welcome.enqueue() blocks the event loop until RabbitMQ confirms; write await welcome.enqueue_async(…)"
    ]
    assert seen[0].filename == __file__


def test_the_async_twins_do_not_warn(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    async def handler() -> None:
        await welcome.enqueue_async(1)
        await welcome.schedule_async(timedelta(hours=1), 2)
        await jobs.enqueue_many_async([welcome.bind(3)])

    asyncio.run(handler())
    assert [message.type for message in broker.messages] == ["job"] * 3


# ---- many ----


def test_many_go_out_in_chunks_in_order(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    receipts = jobs.enqueue_many(welcome.bind(i) for i in range(2500))
    assert broker.batches == [1000, 1000, 500]
    assert [message.message_id for message in broker.messages] == [receipt.id for receipt in receipts]
    assert jobs.enqueue_many([]) == []


def test_many_are_all_checked_before_the_first_is_published(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    with pytest.raises(ArgumentsError):
        jobs.enqueue_many(welcome.bind(i if i < 9 else "x") for i in range(10))  # type: ignore[arg-type]
    with pytest.raises(ArgumentsError, match=r"takes calls: write welcome\.bind"):
        jobs.enqueue_many([welcome.bind(1), 3])  # type: ignore[arg-type]
    assert broker.messages == []


def test_many_that_fail_in_part_say_which(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    fates = [
        None,
        PublishFailure(Unconfirmed.NOT_SENT, "blocked"),
        PublishFailure(Unconfirmed.UNKNOWN, "no confirm"),
        None,
    ]
    calls = [welcome.bind(i) for i in range(4)]
    seen = iter(fates)
    broker.fail = lambda _: next(seen)
    with pytest.raises(EnqueueManyError) as caught:
        jobs.enqueue_many(calls)
    ids = [message.message_id for message in broker.messages]
    error = caught.value
    assert [receipt.id for receipt in error.enqueued] == [ids[0], ids[3]]
    assert [receipt.id for receipt in error.not_enqueued] == [ids[1]]
    assert [receipt.id for receipt in error.unknown] == [ids[2]]
    assert str(error).startswith("1 of 4 jobs were not enqueued, 1 of 4 may be enqueued or not: blocked (")


def test_many_stop_at_the_first_chunk_that_fails(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def welcome(user_id: int) -> None: ...

    broker.fail = lambda _: PublishFailure(Unconfirmed.NOT_SENT, "away")
    with pytest.raises(EnqueueManyError, match=r"^9_000 of 9_000 jobs were not enqueued: away"):
        jobs.enqueue_many(welcome.bind(i) for i in range(9000))
    assert len(broker.messages) <= 5000


def test_a_call_of_another_program_is_refused(jobs: BrokerJobs) -> None:
    other = BrokerJobs("memory://")

    @other.job
    def ping() -> None: ...

    with pytest.raises(UsageError, match="ping belongs to another BrokerJobs"):
        jobs.enqueue_many([ping.bind()])


# ---- other services ----


def test_a_remote_job_is_checked_by_its_stub(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.remote("billing.charge", queue="billing")
    def charge(order_id: int, *, note: str = "") -> str:
        raise NotImplementedError

    charge.enqueue(7, note="x")
    envelope = broker.envelope
    assert (envelope.job, envelope.queue, envelope.args, envelope.kwargs) == (
        "billing.charge",
        "billing",
        [7],
        {"note": "x"},
    )
    with pytest.raises(ArgumentsError, match=r"billing\.charge\(order_id: int, \*, note: str = ''\): order_id must be"):
        charge.enqueue("7")  # type: ignore[arg-type]
    call: Any = charge
    with pytest.raises(TypeError) as caught:
        call(7)
    assert str(caught.value) == "billing.charge runs in another service; write charge.enqueue(…)"


def test_a_remote_job_without_a_stub_takes_anything(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    charge = jobs.remote("billing.charge")
    charge.enqueue(order_id=7, parts=(1, 2))
    assert broker.envelope.kwargs == {"order_id": 7, "parts": [1, 2]}
    assert broker.envelope.queue == "default"
    call: Any = charge
    with pytest.raises(TypeError, match=r"billing\.charge runs in another service"):
        call(7)


# ---- the program ----


def test_around_takes_generator_functions_only(jobs: BrokerJobs) -> None:
    @jobs.around
    def one() -> Generator[None]:
        yield

    @jobs.around
    async def two() -> AsyncGenerator[None]:
        yield

    def three() -> None: ...

    assert jobs.registry.around == [one, two]
    with pytest.raises(DefinitionError, match="three has no yield"):
        jobs.around(three)  # type: ignore[type-var]


def test_a_module_that_cannot_be_imported_is_named() -> None:
    jobs = BrokerJobs("memory://", modules=["no_such_module_here"])
    with pytest.raises(UsageError, match=r"module 'no_such_module_here' of BrokerJobs\(modules=…\) cannot be imported"):
        jobs.start()


def test_modules_is_a_list() -> None:
    with pytest.raises(UsageError, match=r"write modules=\['shop\.mail'\]"):
        BrokerJobs(modules="shop.mail")


def test_a_program_has_the_name_of_its_code_or_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BrokerJobs(modules=["shop.mail", "shop.sms"]).service == ""
    monkeypatch.setenv("BROKER_JOBS_SERVICE", "shop")
    assert BrokerJobs().service == "shop"
    assert BrokerJobs(service="shop.mail").service == "shop.mail"


@pytest.mark.parametrize("name", ["my shop", "-shop", "shop\n", "ş", "s" * 101])
def test_a_wrong_name_of_a_program_says_what_to_write(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="write 1 to 100 letters, digits, dots, hyphens and underscores"):
        BrokerJobs(service=name)
    monkeypatch.setenv("BROKER_JOBS_SERVICE", name)
    with pytest.raises(OptionError, match=r"setting service \(environment BROKER_JOBS_SERVICE\): .* write 1 to 100"):
        BrokerJobs().service  # noqa: B018


def test_started_before_a_fork_is_refused(jobs: BrokerJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    @jobs.job
    def ping() -> None: ...

    jobs._connection.mark_started(started=True)
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: 15)
    for use in (ping.enqueue, jobs.start):
        with pytest.raises(UsageError) as caught:
            use()
        assert str(caught.value) == (
            f"started in process {parent}, this is 15; call start() after the fork (gunicorn: post_fork)"
        )
    jobs.stop()  # what was started runs in another process


def test_a_child_of_a_producer_gets_a_connection_of_its_own(
    jobs: BrokerJobs, broker: RecordingBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    @jobs.job
    def ping() -> None: ...

    ping.enqueue()
    monkeypatch.setattr(os, "getpid", lambda: 15)
    ping.enqueue()
    assert broker.started == 2
    assert broker.stopped == 0


def test_stop_tolerates_twice_and_never(jobs: BrokerJobs, broker: RecordingBroker) -> None:
    @jobs.job
    def ping() -> None: ...

    jobs.stop()
    ping.enqueue()
    jobs.stop()
    jobs.stop()
    assert broker.stopped == 1

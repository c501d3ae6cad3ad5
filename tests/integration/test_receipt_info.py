"""receipt.info(): what a program learns of a job in each state, in memory and on RabbitMQ with both databases."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs, JobError, JobInfo, ResultTimeout, State, UsageError, current_job
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually


@pytest.fixture(
    params=[
        "memory",
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("postgres", marks=[pytest.mark.rabbitmq, pytest.mark.postgres]),
    ]
)
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerJobs]:
    vhost: Vhost | None = None if request.param == "memory" else request.getfixturevalue("vhost")
    store = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path / 's.db'}"
    program = BrokerJobs("memory://" if vhost is None else vhost.url, store=store, service="tests")
    yield program
    program.stop(0)


def test_the_info_of_a_job_follows_it_from_its_enqueue_to_its_end(jobs: BrokerJobs) -> None:
    go = threading.Event()

    @jobs.job(name="mail.send", retries=2, backoff=[0], tags=["two words", "b"], priority="low")
    def send() -> str:
        if current_job().attempt == 1:
            raise ValueError("not yet")
        go.wait(120)
        return "sent"

    before = datetime.now(UTC)
    with jobs:
        receipt = send.enqueue()
        running = eventually(lambda: (info := receipt.info()).state is State.PROCESSING and info.attempts == 2 and info)
        assert isinstance(running, JobInfo)
        assert (running.id, running.name, running.queue) == (receipt.id, "mail.send", "default")
        assert (running.priority, running.tags, running.retries) == ("low", ("two words", "b"), 2)
        assert running.ended_at is None
        assert running.error is not None
        assert (running.error.type, running.error.message) == ("ValueError", "not yet")
        go.set()
        assert receipt.result(timeout=120) == "sent"
        info = receipt.info()
        assert asyncio.run(receipt.info_async()) == info
    assert (info.state, info.attempts, info.error, info.reason) == (State.SUCCEEDED, 2, None, "")
    assert info.started_at is not None
    assert info.ended_at is not None
    assert before <= info.enqueued_at <= info.started_at <= info.ended_at <= datetime.now(UTC)


def test_the_info_of_a_job_that_failed_or_waits_or_was_deleted(jobs: BrokerJobs) -> None:
    @jobs.job(retries=1, backoff=[0])
    def fail() -> None:
        raise KeyError("no such key")

    @jobs.job(retries=5, backoff=[3_600])
    def wait_long() -> None:
        raise OSError("busy")

    @jobs.job
    def ping() -> None: ...

    with jobs:
        failed = fail.enqueue()
        info = eventually(lambda: (info := failed.info()).state is State.FAILED and info)
        assert info
        assert isinstance(info.error, JobError)
        assert (info.error.type, info.error.message, info.attempts) == ("KeyError", "'no such key'", 2)
        assert "Traceback" in info.error.traceback
        assert info.reason.startswith("failed after 2 runs: KeyError")

        retried = wait_long.enqueue()
        info = eventually(lambda: (info := retried.info()).state is State.SCHEDULED and info)
        assert info
        assert info.error is not None
        assert (info.error.message, info.attempts, info.ended_at) == ("busy", 1, None)
        assert info.due_at is not None
        assert timedelta(minutes=50) < info.due_at - datetime.now(UTC) <= timedelta(minutes=60)

        later = ping.schedule(timedelta(hours=1))
        info = later.info()
        assert (info.state, info.attempts, info.started_at, info.error) == (State.SCHEDULED, 0, None, None)
        later.delete()
        info = later.info()
        assert (info.state, info.attempts, info.started_at) == (State.DELETED, 0, None)
        assert info.ended_at is not None


def test_the_info_of_a_duplicate_tells_of_its_original(jobs: BrokerJobs) -> None:
    @jobs.job(unique="one")
    def once() -> str:
        return "done"

    with jobs:
        first, second = once.schedule(timedelta(hours=1)), once.schedule(timedelta(hours=1))
        eventually(lambda: second.info().state is State.SCHEDULED)
        first.requeue()
        assert second.result(timeout=120) == "done"
        assert (second.info().id, second.info().state, second.info().attempts) == (second.id, State.SUCCEEDED, 1)


def test_what_is_not_known_or_cannot_be_known_yet_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_JOBS_PUBLISH_TIMEOUT", "0.5")
    jobs = BrokerJobs("memory://", store=f"sqlite:///{tmp_path / 's.db'}")

    @jobs.job
    def ping() -> None: ...

    with jobs:
        with pytest.raises(ResultTimeout, match=r"unknown .*: it was never enqueued on this broker, or it is kept"):
            jobs.receipt("0190").info()
        with jobs.batch("b") as batch:
            receipt = batch.enqueue(ping)
            with pytest.raises(UsageError, match="starts when the batch is complete; call this after the with block"):
                receipt.info()
        assert receipt.info().name == "ping"

"""keep= and keep_result=: jobs and results go when they say, in memory and on RabbitMQ with both databases."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs, BrokerJobsError, JobFailed, State, result_of
from broker_jobs.coordinator import maintenance, rows
from broker_jobs.store import Row
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually


@pytest.fixture(
    params=[
        "memory",
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
        pytest.param("postgres", marks=[pytest.mark.rabbitmq, pytest.mark.postgres]),
    ]
)
def jobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerJobs]:
    monkeypatch.setattr(maintenance, "PURGE_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(maintenance, "PURGE_AGAIN_SECONDS", 0.2)
    monkeypatch.setattr(rows, "LEAST_KEEP_SECONDS", 0.0)
    vhost: Vhost | None = None if request.param == "memory" else request.getfixturevalue("vhost")
    store = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path / 's.db'}"
    program = BrokerJobs("memory://" if vhost is None else vhost.url, store=store)
    yield program
    program.stop(0)


def row(jobs: BrokerJobs, id: str) -> Row | None:
    assert jobs._program is not None
    assert jobs._program.store is not None
    return jobs._program.store.reader.jobs.get(id)


def kept(jobs: BrokerJobs, id: str) -> Row:
    found = row(jobs, id)
    assert found is not None
    return found


def test_jobs_are_forgotten_when_they_say_and_others_stay(jobs: BrokerJobs) -> None:
    @jobs.job(keep=0.1)
    def short() -> str:
        return "short"

    @jobs.job(retries=0)
    def fail() -> None:
        raise ValueError("no")

    with jobs:
        stays = short.using(keep=None).enqueue()
        receipts = [short.enqueue() for _ in range(3)]
        receipts += jobs.enqueue_many([short.bind(), short.bind()])
        receipts.append(short.schedule(timedelta(seconds=0.1)))
        with jobs.batch("b") as batch:
            receipts += [batch.enqueue(short) for _ in range(3)]
        deleted = short.after(fail.schedule(timedelta(hours=1))).enqueue()
        deleted.delete()
        failed = fail.using(keep=timedelta(seconds=0.1)).enqueue()
        ids = [receipt.id for receipt in [*receipts, deleted, failed]]
        assert batch.wait(timeout=120) is State.SUCCEEDED
        eventually(lambda: not any(row(jobs, id) for id in ids), what="jobs with keep= are gone")
        assert batch.counts().succeeded == 3
        assert stays.result(timeout=120) == "short"


def test_how_long_is_counted_from_the_last_end(jobs: BrokerJobs) -> None:
    @jobs.job(keep=3_600, keep_result=timedelta(minutes=1), retries=0)
    def maybe(ok: bool) -> str:
        if not ok:
            raise ValueError("no")
        return "ok"

    with jobs:
        good, bad = maybe.enqueue(ok=True), maybe.enqueue(ok=False)
        assert good.result(timeout=120) == "ok"
        with pytest.raises(JobFailed):
            bad.result(timeout=120)
        ended = kept(jobs, good.id)
        assert ended.keep_until == pytest.approx(ended.changed_at + 3_600)
        assert ended.result_until == pytest.approx(ended.changed_at + 60)
        failed = kept(jobs, bad.id)
        assert failed.keep_until == pytest.approx(failed.changed_at + 3_600)
        assert failed.result_until is None
        good.requeue()
        again = eventually(
            lambda: (now := kept(jobs, good.id)).changed_at > ended.changed_at and now.keep_until and now
        )
        assert again
        assert again.keep_until == pytest.approx(again.changed_at + 3_600)
        assert good.result(timeout=120) == "ok"


def test_a_result_is_forgotten_before_its_job_and_a_child_that_waits_gets_it(jobs: BrokerJobs) -> None:
    @jobs.job(keep_result=0.1)
    def number() -> int:
        return 7

    @jobs.job
    def double(value: int) -> int:
        return value * 2

    with jobs:
        parent = number.enqueue()
        child = double.schedule(timedelta(seconds=1), result_of(parent))
        assert child.result(timeout=120) == 14
        eventually(lambda: kept(jobs, parent.id).result is None)
        with pytest.raises(BrokerJobsError, match=r"succeeded, but its result was not kept: its time to be kept"):
            parent.result(timeout=120)
        assert parent.state() is State.SUCCEEDED


@pytest.mark.rabbitmq
def test_jobs_are_forgotten_though_the_coordinator_was_restarted_in_between(
    vhost: Vhost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "LEAST_KEEP_SECONDS", 0.0)
    store = f"sqlite:///{tmp_path / 's.db'}"
    first = BrokerJobs(vhost.url, store=store)

    @first.job(keep=0.1, keep_result=0.1)
    def short() -> str:
        return "short"

    with first:  # it looks once a minute: nothing goes
        receipt = short.enqueue()
        assert receipt.result(timeout=120) == "short"
    monkeypatch.setattr(maintenance, "PURGE_EVERY_SECONDS", 0.05)
    second = BrokerJobs(vhost.url, store=store)
    with second:
        eventually(lambda: row(second, receipt.id) is None)

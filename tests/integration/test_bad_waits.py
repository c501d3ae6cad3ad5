"""Batches, continuations and outcomes that cannot be, by the public API: on the embedded exchange, and on RabbitMQ."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import (
    ArgumentsError,
    BrokerJobs,
    BrokerJobsError,
    JobDeleted,
    JobFailed,
    OptionError,
    State,
    UsageError,
)
from broker_jobs.function.keys import Concurrency, Unique
from broker_jobs.messages.batch import CHUNK_JOBS
from broker_jobs.producer.batch_submission import MAX_UNCONFIRMED
from broker_jobs.store import Store
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually, while_it_moves

MANY = 50_000


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    vhost: Vhost = request.getfixturevalue("vhost")
    return vhost.url


class UnprintableError(Exception):
    """Its text raises."""

    def __str__(self) -> str:
        raise ZeroDivisionError("no text")

    __repr__ = __str__


class UnpicklableError(Exception):
    """It has a lock in it, and refuses to be taken apart."""

    def __init__(self) -> None:
        super().__init__("cannot be pickled")
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


class Shop:
    """A program with the jobs these tests need, its store, and what its jobs did."""

    def __init__(self, url: str, store: str) -> None:
        self.jobs = jobs = BrokerJobs(url, store=store)
        self.store = Store(store)
        self.did: list[int] = []
        did = self.did

        @jobs.job
        def load(row: int) -> int:
            did.append(row)
            return row

        @jobs.job(retries=0)
        def explode(how: str) -> object:
            match how:
                case "unprintable":
                    raise UnprintableError
                case "unpicklable":
                    raise UnpicklableError
                case "10 MB":
                    raise ValueError("x" * 10_000_000)
                case "10 MB behind it":
                    try:
                        raise KeyError("y" * 10_000_000)
                    except KeyError as error:
                        raise ValueError("short") from error
                case "a lock":
                    return threading.Lock()
                case "itself":
                    found: list[object] = []
                    found.append(found)
                    return found
                case _:
                    return "x" * 10_000_000

        self.load, self.explode = load, explode


@pytest.fixture
def shop(url: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(url, f"sqlite:///{tmp_path / 'store.db'}")
    with shop.jobs:
        shop.store.open()
        yield shop
        shop.store.close()


@pytest.mark.slow
def test_a_batch_whose_50_001st_job_has_a_wrong_argument_starts_nothing_and_leaves_nothing(shop: Shop) -> None:
    rows: list[Any] = [*range(MANY), "x"]
    with pytest.raises(ArgumentsError, match="row must be an int, not 'x'"), shop.jobs.batch("import") as batch:
        batch.enqueue_many(shop.load.bind(row) for row in rows)

    def counts() -> dict[State, int]:
        return {state: number for state, number in shop.store.reader.statistics.counts().items() if number}

    deleted = while_it_moves(counts, lambda seen: seen.keys() == {State.DELETED}, poll=0.2)[State.DELETED]
    # Not sent: what was left for the last chunk, and the chunks that waited to be published when the block raised.
    assert MANY - (1 + MAX_UNCONFIRMED) * CHUNK_JOBS < deleted <= MANY
    (kept,) = shop.store.reader.batches.newest()
    assert (kept.state, kept.total, kept.deleted, kept.open) == ("deleted", deleted, deleted, 0)
    assert shop.load.enqueue(1).result(timeout=120) == 1
    assert eventually(lambda: counts() == {State.DELETED: deleted, State.SUCCEEDED: 1}), counts()
    assert shop.did == [1]


def test_what_is_added_to_a_batch_that_has_ended_runs_and_opens_it_again(shop: Shop) -> None:
    with shop.jobs.batch() as batch:
        batch.enqueue(shop.load, 1)
    assert batch.wait(30) is State.SUCCEEDED
    known = shop.jobs.batch_receipt(batch.id)
    with known:
        known.enqueue(shop.load, 2)
    assert eventually(lambda: known.counts().total == 2)
    assert known.wait(30) is State.SUCCEEDED
    assert sorted(shop.did) == [1, 2]
    assert known.counts().succeeded == 2


def test_a_block_inside_itself_is_refused(shop: Shop) -> None:
    with shop.jobs.batch("twice") as batch, pytest.raises(UsageError, match="'twice' is open already"), batch:
        pass
    assert batch.wait(30) is State.SUCCEEDED


def test_what_waits_for_its_own_batch_says_so_and_the_batch_ends(shop: Shop) -> None:
    with shop.jobs.batch() as batch:
        outside = shop.load.after(batch).enqueue(1)
        with pytest.raises(UsageError, match="would wait for the batch it is part of: enqueue it outside the batch"):
            batch.enqueue(shop.load.after(batch), 2)
        member = batch.enqueue(shop.load.after(outside), 3)
    assert batch.wait(30) is State.FAILED
    with pytest.raises(JobFailed, match="waits for itself, by way of its parents: enqueue it without one of them"):
        member.result(timeout=120)
    with pytest.raises(JobDeleted, match="did not end as succeeded"):
        outside.result(timeout=120)
    assert shop.did == []


def test_jobs_that_wait_for_each_other_say_so(shop: Shop) -> None:
    first = shop.load.using(id="first").after(shop.jobs.receipt("second")).enqueue(1)
    second = shop.load.using(id="second").after(first).enqueue(2)
    with pytest.raises(JobFailed, match="waits for itself"):
        second.result(timeout=120)
    with pytest.raises(JobDeleted, match="did not end as succeeded"):
        first.result(timeout=120)


def test_limits_and_keys_that_cannot_be_are_refused_where_they_are_written(shop: Shop) -> None:
    with pytest.raises(OptionError, match="limit must be an int from 1 to 1_000_000, not 0"):
        Concurrency("k", 0)
    with pytest.raises(OptionError, match="limit must be an int from 0"):
        shop.jobs.limits.set("k", -1)
    with pytest.raises(OptionError, match="scope must be 'queued', 'running' or a timedelta, not 'ever'"):
        Unique("k", scope="ever")  # type: ignore[arg-type]
    with pytest.raises(BrokerJobsError, match=r"no parameter 'domian'; did you mean 'domain'\?"):

        @shop.jobs.job(limit=Concurrency("smtp:{domian}", 5))
        def mail(domain: str) -> None: ...


@pytest.mark.parametrize("how", ["unprintable", "unpicklable", "10 MB", "10 MB behind it"])
def test_whatever_is_raised_is_told(shop: Shop, how: str) -> None:
    receipt = shop.explode.enqueue(how)
    with pytest.raises(JobFailed, match=r"Error"):
        receipt.result(timeout=120)
    row = shop.store.reader.jobs.get(receipt.id)
    assert row is not None
    assert 0 < len(row.error or "") < 100_000
    assert len(row.reason) < 1_000
    assert shop.load.enqueue(1).result(timeout=120) == 1


@pytest.mark.parametrize("how", ["a lock", "itself", "10 MB of text"])
def test_a_result_that_cannot_be_kept_says_why_and_is_no_failure(shop: Shop, how: str) -> None:
    receipt = shop.explode.enqueue(how)
    with pytest.raises(BrokerJobsError, match="succeeded, but its result was not kept: "):
        receipt.result(timeout=120)
    assert receipt.state() is State.SUCCEEDED
    assert shop.load.enqueue(1).result(timeout=120) == 1

"""Continuations, results of parents and batches, all parts real: on the embedded exchange, and on RabbitMQ."""

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs, JobDeleted, JobFailed, State, current_job, result_of, results_of
from broker_jobs.broker import names
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

ROOT = Path(__file__).parents[2]
LONG = timedelta(seconds=60)


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    vhost: Vhost = request.getfixturevalue("vhost")
    return vhost.url


class Shop:
    """A program with the jobs these tests need, and what they did."""

    def __init__(self, url: str, store: str) -> None:
        self.jobs = jobs = BrokerJobs(url, store=store)
        self.did: list[object] = []
        self.gate = threading.Event()
        self.broken = threading.Event()
        self.broken.set()
        did, gate, broken = self.did, self.gate, self.broken

        @jobs.job
        def note(what: str) -> str:
            did.append(what)
            return what

        @jobs.job
        def held(what: str) -> bytes:
            gate.wait(60)
            did.append(what)
            return b"\xff" + what.encode()

        @jobs.job(retries=0)
        def fragile(number: int) -> int:
            if broken.is_set():
                raise ValueError(f"broken {number}")
            did.append(number)
            return number

        @jobs.job
        def resize(image: bytes, width: int, *, names: list[str] | None = None) -> tuple[bytes, int, list[str] | None]:
            return image, width, names

        @jobs.job
        def grow(left: int) -> None:
            did.append(f"grow {left}")
            mine = current_job().batch
            assert mine is not None
            if left:
                with mine:
                    mine.enqueue(grow, left - 1)

        self.note, self.held, self.fragile, self.resize, self.grow = note, held, fragile, resize, grow


@pytest.fixture
def shop(url: str, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(url, f"sqlite:///{tmp_path / 'store.db'}")
    with shop.jobs:
        yield shop
        shop.gate.set()
        shop.jobs.stop(5)


# ---- continuations


def test_a_child_starts_when_its_parent_has_ended(shop: Shop) -> None:
    parent = shop.held.enqueue("parent")
    child = shop.note.after(parent).enqueue("child")
    assert child.state() is State.AWAITING
    shop.gate.set()
    assert child.result(LONG) == "child"
    assert shop.did == ["parent", "child"]


def test_a_child_of_parents_that_have_ended_starts_at_once(shop: Shop) -> None:
    first, second = shop.note.enqueue("first"), shop.note.enqueue("second")
    assert first.result(LONG) == "first"
    assert shop.note.after(first).enqueue("child").result(LONG) == "child"
    assert second.result(LONG) == "second"
    later = shop.note.after(first, second).schedule(timedelta(seconds=0.1), "later")
    assert later.result(LONG) == "later"


def test_a_child_waits_for_all_its_parents(shop: Shop) -> None:
    quick, slow = shop.note.enqueue("quick"), shop.held.enqueue("slow")
    child = shop.note.after(quick).after(slow).enqueue("child")
    assert quick.result(LONG) == "quick"
    assert child.state() is State.AWAITING
    shop.gate.set()
    assert child.result(LONG) == "child"
    assert shop.did == ["quick", "slow", "child"]


def test_how_the_parent_ends_decides(shop: Shop) -> None:
    bad, good = shop.fragile.enqueue(1), shop.note.enqueue("good")
    on_failed = shop.note.after(bad, on="failed").enqueue("on failed")
    on_finished = shop.note.after(bad, good, on="finished").enqueue("on finished")
    unsatisfied = shop.note.after(bad).enqueue("unsatisfied")
    never = shop.note.after(good, on="failed").enqueue("never")
    assert on_failed.result(LONG) == "on failed"
    assert on_finished.result(LONG) == "on finished"
    for receipt in (unsatisfied, never):
        with pytest.raises(JobDeleted):
            receipt.result(LONG)
    assert {"unsatisfied", "never"}.isdisjoint(shop.did)


def test_a_requeued_parent_brings_its_child_back(shop: Shop) -> None:
    parent = shop.fragile.enqueue(1)
    child = shop.note.after(parent).enqueue("child")
    grandchild = shop.note.after(child).enqueue("grandchild")
    with pytest.raises(JobDeleted):
        grandchild.result(LONG)
    shop.broken.clear()
    parent.requeue()
    assert parent.result(LONG) == 1
    eventually(lambda: child.state() is State.SUCCEEDED, what="the child is revived")
    assert grandchild.result(LONG) == "grandchild"
    assert shop.did == [1, "child", "grandchild"]


def test_results_of_parents_are_arguments_of_the_child(shop: Shop) -> None:
    image, words = shop.held.enqueue("image"), [shop.note.enqueue(word) for word in "abc"]
    child = shop.resize.enqueue(result_of(image), 100, names=results_of(words))
    shop.gate.set()
    assert child.result(LONG) == (b"\xffimage", 100, ["a", "b", "c"])
    assert shop.resize.enqueue(result_of(image), 7).result(LONG) == (b"\xffimage", 7, None)


# ---- batches


def test_a_batch_starts_when_its_block_has_ended_and_ends_once(shop: Shop) -> None:
    with shop.jobs.batch("import") as batch:
        receipts = [batch.enqueue(shop.note, str(number)) for number in range(2000)]
        assert shop.note.enqueue("beside").result(LONG) == "beside"
        assert shop.did == ["beside"]
    summary = shop.note.after(batch).enqueue("summary")
    assert batch.wait(LONG) is State.SUCCEEDED
    assert summary.result(LONG) == "summary"
    assert Counter(shop.did) == Counter(["beside", *map(str, range(2000)), "summary"])
    assert shop.did[-1] == "summary"
    assert receipts[1999].result(LONG) == "1999"


def test_a_block_that_raises_starts_nothing(shop: Shop) -> None:
    with pytest.raises(ZeroDivisionError), shop.jobs.batch("import") as batch:  # noqa: PT012  # many lines, one case
        for number in range(1200):
            batch.enqueue(shop.note, str(number))
        raise ZeroDivisionError
    assert shop.note.enqueue("last").result(LONG) == "last"
    assert shop.did == ["last"]


def test_batches_nest_and_take_members_from_running_jobs(shop: Shop) -> None:
    with shop.jobs.batch("import") as batch:
        batch.enqueue(shop.note, "one")
        with batch.batch("part") as part:
            part.enqueue(shop.grow, 3)
    after_part = shop.note.after(part).enqueue("after part")
    assert batch.wait(LONG) is State.SUCCEEDED
    assert part.state() is State.SUCCEEDED
    assert after_part.result(LONG) == "after part"
    assert sorted(map(str, shop.did)) == ["after part", "grow 0", "grow 1", "grow 2", "grow 3", "one"]


def test_a_batch_waits_for_a_batch_and_for_a_job(shop: Shop) -> None:
    with shop.jobs.batch("first") as first:
        first.enqueue(shop.held, "first")
    job = shop.held.enqueue("job")
    with shop.jobs.batch("second", after=[first, job]) as second:
        inner = second.enqueue(shop.note, "second")
        child = second.enqueue(shop.note.after(inner), "child")
    last = shop.note.after(second, first).enqueue("last")
    assert second.state() is State.AWAITING
    shop.gate.set()
    assert last.result(LONG) == "last"
    assert child.result(LONG) == "child"
    assert second.wait(LONG) is State.SUCCEEDED
    assert shop.did[2:] == ["second", "child", "last"]


def test_an_empty_batch_ends_at_once(shop: Shop) -> None:
    with shop.jobs.batch() as batch:
        pass
    assert batch.wait(LONG) is State.SUCCEEDED
    assert shop.note.after(batch).enqueue("after").result(LONG) == "after"


def test_a_deleted_batch_runs_nothing_more(shop: Shop) -> None:
    with shop.jobs.batch() as batch:
        later = [batch.schedule(shop.note, timedelta(hours=1), "later") for _ in range(3)]
        with batch.batch() as part:
            part.schedule(shop.note, timedelta(hours=1), "part")
    after = shop.note.after(batch, on="finished").enqueue("after")
    assert batch.delete() is True
    assert batch.wait(LONG) is State.DELETED
    assert after.result(LONG) == "after"
    assert batch.delete() is False
    assert {receipt.state() for receipt in later} == {State.DELETED}
    assert shop.did == ["after"]


def test_failures_are_looked_at_and_run_again(shop: Shop) -> None:
    with shop.jobs.batch("import") as batch:
        for number in range(150):
            batch.enqueue(shop.fragile, number)
        batch.enqueue(shop.note, "good")
        with batch.batch("part") as part:
            part.enqueue(shop.fragile, 150)
    after = shop.note.after(batch).enqueue("after")
    assert batch.wait(LONG) is State.FAILED
    with pytest.raises(JobDeleted):
        after.result(LONG)
    found = list(batch.failures())
    assert sorted(failure.args for failure in found) == [(number,) for number in range(151)]
    assert {(failure.job, failure.error_type) for failure in found} == {("fragile", "ValueError")}
    assert all(failure.message == f"broken {failure.args[0]}" for failure in found)
    assert "Traceback" in found[0].traceback
    with pytest.raises(JobFailed):
        found[0].receipt.result(LONG)
    shop.broken.clear()
    for failure in batch.failures():
        failure.requeue()
    eventually(lambda: batch.state() is State.SUCCEEDED, what="the batch has recovered")
    assert list(batch.failures()) == []
    eventually(lambda: "after" in shop.did, what="what waited for its success goes on")
    assert sorted(did for did in shop.did if isinstance(did, int)) == list(range(151))


def test_an_async_program_fills_and_awaits_a_batch(shop: Shop) -> None:
    async def program() -> State:
        async with shop.jobs.batch("async") as batch:
            for number in range(600):
                batch.enqueue(shop.note, str(number))
        return await batch.wait_async(LONG)

    assert asyncio.run(program()) is State.SUCCEEDED
    assert len(shop.did) == 600


PRODUCER = """
import sys, time
from broker_jobs import BrokerJobs
jobs = BrokerJobs(sys.argv[1])
@jobs.job
def note(what: str) -> str: ...
with jobs.batch("import") as batch:
    for number in range(2000):
        batch.enqueue(note, str(number))
    print(batch.id, flush=True)
    time.sleep(600)
"""


@pytest.mark.rabbitmq
def test_a_producer_killed_inside_its_block_leaves_nothing_started(vhost: Vhost, tmp_path: Path) -> None:
    shop = Shop(vhost.url, f"sqlite:///{tmp_path / 'store.db'}")
    with shop.jobs:
        command = [sys.executable, "-c", PRODUCER, vhost.url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as producer:
            try:
                assert producer.stdout is not None
                batch_id = producer.stdout.readline().strip()
                batch_of = shop.jobs.registry.batch_of
                assert batch_of is not None
                orphan = batch_of(batch_id)
                eventually(lambda: orphan.state() is State.AWAITING, what="its chunks are held")
            finally:
                producer.kill()
        eventually(lambda: vhost.ready(names.LOG) == 0, what="the log is read")
        assert shop.note.enqueue("last").result(LONG) == "last"
        assert shop.did == ["last"]
        assert orphan.state() is State.AWAITING

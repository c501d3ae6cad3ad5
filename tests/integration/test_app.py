"""A program as its user writes it, all parts real: on the embedded exchange, and on RabbitMQ."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs, Depends, JobFailed, ResultTimeout, State, UsageError, current_job
from broker_jobs.broker import names
from broker_jobs.messages.codec import decode
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    vhost: Vhost = request.getfixturevalue("vhost")
    return vhost.url


@pytest.fixture
def jobs(url: str, tmp_path: Path) -> Iterator[BrokerJobs]:
    program = BrokerJobs(url, store=f"sqlite:///{tmp_path / 'store.db'}", service="tests")
    yield program
    program.stop(0)


def test_a_program_from_enqueue_to_result(jobs: BrokerJobs) -> None:
    @jobs.job
    def add(a: int, b: int, c: int = Depends(lambda: 100)) -> int:
        return a + b + c

    @jobs.job
    async def fetch(url: str) -> bytes:
        await asyncio.sleep(0)
        return b"\xff" + url.encode()

    @jobs.job(retries=0)
    def fail() -> None:
        raise ValueError("boom")

    with jobs:
        assert add.enqueue(1, 2).result(timeout=120) == 103
        assert fetch.enqueue("x").result(timeout=120) == b"\xffx"
        with pytest.raises(JobFailed, match=r"^fail \S+ failed after 1 run: ValueError: boom") as caught:
            fail.enqueue().result(timeout=120)
        assert "Traceback" in "".join(caught.value.__notes__)
        assert add.schedule(timedelta(seconds=0.1), 1, 1).result(timeout=120) == 102


def test_an_id_given_twice_runs_once(jobs: BrokerJobs) -> None:
    ran: list[int] = []

    @jobs.job
    def count(number: int) -> int:
        ran.append(number)
        return len(ran)

    with jobs:
        assert [count.using(id="mine").enqueue(7).result(timeout=120) for _ in range(3)] == [1, 1, 1]
    assert ran == [7]


def test_a_waiting_job_is_deleted_and_brought_back(jobs: BrokerJobs) -> None:
    @jobs.job
    def ping() -> str:
        return "pong"

    with jobs:
        receipt = ping.schedule(timedelta(days=1))
        assert receipt.state() is State.SCHEDULED
        assert receipt.delete() is True
        assert receipt.state() is State.DELETED
        assert receipt.delete() is False
        receipt.requeue()
        assert receipt.result(timeout=120) == "pong"
        later = ping.schedule(timedelta(days=1))
        later.reschedule(timedelta(seconds=0.1))
        assert later.result(timeout=120) == "pong"


def test_a_running_job_knows_itself_and_is_not_requeued(jobs: BrokerJobs) -> None:
    entered, gate = threading.Event(), threading.Event()

    @jobs.job
    def hold() -> tuple[str, int]:
        job = current_job()
        job.progress(1, 2)
        job.log("held", by="gate")
        entered.set()
        gate.wait(30)
        with pytest.raises(UsageError, match="a job that waits for a job"):
            jobs.receipt("0190").result()
        return job.id, job.attempt

    with jobs:
        receipt = hold.enqueue()
        assert entered.wait(30)
        with pytest.raises(ResultTimeout, match=r"^hold \S+ is still (processing|enqueued)"):
            receipt.result(timeout=0.2)
        gate.set()
        assert receipt.result(timeout=120) == (receipt.id, 1)


def test_recurring_jobs_declared_and_put(jobs: BrokerJobs) -> None:
    ticked = threading.Event()

    @jobs.job
    def tick() -> None:
        ticked.set()

    @jobs.job
    def add(a: int, b: int) -> int:
        return a + b

    jobs.recurring("tick", "* * * * * *", tick)
    with jobs:
        assert ticked.wait(30)
        jobs.recurring.put("yearly", "@yearly", add.bind(1, 2))
        assert jobs.recurring.trigger("yearly").result(timeout=120) == 3
        ticked.clear()
        jobs.recurring.pause("tick")
        jobs.recurring.remove("yearly")
        with pytest.raises(UsageError, match="yearly"):
            jobs.recurring.trigger("yearly")


def test_what_is_declared_while_the_beat_runs_is_heard(jobs: BrokerJobs) -> None:
    ticked = threading.Event()

    @jobs.job
    def tick() -> None:
        ticked.set()

    with jobs:
        jobs.recurring("late", "* * * * * *", tick)
        assert ticked.wait(30)


def test_a_lifespan_starts_and_stops(jobs: BrokerJobs) -> None:
    @jobs.job
    def ping() -> str:
        return "pong"

    async def serve() -> str:
        async with jobs.lifespan():
            receipt = await ping.enqueue_async()
            return await receipt.result_async(30)

    assert asyncio.run(serve()) == "pong"


def test_a_worker_given_modules_imports_them_at_start(
    jobs: BrokerJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"shop_mail_{jobs.settings.url.partition(':')[0]}"
    (tmp_path / f"{module}.py").write_text("imported = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    jobs._modules = (module,)
    assert module not in sys.modules
    with jobs:
        assert module in sys.modules


PRODUCER = """
import os, sys
from broker_jobs import BrokerJobs
jobs = BrokerJobs(sys.argv[1])
@jobs.job(queue="mail")
def welcome(user_id: int) -> None: ...
jobs.queues.declare("mail")
welcome.enqueue(1)
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        welcome.enqueue(2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
welcome.enqueue(3)
"""


@pytest.mark.rabbitmq
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_producer_needs_no_stop_and_survives_a_fork(vhost: Vhost) -> None:
    """Its I/O thread keeps no program alive, and a child makes a connection of its own."""
    run: Any = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRODUCER, vhost.url],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    queue = names.work_queue("mail")
    eventually(lambda: vhost.ready(queue) == 3, what="all three jobs")
    assert [decode(body).args for body in vhost.drain(queue)] == [[1], [2], [3]]

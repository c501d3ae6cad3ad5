"""A running job that has to stop is stopped, in a thread as on the event loop: timed out, deleted, at a shutdown."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs, Depends, JobCancelled, JobDeleted, JobFailed, JobTimedOut, State, current_job
from tests.acceptance.conftest import Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = pytest.mark.acceptance

KINDS = pytest.mark.parametrize("kind", ["thread", "coroutine"])


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerJobs]:
    url = "memory://"
    if request.param == "rabbitmq":
        vhost: Vhost = request.getfixturevalue("vhost")
        url = vhost.url
    program = BrokerJobs(url, store=f"sqlite:///{tmp_path / 'store.db'}")
    yield program
    program.stop(0)


def loop_for_ever() -> None:
    while True:
        time.sleep(0.005)


async def loop_for_ever_async() -> None:
    await asyncio.Event().wait()


def run_after() -> str:
    return "ran"


FOR_EVER: dict[str, Callable[[], Any]] = {"thread": loop_for_ever, "coroutine": loop_for_ever_async}


@KINDS
def test_a_job_that_hangs_has_timed_out_and_is_retried(jobs: BrokerJobs, kind: str) -> None:
    job = jobs.job(timeout=0.2, retries=1, backoff=[0])(FOR_EVER[kind])
    other = jobs.job(run_after)
    jobs.start(concurrency=1)
    receipt = job.enqueue()
    with pytest.raises(JobFailed, match=r"failed after 2 runs: TimedOut: timed out after 0\.2 s"):
        receipt.result(timeout=120)
    assert other.enqueue().result(timeout=120) == "ran"  # its thread is free again


@KINDS
def test_a_running_job_that_is_deleted_stops(jobs: BrokerJobs, kind: str) -> None:
    job = jobs.job(FOR_EVER[kind])
    other = jobs.job(run_after)
    jobs.start(concurrency=1)
    receipt = job.enqueue()
    eventually(lambda: receipt.state() is State.PROCESSING)
    assert receipt.delete()
    with pytest.raises(JobDeleted):
        receipt.result(timeout=120)
    assert other.enqueue().result(timeout=120) == "ran"


def test_except_exception_does_not_swallow_it_and_what_is_open_is_closed(jobs: BrokerJobs) -> None:
    steps: list[str] = []

    def connection() -> Generator[str]:
        try:
            yield "connection"
        except JobTimedOut:
            steps.append("rolled back")
            raise
        finally:
            steps.append("closed")

    @jobs.around
    def hook() -> Generator[None]:
        try:
            yield
        except JobTimedOut:
            steps.append("hook")
            raise

    @jobs.job(timeout=0.2, retries=0)
    def careless(given: str = Depends(connection)) -> None:
        while True:
            try:
                time.sleep(0.005)
            except Exception:  # noqa: BLE001  # as careless programs do
                continue
            finally:
                current_job().cancelled()

    jobs.start()
    with pytest.raises(JobFailed, match="TimedOut"):
        careless.enqueue().result(timeout=120)
    assert steps == ["rolled back", "closed", "hook"]


@KINDS
def test_what_is_caught_is_raised_once_more_when_the_grace_is_over(jobs: BrokerJobs, kind: str) -> None:
    caught: list[str] = []

    @jobs.job(name="thread", timeout=0.2, retries=0)
    def stubborn() -> None:
        while len(caught) < 2:
            try:
                while True:
                    time.sleep(0.005)
            except JobTimedOut:
                caught.append(kind)
        raise ValueError("caught twice")

    @jobs.job(name="coroutine", timeout=0.2, retries=0)
    async def stubborn_async() -> None:
        while len(caught) < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                caught.append(kind)
        raise ValueError("caught twice")

    job = stubborn if kind == "thread" else stubborn_async
    jobs.configure({"timeout_grace": 0.5})
    jobs.start()
    with pytest.raises(JobFailed, match="ValueError: caught twice"):
        job.enqueue().result(timeout=120)
    assert caught == [kind, kind]


@KINDS
def test_a_late_success_is_believed(jobs: BrokerJobs, kind: str) -> None:
    @jobs.job(name="thread", timeout=0.2, retries=0)
    def finishes() -> str:
        try:
            loop_for_ever()
        except JobTimedOut:
            return "saved what there was"
        return ""

    @jobs.job(name="coroutine", timeout=0.2, retries=0)
    async def finishes_async() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "saved what there was"
        return ""

    job = finishes if kind == "thread" else finishes_async
    jobs.start()
    assert job.enqueue().result(timeout=120) == "saved what there was"


def test_a_job_learns_why_it_has_to_stop(jobs: BrokerJobs) -> None:
    reasons: dict[str, type[BaseException]] = {}

    @jobs.job(retries=0)
    def asks(name: str) -> None:
        try:
            while True:
                current_job().raise_if_cancelled()
        except JobCancelled as error:
            reasons[name] = type(error)
            raise

    jobs.start()
    timed_out = asks.using(timeout=0.2).enqueue("timed out")
    deleted = asks.enqueue("deleted")
    eventually(lambda: deleted.state() is State.PROCESSING)
    deleted.delete()
    with pytest.raises(JobFailed):
        timed_out.result(timeout=120)
    with pytest.raises(JobDeleted):
        deleted.result(timeout=120)
    assert reasons == {"timed out": JobTimedOut, "deleted": JobCancelled}


def test_a_thread_ends_at_the_end_of_a_shutdown_and_its_job_is_interrupted(jobs: BrokerJobs) -> None:
    begun, ended = threading.Event(), threading.Event()

    @jobs.job(retries=0)
    def until_told() -> str:
        if begun.is_set():
            return "ran again"
        begun.set()
        try:
            loop_for_ever()
        finally:
            ended.set()
        return ""

    jobs.start()
    receipt = until_told.enqueue()
    assert begun.wait(30)
    jobs.stop(0.1)
    assert ended.wait(30)
    jobs.start()
    assert until_told.receipt(receipt.id).result(timeout=120) == "ran again"


def test_a_job_that_nothing_ends_loses_its_place_to_another(jobs: BrokerJobs, caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()

    @jobs.job(timeout=0.2, retries=0)
    def in_a_call_of_c() -> str:
        with suppress(JobTimedOut):
            over.wait(600)
        return "late"

    @jobs.job
    def other(number: int) -> int:
        return number

    jobs.configure({"timeout_grace": 0.3})
    jobs.start(concurrency=1)
    stuck = in_a_call_of_c.enqueue()
    try:
        eventually(lambda: "another job gets its place" in caplog.text)
        assert [other.enqueue(number).result(timeout=120) for number in range(3)] == [0, 1, 2]
        eventually(lambda: stuck.state() is State.PROCESSING)
    finally:
        over.set()
    assert stuck.result(timeout=120) == "late"
    assert other.enqueue(3).result(timeout=120) == 3


def test_a_coroutine_that_nothing_ends_loses_its_place_to_another(jobs: BrokerJobs) -> None:
    over = threading.Event()

    @jobs.job(timeout=0.2, retries=0)
    async def deaf() -> str:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return "late"

    @jobs.job
    async def other(number: int) -> int:
        return number

    jobs.configure({"timeout_grace": 0.3})
    jobs.start(concurrency=1)
    stuck = deaf.enqueue()
    try:
        assert other.enqueue(1).result(timeout=120) == 1
        eventually(lambda: stuck.state() is State.PROCESSING)
    finally:
        over.set()
    assert stuck.result(timeout=120) == "late"


STUCK = """\
import os
import threading
import time
from pathlib import Path

from broker_jobs import BrokerJobs, current_job

jobs = BrokerJobs()


def mark(text):
    with Path("marks.txt").open("a") as file:
        file.write(text + "\\n")


@jobs.job
def hang_once() -> str:
    mark(f"hang_once {os.getpid()}")
    if current_job().attempt == 1:
        time.sleep(3600)
    for line in Path("marks.txt").read_text().splitlines():
        stat = Path(f"/proc/{line.split()[-1]}/stat")
        if line.startswith("hang_once") and str(os.getpid()) not in line and stat.exists():
            if stat.read_text().rsplit(")", 1)[1].split()[0] != "Z":  # a zombie has ended
                return "a second run beside the first"
    return "done"


@jobs.job(retries=0)
def long() -> str:
    mark(f"long {os.getpid()}")
    while not Path("release").exists():
        time.sleep(0.02)
    return "kept"
"""


@pytest.mark.rabbitmq
@pytest.mark.slow
def test_a_process_leaves_that_holds_a_job_which_nothing_ends(terminal: Terminal, vhost: Vhost) -> None:
    (terminal.folder / "stuck.py").write_text(STUCK)
    coordinator = ("coordinator", "--url", vhost.url, "--store", terminal.store)
    terminal.start(*coordinator)
    worker = terminal.start(
        "worker", "stuck:jobs", "--url", vhost.url, "-p", "2", "-c", "2", "--shutdown-timeout", "60",
        BROKER_JOBS_TIMEOUT_GRACE="3",
    )  # fmt: skip
    eventually(lambda: worker.log.count("serves the queues default") == 2, 90, "two workers")
    jobs = BrokerJobs(vhost.url)
    try:
        long = [jobs.remote("long").enqueue() for _ in range(3)]
        eventually(lambda: sum(mark.startswith("long") for mark in terminal.marks()) == 3, 60, "three long jobs")
        stuck = jobs.remote("hang_once").using(timeout=1.5, retries=1, backoff=[0]).enqueue()

        def shown() -> str:
            return terminal.output("jobs", "show", stuck.id, "--store", terminal.store)

        eventually(lambda: "timed out, ending" in shown(), 60, "said to be ending")
        worker.said("this process takes no more jobs and leaves")
        (terminal.folder / "release").touch()  # what runs beside it may end first
        assert [receipt.result(timeout=120) for receipt in long] == ["kept"] * 3
        assert stuck.result(timeout=120) == "done"
    finally:
        jobs.stop()
    assert sum(mark.startswith("long") for mark in terminal.marks()) == 3  # none was interrupted
    assert "timed out" in shown()

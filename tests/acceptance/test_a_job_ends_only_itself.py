"""A job that exits, stops its event loop or cancels what it finds ends nothing but itself."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from pydantic import BeforeValidator

from broker_jobs import BrokerJobs, JobFailed, State
from broker_jobs.store import Store
from broker_jobs.testing import Tester
from tests.acceptance.conftest import TERM, Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = pytest.mark.acceptance


async def exit_in_a_sub_task() -> None:
    async def sub_task() -> None:
        sys.exit(3)

    await asyncio.gather(sub_task(), asyncio.sleep(0.05))


async def exit_in_a_group() -> None:
    async def sub_task() -> None:
        raise SystemExit("usage: …")

    async with asyncio.TaskGroup() as group:
        group.create_task(sub_task())
        group.create_task(asyncio.sleep(30))


async def interrupt_in_a_sub_task() -> None:
    async def sub_task() -> None:
        raise KeyboardInterrupt

    await asyncio.create_task(sub_task())


BACKGROUND: set[asyncio.Task[None]] = set()


async def exit_in_the_background() -> str:
    async def sub_task() -> None:
        sys.exit(3)

    BACKGROUND.add(asyncio.create_task(sub_task()))
    await asyncio.sleep(0.05)
    return "done"


async def exit_in_a_callback() -> str:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(0.05)
    return "done"


async def stop_the_loop() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.05)
    return "done"


async def close_the_loop() -> None:
    asyncio.get_running_loop().close()


async def run_the_loop_again() -> None:
    asyncio.get_running_loop().run_forever()


FAIL = [exit_in_a_sub_task, exit_in_a_group, interrupt_in_a_sub_task, close_the_loop, run_the_loop_again]
SUCCEED = [exit_in_the_background, exit_in_a_callback, stop_the_loop]


class Beside:
    """A program in which one job waits on the event loop while others misbehave there."""

    def __init__(self, jobs: BrokerJobs) -> None:
        self.jobs = jobs
        self.ran: list[str] = []
        self._entered = threading.Event()
        self._left = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

        async def innocent() -> str:
            self._loop = asyncio.get_running_loop()
            self._entered.set()
            await self._left.wait()
            return "unharmed"

        async def later(name: str) -> str:
            return name

        self.later = jobs.job(retries=0)(later)
        self._innocent = jobs.job(retries=0)(innocent)

    def run(self, bad: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a bad job, or what it failed with; what runs beside it and after it must not notice."""
        job = self.jobs.job(retries=0)(bad)
        with self.jobs:
            innocent = self._innocent.enqueue()
            assert self._entered.wait(30)
            receipt = job.enqueue(*arguments)
            try:
                ended: Any = receipt.result(timeout=120)
            except JobFailed as failed:
                ended = failed
            assert self.later.enqueue("goes on").result(timeout=120) == "goes on"
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._left.set)
            assert innocent.result(timeout=120) == "unharmed"
            return ended


@pytest.fixture
def beside() -> Iterator[Beside]:
    jobs = BrokerJobs("memory://")
    yield Beside(jobs)
    jobs.stop(0)


@pytest.mark.parametrize("bad", FAIL)
def test_what_a_job_raises_in_its_loop_is_its_own_failure(beside: Beside, bad: Callable[..., Any]) -> None:
    failed = beside.run(bad)
    assert isinstance(failed, JobFailed)


@pytest.mark.parametrize("bad", SUCCEED)
def test_what_is_not_awaited_is_logged_and_the_loop_goes_on(
    beside: Beside, bad: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert beside.run(bad) == "done"
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(said) == 1
    assert "event loop" in said[0]


def exit_where_it_runs(number: int) -> int:
    """A validator that a worker cannot pass."""
    if threading.current_thread() is not threading.main_thread():
        sys.exit(3)
    return number


async def takes_what_exits(number: Annotated[int, BeforeValidator(exit_where_it_runs)]) -> int:
    return number


def takes_what_exits_in_a_thread(number: Annotated[int, BeforeValidator(exit_where_it_runs)]) -> int:
    return number


@pytest.mark.parametrize("bad", [takes_what_exits, takes_what_exits_in_a_thread])
def test_a_validator_that_exits_fails_its_own_job(beside: Beside, bad: Callable[..., Any]) -> None:
    failed = beside.run(bad, 1)
    assert isinstance(failed, JobFailed)
    assert "ArgumentsError" in str(failed)


def test_a_job_that_cancels_every_task_it_finds_loses_no_other_job() -> None:
    jobs = BrokerJobs("memory://")
    ran: list[int] = []

    @jobs.job(retries=0)
    async def cancel_all() -> None:
        await asyncio.sleep(0.1)
        for _ in range(50):
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.002)

    @jobs.job(retries=3, backoff=[0])
    async def count(number: int) -> int:
        await asyncio.sleep(0)
        ran.append(number)
        return number

    jobs.start(concurrency=4)
    try:
        bad = cancel_all.enqueue()
        receipts = [count.using(retries=1_000).enqueue(number) for number in range(30)]
        assert [receipt.result(timeout=120) for receipt in receipts] == list(range(30))
        assert bad.result(timeout=120) is None
    finally:
        jobs.stop(5)


@pytest.mark.parametrize("bad", [exit_in_a_sub_task, exit_in_a_group])
def test_a_tester_goes_on_after_an_exit_in_a_sub_task(bad: Callable[..., Any]) -> None:
    jobs = BrokerJobs("memory://")
    job = jobs.job(retries=0)(bad)
    with Tester(jobs) as tester:
        receipt = job.enqueue()
        assert tester.run() == 1
        with pytest.raises(JobFailed):
            receipt.result(timeout=1)


LEAVING = """\
import os
from pathlib import Path

from broker_jobs import BrokerJobs

jobs = BrokerJobs()


@jobs.job(retries=0, backoff=[0.1])
def leave(code: int) -> None:
    with Path("runs.txt").open("a") as file:
        file.write(f"{code}\\n")
    os._exit(code)


@jobs.job
def process() -> int:
    return os.getpid()
"""


@pytest.mark.rabbitmq
@pytest.mark.slow
def test_a_job_that_ends_its_process_with_code_2_ends_only_that_one(terminal: Terminal, vhost: Vhost) -> None:
    (terminal.folder / "leaving.py").write_text(LEAVING)
    running = terminal.start("worker", "leaving:jobs", "--url", vhost.url, "-p", "2", "--shutdown-timeout", "2")
    eventually(lambda: running.log.count("serves the queues default") == 2, 90, "two workers")
    jobs = BrokerJobs(vhost.url)
    try:
        jobs.remote("leave").enqueue(2)
    finally:
        jobs.stop()
    running.said("exited with code 2; starting it again", timeout=60)
    eventually(lambda: running.log.count("serves the queues default") >= 3, 60, "a third worker")
    assert running.process.poll() is None
    running.signal(TERM)
    running.exit_code(timeout=60)


@pytest.mark.rabbitmq
@pytest.mark.slow
def test_a_job_that_ends_its_process_at_once_has_crashed_each_time(terminal: Terminal, vhost: Vhost) -> None:
    (terminal.folder / "leaving.py").write_text(LEAVING)
    terminal.start("coordinator", "--url", vhost.url, "--store", terminal.store)
    running = terminal.start("worker", "leaving:jobs", "--url", vhost.url, "-p", "2", "--shutdown-timeout", "2")
    eventually(lambda: running.log.count("serves the queues default") == 2, 90, "two workers")
    jobs = BrokerJobs(vhost.url)
    try:
        receipt = jobs.remote("leave").enqueue(7)
        eventually(lambda: receipt.state() is State.FAILED, 120, "it has failed")
    finally:
        jobs.stop()
    assert (terminal.folder / "runs.txt").read_text().split() == ["7"] * 3
    with contextlib.closing(Store(terminal.store)) as store:
        store.open()
        row, attempts = store.reader.jobs.get(receipt.id), store.reader.attempts.of(receipt.id)
    assert row is not None
    assert (row.crashes, row.reason) == (3, "its worker died 3 times while running it")
    assert [attempt.ended for attempt in attempts] == ["crashed"] * 3


@pytest.mark.rabbitmq
@pytest.mark.slow
def test_worker_processes_that_cannot_start_end_with_the_reason(terminal: Terminal, vhost: Vhost) -> None:
    wrong = vhost.url.rsplit("/", 1)[0] + "/no-such-vhost"
    running = terminal.start("worker", "app:jobs", "--url", wrong, "-p", "2")
    assert running.exit_code(timeout=90) == 2
    assert "a worker process could not start" in running.log
    assert "no-such-vhost" in running.log.split("could not start", 1)[1]

"""A job that keeps others from running is named: in the log, in the metrics, and on the page of workers."""

import asyncio
import ctypes
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs
from tests.support.wait import eventually

pytestmark = pytest.mark.acceptance


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[BrokerJobs]:
    program = BrokerJobs("memory://", store=f"sqlite:///{tmp_path / 'store.db'}")
    yield program
    program.stop(0)


def busy(jobs: BrokerJobs) -> str:
    """What the store knows of the worker."""
    assert jobs._program is not None
    assert jobs._program.store is not None
    (worker,) = jobs._program.store.reader.processes.workers()
    return worker.busy


def metric(jobs: BrokerJobs, name: str) -> float:
    text = jobs.metrics()[0].decode()
    found = re.search(rf"^broker_jobs_{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


@pytest.mark.parametrize("how", ["itself", "in a task", "in a wrapped coroutine"])
def test_a_job_that_blocks_the_event_loop_is_named(
    jobs: BrokerJobs, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    over = threading.Event()

    async def block() -> None:
        over.wait(600)

    async def bad() -> None:
        if how == "in a task":
            await asyncio.create_task(block())
        else:
            over.wait(600)

    @jobs.job
    async def other() -> str:
        return "ran"

    def wrapped() -> Any:
        return bad()

    job = jobs.job(name="bad")(wrapped if how == "in a wrapped coroutine" else bad)
    jobs.configure({"worker_heartbeat": 0.2})
    jobs.start()
    receipt = job.enqueue()
    try:
        eventually(lambda: "the event loop of async jobs has been blocked" in caplog.text)
        waiting = other.enqueue()
        named = f"bad {receipt.id}"
        said = next(r.getMessage() for r in caplog.records if "has been blocked" in r.getMessage())
        assert named in said
        assert "over.wait(600)" in said  # where it stands
        eventually(lambda: named in busy(jobs))
        assert "is blocked since" in busy(jobs)
        eventually(lambda: metric(jobs, "event_loop_blocked_seconds") > 0)
    finally:
        over.set()
    assert waiting.result(timeout=120) == "ran"
    assert receipt.result(timeout=120) is None
    eventually(lambda: metric(jobs, 'stalls_total{what="event loop"}') == 1)
    assert metric(jobs, "event_loop_blocked_seconds") == 0
    assert sum("has been blocked" in record.getMessage() for record in caplog.records) == 1
    eventually(lambda: "its event loop was blocked for" in busy(jobs))


def test_a_job_that_holds_the_interpreter_is_named_when_it_is_over(
    jobs: BrokerJobs, caplog: pytest.LogCaptureFixture
) -> None:
    @jobs.job
    def hold_the_gil() -> None:
        numbers = 20_000_000
        while True:
            began = time.monotonic()
            sum(range(numbers))  # one call of C, which lets no other thread run
            if time.monotonic() - began > 3:
                return
            numbers *= 2

    jobs.configure({"worker_heartbeat": 0.2})
    jobs.start()
    receipt = hold_the_gil.enqueue()
    assert receipt.result(timeout=300) is None
    eventually(lambda: f"hold_the_gil {receipt.id}" in busy(jobs))
    assert "a job held Python's GIL" in busy(jobs)
    assert "this process stood still" in caplog.text
    eventually(lambda: metric(jobs, 'stalls_total{what="process"}') >= 1)


@pytest.mark.skipif(sys.platform == "win32", reason="a call of the C library")
def test_a_job_that_begins_and_ends_with_the_stall_is_named(jobs: BrokerJobs) -> None:
    @jobs.job
    def hold_at_once() -> None:
        ctypes.PyDLL(None).sleep(2)

    @jobs.job
    def wait() -> None:
        ended.wait(600)

    ended = threading.Event()
    jobs.configure({"worker_heartbeat": 0.2})
    jobs.start()
    innocent = wait.enqueue()
    receipt = hold_at_once.enqueue()
    try:
        assert receipt.result(timeout=300) is None
        eventually(lambda: f"hold_at_once {receipt.id}" in busy(jobs))
    finally:
        ended.set()
    assert innocent.result(timeout=120) is None


def test_an_event_loop_that_runs_is_not_said_to_be_blocked(jobs: BrokerJobs, caplog: pytest.LogCaptureFixture) -> None:
    @jobs.job
    async def sleep() -> None:
        await asyncio.sleep(2)

    jobs.start()
    assert sleep.enqueue().result(timeout=120) is None
    assert "has been blocked" not in caplog.text

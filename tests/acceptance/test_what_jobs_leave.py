"""What a job leaves behind or takes away for a moment harms no other job: copies of its process, threads, memory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs, JobFailed
from tests.support import leaving_jobs as program
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.skipif(sys.platform == "win32", reason="os.fork, signals")]

LONG = 120


@pytest.fixture
def jobs() -> Iterator[BrokerJobs]:
    program.jobs.start(concurrency=1)  # so that one child process runs all jobs
    yield program.jobs
    program.jobs.stop(0)


def seen(jobs: BrokerJobs, id: str) -> tuple[list[str], str | None]:
    """Its log lines and its progress."""
    assert jobs._program is not None
    assert jobs._program.store is not None
    row = jobs._program.store.reader.jobs.get(id)
    assert row is not None
    return [line.text for line in jobs._program.store.reader.log_lines.of(id)], row.progress


@pytest.mark.parametrize("job", [program.fork_and_return, program.fork_and_return_async])
def test_a_copy_of_an_isolated_jobs_process_ends_no_other_job(jobs: BrokerJobs, job: Any) -> None:
    assert job.enqueue().result(timeout=LONG) == "the parent"
    assert [program.echo.enqueue(n).result(timeout=LONG) for n in range(5)] == [0, 1, 2, 3, 4]


def test_a_copy_that_raises_ends_no_other_job(jobs: BrokerJobs) -> None:
    with pytest.raises(JobFailed, match="ValueError: on both sides"):
        program.fork_and_raise.enqueue().result(timeout=LONG)
    assert [program.echo.enqueue(n).result(timeout=LONG) for n in range(5)] == [0, 1, 2, 3, 4]


def test_a_thread_that_a_job_left_says_nothing_of_the_next_job(jobs: BrokerJobs, tmp_path: Path) -> None:
    mark = tmp_path / "said"
    left = program.leave_a_thread.enqueue(str(mark))
    assert left.result(timeout=LONG) == 1
    following = program.echo.enqueue(7, 3.0)
    assert following.result(timeout=LONG) == 7
    eventually(mark.exists)
    assert seen(jobs, following.id) == ([], None)


def test_half_a_message_of_a_job_keeps_nobody_from_ending_it(jobs: BrokerJobs) -> None:
    with pytest.raises(JobFailed, match="TimedOut"):
        program.write_half_a_message.using(timeout=1).enqueue().result(timeout=LONG)
    assert program.echo.enqueue(1).result(timeout=LONG) == 1


@pytest.mark.parametrize("job", [program.progress_in_thread, program.progress_in_process])
@pytest.mark.parametrize(("kind", "error"), [("text", "ValueError"), ("huge", "OverflowError")])
def test_a_progress_that_is_no_number_is_the_jobs_error(jobs: BrokerJobs, job: Any, kind: str, error: str) -> None:
    with pytest.raises(JobFailed, match=error):
        job.enqueue(kind).result(timeout=LONG)
    assert program.echo.enqueue(1).result(timeout=LONG) == 1


@pytest.mark.parametrize("job", [program.progress_in_thread, program.progress_in_process])
@pytest.mark.parametrize("kind", ["decimal", "endless"])
def test_a_progress_is_any_number_and_what_is_not_finite_is_ignored(jobs: BrokerJobs, job: Any, kind: str) -> None:
    assert job.enqueue(kind).result(timeout=LONG) == kind


def test_a_process_of_isolated_jobs_over_max_memory_is_not_used_again(tmp_path: Path) -> None:
    program.jobs.configure({"max_memory": 300})
    program.jobs.start(concurrency=1)
    try:
        first = program.leak.enqueue(1).result(timeout=LONG)
        assert program.leak.enqueue(400).result(timeout=LONG) == first
        assert program.leak.enqueue(1).result(timeout=LONG) != first
    finally:
        program.jobs.stop(0)
        program.jobs.configure({"max_memory": None})


def run(code: str, *arguments: str) -> list[Any]:
    """Run a program; the JSON lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


FORKS = """
import json, os, sys, threading
from pathlib import Path
from broker_jobs import BrokerJobs, Depends
jobs = BrokerJobs("memory://")
runs, where = Path(sys.argv[1]), sys.argv[2]

def fork_at(place: str) -> None:
    if place == where:
        os.fork()

@jobs.on_start
def start(job) -> None:
    fork_at("on_start")

@jobs.on_success
def success(job, result) -> None:
    fork_at("on_success")

@jobs.around
def around():
    fork_at("around")
    yield

def provided() -> None:
    fork_at("provider")

def noted(n: int) -> int:
    with runs.open("a") as file:
        file.write(f"{n}\\n")
    fork_at("function")
    return n

@jobs.job(retries=0)
def fork(n: int, it: None = Depends(provided)) -> int:
    return noted(n)

@jobs.job(retries=0)
async def fork_async(n: int, it: None = Depends(provided)) -> int:
    return noted(n)

with jobs:
    kinds = [fork, fork_async]
    receipts = [kinds[n % 2].enqueue(n) for n in range(30)]
    print(json.dumps([receipt.result(timeout=200) for receipt in receipts]))
"""


@pytest.mark.parametrize("where", ["function", "on_start", "on_success", "around", "provider"])
def test_a_job_that_forks_its_worker_runs_no_job_twice(tmp_path: Path, where: str) -> None:
    (results,) = run(FORKS, str(tmp_path / "runs"), where)
    assert results == list(range(30))
    assert sorted(map(int, (tmp_path / "runs").read_text().split())) == results


TRACED = """
import json, sys, threading, time
from broker_jobs import BrokerJobs, JobFailed
threading.settrace(lambda frame, event, argument: None)
sys.settrace(lambda frame, event, argument: None)
jobs = BrokerJobs("memory://")

@jobs.job(retries=0, timeout=0.5)
def spin() -> None:
    while True:
        time.sleep(0.01)

@jobs.job
def add(a: int, b: int) -> int:
    return a + b

with jobs:
    for _ in range(3):
        try:
            spin.enqueue().result(timeout=100)
        except JobFailed as error:
            print(json.dumps("TimedOut" in str(error)))
    print(json.dumps(add.enqueue(1, 2).result(timeout=100)))
"""


def test_a_timeout_stops_no_thread_that_is_traced() -> None:
    assert run(TRACED) == [True, True, True, 3]


NO_THREADS = """
import json, sys, threading, time
from broker_jobs import BrokerJobs
jobs = BrokerJobs("memory://")

@jobs.job(retries=0)
def add(a: int, b: int) -> int:
    time.sleep(0.1)
    return a + b

@jobs.job(retries=0)
async def add_async(a: int, b: int) -> int:
    return a + b

def refuses() -> bool:
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return True
    return False

jobs.start(concurrency=6)
first = add if sys.argv[1] == "sync" else add_async
threading.stack_size(1 << 46)
assert refuses()
receipts = [first.enqueue(n, 1) for n in range(5)]
while not any("cannot be started" in reason for reason in jobs.health().reasons):
    time.sleep(0.05)
threading.stack_size(0)
receipts += [add.enqueue(n, 1) for n in range(5)] + [add_async.enqueue(n, 1) for n in range(5)]
print(json.dumps([receipt.result(timeout=100) for receipt in receipts]))
while not jobs.health().ok:
    time.sleep(0.05)
jobs.stop(30)
"""


@pytest.mark.parametrize("first", ["sync", "async"])
def test_a_moment_without_threads_costs_no_job_and_no_slot(first: str) -> None:
    assert run(NO_THREADS, first) == [[1, 2, 3, 4, 5] * 3]


@pytest.mark.parametrize("hung", [1, 2])
def test_a_spare_slot_lets_another_job_in(hung: int) -> None:
    jobs = BrokerJobs("memory://")
    go_on = threading.Event()

    @jobs.job(retries=0, timeout=0.3)
    def hang() -> None:
        while not go_on.is_set():
            try:
                go_on.wait(600)
            except BaseException:  # noqa: BLE001  # it does what no job should
                continue

    @jobs.job(retries=0)
    def last() -> None:
        go_on.wait(600)

    @jobs.job
    def echo(number: int) -> int:
        return number

    jobs.configure({"timeout_grace": 0.3, "handover_after": 3600})
    jobs.start(concurrency=2)
    try:
        for job in (hang, hang if hung == 2 else last):
            job.enqueue()
        assert [echo.enqueue(n).result(timeout=LONG) for n in range(3)] == [0, 1, 2]
    finally:
        go_on.set()
        jobs.stop(10)

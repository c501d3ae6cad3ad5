"""isolation="process": a job runs in a child process, which is killed at the limit; its end harms this job alone."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from broker_jobs import BrokerJobs, JobDeleted, JobFailed, State
from broker_jobs.store import LogLineRow
from broker_jobs.testing import Tester
from tests.acceptance.conftest import TERM, Terminal
from tests.support import isolated_jobs as program
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = pytest.mark.acceptance

WINDOWS = sys.platform == "win32"


@pytest.fixture
def jobs() -> Iterator[BrokerJobs]:
    program.jobs.start(concurrency=3)
    yield program.jobs
    program.jobs.stop(0)


def ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def lines(jobs: BrokerJobs, id: str) -> list[LogLineRow]:
    assert jobs._program is not None
    assert jobs._program.store is not None
    return jobs._program.store.reader.log_lines.of(id)


def test_a_job_in_a_process_sees_what_a_job_sees_and_the_process_is_used_again(jobs: BrokerJobs) -> None:
    first = program.look_around.enqueue(3)
    seen = first.result(timeout=120)
    assert seen["pid"] != str(os.getpid())
    assert (seen["id"], seen["attempt"], seen["cancelled"]) == (first.id, "1", "False")
    assert (seen["given"], seen["hook"]) == (f"made in {seen['pid']}", seen["pid"])
    eventually(lambda: [line.text for line in lines(jobs, first.id)] == ["looks around number=3"])
    assert program.look_around.enqueue(4).result(timeout=120)["pid"] == seen["pid"]
    assert program.process_async.enqueue().result(timeout=120) == int(seen["pid"])
    assert program.in_a_thread.enqueue().result(timeout=120) == os.getpid()


DEATHS: list[tuple[Any, tuple[Any, ...], str]] = [
    (program.crash_in_c, (), "its process was killed by SIGSEGV"),
    (program.exit_at_once, (3,), "its process exited with code 3"),
    (program.exit_at_once, (0,), "its process exited with code 0"),
    (program.kill_itself, (), "its process was killed by SIGKILL"),
    (program.close_all_files, (), "closed the pipe"),
]


@pytest.mark.skipif(WINDOWS, reason="signals")
@pytest.mark.parametrize(("job", "arguments", "reason"), DEATHS)
def test_the_end_of_a_process_is_the_failure_of_its_job_alone(
    jobs: BrokerJobs, tmp_path: Path, job: Any, arguments: tuple[Any, ...], reason: str
) -> None:
    mark = tmp_path / "beside"
    beside = program.hang.enqueue(str(mark))
    eventually(mark.exists)
    dead = job.enqueue(*arguments)
    with pytest.raises(JobFailed, match="ProcessCrashed") as failed:
        dead.result(timeout=120)
    assert reason in str(failed.value)
    assert program.look_around.enqueue(1).result(timeout=120)["attempt"] == "1"
    assert beside.state() is State.PROCESSING or beside.state() is State.ENQUEUED
    assert not ended(int(mark.read_text()))
    assert b'broker_jobs_jobs_total{job_name="%s",outcome="crashed"' % job.name.encode() in jobs.metrics()[0]


def test_what_a_job_prints_harms_nothing(jobs: BrokerJobs) -> None:
    assert program.print_megabytes.enqueue().result(timeout=120) == "printed"


@pytest.mark.parametrize(
    ("how", "text"),
    [("give up", "failed after 1 run: .*GiveUp: no use"), ("exit", "SystemExit: 3"), ("raise", "ValueError: boom")],
)
def test_what_a_job_raises_in_its_process_is_its_failure(jobs: BrokerJobs, how: str, text: str) -> None:
    with pytest.raises(JobFailed, match=text) as failed:
        program.fail.enqueue(how).result(timeout=120)
    assert "isolated_jobs.py" in "".join(failed.value.__notes__)


@pytest.mark.parametrize("how", ["retry", "crash once"])
def test_a_job_is_retried_in_a_process(jobs: BrokerJobs, how: str) -> None:
    assert program.fail.enqueue(how).result(timeout=120) == 2


@pytest.mark.parametrize("slowly", [False, True])
def test_more_memory_than_the_limit_fails_the_job(jobs: BrokerJobs, slowly: bool) -> None:
    assert program.take.enqueue(20).result(timeout=120) == 20
    with pytest.raises(
        JobFailed, match=f"MemoryError: it took more than its memory_limit of {100 * program.MIB} bytes"
    ):
        program.take.enqueue(400, slowly=slowly).result(timeout=120)
    assert program.take.enqueue(20).result(timeout=120) == 20


def test_a_process_in_a_call_of_c_is_killed_at_the_timeout(jobs: BrokerJobs, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    with pytest.raises(JobFailed, match="TimedOut: timed out after 1 s"):
        program.hang.using(timeout=1).enqueue(str(mark)).result(timeout=120)
    eventually(lambda: ended(int(mark.read_text())))


def test_a_process_that_can_tidies_up_at_the_timeout(jobs: BrokerJobs, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="TimedOut"):
        program.tidy_up.enqueue(str(tmp_path / "mark")).result(timeout=120)
    assert (tmp_path / "mark").read_text() == "tidied up"


def test_a_process_is_killed_when_its_job_is_deleted(jobs: BrokerJobs, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    receipt = program.hang.enqueue(str(mark))
    eventually(mark.exists)
    eventually(lambda: receipt.state() is State.PROCESSING)
    receipt.delete()
    with pytest.raises(JobDeleted):
        receipt.result(timeout=120)
    eventually(lambda: ended(int(mark.read_text())))


def test_no_process_is_left_when_the_worker_has_stopped(jobs: BrokerJobs, tmp_path: Path) -> None:
    idle = int(program.look_around.enqueue(1).result(timeout=120)["pid"])
    mark = tmp_path / "pid"
    program.hang.enqueue(str(mark))
    program.hang.enqueue(str(tmp_path / "other"))
    eventually(lambda: mark.exists() and (tmp_path / "other").exists())
    jobs.stop(0.1)
    pids = [idle, int(mark.read_text()), int((tmp_path / "other").read_text())]
    eventually(lambda: all(ended(pid) for pid in pids))


@pytest.mark.skipif(WINDOWS, reason="signals")
def test_a_program_that_a_job_starts_can_be_stopped(jobs: BrokerJobs) -> None:
    assert program.start_a_program.enqueue().result(timeout=120) == "True"


def test_a_process_cannot_enqueue_into_the_memory_of_its_worker(jobs: BrokerJobs) -> None:
    with pytest.raises(JobFailed, match="cannot use memory://"):
        program.enqueue_another.enqueue().result(timeout=120)


def test_a_job_that_the_child_does_not_find_says_what_to_write() -> None:
    jobs = BrokerJobs("memory://")

    @jobs.job(isolation="process", retries=0)
    def inside_a_function() -> None: ...

    jobs.start()
    try:
        with pytest.raises(JobFailed, match="defined at the top level of a module"):
            inside_a_function.enqueue().result(timeout=120)
    finally:
        jobs.stop(0)


def test_a_tester_runs_it_in_the_thread_of_the_test() -> None:
    with Tester(program.jobs) as tester:
        receipt = program.look_around.enqueue(2)
        assert tester.run() == 1
        assert receipt.result(timeout=1)["pid"] == str(os.getpid())


MAIN = """\
import os
import threading

from broker_jobs import BrokerJobs

jobs = BrokerJobs("memory://")


@jobs.job(isolation="process")
def hang() -> None:
    print("child", os.getpid(), flush=True)
    threading.Event().wait(3600)


@jobs.job(isolation="process")
def add(a: int, b: int) -> int:
    return a + b


if __name__ == "__main__":
    jobs.start()
    print("sum", add.enqueue(1, 2).result(timeout=60), flush=True)
    hang.enqueue()
    threading.Event().wait(3600)
"""


def test_a_program_of_one_file_runs_them_and_its_children_die_with_it(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    process = subprocess.Popen([sys.executable, "main.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    said: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=said.extend, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        eventually(lambda: "sum 3\n" in said, 60)
        pid = int(eventually(lambda: [line for line in said if line.startswith("child")], 60)[0].split()[1])
        process.kill()
        process.wait()
        eventually(lambda: ended(pid))
    finally:
        process.kill()
        process.wait()
        reader.join(30)
        process.stdout.close()


def test_a_program_that_starts_itself_in_its_children_is_told_what_to_write(tmp_path: Path) -> None:
    unguarded = (
        MAIN.split("if __name__", maxsplit=1)[0]
        + "jobs.start()\nadd.using(retries=0).enqueue(1, 2).result(timeout=60)\n"
    )
    (tmp_path / "main.py").write_text(unguarded)
    ran = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert "put it under if __name__ == '__main__'" in ran.stderr
    assert "its process ended while it imported the program" in ran.stderr


APP = """\
import os
import threading
from pathlib import Path

from broker_jobs import BrokerJobs, current_job

jobs = BrokerJobs()


@jobs.job
def note(text: str) -> str:
    return text


@jobs.job(isolation="process")
def hold(name: str) -> str:
    with Path("marks.txt").open("a") as file:
        file.write(f"{name} attempt {current_job().attempt} {os.getpid()}\\n")
    if not Path("release").exists():
        threading.Event().wait(3600)
    return note.enqueue(name).id
"""


@pytest.mark.rabbitmq
@pytest.mark.slow
@pytest.mark.parametrize("number", [TERM, signal.SIGKILL])
def test_a_worker_of_the_command_line_runs_them_and_its_end_ends_them(
    terminal: Terminal, vhost: Vhost, number: signal.Signals
) -> None:
    (terminal.folder / "apart.py").write_text(APP)
    terminal.start("coordinator", "--url", vhost.url, "--store", terminal.store)
    options = ("worker", "apart:jobs", "--url", vhost.url, "--shutdown-timeout", "0.2")
    worker = terminal.start(*options)
    jobs = BrokerJobs(vhost.url)
    try:
        receipt = jobs.remote("hold").using(retries=0).enqueue("first")
        pid = int(terminal.marked("first").split()[-1])
        worker.signal(number)
        worker.exit_code(timeout=30)
        eventually(lambda: ended(pid))
        (terminal.folder / "release").touch()
        terminal.start(*options)
        other = receipt.result(timeout=120)  # it has enqueued another job, by the address of the command line
        assert jobs.receipt(str(other)).result(timeout=120) == "first"
    finally:
        jobs.stop()

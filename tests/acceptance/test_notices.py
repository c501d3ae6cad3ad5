"""on_enqueue, on_start, on_success, on_failed, on_worker_start, on_worker_stop: called once each, where they say."""

import functools
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs, DefinitionError, JobFailed, JobMessage
from broker_jobs.testing import Tester
from tests.acceptance.conftest import TERM, Terminal
from tests.support import noticed_jobs as program
from tests.support.rabbitmq import Vhost

pytestmark = pytest.mark.acceptance


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BrokerJobs]:
    monkeypatch.setenv(program.FILE, str(tmp_path / "noted"))
    program.jobs.start(concurrency=2)
    yield program.jobs
    program.jobs.stop(0)


def of_jobs() -> list[str]:
    return [line for line in program.noted() if not line.startswith("worker ")]


def on_success(name: str, how: str) -> list[str]:
    return [
        f"enqueued {name} 0 ['{how}']",
        f"started {name} 1 True",
        f"started async {name}",
        f"succeeded async {name}",
        f"succeeded {name} 1 '{how}'",
    ]


@pytest.mark.parametrize("job", program.ALL, ids=lambda job: job.name)
def test_a_success_is_noticed_once(started: BrokerJobs, job: Any) -> None:
    assert job.enqueue("well").result(timeout=120) == "well"
    assert of_jobs() == on_success(job.name, "well")


@pytest.mark.parametrize("job", program.ALL, ids=lambda job: job.name)
def test_a_failure_is_noticed_after_the_last_retry(started: BrokerJobs, job: Any) -> None:
    with pytest.raises(JobFailed, match="ValueError: boom"):
        job.enqueue("raise").result(timeout=120)
    assert [line for line in of_jobs() if "failed" in line] == [
        f"failed {job.name} 2 ValueError: boom",
        f"failed async {job.name}",
    ]
    assert sum(line.startswith(f"started {job.name}") for line in of_jobs()) == 2


@pytest.mark.parametrize("job", program.ALL, ids=lambda job: job.name)
def test_a_job_that_gives_up_is_noticed_at_once(started: BrokerJobs, job: Any) -> None:
    with pytest.raises(JobFailed, match="no use"):
        job.enqueue("give up").result(timeout=120)
    assert next(line for line in of_jobs() if line.startswith("failed ")) == f"failed {job.name} 1 GiveUp: no use"


@pytest.mark.parametrize("job", program.ALL, ids=lambda job: job.name)
def test_a_timeout_is_noticed(started: BrokerJobs, job: Any) -> None:
    with pytest.raises(JobFailed, match="timed out"):
        job.using(timeout=0.5, retries=0).enqueue("spin").result(timeout=120)
    assert [line for line in of_jobs() if "failed" in line] == [
        f"failed {job.name} 1 JobFailed: TimedOut: timed out after 0.5 s",
        f"failed async {job.name}",
    ]


def test_the_end_of_a_process_is_noticed_in_its_worker(started: BrokerJobs) -> None:
    for how, options, says in (
        ("crash", {}, "ProcessCrashed: its process exited with code 3"),
        ("hang", {"timeout": 0.5}, "TimedOut: timed out after 0.5 s"),
    ):
        with pytest.raises(JobFailed):
            program.in_process.using(retries=0, **options).enqueue(how).result(timeout=120)  # type: ignore[arg-type]
        failed = [line for line in of_jobs() if line.startswith("failed in_process")][-1]
        assert failed.startswith(f"failed in_process 1 JobFailed: {says}")


@pytest.mark.parametrize("job", program.ALL, ids=lambda job: job.name)
def test_an_expired_job_is_noticed_and_not_started(job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(program.FILE, str(tmp_path / "noted"))
    with Tester(program.jobs) as tester:
        receipt = job.using(expires=1).enqueue("well")
        tester.clock.advance(2)
        tester.run()
        with pytest.raises(JobFailed, match="Expired"):
            receipt.result()
    lines = of_jobs()
    assert lines[1].startswith(f"failed {job.name} 1 JobFailed: Expired: it waited longer")
    assert not any(line.startswith("started") for line in lines)


def test_hooks_of_a_group_are_for_its_jobs(started: BrokerJobs) -> None:
    assert program.outside.enqueue("well").result(timeout=120) == "well"
    assert of_jobs() == ["enqueued outside 0 ['well']", "started outside 1 True", "succeeded async outside"]


def test_a_hook_refuses_an_enqueue(started: BrokerJobs) -> None:
    with pytest.raises(PermissionError, match="refused by a hook"):
        program.in_thread.enqueue("refused")
    with pytest.raises(PermissionError, match="refused by a hook"):
        started.enqueue_many([program.in_thread.bind("well"), program.in_thread.bind("refused")])
    with pytest.raises(PermissionError, match="refused by a hook"), started.batch() as batch:
        batch.enqueue(program.in_thread, "refused")
    assert program.in_thread.schedule(timedelta(), "fine").result(timeout=120) == "fine"
    assert [line for line in of_jobs() if line.startswith("started in_thread")] == ["started in_thread 1 True"]


def test_a_worker_is_noticed(started: BrokerJobs) -> None:
    assert program.noted() == ["worker started", "worker started async"]
    started.stop()
    assert program.noted()[2:] == ["worker stopped async", "worker stopped"]


@pytest.mark.parametrize("job", [program.in_thread, program.on_loop, program.in_process], ids=lambda job: job.name)
@pytest.mark.parametrize("inline", [False, True])
def test_so_it_is_in_a_tester(job: Any, inline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(program.FILE, str(tmp_path / "noted"))
    with Tester(program.jobs, inline=inline) as tester:
        receipt = job.enqueue("well")
        assert inline or tester.run() == 1
        assert receipt.result() == "well"
    lines = ["worker started", "worker started async", *on_success(job.name, "well")]
    assert program.noted() == [*lines, "worker stopped async", "worker stopped"]


def test_a_worker_whose_hook_raises_does_not_start() -> None:
    jobs = BrokerJobs("memory://")
    calls: list[str] = []

    @jobs.on_worker_start
    def fails() -> None:
        calls.append("start")
        if len(calls) == 1:
            raise OSError("no database")

    @jobs.on_worker_stop
    def stops() -> None:
        calls.append("stop")

    with pytest.raises(OSError, match="no database"):
        jobs.start()
    assert calls == ["start"]
    with jobs:
        assert calls == ["start", "start"]
    assert calls == ["start", "start", "stop"]


def test_a_job_that_blocks_the_loop_does_not_keep_a_worker_from_stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker_jobs.consumer.worker.STOP_HOOK_SECONDS", 0.2)
    jobs, begun, gate = BrokerJobs("memory://"), threading.Event(), threading.Event()
    calls: list[str] = []

    @jobs.job(retries=0)
    async def blocks() -> None:
        begun.set()
        gate.wait(60)

    @jobs.on_worker_stop
    def stops() -> None:
        calls.append("stop")

    @jobs.on_worker_stop
    async def stops_async() -> None:
        calls.append("stop async")

    with jobs:
        blocks.enqueue()
        assert begun.wait(60)
        jobs.stop(0)
        assert calls == ["stop"]
        gate.set()


PROGRAM = """
import os

os.environ["NOTICED_FILE"] = "noted.txt"
from tests.support.noticed_jobs import jobs
"""


@pytest.mark.rabbitmq
@pytest.mark.slow
def test_so_it_is_in_worker_processes(terminal: Terminal, vhost: Vhost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(program.FILE, str(terminal.folder / "noted.txt"))
    (terminal.folder / "noticed.py").write_text(PROGRAM)
    root = str(Path(__file__).parents[2])
    terminal.start("coordinator", "--url", vhost.url, "--store", terminal.store)
    worker = terminal.start("worker", "noticed:jobs", "--url", vhost.url, PYTHONPATH=root)
    jobs = BrokerJobs(vhost.url)
    try:
        for name in ("in_thread", "on_loop", "in_process"):
            assert jobs.remote(name).enqueue("well").result(timeout=120) == "well"
        assert program.noted()[:2] == ["worker started", "worker started async"]
        for name in ("in_thread", "on_loop", "in_process"):
            assert [line for line in of_jobs() if line.endswith(f" {name}") or f" {name} " in line] == on_success(
                name, "well"
            )[1:]
        worker.signal(TERM)
        assert worker.exit_code() == 0
        assert program.noted()[-2:] == ["worker stopped async", "worker stopped"]
    finally:
        jobs.stop()


async def async_hook(job: JobMessage) -> None: ...


def generator_hook(job: JobMessage) -> Iterator[None]:
    yield


def without_parameters() -> None: ...


@pytest.mark.parametrize(
    ("kind", "hook", "message"),
    [
        ("on_enqueue", async_hook, r"async, and on_enqueue is called.*write def async_hook\(job\)"),
        ("on_start", generator_hook, "is a generator.*use @jobs.around"),
        ("on_start", without_parameters, r"is called as without_parameters\(job\)"),
        ("on_success", async_hook, r"is called as async_hook\(job, result\)"),
        ("on_failed", async_hook, r"is called as async_hook\(job, error\)"),
        ("on_worker_start", async_hook, r"is called as async_hook\(\)"),
        ("on_worker_stop", "close", "decorates a function, not 'close'"),
    ],
)
def test_a_hook_that_cannot_be_called_is_refused(kind: str, hook: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        getattr(BrokerJobs("memory://"), kind)(hook)


def traced(function: Any) -> Any:
    """A decorator that hides what kind of function this is."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def test_a_hook_of_which_nothing_would_run_is_refused_though_a_decorator_hides_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = BrokerJobs("memory://")

    @jobs.job
    def work() -> int:
        return 5

    def generator(_job: JobMessage) -> Iterator[None]:
        yield

    async def coroutine(_job: JobMessage) -> None: ...

    jobs.on_start(traced(generator))
    with Tester(jobs) as tester:
        receipt = work.enqueue()
        tester.run()
        assert receipt.result(timeout=1) == 5
    assert "generator returned a generator, of which nothing runs: remove the yield" in caplog.text
    jobs.on_enqueue(traced(coroutine))
    with Tester(jobs), pytest.raises(DefinitionError, match="coroutine is async, and nothing awaits it"):
        work.enqueue()


def test_a_hook_changes_nothing_of_the_job() -> None:
    jobs = BrokerJobs("memory://")

    @jobs.job
    def login(user: dict[str, str]) -> str:
        return user["password"]

    @jobs.on_enqueue
    def mask(job: JobMessage) -> None:
        job.args[0]["password"] = "***"

    with Tester(jobs) as tester:
        receipt = login.enqueue({"password": "s3cret"})
        tester.run()
        assert receipt.result(timeout=1) == "s3cret"

"""A run that ends because its process has to leave is interrupted: no failure, no crash, no retry; it runs again."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_jobs import BrokerJobs, Concurrency, Ordered, State, current_job
from tests.acceptance.conftest import INT, TERM, Running, Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq, pytest.mark.slow]

APP = """\
import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from broker_jobs import BrokerJobs, current_job

jobs = BrokerJobs()


def mark(text):
    with Path("marks.txt").open("a") as file:
        file.write(text + "\\n")


def begin(name):
    # Who ran it before must have ended: one that is a zombie of its parent has.
    for line in Path("marks.txt").read_text().splitlines() if Path("marks.txt").exists() else []:
        word, pid = line.split()[0], line.split()[-1]
        if word == name and int(pid) != os.getpid():
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state != "Z":
                mark(f"beside {name} {pid}")
    mark(f"{name} attempt {current_job().attempt} {os.getpid()}")


def wait(name):
    while not Path(f"release-{name}").exists():
        time.sleep(0.02)
    return name


@jobs.job
def hold(name: str) -> str:
    begin(name)
    return wait(name)


@jobs.job
def hold_on(name: str) -> str:
    begin(name)
    while True:
        try:
            return wait(name)
        except BaseException:
            continue


@jobs.job
async def hold_async(name: str) -> str:
    begin(name)
    while not Path(f"release-{name}").exists():
        await asyncio.sleep(0.02)
    return name


@jobs.job
async def hold_in_a_helper(name: str) -> str:
    begin(name)
    threading.Thread(target=wait, args=(name,), name="a client of the job").start()
    return await asyncio.to_thread(wait, name)


@jobs.job
def fail_then_hold(name: str) -> str:
    begin(name)
    if current_job().attempt == 1:
        raise ValueError("on purpose")
    return wait(name)


@jobs.job
def leave_a_thread(name: str) -> str:
    ThreadPoolExecutor(1).submit(wait, name)  # the end of a Python program waits for it
    return name


@jobs.job
async def end_with_its_own_error(name: str) -> str:
    begin(name)
    try:
        while not Path(f"release-{name}").exists():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        raise ConnectionError("the client was cut off") from None
    return name
"""


@pytest.fixture(autouse=True)
def app(terminal: Terminal) -> None:
    """The program whose jobs are cut off."""
    (terminal.folder / "leaving.py").write_text(APP)


@pytest.fixture
def jobs(vhost: Vhost) -> Iterator[BrokerJobs]:
    """A producer in the test's process."""
    producer = BrokerJobs(vhost.url)
    yield producer
    producer.stop()


@pytest.fixture
def coordinator(terminal: Terminal, vhost: Vhost) -> Running:
    """A coordinator of its own."""
    return terminal.start("coordinator", "--url", vhost.url, "--store", terminal.store, "--metrics-port", "0")


def start_worker(terminal: Terminal, vhost: Vhost, *options: str) -> Running:
    """A worker that gives what runs a moment at its end."""
    running = terminal.start(
        "worker", "leaving:jobs", "--url", vhost.url, "--shutdown-timeout", "0.2", "--metrics-port", "0", *options
    )
    running.said("serves the queues default")
    return running


def runs(terminal: Terminal, name: str) -> int:
    """How often a job has begun."""
    return sum(mark.startswith(f"{name} attempt") for mark in terminal.marks())


def begun(terminal: Terminal, name: str, times: int) -> None:
    """Wait for a job's run of this number."""
    eventually(lambda: runs(terminal, name) >= times, 60, f"run {times} of {name}")


def shown(terminal: Terminal, id: str) -> str:
    """All that the command line shows of a job."""
    return terminal.output("jobs", "show", id, "--store", terminal.store)


JOBS = ("hold", "hold_on", "hold_async", "hold_in_a_helper", "end_with_its_own_error")


def test_any_number_of_deploys_costs_a_job_nothing(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    worker = start_worker(terminal, vhost)
    receipts = {job: jobs.remote(job).using(retries=0).enqueue(job) for job in JOBS}
    deploys = 4  # one more than a job may crash
    for deploy in range(1, deploys + 1):
        for job in JOBS:
            begun(terminal, job, deploy)
        series = worker.metrics()
        assert not [name for name in series if 'outcome="raised"' in name]
        worker.signal(TERM)
        assert worker.exit_code(timeout=30) == 1  # some could not be stopped: they end with the process
        worker = start_worker(terminal, vhost)
    for job in JOBS:
        begun(terminal, job, deploys + 1)
        terminal.release(job)
        assert receipts[job].result(timeout=120) == job
        text = shown(terminal, receipts[job].id)
        assert text.count("interrupted") >= deploys
        assert "died" not in text
        assert "vanished" not in text
        assert {mark.split()[2] for mark in terminal.marks() if mark.startswith(f"{job} attempt")} == {"1"}
    assert not [mark for mark in terminal.marks() if mark.startswith("beside")]
    assert jobs.remote("leave_a_thread").enqueue("never released").result(timeout=120) == "never released"
    worker.signal(TERM)
    assert worker.exit_code() == 0
    assert "exiting without them" in worker.log


@pytest.mark.parametrize("number", [INT, TERM])
def test_a_second_signal_interrupts_at_once(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs, number: signal.Signals
) -> None:
    worker = start_worker(terminal, vhost, "--shutdown-timeout", "600")
    receipts = [jobs.remote(job).using(retries=0).enqueue(job) for job in ("hold", "hold_async")]
    begun(terminal, "hold", 1)
    begun(terminal, "hold_async", 1)
    worker.signal(number)
    worker.said("taking no more jobs")
    worker.signal(number)
    assert worker.exit_code(timeout=20) == 128 + number
    start_worker(terminal, vhost)
    for job, receipt in zip(("hold", "hold_async"), receipts, strict=True):
        begun(terminal, job, 2)
        terminal.release(job)
        assert receipt.result(timeout=120) == job
        assert "interrupted" in shown(terminal, receipt.id)
    assert not [mark for mark in terminal.marks() if mark.startswith("beside")]


def test_jobs_of_several_processes_are_interrupted(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    worker = terminal.start(
        "worker", "leaving:jobs", "--url", vhost.url, "--shutdown-timeout", "0.2", "-p", "2", "-c", "1"
    )
    eventually(lambda: worker.log.count("serves the queues default") == 2, 90, "two workers")
    names = ("a", "b")
    functions = ("hold", "hold_in_a_helper")
    receipts = [jobs.remote(job).enqueue(name) for job, name in zip(functions, names, strict=True)]
    for name in names:
        begun(terminal, name, 1)
    worker.signal(TERM)
    worker.exit_code(timeout=30)
    start_worker(terminal, vhost)
    for name, receipt in zip(names, receipts, strict=True):
        begun(terminal, name, 2)
        terminal.release(name)
        assert receipt.result(timeout=120) == name
        text = shown(terminal, receipt.id)
        assert "interrupted" in text
        assert "vanished" not in text
    assert not [mark for mark in terminal.marks() if mark.startswith("beside")]


def test_everything_in_one_process_leaves_and_goes_on(terminal: Terminal, vhost: Vhost, jobs: BrokerJobs) -> None:
    options = ("run", "leaving:jobs", "--url", vhost.url, "--store", terminal.store, "--shutdown-timeout", "0.2")
    first = terminal.start(*options)
    first.said("serves the queues default")
    receipt = jobs.remote("fail_then_hold").using(retries=1, backoff=[0]).enqueue("retried")
    second = jobs.remote("hold_in_a_helper").using(retries=0).enqueue("kept")
    begun(terminal, "retried", 2)
    begun(terminal, "kept", 1)
    first.signal(TERM)
    assert first.exit_code(timeout=40) == 0  # all runs ended as they were asked to
    terminal.start(*options).said("serves the queues default")
    begun(terminal, "retried", 3)
    begun(terminal, "kept", 2)
    assert [mark.split()[2] for mark in terminal.marks() if mark.startswith("retried")] == ["1", "2", "2"]
    for name, each in (("retried", receipt), ("kept", second)):
        terminal.release(name)
        assert each.result(timeout=120) == name
    assert "retry 1 of 1" in shown(terminal, receipt.id)


@pytest.mark.parametrize("limit", [Ordered("line"), Concurrency("one", 1)])
def test_who_waits_in_line_behind_an_interrupted_job_goes_on_waiting(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs, limit: Ordered | Concurrency
) -> None:
    worker = start_worker(terminal, vhost)
    limited = jobs.remote("hold").using(limit=limit)
    first = limited.enqueue("first")
    begun(terminal, "first", 1)
    second = limited.enqueue("second")
    eventually(lambda: second.state() is State.AWAITING, 30, "in line")
    worker.signal(TERM)
    worker.exit_code(timeout=30)
    start_worker(terminal, vhost)
    begun(terminal, "first", 2)
    assert runs(terminal, "second") == 0
    for name, receipt in (("first", first), ("second", second)):
        terminal.release(name)
        assert receipt.result(timeout=120) == name


def test_a_job_that_was_deleted_while_it_ran_stays_deleted(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    worker = start_worker(terminal, vhost)
    receipt = jobs.remote("hold").enqueue("gone")
    begun(terminal, "gone", 1)
    eventually(lambda: receipt.state() is State.PROCESSING, 30, "known to run")
    receipt.delete()
    worker.signal(TERM)
    worker.exit_code(timeout=30)
    start_worker(terminal, vhost)
    eventually(lambda: receipt.state() is State.DELETED, 30, "deleted")
    after = jobs.remote("hold").enqueue("after")
    terminal.release("after")
    assert after.result(timeout=120) == "after"
    assert runs(terminal, "gone") == 1


@pytest.mark.parametrize("where", ["memory", "rabbitmq"])
@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_a_program_that_stops_and_starts_again_runs_what_it_cut_off(
    where: str, kind: str, vhost: Vhost, tmp_path: Path
) -> None:
    url = vhost.url if where == "rabbitmq" else "memory://"
    jobs = BrokerJobs(url, store=f"sqlite:///{tmp_path / 'store.db'}")
    attempts: list[int] = []
    begun, over = threading.Event(), threading.Event()

    @jobs.job(retries=0)
    def in_a_thread() -> str:
        attempts.append(current_job().attempt)
        begun.set()
        if len(attempts) == 1:
            over.wait(60)
        return "done"

    @jobs.job(retries=0)
    async def in_a_coroutine() -> str:
        attempts.append(current_job().attempt)
        begun.set()
        if len(attempts) == 1:
            await asyncio.sleep(60)
        return "done"

    job = in_a_thread if kind == "thread" else in_a_coroutine
    jobs.start()
    try:
        receipt = job.enqueue()
        assert begun.wait(30)
        jobs.stop(0.1)
        jobs.start()
        assert job.receipt(receipt.id).result(timeout=120) == "done"
        assert attempts == [1, 1]
        assert b'outcome="raised"' not in jobs.metrics()[0]
    finally:
        over.set()
        jobs.stop(1)


@pytest.mark.parametrize("where", ["memory", "rabbitmq"])
@pytest.mark.parametrize("how", ["thread", "handler"])
def test_a_second_stop_takes_nothing_away_from_the_first(where: str, how: str, vhost: Vhost, tmp_path: Path) -> None:
    url = vhost.url if where == "rabbitmq" else "memory://"
    jobs = BrokerJobs(url, store=f"sqlite:///{tmp_path / 'store.db'}")
    begun, over = threading.Event(), threading.Event()

    @jobs.job(retries=0)
    def hold() -> str:
        begun.set()
        over.wait(60)
        return "done"

    def stop_again(*_: object) -> None:
        threading.Timer(1, over.set).start()
        jobs.stop(30)

    before = signal.signal(signal.SIGALRM, stop_again)
    jobs.start()
    try:
        receipt = hold.enqueue()
        assert begun.wait(30)
        if how == "handler":
            signal.setitimer(signal.ITIMER_REAL, 0.5)
        else:
            threading.Timer(0.5, stop_again).start()
        jobs.stop(30)
        assert over.is_set()
        jobs.start()
        assert hold.receipt(receipt.id).result(timeout=120) == "done"
    finally:
        over.set()
        signal.signal(signal.SIGALRM, before)
        jobs.stop(1)

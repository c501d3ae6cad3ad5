"""broker-jobs run --reload and worker --reload: a change of a file starts the program again, with its errors shown."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from broker_jobs import BrokerJobs, State
from tests.acceptance.conftest import APP, INT, TERM, Running, Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq, pytest.mark.slow]
NEW = APP.replace('return f"hello {name}"', 'return f"goodbye {name}"')


@pytest.fixture
def jobs(vhost: Vhost) -> Iterator[BrokerJobs]:
    producer = BrokerJobs(vhost.url)
    yield producer
    producer.stop()


@pytest.fixture(params=["run", "worker"])
def reloading(request: pytest.FixtureRequest, terminal: Terminal, vhost: Vhost) -> Iterator[Running]:
    options = ["--store", terminal.store]
    if request.param == "worker":
        terminal.start("coordinator", "--url", vhost.url, *options)
        options = []
    running = terminal.start(request.param, "app:jobs", "--reload", "--url", vhost.url, *options)
    running.said("serves the queues default", 60)
    yield running
    if running.process.poll() is None:
        running.signal(TERM)
        running.exit_code(60)


def program(running: Running) -> psutil.Process:
    """The process that the watcher has started."""
    (child,) = psutil.Process(running.process.pid).children()
    return child


def write(terminal: Terminal, text: str) -> None:
    (terminal.folder / "app.py").write_text(text)


def test_new_code_runs_after_a_change_and_broken_code_is_shown_and_waited_for(
    reloading: Running, terminal: Terminal, jobs: BrokerJobs
) -> None:
    hello = jobs.remote("hello")
    assert "for development, never for production" in reloading.log
    assert hello.enqueue("one").result(timeout=120) == "hello one"
    write(terminal, NEW)
    reloading.said("app.py changed: starting again")
    assert eventually(lambda: hello.enqueue("two").result(timeout=120) == "goodbye two")
    write(terminal, "this is no Python\n")
    reloading.said("it ended with exit code", 120)
    assert "SyntaxError" in reloading.log
    assert reloading.process.poll() is None
    receipt = hello.enqueue("three")
    write(terminal, APP)
    assert receipt.result(timeout=240) == "hello three"
    reloading.signal(TERM)
    assert reloading.exit_code(60) == 0


def test_a_job_that_runs_at_the_change_is_cut_off_and_runs_again(
    reloading: Running, terminal: Terminal, jobs: BrokerJobs
) -> None:
    receipt = jobs.remote("hold").using(retries=0).enqueue("a")
    terminal.marked("started a")
    write(terminal, NEW)
    eventually(lambda: sum(mark.startswith("started a") for mark in terminal.marks()) == 2, 60)
    Path(terminal.folder / "release-a").touch()
    assert receipt.result(timeout=120) == "a"
    assert receipt.state() is State.SUCCEEDED
    reloading.signal(INT)
    assert reloading.exit_code(60) == 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9")
def test_the_program_stops_when_its_watcher_is_killed(reloading: Running) -> None:
    child = program(reloading)
    os.kill(reloading.process.pid, signal.SIGKILL)
    try:
        child.wait(180)
    finally:
        if child.is_running():
            child.kill()

"""`broker-jobs run` on RabbitMQ: a job stops neither coordinator, beat nor dashboard, and what ends is replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs, State
from broker_jobs.store import Store
from tests.acceptance.conftest import INT, TERM, Running, Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq, pytest.mark.slow]

CORE = "coordinator+beat"

APP = """\
import ctypes
import os
import time
from pathlib import Path

from broker_jobs import BrokerJobs

jobs = BrokerJobs(service="all")


def mark(text):
    with Path("marks.txt").open("a") as file:
        file.write(f"{text} {os.getpid()}\\n")


mark("imported")


@jobs.job(retries=0)
def hog(name: str) -> str:
    mark(f"started {name}")
    # Opening a pipe waits for its other end; a PyDLL does not let go of the GIL meanwhile.
    ctypes.PyDLL(None).open(f"pipe-{name}".encode(), os.O_RDONLY)
    return name


@jobs.job(retries=0)
def small(name: str) -> str:
    mark(f"started {name}")
    return name


@jobs.job(retries=0)
def hold(name: str) -> str:
    mark(f"started {name}")
    while not Path(f"release-{name}").exists():
        time.sleep(0.02)
    mark(f"ended {name}")
    return name


@jobs.job(retries=0)
def end_once(how: str) -> str:
    first = not Path("marks.txt").read_text().count("started end_once")
    mark("started end_once")
    if first and how == "os._exit":
        os._exit(0)
    if first and how == "segfault":
        ctypes.string_at(0)
    return how


@jobs.job(retries=0, queue="others")
def other(name: str) -> str:
    mark(f"started {name}")
    return name


jobs.recurring("each second", "*/1 * * * * *", other.bind("planned"))
jobs.subscribe("asked")(small)
"""


class Stage:
    """A folder with a program, and what `broker-jobs run` makes of it."""

    def __init__(self, terminal: Terminal, vhost: Vhost) -> None:
        self.terminal = terminal
        self.folder = terminal.folder
        self.vhost = vhost
        (self.folder / "all.py").write_text(APP)
        self.jobs = BrokerJobs(vhost.url)
        self.store = Store(terminal.store)

    def start(self, *options: str, url: str = "", store: str = "", **environment: str) -> Running:
        return self.terminal.start(
            "run", "all:jobs", "--queues", "default",
            "--url", url or self.vhost.url, "--store", store or self.terminal.store, "--metrics-port",
            "0", "--set", "worker_heartbeat=0.5", *options, **environment,
        )  # fmt: skip

    def run(self, *options: str, **environment: str) -> Running:
        """As start; returns when all of it is healthy."""
        running = self.start(*options, **environment)
        eventually(lambda: running.healthz()[0] == 200, 90, "healthy")
        return running

    def state(self, id: str) -> State:
        self.store.open()
        row = self.store.reader.jobs.get(id)
        assert row is not None
        return row.state

    def starts(self, name: str) -> int:
        return sum(mark.startswith(f"started {name} ") for mark in self.terminal.marks())

    def close(self) -> None:
        self.jobs.stop()
        self.store.close()


@pytest.fixture
def stage(terminal: Terminal, vhost: Vhost) -> Iterator[Stage]:
    stage = Stage(terminal, vhost)
    yield stage
    stage.close()


def pids(running: Running) -> dict[str, list[int]]:
    """The processes of each role."""
    health = running.healthz()[1]
    return {
        role: [process["pid"] for process in part["processes"]]
        for role, part in health.items()
        if isinstance(part, dict)
    }


def pid_of(running: Running, role: str) -> int:
    (pid,) = pids(running)[role]
    return pid


def descendants(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in descendants(int(child)))]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def dashboard(running: Running) -> int:
    """The status that the dashboard answers."""
    running.said("dashboard on http")
    address = running.log.rsplit("dashboard on ", 1)[1].split()[0]
    with urllib.request.urlopen(address, timeout=30) as answer:
        return int(answer.status)


# ---- what jobs do


def test_a_job_that_keeps_the_gil_stops_neither_coordinator_beat_nor_dashboard(stage: Stage) -> None:
    os.mkfifo(stage.folder / "pipe-busy")
    running = stage.run("--dashboard-port", "0")
    elsewhere = stage.terminal.start("worker", "all:jobs", "--url", stage.vhost.url, "-Q", "others")
    elsewhere.said("serves the queues others")
    receipt = stage.jobs.remote("hog").enqueue("busy")
    busy = int(stage.terminal.marked("started busy").rsplit(" ", 1)[1])

    def process() -> dict[str, Any]:
        (found,) = running.healthz()[1]["worker"]["processes"]
        assert found["pid"] == busy
        return found  # type: ignore[no-any-return]

    eventually(lambda: process().get("runs"), 90, "the supervisor shows that it does not answer, and why")
    planned = stage.starts("planned")
    late = [
        stage.jobs.remote("other", queue="others").schedule(timedelta(seconds=0.5), f"late-{number}")
        for number in range(5)
    ]
    assert [each.result(timeout=60) for each in late] == [f"late-{number}" for number in range(5)]
    eventually(lambda: stage.starts("planned") >= planned + 3, 60, "the beat fires")
    assert dashboard(running) == 200
    status, health = running.healthz()
    assert status == 200, "busy is not dead"
    assert health[CORE]["processes"][0]["coordinator"]["active"]
    assert process()["runs"][0]["id"] == receipt.id, "it was busy all the time"

    with (stage.folder / "pipe-busy").open("w"):
        assert receipt.result(timeout=60) == "busy"
    assert stage.starts("busy") == 1


@pytest.mark.parametrize("how", ["os._exit", "segfault"])
def test_a_job_that_ends_its_process_ends_no_other_role(stage: Stage, how: str) -> None:
    running = stage.run("--dashboard-port", "0")
    before = pids(running)
    assert stage.jobs.remote("end_once").enqueue(how).result(timeout=120) == how
    assert stage.starts("end_once") == 2
    eventually(lambda: running.healthz()[0] == 200, 60, "healthy again")
    after = pids(running)
    assert after.pop("worker") != before.pop("worker")
    assert after == before
    ended = "exited with code 0" if how == "os._exit" else "was killed by signal 11"
    assert f"worker process {ended}; starting it again" in running.log
    assert running.metrics()['broker_jobs_process_restarts_total{role="worker"}'] == 1
    assert running.metrics()[f'broker_jobs_process_restarts_total{{role="{CORE}"}}'] == 0


def test_no_code_of_the_program_runs_beside_the_coordinator(stage: Stage) -> None:
    running = stage.run("-Q", "default,others", "-p", "2", "--dashboard-port", "0")
    stage.terminal.marked("started planned")  # declared all the same
    stage.jobs.publish("asked", "by an event")
    stage.terminal.marked("started by an event")
    imported = [int(mark.split()[1]) for mark in stage.terminal.marks() if mark.startswith("imported")]
    found = pids(running)
    assert set(imported) == {running.process.pid, *found["worker"]}
    assert len(found["worker"]) == 2

    receipts = [stage.jobs.remote("small").enqueue(f"one-{number}") for number in range(20)]
    assert [receipt.result(timeout=60) for receipt in receipts] == [f"one-{number}" for number in range(20)]
    series = 'broker_jobs_jobs_total{job_name="small",outcome="succeeded",queue="default"}'
    eventually(lambda: running.metrics().get(series) == 21, 30, "added up over both workers")
    seen = running.metrics()
    assert seen["broker_jobs_coordinator_active"] == 1
    for role, count in {"worker": 2, CORE: 1, "dashboard": 1}.items():
        assert seen[f'broker_jobs_processes{{role="{role}"}}'] == count
        assert seen[f'broker_jobs_process_memory_bytes{{role="{role}"}}'] > 10e6
        assert seen[f'broker_jobs_process_cpu_seconds_total{{role="{role}"}}'] > 0.1
        assert f"role={role}\n" in running.log
    assert seen[f'broker_jobs_connection_up{{role="{CORE}"}}'] == 1


def test_a_worker_process_is_recycled(stage: Stage) -> None:
    running = stage.run("--max-jobs", "3")
    core = pid_of(running, CORE)
    receipts = [stage.jobs.remote("small").enqueue(f"one-{number}") for number in range(10)]
    assert [receipt.result(timeout=120) for receipt in receipts] == [f"one-{number}" for number in range(10)]
    eventually(lambda: running.metrics()['broker_jobs_process_recycled_total{role="worker"}'] >= 3, 30, "counted")
    assert pid_of(running, CORE) == core


# ---- what ends


def test_each_role_is_killed_in_turn_under_load_and_nothing_is_lost(stage: Stage) -> None:
    running = stage.run("-Q", "default,others", "-p", "2", "--dashboard-port", "0")
    ids: list[str] = []

    def enqueue() -> None:
        name = f"load-{len(ids)}"
        ids.append(stage.jobs.remote("small").enqueue(name).id)
        ids.append(stage.jobs.remote("small").schedule(timedelta(seconds=0.3), f"{name}-later").id)

    for role in ("worker", CORE, "dashboard", CORE, "worker"):
        for _ in range(10):
            enqueue()
        victim = pids(running)[role][0]
        os.kill(victim, signal.SIGKILL)

        def replaced(role: str = role, victim: int = victim) -> bool:
            enqueue()
            status, health = running.healthz()
            return status == 200 and victim not in [process["pid"] for process in health[role]["processes"]]

        eventually(replaced, 120, f"a new {role} that is healthy", poll=0.1)
    planned = stage.starts("planned")
    eventually(lambda: stage.starts("planned") > planned, 60, "the beat fires")
    assert dashboard(running) == 200
    for id in ids:
        eventually(lambda id=id: stage.state(id) is State.SUCCEEDED, 120, f"job {id} has succeeded")  # type: ignore[misc]
    for role in ("worker", CORE):
        assert running.metrics()[f'broker_jobs_process_restarts_total{{role="{role}"}}'] == 2
    assert f"{CORE} process was killed by signal 9; starting it again" in running.log
    running.signal(TERM)
    assert running.exit_code() == 0


def test_the_processes_of_a_killed_supervisor_end(stage: Stage) -> None:
    running = stage.run("--dashboard-port", "0")
    receipt = stage.jobs.remote("hold").enqueue("orphan")
    stage.terminal.marked("started orphan")
    family = descendants(running.process.pid)
    found = pids(running)
    assert {pid for role in found.values() for pid in role} <= set(family)
    running.signal(signal.SIGKILL)
    for role in (CORE, "dashboard"):
        eventually(lambda role=role: not alive(found[role][0]), 60, f"the {role} has ended")  # type: ignore[misc]
    stage.terminal.release("orphan")
    eventually(lambda: not any(alive(pid) for pid in family), 60, "all have ended")
    stage.run()
    assert receipt.result(timeout=60) == "orphan"
    assert stage.starts("orphan") == 1


@pytest.mark.parametrize("number", [INT, TERM], ids=["Ctrl-C", "SIGTERM to all"])
def test_the_coordinator_stops_after_the_workers_and_has_recorded_their_jobs(stage: Stage, number: int) -> None:
    running = stage.run("--dashboard-port", "0")
    receipt = stage.jobs.remote("hold").enqueue("long")
    stage.terminal.marked("started long")
    os.killpg(running.process.pid, number)  # as a terminal does, and a service manager
    running.said("running jobs get 30 s to finish")
    later = [stage.jobs.remote("small").enqueue(f"later-{number}").id for number in range(3)]
    for id in later:
        eventually(lambda id=id: stage.state(id) is State.ENQUEUED, 60, "the coordinator still works")  # type: ignore[misc]
    assert dashboard(running) == 200
    stage.terminal.release("long")
    assert running.exit_code() == 0
    assert stage.state(receipt.id) is State.SUCCEEDED
    assert running.log.index("stopped role=worker") < running.log.index(f"stopped role={CORE}")
    assert "starting it again" not in running.log


def test_the_second_signal_ends_all_at_once(stage: Stage) -> None:
    os.mkfifo(stage.folder / "pipe-for ever")
    running = stage.run("--dashboard-port", "0", "--shutdown-timeout", "600")
    stage.jobs.remote("hog").enqueue("for ever")
    stage.terminal.marked("started for ever")
    family = descendants(running.process.pid)
    running.signal(INT)
    running.said("running jobs get 600 s")
    running.signal(INT)
    assert running.exit_code() == 128 + INT
    eventually(lambda: not any(alive(pid) for pid in family), 60, "all have ended")


# ---- what is wrong


def test_a_role_that_is_not_healthy_is_named_with_the_reason(stage: Stage) -> None:
    blind = stage.vhost.add_user("blind", "p", ".*", ".*", r"^(?!jobs\.v1\.log).*")
    running = stage.start(url=blind)
    eventually(lambda: "403" in str(running.healthz()[1].get("reasons")), 90, "it says why")
    eventually(lambda: running.healthz()[1]["worker"]["ok"], 60, "the worker is healthy")
    status, health = running.healthz()
    assert status == 503
    assert not health[CORE]["ok"]
    (reason,) = health["reasons"]
    assert reason.startswith(f"{CORE} process {pid_of(running, CORE)}: coordinator: ")
    assert "jobs.v1.log" in reason


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _wrong(stage: Stage) -> dict[str, tuple[Callable[[int], Running], str]]:
    elsewhere = stage.vhost.url.rsplit("/", 1)[0] + "/no-such-vhost"
    password = stage.vhost.url.replace(":guest@", ":wrong@")
    return {
        "port of the metrics": (lambda port: stage.start("--metrics-port", str(port)), "choose another --metrics-port"),
        "port of the dashboard": (lambda port: stage.start("--dashboard-port", str(port)), "choose another port"),
        "store": (lambda _: stage.start(store=f"sqlite:///{stage.folder}/all.py/store.db"), "all.py"),
        "virtual host": (lambda _: stage.start(url=elsewhere), "no-such-vhost"),
        "password": (lambda _: stage.start(url=password), "refused the user name or password"),
    }


@pytest.mark.parametrize("what", ["port of the metrics", "port of the dashboard", "store", "virtual host", "password"])
def test_what_a_restart_does_not_fix_ends_all_with_the_reason(stage: Stage, what: str) -> None:
    start, reason = _wrong(stage)[what]
    with taken_port() as port:
        running = start(port)
        assert running.exit_code(timeout=60) == 2
    last = [line for line in running.log.splitlines() if line.startswith("error: ")]
    assert len(last) == 1, running.log
    assert reason in last[0]


def test_workers_that_die_before_one_was_ready_end_all_with_the_reason(stage: Stage) -> None:
    (stage.folder / "all.py").write_text(
        "import multiprocessing, os\n"
        "if multiprocessing.parent_process() is not None:\n"
        "    os._exit(3)\n"
        "from broker_jobs import BrokerJobs\n"
        "jobs = BrokerJobs()\n"
    )
    running = stage.start("-p", "2")
    assert running.exit_code(timeout=120) == 70
    assert "5 worker processes ended before one was ready; the last exited with code 3" in running.log


# ---- other ways


def test_a_store_in_memory_is_shown_by_a_dashboard_in_its_process(stage: Stage) -> None:
    running = stage.start("--dashboard-port", "0", store="sqlite://")
    eventually(lambda: running.healthz()[0] == 200, 90, "healthy")
    assert sorted(pids(running)) == [CORE, "worker"]
    assert dashboard(running) == 200
    assert stage.jobs.remote("small").enqueue("kept nowhere").result(timeout=60) == "kept nowhere"


def test_one_process_is_all_there_is_in_memory(stage: Stage) -> None:
    done = stage.terminal.call("run", "all:jobs", "--url", "memory://", "-p", "2", "--max-jobs", "9")
    assert done.returncode == 2
    assert "error: memory:// lives inside one process: leave out --processes and --max-jobs, or" in done.stderr


WINDOWS = "import broker_jobs.processes.supervisor as s; s.CAN_BE_REPLACED = False"
MACOS = "import os; del os.memfd_create"


@pytest.mark.parametrize("before", [WINDOWS, MACOS])
def test_it_starts_in_the_ways_of_other_systems(stage: Stage, before: str) -> None:
    running = stage.terminal.start_python(
        f"{before}; from broker_jobs.cli import main; main()",
        *("run", "all:jobs", "--url", stage.vhost.url, "--store", stage.terminal.store),
    )
    assert stage.jobs.remote("small").schedule(timedelta(seconds=0.1), "elsewhere").result(timeout=120) == "elsewhere"
    running.signal(TERM)
    assert running.exit_code() == 0

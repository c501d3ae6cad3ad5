"""A supervisor speaks for a worker process that is busy, replaces and recycles processes, and says what is wrong."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_jobs import BrokerJobs, Concurrency, State
from broker_jobs.store.records import WorkerRow
from tests.acceptance.conftest import TERM, Running, Terminal
from tests.support.rabbitmq import Vhost
from tests.support.system import System
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq, pytest.mark.slow]

APP = """\
import asyncio
import ctypes
import os
import time
from pathlib import Path

from broker_jobs import BrokerJobs, Concurrency

jobs = BrokerJobs()
held = []


def mark(text):
    with Path("marks.txt").open("a") as file:
        file.write(f"{text} {os.getpid()}\\n")


def keep_the_gil(name):
    # Opening a pipe waits for its other end; a PyDLL does not let go of the GIL meanwhile.
    ctypes.PyDLL(None).open(f"pipe-{name}".encode(), os.O_RDONLY)


@jobs.job(retries=0)
def hog(name: str) -> str:
    mark(f"started {name}")
    keep_the_gil(name)
    return name


@jobs.job(retries=0)
async def hog_async(name: str) -> str:
    mark(f"started {name}")
    keep_the_gil(name)
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
async def hold_async(name: str) -> str:
    mark(f"started {name}")
    while not Path(f"release-{name}").exists():
        await asyncio.sleep(0.02)
    mark(f"ended {name}")
    return name


@jobs.job(retries=0, limit=Concurrency("one", 1))
async def hold_alone(name: str) -> str:
    mark(f"started {name}")
    while not Path(f"release-{name}").exists():
        await asyncio.sleep(0.02)
    return name


@jobs.job(retries=0)
def grow(mib: int) -> int:
    mark("started grow")
    held.append(bytearray(os.urandom(1024)) * (mib * 1024))
    return mib
"""


class Stage:
    """A coordinator in this process, and workers as a user starts them."""

    def __init__(self, terminal: Terminal, vhost: Vhost, folder: Path) -> None:
        self.terminal = terminal
        self.folder = terminal.folder
        self.vhost = vhost
        (self.folder / "supervised.py").write_text(APP)
        self.system = System(vhost, folder)
        self.system.here("coordinator")
        self.jobs = BrokerJobs(vhost.url)

    def worker(self, *options: str, **environment: str) -> Running:
        """Start `broker-jobs worker`; returns when all its processes serve the queues."""
        running = self.start(*options, **environment)
        count = int(options[options.index("-p") + 1]) if "-p" in options else 1
        eventually(lambda: running.log.count("serves the queues default") == count, 90, "workers")
        eventually(lambda: running.healthz()[0] == 200, 30, "healthy")
        return running

    def start(self, *options: str, url: str = "", **environment: str) -> Running:
        return self.terminal.start(
            "worker", "supervised:jobs", "--url", url or self.vhost.url, "--metrics-port", "0",
            "--set", "worker_heartbeat=0.5", *options, **environment,
        )  # fmt: skip

    def pid_of(self, name: str) -> int:
        """The process that runs a job."""
        return int(self.terminal.marked(f"started {name}").rsplit(" ", 1)[1])

    def starts(self, name: str) -> int:
        return sum(mark.startswith(f"started {name} ") for mark in self.terminal.marks())

    def row(self, pid: int) -> WorkerRow:
        (row,) = [row for row in self.system.store.reader.processes.workers() if row.pid == pid]
        return row

    def rows(self) -> list[WorkerRow]:
        return self.system.store.reader.processes.workers()

    def close(self) -> None:
        self.jobs.stop()
        self.system.close()


@pytest.fixture
def stage(terminal: Terminal, vhost: Vhost, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(terminal, vhost, tmp_path)
    yield stage
    stage.close()


@pytest.mark.parametrize(("job", "processes"), [("hog", "1"), ("hog", "2"), ("hog_async", "2")])
def test_a_job_that_keeps_the_gil_beyond_the_lease_is_busy_and_runs_once(
    stage: Stage, job: str, processes: str
) -> None:
    os.mkfifo(stage.folder / "pipe-busy")
    weights = ("-Q", "default:2,other:1") if processes == "1" else ()
    running = stage.worker("-p", processes, "--set", "heartbeat=5", *weights)
    receipt = stage.jobs.remote(job).using(retries=10).enqueue("busy")
    pid = stage.pid_of("busy")
    others = [stage.jobs.remote("small").enqueue(f"small-{number}") for number in range(4)]
    eventually(lambda: stage.row(pid).silent_since is not None, 60, "shown as busy")
    eventually(lambda: stage.system.row(receipt.id).owner == stage.row(pid).id, 30, "known to run")
    status, health = running.healthz()
    (child,) = [child for child in health["processes"] if child["pid"] == pid]
    assert status == 200, "busy is not dead"
    # RabbitMQ cuts the connection of a process that sends no heartbeats, and delivers the job again.
    if processes == "2":
        eventually(lambda: stage.system.row(receipt.id).owned, 90, "another worker has returned the job")
    before = stage.system.store.reader.meta().log_time
    with stage.system.log_time_passes(10):
        eventually(lambda: stage.system.store.reader.meta().log_time > before + 90, 60, "three leases")
    row = stage.system.row(receipt.id)
    assert (row.state, row.owner, row.crashes, row.epoch) == (State.PROCESSING, stage.row(pid).id, 0, 1)
    eventually(lambda: _child(running, pid).get("runs", [{}])[0].get("id") == receipt.id, 30, "says which job")
    assert child["pid"] == pid

    with (stage.folder / "pipe-busy").open("w"):
        assert receipt.result(timeout=120) == "busy"
    assert [other.result(timeout=120) for other in others] == [f"small-{number}" for number in range(4)]
    assert stage.starts("busy") == 1
    assert [stage.starts(f"small-{number}") for number in range(4)] == [1] * 4
    eventually(lambda: stage.row(pid).silent_since is None, 30, "answers again")
    stage.system.nothing_broken()


def _child(running: Running, pid: int) -> dict[str, Any]:
    (child,) = [child for child in running.healthz()[1]["processes"] if child["pid"] == pid]
    return child  # type: ignore[no-any-return]


def test_the_end_of_a_process_is_said_at_once(stage: Stage) -> None:
    running = stage.worker("-p", "2", "--set", "handover_after=0.3")
    receipt = stage.jobs.remote("hold").using(retries=0, backoff=[0.2]).enqueue("victim")
    pid = stage.pid_of("victim")
    eventually(lambda: stage.system.row(receipt.id).owned, 30, "handed over: RabbitMQ does not bring it back")
    before = stage.system.store.reader.meta().log_time
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: stage.starts("victim") == 2, 60, "run again")
    passed = stage.system.store.reader.meta().log_time - before
    row = stage.system.row(receipt.id)
    assert row.crashes == 1
    assert "was killed by signal 9" in str(row.history)
    assert passed < 25, "no lease of 30 s of log time was waited for"
    running.said("was killed by signal 9; starting it again")
    assert receipt.id in running.log
    (stage.folder / "release-victim").touch()
    assert receipt.result(timeout=120) == "victim"


def test_a_killed_supervisor_leaves_its_worker_to_end_its_job(stage: Stage) -> None:
    running = stage.worker()
    receipt = stage.jobs.remote("hold").enqueue("orphan")
    pid = stage.pid_of("orphan")
    assert pid != running.process.pid
    running.signal(signal.SIGKILL)
    running.process.wait(10)
    (stage.folder / "release-orphan").touch()
    assert receipt.result(timeout=120) == "orphan"
    assert stage.starts("orphan") == 1


def test_a_process_takes_max_jobs_and_is_replaced(stage: Stage) -> None:
    running = stage.worker("--max-jobs", "3", "-c", "2")
    receipts = [stage.jobs.remote("small").enqueue(f"one-{number}") for number in range(10)]
    assert [receipt.result(timeout=120) for receipt in receipts] == [f"one-{number}" for number in range(10)]
    marks = [mark for mark in stage.terminal.marks() if mark.startswith("started one-")]
    pids = [mark.rsplit(" ", 1)[1] for mark in marks]
    assert len(marks) == 10
    assert max(pids.count(pid) for pid in pids) == 3
    assert len(set(pids)) >= 4
    running.said("its max_jobs; another one takes its place")
    eventually(lambda: running.metrics()['broker_jobs_process_recycled_total{role="worker"}'] >= 3, 30, "counted")
    series = 'broker_jobs_jobs_total{job_name="small",outcome="succeeded",queue="default"}'
    eventually(lambda: running.metrics().get(series) == 10, 30, "the counts of those that left stay")
    assert running.metrics()['broker_jobs_process_restarts_total{role="worker"}'] == 0
    running.signal(TERM)
    assert running.exit_code() == 0


@pytest.mark.parametrize("job", ["hold", "hold_async"])
def test_a_process_that_is_recycled_lets_its_jobs_end_while_its_replacement_works(stage: Stage, job: str) -> None:
    running = stage.worker("--max-jobs", "2", "--shutdown-timeout", "0.1")
    long = stage.jobs.remote(job).enqueue("long")
    pid = stage.pid_of("long")
    assert stage.jobs.remote("small").enqueue("second").result(timeout=120) == "second"
    assert stage.jobs.remote("small").enqueue("third").result(timeout=120) == "third"
    assert stage.pid_of("third") != pid
    eventually(lambda: any(child["pid"] == pid for child in running.healthz()[1].get("leaving", [])), 30, "it leaves")
    assert running.healthz()[0] == 200
    (stage.folder / "release-long").touch()
    assert long.result(timeout=120) == "long"
    assert stage.starts("long") == 1
    eventually(lambda: not _alive(pid), 30, "gone")


def test_a_recycled_process_is_stopped_in_the_time_of_a_shutdown(stage: Stage) -> None:
    running = stage.worker("--max-jobs", "1", "--shutdown-timeout", "0.5")
    receipt = stage.jobs.remote("hold").enqueue("for ever")
    pid = stage.pid_of("for ever")
    running.said("another one takes its place")
    running.signal(TERM)
    assert running.exit_code() in {0, 1}
    eventually(lambda: not _alive(pid), 10, "gone")
    assert stage.system.row(receipt.id).interruptions == 1


def test_a_process_over_max_memory_is_replaced_after_its_job(stage: Stage) -> None:
    running = stage.worker("--max-memory", "150")
    first = stage.jobs.remote("small").enqueue("before")
    assert first.result(timeout=120) == "before"
    pid = stage.pid_of("before")
    assert running.metrics()['broker_jobs_process_memory_bytes{role="worker"}'] > 20 * 1024 * 1024
    assert stage.jobs.remote("grow").enqueue(200).result(timeout=120) == 200
    running.said("more than its max_memory of 150; another one takes its place")
    eventually(lambda: not _alive(pid), 30, "gone")
    eventually(lambda: running.log.count("serves the queues default") == 2, 60, "replaced")
    assert stage.jobs.remote("small").enqueue("after").result(timeout=120) == "after"
    assert stage.pid_of("after") != pid
    assert running.metrics()['broker_jobs_process_cpu_seconds_total{role="worker"}'] > 0.2, "that of both"


def test_processes_that_die_before_any_was_ready_end_the_supervisor_with_the_reason(stage: Stage) -> None:
    (stage.folder / "dying.py").write_text(
        "import multiprocessing, os\n"
        "if multiprocessing.parent_process() is not None:\n"
        "    os._exit(3)\n"
        "from broker_jobs import BrokerJobs\n"
        "jobs = BrokerJobs()\n"
    )
    running = stage.terminal.start("worker", "dying:jobs", "--url", stage.vhost.url, "-p", "2")
    assert running.exit_code(timeout=120) == 70
    assert "5 worker processes ended before one was ready; the last exited with code 3" in running.log


WINDOWS = "import broker_jobs.processes.supervisor as s; s.CAN_BE_REPLACED = False"
MACOS = "import os; del os.memfd_create"


@pytest.mark.parametrize("before", [WINDOWS, MACOS])
def test_a_supervisor_starts_in_the_ways_of_other_systems(stage: Stage, before: str) -> None:
    running = stage.terminal.start_python(
        f"{before}; from broker_jobs.cli import main; main()", "worker", "supervised:jobs", "--url", stage.vhost.url
    )
    receipt = stage.jobs.remote("small").enqueue("elsewhere")
    assert receipt.result(timeout=120) == "elsewhere"
    assert stage.pid_of("elsewhere") != running.process.pid
    running.signal(TERM)
    assert running.exit_code() == 0


# ---- health


def test_a_worker_that_may_not_read_its_queue_is_unhealthy_and_says_why(stage: Stage) -> None:
    vhost = stage.vhost
    limited = vhost.add_user("limited", "p", ".*", ".*", r"^(?!jobs\.v1\.work\.).*")
    running = stage.start(url=limited, BROKER_JOBS_DECLARE="false")
    eventually(lambda: "reasons" in running.healthz()[1] and "403" in str(running.healthz()[1]["reasons"]), 60)
    status, health = running.healthz()
    assert status == 503
    assert "jobs.v1.work.default" in str(health["reasons"])
    assert "permission" in str(health["reasons"])
    eventually(lambda: any("403" in row.problem for row in stage.rows()), 30, "the coordinator knows it too")
    assert "403" in stage.terminal.call("doctor", "--url", vhost.url, "--store", stage.system.store_url).stdout
    (first,) = stage.rows()
    eventually(lambda: stage.rows()[0].seen_at > first.seen_at + 3, 30, "it has tried again several times")
    assert running.log.count("cannot consume") == 1, "once for each cause"

    allowed = {"configure": ".*", "write": ".*", "read": ".*"}
    vhost.broker.http("PUT", f"/permissions/{vhost.name}/limited-{vhost.name}", allowed)
    receipt = stage.jobs.remote("small").enqueue("allowed")
    assert receipt.result(timeout=120) == "allowed"
    eventually(lambda: running.healthz()[0] == 200, 30, "healthy again")
    eventually(lambda: not any(row.problem for row in stage.rows()), 30, "and the coordinator knows it")


def test_a_coordinator_that_may_not_read_the_log_is_unhealthy_and_says_why(stage: Stage) -> None:
    limited = stage.vhost.add_user("blind", "p", ".*", ".*", r"^(?!jobs\.v1\.log).*")
    store = stage.system.store_url
    running = stage.terminal.start(
        "coordinator", "--url", limited, "--store", store, "--metrics-port", "0", "--no-declare"
    )
    eventually(lambda: "403" in str(running.healthz()[1].get("reasons")), 60, "it says why")
    assert running.healthz()[0] == 503
    assert "jobs.v1.log" in str(running.healthz()[1]["reasons"])


def test_a_worker_whose_queue_is_missing_is_unhealthy_until_it_is_declared(stage: Stage) -> None:
    running = stage.start("-Q", "default,later", "--no-declare")
    eventually(lambda: "'later'" in str(running.healthz()[1].get("reasons")), 60, "it says which queue")
    status, health = running.healthz()
    assert status == 503
    assert "does not exist" in str(health["reasons"])
    stage.terminal.output("topology", "apply", "--url", stage.vhost.url, "-Q", "later")
    eventually(lambda: running.healthz()[0] == 200, 30, "healthy")


# ---- outages


def test_an_outage_of_the_broker_ends_no_job_that_nobody_could_have_taken_over(stage: Stage) -> None:
    running = stage.worker("--set", "handover_after=0.2")
    free = [stage.jobs.remote(job).enqueue(job) for job in ("hold", "hold_async")]
    narrow = stage.jobs.remote("hold_alone").using(limit=Concurrency("one", 1)).enqueue("alone")
    for receipt in [*free, narrow]:
        eventually(lambda receipt=receipt: stage.system.row(receipt.id).owned, 30, "handed over")  # type: ignore[misc]
    stage.vhost.broker.stop()
    try:
        # A worker gives up what others may run under the same limit, in time for its lease.
        running.said("hold_alone", timeout=90)
        running.said("it is asked to stop")
    finally:
        stage.vhost.broker.start()
    for name in ("hold", "hold_async", "alone"):
        (stage.folder / f"release-{name}").touch()
    assert [receipt.result(timeout=120) for receipt in free] == ["hold", "hold_async"]
    assert narrow.result(timeout=120) == "alone"
    assert [stage.starts(name) for name in ("hold", "hold_async")] == [1, 1]
    assert running.log.count("it is asked to stop") == 1
    assert [stage.system.row(receipt.id).crashes for receipt in free] == [0, 0]
    stage.system.nothing_broken()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

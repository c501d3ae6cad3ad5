"""The processes apart from each other, as a service manager runs them: signals, restarts, doors."""

import json
import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from broker_jobs import BrokerJobs, State
from broker_jobs.messages.priority import Priority
from tests.acceptance.conftest import INT, TERM, Running, Terminal
from tests.conftest import PrometheusFactory
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq, pytest.mark.slow]


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


def worker(terminal: Terminal, vhost: Vhost, *options: str) -> Running:
    """A worker that takes jobs."""
    running = terminal.start("worker", "app:jobs", "--url", vhost.url, "--metrics-port", "0", *options)
    running.said("serves the queues default")
    return running


def test_separate_processes_run_a_job_of_another_program(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    running = worker(terminal, vhost)
    beat = terminal.start("beat", "app:jobs", "--url", vhost.url, "--metrics-port", "0")
    receipt = jobs.remote("hello").enqueue("there")
    assert receipt.result(timeout=120) == "hello there"
    terminal.marked("hello every second")
    for each in (coordinator, running, beat):
        eventually(lambda each=each: each.healthz()[0] == 200, 20, "healthy")  # type: ignore[misc]
    assert running.metrics()['broker_jobs_jobs_total{job_name="hello",outcome="succeeded",queue="default"}'] >= 1
    assert coordinator.metrics()["broker_jobs_coordinator_active"] == 1
    eventually(lambda: beat.metrics()["broker_jobs_beat_lateness_seconds_count"] > 0, 20, "fires counted")
    for each in (beat, running, coordinator):
        each.signal(TERM)
    assert [each.exit_code() for each in (beat, running, coordinator)] == [0, 0, 0]


def test_the_first_signal_lets_running_jobs_end_and_takes_no_more(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    running = worker(terminal, vhost, "-c", "1")
    held = jobs.remote("hold").enqueue("first")
    waiting = jobs.remote("hello").enqueue("later")
    terminal.marked("started first")
    running.signal(TERM)
    running.said("taking no more jobs")
    terminal.release("first")
    assert running.exit_code() == 0
    assert held.result(timeout=120) == "first"
    assert "hello later" not in terminal.marks()
    # What had not started was returned, and runs where there is room.
    worker(terminal, vhost)
    assert waiting.result(timeout=120) == "hello later"
    assert coordinator.process.poll() is None


@pytest.mark.parametrize("number", [INT, TERM])
def test_the_second_signal_leaves_at_once_with_its_code(
    terminal: Terminal, vhost: Vhost, jobs: BrokerJobs, number: signal.Signals
) -> None:
    running = worker(terminal, vhost)
    jobs.remote("hold").enqueue("for ever")
    terminal.marked("started for ever")
    running.signal(number)
    running.said("taking no more jobs")
    running.signal(number)
    assert running.exit_code(timeout=10) == 128 + number


def test_a_job_that_outlasts_the_shutdown_is_cut_off_and_said(
    terminal: Terminal, vhost: Vhost, jobs: BrokerJobs
) -> None:
    running = worker(terminal, vhost, "--shutdown-timeout", "0.2")
    jobs.remote("hold_in_c").enqueue("for ever")
    terminal.marked("started for ever")
    running.signal(TERM)
    assert running.exit_code(timeout=20) == 1
    assert "jobs still ran" in running.log


def test_a_killed_worker_process_is_started_again_and_its_counts_stay(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    running = terminal.start("worker", "app:jobs", "--url", vhost.url, "-p", "2", "--metrics-port", "0")
    eventually(lambda: running.log.count("serves the queues default") == 2, 90, "two workers")
    for name in ("a", "b", "c"):
        assert jobs.remote("hello").enqueue(name).result(timeout=120) == f"hello {name}"
    series = 'broker_jobs_jobs_total{job_name="hello",outcome="succeeded",queue="default"}'
    eventually(lambda: running.metrics().get(series) == 3, 20, "three jobs counted over two processes")

    held = jobs.remote("hold").enqueue("victim")
    pid = int(terminal.marked("started victim").rsplit(" ", 1)[1])
    assert pid != running.process.pid
    os.kill(pid, signal.SIGKILL)
    running.said("was killed by signal 9; starting it again")
    eventually(lambda: running.log.count("serves the queues default") == 3, 30, "a third worker")
    eventually(lambda: running.healthz()[0] == 200, 20, "healthy again")
    assert running.metrics()[series] == 3
    assert running.metrics()['broker_jobs_process_restarts_total{role="worker"}'] == 1
    # Its predecessor is named dead by the new one, so the job comes back (retries=0: a crash is a retry of its own).
    eventually(lambda: sum(mark.startswith("started victim") for mark in terminal.marks()) == 2, 60, "run again")
    terminal.release("victim")
    assert held.result(timeout=120) == "victim"
    running.signal(INT)
    assert running.exit_code() == 0


def test_the_second_signal_ends_all_worker_processes(terminal: Terminal, vhost: Vhost, jobs: BrokerJobs) -> None:
    running = terminal.start("worker", "app:jobs", "--url", vhost.url, "-p", "2")
    eventually(lambda: running.log.count("serves the queues default") == 2, 90, "two workers")
    jobs.remote("hold").enqueue("for ever")
    pid = int(terminal.marked("started for ever").rsplit(" ", 1)[1])
    running.signal(TERM)
    running.said("taking no more jobs")
    running.signal(TERM)
    assert running.exit_code(timeout=15) == 128 + TERM
    eventually(lambda: not _alive(pid), 10, "the child is gone")


def test_worker_processes_finish_when_their_parent_is_killed(
    terminal: Terminal, vhost: Vhost, jobs: BrokerJobs
) -> None:
    running = terminal.start("worker", "app:jobs", "--url", vhost.url, "-p", "2")
    eventually(lambda: running.log.count("serves the queues default") == 2, 90, "two workers")
    jobs.remote("hold").enqueue("orphan")
    pid = int(terminal.marked("started orphan").rsplit(" ", 1)[1])
    running.signal(signal.SIGKILL)
    running.process.wait(10)
    eventually(lambda: running.log.count("the parent process is gone") == 2, 20, "both have noticed")
    terminal.release("orphan")
    terminal.marked("ended orphan")
    eventually(lambda: not _alive(pid), 20, "the child is gone")


def test_prometheus_sees_jobs_counted(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs, prometheus: PrometheusFactory
) -> None:
    running = worker(terminal, vhost)
    targets = [door.removeprefix("http://") for door in (running.door(), coordinator.door())]
    server = prometheus([{"job_name": "broker_jobs", "static_configs": [{"targets": targets}]}])
    jobs.remote("hello").enqueue("Prometheus").result(timeout=120)
    eventually(lambda: server.value('sum(broker_jobs_jobs_total{job_name="hello"})') == 1, 20, "one job")
    jobs.remote("hello").enqueue("again").result(timeout=120)
    eventually(lambda: server.value('sum(broker_jobs_jobs_total{job_name="hello"})') == 2, 20, "two jobs")
    eventually(lambda: server.value("broker_jobs_coordinator_active") == 1, 20, "an active coordinator")
    assert all(target["health"] == "up" for target in server.targets()), server.targets()


def test_jobs_are_listed_shown_requeued_rescheduled_and_deleted(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    url, store = ["--url", vhost.url], ["--store", terminal.store]
    running = worker(terminal, vhost)
    receipt = jobs.remote("fail").using(retries=0).enqueue()
    eventually(lambda: receipt.state() is State.FAILED, 20, "failed")

    assert receipt.id in terminal.output("jobs", "list", "--state", "failed", *store)
    assert receipt.id not in terminal.output("jobs", "list", "--state", "succeeded", *store)
    shown = terminal.output("jobs", "show", receipt.id, *store)
    assert "ValueError: on purpose" in shown

    terminal.output("jobs", "requeue", receipt.id, *url)
    eventually(lambda: terminal.output("jobs", "show", receipt.id, *store).count("ValueError") >= 1, 20, "run again")
    eventually(lambda: receipt.state() is State.FAILED, 20, "failed again")

    terminal.output("jobs", "reschedule", receipt.id, "1h", *url)
    assert receipt.state() is State.SCHEDULED
    terminal.output("jobs", "delete", receipt.id, *url)
    assert receipt.state() is State.DELETED

    done = terminal.call("jobs", "show", "no-such-job", *store)
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        ["error: no job no-such-job: not recorded yet, or past its retention"],
    )
    assert running.process.poll() is None
    assert coordinator.process.poll() is None


def test_recurring_jobs_and_queues_are_paused_and_triggered(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    url, store = ["--url", vhost.url], ["--store", terminal.store]
    beat = terminal.start("beat", "app:jobs", *url)
    eventually(lambda: "greet" in terminal.output("recurring", "list", *store), 30, "declared")
    terminal.output("recurring", "pause", "greet", *url)
    assert "paused" in terminal.output("recurring", "list", *store)
    job_id = terminal.output("recurring", "trigger", "greet", *url).strip()
    worker(terminal, vhost)
    assert jobs.receipt(job_id).result(timeout=120) == "hello every second"
    shown = terminal.output("recurring", "show", "greet", *store)
    assert "it does not run until it is resumed" in shown
    assert f"{job_id}\t" in shown
    (run,) = [run for run in json.loads(terminal.output("recurring", "show", "greet", "--json", *store))["runs"]
              if run["id"] == job_id]  # fmt: skip
    assert run["state"] == "succeeded"
    assert 0 <= run["seconds"] < 20
    terminal.output("recurring", "resume", "greet", *url)
    planned = json.loads(terminal.output("recurring", "show", "greet", "--json", *store))["next"]
    assert len(planned) == 5
    assert all(at.endswith("+00:00") for at in planned)
    wrong = terminal.call("recurring", "show", "gret", *store)
    assert "no recurring job is named 'gret'; did you mean 'greet'?" in wrong.stderr
    terminal.output("recurring", "remove", "greet", *url)
    assert "greet" not in terminal.output("recurring", "list", *store)

    terminal.output("queues", "pause", "default", *url)
    assert "paused" in terminal.output("queues", "list", *url, *store)
    receipt = jobs.remote("hello").enqueue("paused")
    terminal.output("queues", "resume", "default", *url)
    assert receipt.result(timeout=120) == "hello paused"
    assert beat.process.poll() is None
    assert coordinator.process.poll() is None


def test_purging_a_queue_deletes_its_jobs_so_that_none_comes_back(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    url, store = ["--url", vhost.url], ["--store", terminal.store]
    receipts = [jobs.remote("hello").enqueue(f"purged {number}") for number in range(3)]
    eventually(lambda: len(terminal.output("jobs", "list", *store).splitlines()) == 4, 20, "three jobs listed")
    assert "3 deleted" in terminal.output("queues", "purge", "default", "--yes", *url, *store)
    worker(terminal, vhost)
    assert jobs.remote("hello").enqueue("kept").result(timeout=120) == "hello kept"
    assert [receipt.state() for receipt in receipts] == [State.DELETED] * 3
    assert terminal.marks() == ["hello kept"]
    assert coordinator.process.poll() is None


def test_the_commands_about_a_queue_see_and_purge_the_jobs_of_all_priorities(
    terminal: Terminal, vhost: Vhost, coordinator: Running, jobs: BrokerJobs
) -> None:
    url, store = ["--url", vhost.url], ["--store", terminal.store]
    assert coordinator.process.poll() is None
    counts: dict[Priority, int] = {"high": 1, "normal": 2, "low": 3}
    receipts = [
        jobs.remote("hello", priority=priority).enqueue(f"{priority} {n}")
        for priority, count in counts.items()
        for n in range(count)
    ]

    def listed() -> dict[str, Any]:
        (queue,) = json.loads(terminal.output("queues", "list", "--json", *url, *store))
        return {name: queue[name] for name in ("queue", "ready", "high", "low", "consumers", "enqueued")}

    all_six = {"queue": "default", "ready": 6, "high": 1, "low": 3, "consumers": 0, "enqueued": 6}
    eventually(lambda: listed() == all_six, 30, "all are counted")
    assert "6 ready jobs (1 high, 3 low) and no worker" in terminal.call("doctor", *url, *store).stdout
    shown = terminal.output("jobs", "show", receipts[0].id, *store)
    assert re.search(r"^priority\s+high$", shown, re.MULTILINE)
    ready = 'broker_jobs_queue_depth{priority="%s",queue="default"}'
    eventually(lambda: [coordinator.metrics()[ready % each] for each in ("high", "normal", "low")] == [1, 2, 3], 30)

    assert "6 deleted" in terminal.output("queues", "purge", "default", "--yes", *url, *store)
    worker(terminal, vhost)
    assert jobs.remote("hello", priority="low").enqueue("kept").result(timeout=120) == "hello kept"
    assert [receipt.state() for receipt in receipts] == [State.DELETED] * 6
    assert terminal.marks() == ["hello kept"]
    with vhost.channel() as channel:
        channel.queue_delete("jobs.v1.work.default:low")
    assert "jobs.v1.work.default:low does not exist" in terminal.call("doctor", *url, *store).stdout


def test_the_doctor_says_what_is_missing_and_then_that_all_is_well(
    terminal: Terminal, vhost: Vhost, jobs: BrokerJobs
) -> None:
    url, store = ["--url", vhost.url], ["--store", terminal.store]
    terminal.output("topology", "apply", "--url", vhost.url)
    jobs.remote("hello").enqueue("nobody")
    ill = terminal.call("doctor", *url, *store)
    assert ill.returncode == 1
    assert "no coordinator reads the log" in ill.stdout
    assert "ready jobs and no worker" in ill.stdout
    assert "no coordinator answered" in ill.stdout

    terminal.start("coordinator", *url, *store)
    worker(terminal, vhost)
    eventually(lambda: terminal.call("doctor", *url, *store).returncode == 0, 30, "well")
    assert "error" not in terminal.output("doctor", *url, *store)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


AT_EXIT = """\
import atexit
import threading
import time
from pathlib import Path

from broker_jobs import BrokerJobs

jobs = BrokerJobs(service="tests")
threading.Thread(target=time.sleep, args=(100,), name="the end of a Python program waits for it").start()


@jobs.job
def hold() -> None:
    Path("held.txt").touch()
    time.sleep(100)


def note():
    with Path("at-exit.txt").open("a") as file:
        file.write("noted\\n")


atexit.register(note)
jobs.recurring("hold", "*/1 * * * * *", hold.bind())
"""


@pytest.mark.parametrize("how", ["end", "interrupt", "second signal"])
def test_what_a_program_registered_with_atexit_runs_once_however_it_ends(terminal: Terminal, how: str) -> None:
    (terminal.folder / "at_exit.py").write_text(AT_EXIT)
    timeout = "600" if how == "second signal" else "0.2"
    queues = ("--queues", "nobody-uses-it") if how == "end" else ()
    running = terminal.start(
        "run", "at_exit:jobs", "--url", "memory://", "--store", terminal.store, "--shutdown-timeout", timeout, *queues
    )
    running.said("serves the queues")
    if how != "end":
        eventually((terminal.folder / "held.txt").exists, 30, "a job runs")
    running.signal(TERM)
    if how == "second signal":
        running.said("taking no more jobs")
        running.signal(TERM)
    running.exit_code(timeout=30)
    assert (terminal.folder / "at-exit.txt").read_text() == "noted\n"

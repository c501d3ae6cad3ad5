"""Batches, limits, subscriptions, and commands about all jobs that match, from a terminal."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from tests.acceptance.conftest import INT, Running, Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.rabbitmq]

PROGRAM = """\
from pathlib import Path

from broker_jobs import BrokerJobs, Concurrency

jobs = BrokerJobs()


@jobs.job(retries=0)
def load(n: int) -> int:
    if not Path("mended").exists():
        raise ValueError(f"row {n} is broken")
    return n


@jobs.job
def after(n: int = 0) -> None:
    Path("after.txt").touch()


@jobs.job(retries=0, limit=Concurrency("smtp", 1))
def send() -> None:
    pass


if __name__ == "__main__":
    with jobs.batch("import") as batch:
        for n in range(3):
            batch.enqueue(load, n)
    print(batch.id)
    print(after.after(batch).enqueue().id)
    print(send.enqueue().id)
    jobs.stop()
"""


@pytest.fixture
def at(terminal: Terminal, vhost: Vhost) -> dict[str, str]:
    (terminal.folder / "rows.py").write_text(PROGRAM)
    return {"BROKER_JOBS_URL": vhost.url, "BROKER_JOBS_STORE": terminal.store}


def start(terminal: Terminal, at: dict[str, str]) -> tuple[Running, str, str]:
    """Run the program, and fill a batch whose jobs all fail: (what runs, the batch, what waits for it)."""
    running = terminal.start("run", "rows:jobs", **at)
    done = subprocess.run(
        [sys.executable, "rows.py"], cwd=terminal.folder, env=os.environ | at, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    batch, waits, _ = done.stdout.split()
    eventually(lambda: shown(terminal, at, batch)["state"] == "failed", 30, "the batch has failed")
    return running, batch, waits


def shown(terminal: Terminal, at: dict[str, str], batch: str) -> dict[str, Any]:
    done = terminal.call("batches", "show", batch, "--json", **at)
    return json.loads(done.stdout) if done.returncode == 0 else {"state": ""}


def test_a_batch_is_listed_shown_its_failures_read_and_requeued_by_one_command(
    terminal: Terminal, at: dict[str, str]
) -> None:
    running, batch, waits = start(terminal, at)
    assert f"{batch}\timport\tfailed\t3\t0\t0\t3\t0" in terminal.output("batches", "list", "--state", "failed", **at)
    assert terminal.output("batches", "list", "--state", "processing", **at).count("\n") == 1
    assert f"batch      {batch}" not in terminal.output("jobs", "show", waits, **at)
    assert re.search(rf"after +batch {batch} \(succeeded\)", terminal.output("jobs", "show", waits, **at))
    failures = json.loads(terminal.output("batches", "failures", batch, "--json", **at))
    assert sorted((f["args"], f["message"]) for f in failures) == [([n], f"row {n} is broken") for n in range(3)]
    assert terminal.output("batches", "failures", batch, "--limit", "2", **at).count("\n") == 3

    (terminal.folder / "mended").touch()
    assert terminal.output("batches", "requeue", batch, "--error", "ROW 1", "--yes", **at) == "1 requeued\n"
    assert terminal.output("jobs", "requeue", "--all-matching", "--batch", batch, "--yes", **at) == "2 requeued\n"
    eventually(lambda: shown(terminal, at, batch)["succeeded"] == 3, 30, "the batch has succeeded")
    eventually((terminal.folder / "after.txt").exists, 30, "what waited for the batch has run")
    assert "had already ended" in terminal.output("batches", "delete", batch, **at)
    running.signal(INT)
    assert running.exit_code() == 0


def test_commands_about_all_jobs_ask_first_and_refuse_what_is_unclear(terminal: Terminal, at: dict[str, str]) -> None:
    running, batch, _ = start(terminal, at)
    for arguments, says in (
        (["jobs", "delete"], "give ids of jobs, or --all-matching"),
        (["jobs", "delete", "x", "--all-matching"], "not both"),
        (["jobs", "requeue", "x", "--queue", "mail"], "need --all-matching"),
        (["jobs", "requeue", "--all-matching", "--state", "faild", "--yes"], "did you mean 'failed'?"),
        (["jobs", "requeue", "--all-matching", "--state", "enqueued", "--yes"], "only ended jobs can be requeued"),
    ):
        done = terminal.call(*arguments, **at)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
    command = ["jobs", "delete", "--all-matching", "--state", "failed", "--error", "row 2"]
    asked = terminal.call(*command, **at)
    assert asked.returncode == 1
    assert "Delete all jobs that match: failed, error_text row 2?" in asked.stdout + asked.stderr
    assert shown(terminal, at, batch)["deleted"] == 0
    deleted = terminal.output(*command, "--yes", **at)
    assert deleted == "1 deleted\n"
    assert shown(terminal, at, batch)["deleted"] == 1
    running.signal(INT)
    assert running.exit_code() == 0


def test_options_say_which_queues_a_worker_serves(terminal: Terminal, at: dict[str, str]) -> None:
    options = ("-Q", "default:2,mail:1", "--queue-limit", "mail=1", "-c", "3")
    running = terminal.start("run", "rows:jobs", *options, **at)
    eventually(lambda: "\tdefault:2,mail:1\tmail=1\t0\t3\t" in terminal.output("workers", "list", **at), 30)
    for wrong, says in (
        (
            ["-Q", "mail:3,bulk"],
            "setting queues: queue bulk has no weight and others have one; give each queue a weight",
        ),
        (["-Q", "mail", "--queue-limit", "bulk=1"], "queue 'bulk' has a limit and is not served; add it to the queues"),
        (
            ["-Q", "mail", "--queue-limit", "mail"],
            "'mail' is not a limit of a queue; write the queue and a number: bulk=2",
        ),
    ):
        done = terminal.call("worker", "rows:jobs", *wrong, **at)
        assert done.returncode == 2
        assert says in done.stderr
    running.signal(INT)
    assert running.exit_code() == 0


def test_a_running_worker_is_listed_and_changed(terminal: Terminal, at: dict[str, str]) -> None:
    running, _, _ = start(terminal, at)

    def worker() -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(terminal.output("workers", "list", "--json", **at))
        return found[0]

    id = eventually(worker)["id"]
    changed = f"{id}\tchanged until it restarts\n"
    assert terminal.output("workers", "change", id, "-c", "3", **at) == changed
    eventually(lambda: worker()["concurrency"] == 3)
    options = ("-Q", "default:2,mail:1", "--queue-limit", "mail=1")
    assert terminal.output("workers", "change", "--host", worker()["host"], *options, **at) == changed
    eventually(lambda: "default:2,mail:1\tmail=1" in terminal.output("workers", "list", **at))
    assert worker()["concurrency"] == 3
    for wrong, says in (
        (["nobody", "-c", "1"], "no worker with the id nobody is running"),
        ([id], "nothing changes: give a concurrency, queues or limits of queues"),
        ([id, "-Q", "mail:3,bulk"], "give each queue a weight, such as bulk:1"),
        ([id, "--queue-limit", "bulk"], "write the queue and a number: bulk=2"),
        ([id, "--queue-limit", "bulk=1"], "queue 'bulk' has a limit and is not served"),
    ):
        done = terminal.call("workers", "change", *wrong, **at)
        assert done.returncode == 2
        assert says in done.stderr
    running.signal(INT)
    assert running.exit_code() == 0


def test_limits_are_set_listed_and_cleared_and_subscriptions_listed(terminal: Terminal, at: dict[str, str]) -> None:
    running, _, _ = start(terminal, at)
    assert terminal.output("limits", "set", "smtp", "4", **at) == "smtp\t4\n"
    assert "concurrency\tsmtp\t4\t0\t0\tset" in terminal.output("limits", "list", **at)
    assert terminal.output("limits", "clear", "smtp", **at) == "smtp\tcleared\n"
    assert "smtp" not in terminal.output("limits", "list", **at)
    assert terminal.output("subscriptions", "list", **at) == "event\tjob\tservice\n"
    running.signal(INT)
    assert running.exit_code() == 0

"""Runs the command line as a user does: from a folder with a file of jobs, in processes of its own, with signals."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import Lodging
from tests.support.wait import PATIENCE, eventually

COMMAND = [sys.executable, "-m", "broker_jobs.cli"]

APP = """\
import os
import time
from pathlib import Path

from broker_jobs import BrokerJobs

jobs = BrokerJobs(service="tests")


def mark(text):
    with Path("marks.txt").open("a") as file:
        file.write(text + "\\n")


@jobs.job
def hello(name: str = "world") -> str:
    mark(f"hello {name}")
    return f"hello {name}"


@jobs.job(retries=0)
def fail() -> None:
    raise ValueError("on purpose")


@jobs.job(retries=0)
def hold(name: str) -> str:
    mark(f"started {name} {os.getpid()}")
    while not Path(f"release-{name}").exists():
        time.sleep(0.02)
    mark(f"ended {name}")
    return name


@jobs.job(retries=0)
def hold_in_c(name: str) -> None:
    mark(f"started {name} {os.getpid()}")
    time.sleep(600)


jobs.recurring("greet", "*/1 * * * * *", hello.bind("every second"))
"""


class Running:
    """One process of ours and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """All it has written."""
        return self._log.read_text(errors="replace")

    def said(self, text: str, timeout: float = 30) -> None:
        """Wait until its log holds a text."""
        eventually(lambda: text in self.log or self._gone(), timeout, f"{text!r} in the log:\n{self.log}")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def exit_code(self, timeout: float = 30) -> int:
        """Wait for its end."""
        try:
            return self.process.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {timeout * PATIENCE:g} s:\n{self.log}")

    def door(self) -> str:
        """The address of its /metrics and /healthz."""
        self.said("metrics on http")
        found = re.search(r"metrics on (http://\S+)/metrics", self.log)
        assert found
        return found.group(1)

    def healthz(self) -> tuple[int, dict[str, Any]]:
        """Status and answer of /healthz."""
        try:
            with urllib.request.urlopen(f"{self.door()}/healthz", timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            return refused.code, json.load(refused)

    def metrics(self) -> dict[str, float]:
        """Series and value of /metrics."""
        with urllib.request.urlopen(f"{self.door()}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {
            series: float(value) for series, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")
        }

    def _gone(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"it ended with code {self.process.returncode}:\n{self.log}")
        return False


class Terminal:
    """A folder with app.py in it, and the commands that are run there."""

    def __init__(self, lodging: Lodging) -> None:
        self._lodging = lodging
        self.folder = lodging.folder
        (self.folder / "app.py").write_text(APP)
        self.store = f"sqlite:///{self.folder / 'store.db'}"
        self._count = 0
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_JOBS_")}
        self._env["PYTHONUNBUFFERED"] = "1"

    def start(self, *arguments: str, **environment: str) -> Running:
        """Start a command that stays."""
        return self._start([*COMMAND, *arguments], arguments[0], environment)

    def start_python(self, code: str, *arguments: str, **environment: str) -> Running:
        """Start a program that stays, with these arguments."""
        return self._start([sys.executable, "-c", code, *arguments], arguments[0], environment)

    def _start(self, command: Sequence[str], name: str, environment: Mapping[str, str]) -> Running:
        self._count += 1
        log = self.folder / f"{self._count}-{name}.log"
        process = self._lodging.start(command, log=log, env=self._env | dict(environment))
        return Running(process, log)

    def call(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self._env | environment,
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
            check=False,
        )

    def output(self, *arguments: str, **environment: str) -> str:
        """What a command that must succeed prints."""
        done = self.call(*arguments, **environment)
        assert done.returncode == 0, f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def marks(self) -> list[str]:
        """What the jobs have written."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "marks.txt").read_text().splitlines()
        return []

    def marked(self, text: str, timeout: float = 30) -> str:
        """Wait for a mark that begins with a text; the mark."""
        return eventually(
            lambda: next((mark for mark in self.marks() if mark.startswith(text)), ""), timeout, f"a mark {text!r}"
        )

    def release(self, name: str) -> None:
        """Let a job `hold` end."""
        (self.folder / f"release-{name}").touch()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A user's terminal; what it has started ends with the test."""
    lodging = Lodging("terminal")
    try:
        yield Terminal(lodging)
    finally:
        lodging.close()


TERM = signal.SIGTERM
INT = signal.SIGINT

"""The systemd units: systemd finds nothing wrong with them, they are locked in, and their ExecStart lines run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from broker_jobs.settings import PREFIX, Settings
from tests.acceptance.conftest import TERM
from tests.conftest import made
from tests.deploy.stage import BIN, Part, Stage, dotenv
from tests.support.process import ServerMissingError
from tests.support.shipped import ROOT

FOLDER = ROOT / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PROGRAM = "/opt/app/venv/bin/broker-jobs"
MOST_EXPOSED = 20
"""In systemd's count, from 0 to 100: what it calls OK ends at 40."""


def analyze() -> str:
    """The program's path."""

    def find() -> str:
        if (found := shutil.which("systemd-analyze")) is None:
            raise ServerMissingError("systemd-analyze is not installed; on Debian: sudo apt-get install systemd")
        return found

    return made(find)


def entries(unit: Path, name: str) -> list[str]:
    """The values that a unit gives a name, in their order."""
    return re.findall(rf"(?m)^{name}=(.*)$", unit.read_text())


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they are once installed: the program exists, the template has an instance."""
    for unit in UNITS:
        text = unit.read_text().replace(PROGRAM, str(BIN / "broker-jobs"))
        name = unit.name.replace("@.service", "@mail.service")
        (tmp_path / name).write_text(text)
    return tmp_path


def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    units = [str(unit) for unit in sorted(installed.glob("*.service"))]
    assert len(units) == 4
    done = subprocess.run(
        [analyze(), "verify", "--man=no", *units], capture_output=True, text=True, check=False, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if str(installed) in line or "broker-jobs" in line]
    assert (done.returncode, said) == (0, [])


def test_each_unit_is_locked_in(installed: Path) -> None:
    for unit in sorted(installed.glob("*.service")):
        command = [analyze(), "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", str(unit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if "unrecognized option" in done.stderr or "Unknown option" in done.stderr:
            pytest.skip("this systemd cannot judge a file")
        assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_a_stop_waits_longer_than_running_jobs_may_take() -> None:
    (worker,) = (unit for unit in UNITS if "worker" in unit.name)
    (seconds,) = entries(worker, "TimeoutStopSec")
    assert int(seconds) > Settings.model_fields["shutdown_timeout"].default + 10


def test_the_user_of_the_units_is_made() -> None:
    made_user = (FOLDER / "broker-jobs.sysusers.conf").read_text().splitlines()[-1].split()
    for unit in UNITS:
        assert entries(unit, "User") == [made_user[1]]


def test_every_setting_in_an_example_exists() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {"APP"}
    for example in FOLDER.glob("*.env.example"):
        assert set(dotenv(example)) <= known, example


def environment(unit: Path, instance: str) -> dict[str, str]:
    """What systemd would give the process, of the examples."""
    given = dict(pair.replace("%i", instance).split("=", 1) for pair in entries(unit, "Environment"))
    for file in entries(unit, "EnvironmentFile"):
        example = FOLDER / (Path(file).name + ".example")
        if file.startswith("-"):
            continue
        assert example.exists(), file
        given |= dotenv(example)
    return given


def command_of(unit: Path, given: dict[str, str]) -> list[str]:
    """The ExecStart line as systemd reads it: words, with variables filled in."""
    (line,) = entries(unit, "ExecStart")
    words = [re.sub(r"\$\{(\w+)\}", lambda found: given[found[1]], word) for word in line.split()]
    assert words[0] == PROGRAM
    return [str(BIN / "broker-jobs"), *words[1:]]


def started(stage: Stage, name: str) -> Part:
    """The process of a unit."""
    unit = FOLDER / f"{name}.service"
    given = environment(unit, "mail")
    return stage.start(command_of(unit, given), given, dashboard="dashboard" in name)


@pytest.mark.rabbitmq
@pytest.mark.postgres
@pytest.mark.acceptance
@pytest.mark.slow
def test_the_units_run_a_job_together_and_are_healthy(stage: Stage) -> None:
    parts = [started(stage, f"broker-jobs-{name}") for name in ("coordinator", "beat", "worker@", "dashboard")]
    for part in parts:
        part.healthy()
    jobs = stage.producer()
    try:
        greet = jobs.remote("greet").using(queue="mail", backoff=[0.1])
        assert greet.enqueue("systemd").result(timeout=120) == "hello systemd"
    finally:
        jobs.stop()
    for part in parts:
        part.running.signal(TERM)
    assert [part.running.exit_code(60) for part in parts] == [0, 0, 0, 0]


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_the_examples_are_no_programs() -> None:
    for file in FOLDER.iterdir():
        assert not file.stat().st_mode & 0o111, file

"""Recurring jobs whose times were missed: what runs after an outage of a coordinator, a beat, or the whole program."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from tests.acceptance.conftest import TERM, Running, Terminal
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

pytestmark = [pytest.mark.acceptance, pytest.mark.slow]

APP = """\
from pathlib import Path

from broker_jobs import BrokerJobs, current_job

jobs = BrokerJobs(service="tests")


@jobs.job
def note(name: str) -> None:
    with Path("marks.txt").open("a") as file:
        file.write(f"{name} {current_job().id}\\n")


for misfire in ("once", "skip", "all"):
    jobs.recurring(misfire, "* * * * * *", note.bind(misfire), misfire=misfire)
"""
MISSED_SECONDS = 5
"""Of a job of every second, a time that is decided so late was missed."""


@pytest.fixture
def folder(terminal: Terminal) -> Terminal:
    (terminal.folder / "app.py").write_text(APP)
    return terminal


def planned(terminal: Terminal, misfire: str) -> list[float]:
    """The planned times that have run, in order: a run's id begins with the milliseconds of its time."""
    ids = [mark.split(" ")[1] for mark in terminal.marks() if mark.startswith(f"{misfire} ")]
    return sorted(int(id.replace("-", "")[:12], 16) / 1000 for id in ids if len(id) == 36)


def ran_after(terminal: Terminal, moment: float) -> None:
    """Wait until each of the recurring jobs has run a time after this moment."""
    for misfire in ("once", "skip", "all"):
        eventually(lambda misfire=misfire: max(planned(terminal, misfire), default=0) > moment, 90, misfire)  # type: ignore[misc]


def check(terminal: Terminal, down: float, up: float) -> None:
    """Of the times between `down` and `up` those that were missed ran with "all" only, and that each once."""
    for misfire in ("once", "skip"):
        made = planned(terminal, misfire)
        assert [at for at in made if down < at < up - MISSED_SECONDS] == [], misfire
        assert min(made) < down
    made = planned(terminal, "all")
    assert [after - before for before, after in pairwise(made)] == [1.0] * (len(made) - 1)


def ended(running: Running) -> float:
    """When it had ended."""
    running.signal(TERM)
    running.exit_code()
    return time.time()


@pytest.mark.rabbitmq
def test_fires_that_waited_for_a_coordinator_are_decided_together(folder: Terminal, vhost: Vhost) -> None:
    reach = ("--url", vhost.url, "--store", folder.store)
    coordinator = folder.start("coordinator", *reach)
    folder.start("worker", "app:jobs", "--url", vhost.url)
    for _ in range(2):
        folder.start("beat", "app:jobs", "--url", vhost.url)
    ran_after(folder, 0.0)
    down = ended(coordinator)
    eventually(lambda: vhost.ready("jobs.v1.command") >= 2 * 3 * 12, 60, "fires of twelve seconds wait")
    up = time.time()
    folder.start("coordinator", *reach)
    ran_after(folder, up)
    check(folder, down, up)


@pytest.mark.rabbitmq
def test_what_no_beat_fired_is_decided_at_the_first_fire(folder: Terminal, vhost: Vhost) -> None:
    reach = ("--url", vhost.url, "--store", folder.store)
    folder.start("coordinator", *reach)
    folder.start("worker", "app:jobs", "--url", vhost.url)
    beat = folder.start("beat", "app:jobs", "--url", vhost.url)
    ran_after(folder, 0.0)
    down = ended(beat)
    eventually(lambda: time.time() > down + 10, 30, "ten seconds without a beat")
    up = time.time()
    folder.start("beat", "app:jobs", "--url", vhost.url)
    ran_after(folder, up)
    check(folder, down, up)


def test_a_program_that_was_down_as_a_whole_makes_up_for_what_it_missed(folder: Terminal) -> None:
    reach = ("--store", folder.store)
    program = folder.start("run", "app:jobs", "--url", "memory://", *reach)
    ran_after(folder, 0.0)
    down = ended(program)
    eventually(lambda: time.time() > down + 10, 30, "ten seconds without the program")
    up = time.time()
    folder.start("run", "app:jobs", "--url", "memory://", *reach)
    ran_after(folder, up)
    check(folder, down, up)

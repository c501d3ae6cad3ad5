"""Runs of recurring jobs that overlap, and times that are missed, through stops of each process."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import pytest

from broker_jobs import State
from tests.acceptance.conftest import TERM, Running, Terminal, terminal
from tests.support.observed import NEVER, SECONDS, View, refused
from tests.support.rabbitmq import Vhost
from tests.support.wait import eventually

__all__ = ["terminal"]


# ---- runs that a person triggers


Overlap = Literal["allow", "skip", "queue"]


def put(view: View, overlap: Overlap, name: str) -> str:
    """A recurring job that comes by trigger alone; its name."""
    schedule = view.key(overlap)
    call = view.program.work.bind(view.name(name))
    view.jobs.recurring.put(schedule, NEVER, call, overlap=overlap)
    return schedule


def test_a_trigger_is_refused_while_a_run_is_open_and_its_overlap_is_skip(view: View) -> None:
    view.hold("run")
    schedule = put(view, "skip", "run")
    first = view.trigger(schedule)
    view.started("run")
    assert "has not ended" in refused(lambda: view.jobs.recurring.trigger(schedule))
    view.let("run")
    first.result(timeout=SECONDS)
    second = view.trigger(schedule)
    second.result(timeout=SECONDS)
    first.requeue()
    view.results([first, second])
    assert view.order == ["run"] * 3
    assert view.most_at_once() == 1


def test_a_deleted_run_is_open_until_it_has_stopped(view: View) -> None:
    view.hold("run")
    schedule = put(view, "skip", "run")
    first = view.trigger(schedule)
    view.started("run")
    first.delete()
    if first.state() is State.DELETED:
        assert "has not ended" in refused(lambda: view.jobs.recurring.trigger(schedule))
    view.let("run")
    eventually(lambda: view.runs[0].end, SECONDS, "it has stopped")
    view.is_in(State.DELETED, first) if first.state() is not State.SUCCEEDED else None
    second = eventually(lambda: _triggered(view, schedule), SECONDS, "a trigger is taken")
    assert second
    eventually(lambda: len(view.runs) == 2 and view.runs[1].end, SECONDS, "it runs")


def _triggered(view: View, schedule: str) -> bool:
    try:
        refused(lambda: view.trigger(schedule))
    except AssertionError:
        return True
    return False


def test_triggers_wait_for_each_other_in_order_and_a_requeue_joins_them(view: View) -> None:
    schedule = put(view, "queue", "r0")
    runs = []
    view.hold("r0")
    for number in range(4):
        call = view.program.work.bind(view.name(f"r{number}"))
        view.jobs.recurring.put(schedule, NEVER, call, overlap="queue")
        runs.append(view.trigger(schedule))
    view.started("r0")
    view.wait(*runs[1:])
    assert runs[1].delete()
    runs[1].requeue()
    view.wait(runs[1])
    view.let("r0")
    view.results(runs)
    assert view.order == ["r0", "r2", "r3", "r1"]
    assert view.most_at_once() == 1


def test_triggers_run_beside_each_other_where_overlap_is_allowed(view: View) -> None:
    view.hold("run")
    schedule = put(view, "allow", "run")
    runs = [view.trigger(schedule) for _ in range(3)]
    view.started_count(3)
    view.let("run")
    view.results(runs)
    assert view.most_at_once() == 3


def test_a_run_that_waits_for_its_retry_is_open(view: View) -> None:
    view.fails("run", 1)
    call = view.program.work.using(retries=1, backoff=[3600.0]).bind(view.name("run"))
    view.jobs.recurring.put(view.key("queue"), NEVER, call, overlap="queue")
    first = view.trigger(view.key("queue"))
    view.is_in(State.SCHEDULED, first)
    second = view.trigger(view.key("queue"))
    view.wait(second)
    first.requeue()
    view.results([first, second])
    assert view.order == ["run"] * 3


# ---- times that pass while a process is stopped

APP = """\
import os, time
from pathlib import Path

from broker_jobs import BrokerJobs, current_job

jobs = BrokerJobs(service="tests")


def mark(kind: str, name: str) -> None:
    line = f"{kind} {name} {current_job().id} {time.time():.6f}\\n"
    file = os.open("marks.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


@jobs.job(retries=0)
def note(name: str, seconds: float) -> None:
    mark("start", name)
    time.sleep(seconds)
    mark("end", name)


for misfire in ("once", "skip", "all"):
    for overlap, seconds in (("allow", 1.5), ("skip", 1.5), ("queue", 0.3)):
        name = f"{misfire}-{overlap}"
        jobs.recurring(name, "* * * * * *", note.bind(name, seconds), misfire=misfire, overlap=overlap)
"""
MISFIRES, OVERLAPS = ("once", "skip", "all"), ("allow", "skip", "queue")
NAMES = [f"{misfire}-{overlap}" for misfire, overlap in itertools.product(MISFIRES, OVERLAPS)]
MISSED_SECONDS = 5
"""Of a job of every second, a time that is decided so late was missed."""
DOWN_SECONDS = 8.0


class Made:
    """What the runs of a recurring job have written: planned times, and the moments of start and end."""

    def __init__(self, terminal: Terminal, name: str) -> None:
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for kind, of, id, at in (mark.split(" ") for mark in terminal.marks()):
            if of == name and len(id) == 36:
                found[id][kind] = float(at)
        self.runs = sorted((int(id.replace("-", "")[:12], 16) / 1000, moments) for id, moments in found.items())

    @property
    def planned(self) -> list[float]:
        return [planned for planned, _ in self.runs]

    def most_at_once(self) -> int:
        steps = [(moments["start"], 1) for _, moments in self.runs]
        steps += [(moments["end"], -1) for _, moments in self.runs if "end" in moments]
        now = most = 0
        for _, step in sorted(steps):
            now += step
            most = max(most, now)
        return most


def ran_after(terminal: Terminal, moment: float) -> None:
    """Wait until each of the recurring jobs has run a time after this moment."""
    for name in NAMES:
        eventually(lambda name=name: max(Made(terminal, name).planned, default=0) > moment, 90, name)  # type: ignore[misc]


def check(terminal: Terminal, down: float, up: float) -> None:
    """Missed times are decided by misfire, overlaps by overlap, whatever was stopped between `down` and `up`."""
    for name in NAMES:
        misfire, overlap = name.split("-")
        made = Made(terminal, name)
        planned = made.planned
        assert len(set(planned)) == len(planned), f"{name}: a time ran twice"
        missed = [at for at in planned if down + 1 < at < up - MISSED_SECONDS]
        if misfire != "all":
            assert missed == [], name
        elif overlap != "skip":
            assert [after - before for before, after in pairwise(planned)] == [1.0] * (len(planned) - 1), name
        else:
            assert len(missed) <= 2, name
        if overlap != "allow":
            assert made.most_at_once() == 1, name
        if overlap == "queue":
            starts = [moments["start"] for _, moments in made.runs]
            assert starts == sorted(starts), f"{name}: not in the order of their times"


@pytest.fixture
def folder(terminal: Terminal) -> Terminal:
    (terminal.folder / "app.py").write_text(APP)
    return terminal


def ended(running: Running) -> float:
    """Stop a process in order; when it had ended."""
    running.signal(TERM)
    running.exit_code(60)
    return time.time()


def killed(running: Running) -> float:
    """Kill -9 a process; when it was gone."""
    running.process.kill()
    running.process.wait(30)
    return time.time()


@pytest.mark.acceptance
@pytest.mark.slow
@pytest.mark.rabbitmq
@pytest.mark.parametrize("stop", [ended, killed])
@pytest.mark.parametrize("role", ["coordinator", "beat"])
def test_misfire_and_overlap_hold_when_a_process_was_stopped(
    folder: Terminal, vhost: Vhost, role: str, stop: Callable[[Running], float]
) -> None:
    reach = ("--url", vhost.url)
    started = {
        "coordinator": folder.start("coordinator", *reach, "--store", folder.store),
        "worker": folder.start("worker", "app:jobs", *reach, "--set", "concurrency=40"),
        "beat": folder.start("beat", "app:jobs", *reach),
    }
    ran_after(folder, 0.0)
    down = stop(started[role])
    eventually(lambda: time.time() > down + DOWN_SECONDS, 30, "it is down")
    up = time.time()
    if role == "coordinator":
        folder.start("coordinator", *reach, "--store", folder.store)
    else:
        folder.start("beat", "app:jobs", *reach)
    ran_after(folder, up)
    check(folder, down, up)


@pytest.mark.acceptance
@pytest.mark.slow
def test_misfire_and_overlap_hold_when_the_whole_program_was_stopped(folder: Terminal) -> None:
    reach = ("--url", "memory://", "--store", folder.store, "--set", "concurrency=40")
    program = folder.start("run", "app:jobs", *reach)
    ran_after(folder, 0.0)
    down = ended(program)
    eventually(lambda: time.time() > down + DOWN_SECONDS, 30, "it is down")
    up = time.time()
    folder.start("run", "app:jobs", *reach)
    ran_after(folder, up)
    check(folder, down, up)

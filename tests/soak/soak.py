"""One soak: jobs that do what no job should, beside innocent ones, for minutes; then what must not have been."""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import psutil

from broker_jobs import EnqueueError, EnqueueUnknown, Receipt, State
from broker_jobs.messages.events import ErrorInfo
from broker_jobs.store import Store
from tests.soak import jobs as program
from tests.storm.journal import RUNS, read
from tests.storm.system import Part
from tests.support.cluster import Cluster
from tests.support.process import Lodging
from tests.support.wait import eventually, while_it_moves

logger = logging.getLogger(__name__)

PROCESSES, CONCURRENCY = 2, 12
SHUTDOWN_SECONDS, GRACE_SECONDS = 5.0, 5.0
STILL_SECONDS = 180.0
GROWS_BY = 1.25
"""What memory may grow by from the second quarter of a soak to its last, before it is a finding."""
SAMPLE_SECONDS = 2.0

TIMED_OUT, CRASHED = r"^TimedOut: ", r"^ProcessCrashed: "


class Guilt(NamedTuple):
    """A job that does what no job should, and how it must end."""

    enqueue: Callable[[], Receipt[Any]]
    state: State
    reason: str = ""
    """A pattern in its failure, as type and message."""


def guilty() -> dict[str, Guilt]:
    """All of them, by name."""
    failed, succeeded = State.FAILED, State.SUCCEEDED
    found = {
        "hangs": Guilt(program.hangs.enqueue, failed, TIMED_OUT),
        "hangs in C": Guilt(program.hangs_in_c.enqueue, failed, TIMED_OUT),
        "swallows": Guilt(program.swallows.enqueue, failed, TIMED_OUT),
        "hangs, async": Guilt(program.hangs_async.enqueue, failed, TIMED_OUT),
        "swallows, async": Guilt(program.swallows_async.enqueue, failed, TIMED_OUT),
        "hangs apart": Guilt(program.hangs_apart.enqueue, failed, TIMED_OUT),
        "holds the GIL": Guilt(program.holds_the_gil.enqueue, succeeded),
        "blocks the loop": Guilt(program.blocks_the_loop.enqueue, succeeded),
        "computes": Guilt(program.computes.enqueue, succeeded),
        "prints megabytes": Guilt(program.prints_megabytes.enqueue, succeeded),
        "returns megabytes": Guilt(program.returns_megabytes.enqueue, succeeded),
        "recurses": Guilt(program.recurses.enqueue, failed, "^RecursionError"),
        "exits": Guilt(program.exits.enqueue, failed, "^SystemExit: 2"),
        "has no text": Guilt(program.raises_what_has_no_text.enqueue, failed, "_Unprintable"),
        "exits at once": Guilt(program.exits_at_once.enqueue, failed, f"{CRASHED}.*7"),
        "is killed": Guilt(program.is_killed.enqueue, failed, f"{CRASHED}.*SIGKILL"),
        "reads address zero": Guilt(program.reads_address_zero.enqueue, failed, f"{CRASHED}.*SIGSEGV"),
        "takes all memory": Guilt(program.takes_all_memory.enqueue, failed, "^MemoryError"),
    }
    for name in raisable():
        pattern = rf"^{name}\b"
        found[f"raises {name}"] = Guilt(partial(program.raises.enqueue, name), failed, pattern)
        # A coroutine cannot raise StopIteration: Python makes a RuntimeError of it.
        of_coroutine = "^RuntimeError" if name == "StopIteration" else pattern
        found[f"raises {name}, async"] = Guilt(partial(program.raises_async.enqueue, name), failed, of_coroutine)
    return found


def raisable() -> list[str]:
    """The names of Python's own exceptions that need no argument."""
    names: list[str] = []
    for name, kind in vars(builtins).items():
        if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__name__ == name:
            try:
                kind()
            except TypeError:  # a group of exceptions, or one of Unicode, is made of something
                continue
            names.append(name)
    return sorted(names)


class Result(NamedTuple):
    """What a soak did, and what must not have been."""

    findings: list[str]
    figures: dict[str, Any]


class System:
    """The processes of a soak: a coordinator, and workers under one supervisor."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "BROKER_JOBS_URL": cluster.url,
            "BROKER_JOBS_STORE": f"sqlite:///{folder / 'store.db'}",
            program.FOLDER: str(folder),
        }
        self.lodging = Lodging("soak")
        command = [sys.executable, "-m", "broker_jobs.cli"]
        self.coordinator = Part("coordinator", "coordinator", [*command, "coordinator"], self)
        worker = [
            *command, "worker", "tests.soak.jobs:jobs", "-p", str(PROCESSES), "-c", str(CONCURRENCY),
            "--shutdown-timeout", str(SHUTDOWN_SECONDS), "--set", f"timeout_grace={GRACE_SECONDS}",
        ]  # fmt: skip
        self.worker = Part("worker", "worker", worker, self)
        self.store = Store(self.environment["BROKER_JOBS_STORE"])
        self.megabytes: dict[str, list[tuple[float, float]]] = {
            "coordinator": [],
            "supervisor": [],
            "worker process": [],
        }
        """Moments and the memory of each role; of the worker processes the largest."""

    def start(self) -> None:
        """Start all."""
        self.store.open()
        self.coordinator.start()
        self.worker.start()

    def sample(self) -> None:
        """Note how much memory the processes have now."""
        for role, pid in (("coordinator", self.coordinator.pid), ("supervisor", self.worker.pid)):
            with contextlib.suppress(psutil.Error):
                self._note(role, psutil.Process(pid).memory_info().rss)
        with contextlib.suppress(psutil.Error, ValueError):
            children = psutil.Process(self.worker.pid).children()
            self._note("worker process", max(child.memory_info().rss for child in children))

    def _note(self, role: str, size: int) -> None:
        self.megabytes[role].append((time.monotonic(), size / 1e6))

    def close(self) -> None:
        """End all."""
        self.worker.leave(SHUTDOWN_SECONDS + 15)
        self.coordinator.leave(10)
        self.lodging.close()
        program.jobs.stop(0)
        self.store.close()


def soak(
    folder: Path, cluster: Cluster, *, seconds: float, a_minute: float = 1_000, guilty_a_minute: float = 40,
    restart_every: float | None = None, seed: int = 0,
) -> Result:  # fmt: skip
    """Run the jobs for so long, let all end, and look.

    Args:
        folder: for logs, the journal and the store.
        cluster: the broker, for this soak alone.
        seconds: how long jobs are enqueued.
        a_minute: innocent jobs.
        guilty_a_minute: the others, one of each kind after the other.
        restart_every: seconds between two restarts of the broker and the coordinator; None: there are none.
        seed: of the order of the guilty.
    """
    with ExitStack() as ends:
        system = System(folder, cluster)
        ends.callback(system.close)
        ours = ("BROKER_JOBS_URL", "BROKER_JOBS_STORE", program.FOLDER)
        ends.enter_context(mock.patch.dict(os.environ, {name: system.environment[name] for name in ours}))
        system.start()
        eventually(lambda: program.innocent.enqueue(0.0).result(timeout=60), 120, "a job runs")
        made = _enqueue(
            system, cluster, seconds=seconds, a_minute=a_minute, guilty_a_minute=guilty_a_minute,
            restart_every=restart_every, pick=random.Random(seed),
        )  # fmt: skip
        system.coordinator.start()
        findings = _come_to_rest(system, len(made.innocent) + len(made.guilty))
        findings += _wrong_ends(system.store, made)
        runs = Counter(line["id"] for line in read(folder / RUNS) if line["what"] == "start")
        several = {id: runs[id] for id in made.innocent if runs[id] != 1}
        if restart_every is None:
            findings += [f"an innocent job ran {count} times: {id}" for id, count in several.items()]
        findings += _growth(system.megabytes)
        figures = {
            "innocent": {"enqueued": len(made.innocent), "ran not once": len(several)},
            "guilty": dict(Counter(made.guilty.values())),
            "megabytes": {role: _shown(samples) for role, samples in system.megabytes.items()},
            "restarts": made.restarts,
        }
        return Result(findings, figures)


class Made(NamedTuple):
    """What was enqueued."""

    innocent: list[str]
    guilty: dict[str, str]
    """Kinds by id."""
    restarts: int


def _enqueue(
    system: System, cluster: Cluster, *, seconds: float, a_minute: float, guilty_a_minute: float,
    restart_every: float | None, pick: random.Random,
) -> Made:  # fmt: skip
    kinds = guilty()
    order = list(kinds)
    pick.shuffle(order)
    innocent: list[str] = []
    bad: dict[str, str] = {}
    began = time.monotonic()
    next_innocent = next_guilty = next_sample = began
    next_restart = began + restart_every if restart_every else float("inf")
    restarts = number = 0
    while (now := time.monotonic()) < began + seconds:
        try:
            if now >= next_innocent:
                next_innocent = max(next_innocent + 60 / a_minute, now - 1)
                job = pick.choice((program.innocent, program.innocent_async))
                innocent.append(job.enqueue(pick.choice((0.0, 0.01, 0.2))).id)
            if now >= next_guilty:
                next_guilty = max(next_guilty + 60 / guilty_a_minute, now - 1)
                name = order[number % len(order)]
                bad[kinds[name].enqueue().id] = name
                number += 1
        except EnqueueUnknown as unknown:
            logger.info("it is not known whether a job was enqueued: %s", unknown)
        except EnqueueError as refused:
            logger.info("a job was refused: %s", refused)
        if now >= next_sample:
            next_sample = now + SAMPLE_SECONDS
            system.sample()
        if now >= next_restart:
            next_restart = now + (restart_every or 0.0)
            restarts += 1
            system.coordinator.kill9()
            cluster.nodes[0].restart()
            system.coordinator.start()
        time.sleep(max(0.0, min(next_innocent, next_guilty) - time.monotonic()))
    return Made(innocent, bad, restarts)


def _come_to_rest(system: System, enqueued: int) -> list[str]:
    def left() -> dict[str, int]:
        counts = system.store.reader.statistics.counts()
        unread = max(0, enqueued - sum(counts.values()))
        return {
            **({"unread": unread} if unread else {}),
            **{str(state): number for state, number in counts.items() if number and not state.is_final},
        }

    try:
        while_it_moves(left, lambda found: not found, STILL_SECONDS, "every job has ended", poll=0.5)
    except AssertionError as still:
        return [str(still)]
    return []


def _wrong_ends(store: Store, made: Made) -> list[str]:
    found: list[str] = []
    kinds = guilty()
    for id in made.innocent:
        row = store.reader.jobs.get(id)
        if row is None or row.state is not State.SUCCEEDED:
            found.append(f"an innocent job is {_end_of(row)}: {id}")
    for id, name in made.guilty.items():
        row = store.reader.jobs.get(id)
        wanted = kinds[name]
        if row is None or row.state is not wanted.state or not re.search(wanted.reason, _reason(row), re.DOTALL):
            found.append(f"{name} is {_end_of(row)}: {id}")
    return found


def _end_of(row: Any) -> str:
    return "unknown" if row is None else f"{row.state} ({_reason(row)[:200]})"


def _reason(row: Any) -> str:
    """Type and message of the failure, or what the history says last."""
    if not row.error:
        return str(row.history[-1][2]) if row.history else ""
    error = ErrorInfo.model_validate_json(row.error)
    return f"{error.type}: {error.message}"


def _growth(megabytes: dict[str, list[tuple[float, float]]]) -> list[str]:
    found: list[str] = []
    for role, samples in megabytes.items():
        sizes = [size for _, size in samples]
        quarter = len(sizes) // 4
        if quarter < 5:
            continue
        second, last = statistics.median(sizes[quarter : 2 * quarter]), statistics.median(sizes[-quarter:])
        if last > second * GROWS_BY:
            found.append(f"the memory of the {role} grew from {second:.0f} to {last:.0f} MB")
    return found


def _shown(samples: list[tuple[float, float]]) -> dict[str, int]:
    sizes = [round(size) for _, size in samples]
    step = max(1, len(sizes) // 8)
    return {"most": max(sizes, default=0), **{f"at {place}": sizes[place] for place in range(0, len(sizes), step)}}

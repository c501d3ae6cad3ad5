"""A program whose jobs write down when they start and end, and are held until a test lets them go."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

from starlette.testclient import TestClient

from broker_jobs import (
    BrokerJobs,
    Concurrency,
    Ordered,
    RateLimit,
    Receipt,
    State,
    Unique,
    UsageError,
    current_job,
)
from broker_jobs.dashboard.app import Dashboard
from broker_jobs.producer.job import Job
from broker_jobs.store import Store
from tests.support.invariants import broken
from tests.support.process import Lodging
from tests.support.wait import eventually

SECONDS = 120
"""How long a test waits for what must happen; a release that a killed coordinator left in doubt takes ten."""
CONCURRENCY = 16
PER = 0.6
"""Seconds of the rates."""
DECLARED: dict[str, dict[str, Any]] = {
    "ordered": {"limit": Ordered("{key}")},
    "concurrency": {"limit": Concurrency("{key}", 2)},
    "sliding": {"limit": RateLimit("{key}", 2, per=PER)},
    "fixed": {"limit": RateLimit("{key}", 2, per=PER, window="fixed")},
    "queued": {"unique": Unique("{key}")},
    "running": {"unique": Unique("{key}", scope="running")},
    "window": {"unique": Unique("{key}", scope=timedelta(hours=1))},
}
"""The options of jobs that are declared with them; events have jobs of these names with "by_event_" before them."""
NEVER = "0 0 29 2 *"
"""The times of a recurring job that a test triggers."""
Role = Literal["worker", "coordinator", "beat"]


class Run(NamedTuple):
    """One run of a job."""

    name: str
    id: str
    start: float
    end: float | None


class Coordinator:
    """A coordinator in a process of its own, that can be killed."""

    def __init__(self, url: str, store: str) -> None:
        self._command = [sys.executable, "-m", "broker_jobs.cli", "coordinator", "--url", url, "--store", store]
        self._lodging = Lodging("coordinator")
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self._lodging.folder / "log"
        self.start()

    def start(self) -> None:
        """Start it; returns before it is up."""
        self._process = self._lodging.start(self._command, log=self._log)

    def kill9(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._lodging.kill(self._process)

    def close(self) -> None:
        """End it for good."""
        self._lodging.close()


class ObservedProgram:
    """A program for all tests of a module, which see it by way of `View`."""

    def __init__(self, url: str, store: str, *, coordinator_apart: bool = False) -> None:
        self.jobs = BrokerJobs(url, store=store, service="tests")
        self.store_url = store
        self.coordinator = Coordinator(url, store) if coordinator_apart else None
        self.runs: list[Run] = []
        self.failures: dict[str, int] = {}
        self.doors: dict[str, threading.Event] = {}
        self.lock = threading.Lock()
        self.apart = Store(store)
        """Reads the store beside the program."""
        self.apart.open()
        run = self._run

        @self.jobs.job(retries=0)
        def work(name: str) -> str:
            return run(name)

        @self.jobs.job(retries=0)
        def take(name: str, result: str) -> str:
            """Take the result of another job."""
            return run(name) + result

        self.work, self.take = work, take
        self.declared = {name: self._declare(name, options) for name, options in DECLARED.items()}
        roles: list[Role] = ["worker", "beat"] if coordinator_apart else ["worker", "coordinator", "beat"]
        self.jobs.start(roles=roles, concurrency=CONCURRENCY)

    def _declare(self, kind: str, options: dict[str, Any]) -> Job[..., str]:
        run = self._run

        def declared(name: str, key: str) -> str:
            return run(name)

        def by_event(name: str) -> str:
            return run(name)

        declared.__name__, by_event.__name__ = kind, f"by_event_{kind}"
        (option, value), *_ = options.items()
        self.jobs.subscribe(f"event_{kind}", retries=0, **{option: replace(value, key=f"by event {kind}")})(by_event)
        return self.jobs.job(retries=0, **options)(declared)

    def close(self) -> None:
        """Stop it."""
        self.release()
        self.jobs.stop(0)
        self.apart.close()
        if self.coordinator is not None:
            self.coordinator.close()

    def release(self) -> None:
        """Let all go that is held."""
        with self.lock:
            doors = list(self.doors.values())
        for door in doors:
            door.set()

    def _run(self, name: str) -> str:
        job = current_job()
        with self.lock:
            number = len(self.runs)
            self.runs.append(Run(name, job.id, time.time(), None))
            door = self.doors.get(name)
            self.failures[name] = fails = self.failures.get(name, 0) - 1
        try:
            while door is not None and not door.wait(0.01):
                job.raise_if_cancelled()
            if fails >= 0:
                raise ValueError(f"{name} fails")
        finally:
            with self.lock:
                self.runs[number] = self.runs[number]._replace(end=time.time())
        return name.partition(":")[2]


class View:
    """The program as one test sees it: names and keys of its own."""

    def __init__(self, program: ObservedProgram) -> None:
        self.program = program
        self.jobs = program.jobs
        self._prefix = uuid.uuid4().hex[:8]
        self._made: list[Receipt[Any]] = []
        self._dashboards: list[Dashboard] = []

    # ---- names

    def key(self, name: str) -> str:
        """A key that no other test has."""
        return f"{name}-{self._prefix}"

    def name(self, name: str) -> str:
        """The argument of a job of this name."""
        return f"{self._prefix}:{name}"

    # ---- jobs

    def go(self, name: str, job: Job[..., str] | None = None, **options: Any) -> Receipt[str]:
        """Enqueue a job."""
        made = (job or self.program.work).using(**options).enqueue(self.name(name))
        self._made.append(made)
        return made

    def go_all(self, names: Iterable[str], **options: Any) -> list[Receipt[str]]:
        """Enqueue jobs, one after the other."""
        return [self.go(name, **options) for name in names]

    def trigger(self, recurring: str) -> Receipt[Any]:
        """Trigger a recurring job."""
        made = self.jobs.recurring.trigger(recurring)
        self._made.append(made)
        return made

    def watch(self, receipt: Receipt[Any]) -> Receipt[Any]:
        """A job that was made another way."""
        self._made.append(receipt)
        return receipt

    def hold(self, *names: str) -> None:
        """Keep the runs of these names from their end until `let`."""
        with self.program.lock:
            for name in names:
                self.program.doors[self.name(name)] = threading.Event()

    def let(self, *names: str) -> None:
        """Let the runs of these names end."""
        for name in names:
            self.program.doors[self.name(name)].set()

    def fails(self, name: str, times: int) -> None:
        """The next runs of this name fail."""
        with self.program.lock:
            self.program.failures[self.name(name)] = times

    # ---- what became of them

    @property
    def runs(self) -> list[Run]:
        """The runs of this test's jobs, in the order of their starts."""
        with self.program.lock:
            runs = list(self.program.runs)
        begin = f"{self._prefix}:"
        return [run._replace(name=run.name.removeprefix(begin)) for run in runs if run.name.startswith(begin)]

    @property
    def order(self) -> list[str]:
        """The names of the runs, in the order of their starts; two that were free at once start in either."""
        return [run.name for run in self.runs]

    def started(self, *names: str) -> None:
        """Wait until jobs of these names have started."""
        eventually(lambda: set(names) <= set(self.order), SECONDS, f"{names} start")

    def started_count(self, count: int) -> None:
        """Wait until so many runs have started."""
        eventually(lambda: len(self.runs) >= count, SECONDS, f"{count} start")

    def is_in(self, state: State, *receipts: Receipt[Any]) -> None:
        """Wait until jobs are in a state."""
        for receipt in receipts:
            eventually(lambda receipt=receipt: receipt.state() is state, SECONDS, f"{receipt} is {state}")  # type: ignore[misc]

    def wait(self, *receipts: Receipt[Any]) -> None:
        """Wait until jobs are awaiting."""
        self.is_in(State.AWAITING, *receipts)

    def results(self, receipts: Sequence[Receipt[Any]]) -> list[Any]:
        """Wait for the results of jobs."""
        return [receipt.result(timeout=SECONDS) for receipt in receipts]

    def most_at_once(self, *names: str) -> int:
        """How many of these runs were under way at once, at most."""
        steps: list[tuple[float, int]] = []
        for run in self.runs:
            if not names or run.name in names:
                steps += [(run.start, 1), (run.end or time.time(), -1)]
        now = most = 0
        for _, step in sorted(steps):  # an end goes before a start of the same moment
            now += step
            most = max(most, now)
        return most

    def times(self) -> dict[str, list[Run]]:
        """The runs by name."""
        found: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            found[run.name].append(run)
        return found

    # ---- what happens meanwhile

    def barrier(self) -> None:
        """Wait until the coordinator has read what was enqueued before."""
        self.program.jobs.enqueue_many([self.program.work.bind("-:barrier")])[0].result(timeout=SECONDS)

    def restart(self) -> None:
        """Where the coordinator is a process of its own: kill -9 it and start it again."""
        coordinator = self.program.coordinator
        if coordinator is not None:
            self.barrier()
            coordinator.kill9()
            coordinator.start()
            self.barrier()

    def dashboard(self) -> TestClient:
        """A browser on this machine."""
        dashboard = self.jobs.dashboard(local=True)
        self._dashboards.append(dashboard)
        return TestClient(dashboard, base_url="http://localhost", client=("127.0.0.1", 1))

    def close(self) -> None:
        """Let all go, delete what has not ended, and look at what is left in the store."""
        for dashboard in self._dashboards:
            dashboard.close()
        with self.program.lock:
            doors = [door for name, door in self.program.doors.items() if name.startswith(self._prefix)]
        for door in doors:
            door.set()
        for receipt in self._made:
            if not receipt.state().is_final:
                receipt.delete()
        eventually(self._rules_hold, SECONDS, "all rules hold")

    def _rules_hold(self) -> bool:
        found = broken(self.program.apart)
        assert found == []
        return True


def refused(act: Callable[[], object]) -> str:
    """What is said of a command that is refused."""
    try:
        act()
    except UsageError as error:
        return str(error)
    raise AssertionError("it was not refused")


def store_in(folder: Path) -> str:
    """The address of a SQLite store in a folder."""
    return f"sqlite:///{folder / 'store.db'}"

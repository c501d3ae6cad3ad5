"""The processes of a storm: RabbitMQ nodes, a database, coordinators, a beat, workers and producers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from broker_jobs.broker.rabbitmq import RabbitBroker
from broker_jobs.broker.topology import fixed_topology, work_topology
from broker_jobs.store import Store
from tests.storm.jobs import FOLDER
from tests.storm.journal import FAULTS, Journal
from tests.support.cluster import Cluster
from tests.support.postgres import Postgres
from tests.support.process import Lodging

ROOT = Path(__file__).parents[2]
HANDOVER_SECONDS = 4.0
SHUTDOWN_SECONDS = 3.0


class System(Protocol):
    """What a process of a test needs to be started."""

    folder: Path
    environment: dict[str, str]
    lodging: Lodging


class Part:
    """A process that is started again whenever it has ended, as a supervisor does."""

    def __init__(self, kind: str, name: str, command: Sequence[str], system: System) -> None:
        self.kind = kind
        self.name = name
        self.busy = threading.Lock()
        self._command = command
        self._system = system
        self._process: subprocess.Popen[bytes] | None = None
        self._log = system.folder / f"{name}.log"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def runs(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, if it does not run."""
        if not self.runs:
            if self._process is not None:
                self._system.lodging.kill(self._process)
            self._process = self._system.lodging.start(self._command, log=self._log, env=self._system.environment)

    def kill9(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._system.lodging.kill(self._process)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, and its worker processes too, if it runs."""
        if self._process is not None and self.runs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def leave(self, timeout: float) -> bool:
        """Ask it to leave in order, and wait; whether it has."""
        self.send(signal.SIGTERM)
        if self._process is None:
            return True
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True


class StormSystem:
    """Everything of one storm, started; `close` ends it."""

    def __init__(self, folder: Path, cluster: Cluster, postgres: Postgres | None, per_second: float, seed: int) -> None:
        self.folder = folder
        self.cluster = cluster
        self.postgres = postgres
        self.sqlite = folder / "store.db"
        self.store_url = f"sqlite:///{self.sqlite}" if postgres is None else postgres.url(postgres.create_database())
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "",
            FOLDER: str(folder),
            "BROKER_JOBS_URL": cluster.url,
            "BROKER_JOBS_STORE": self.store_url,
            "BROKER_JOBS_LOG_LEVEL": "INFO",
        }
        self.journal = Journal(folder / FAULTS)
        self._ends = ExitStack()
        self.lodging = Lodging("storm")
        self._ends.callback(self.lodging.close)
        self.store = Store(self.store_url)
        self._ends.callback(self.store.close)
        broker = RabbitBroker(cluster.url, name="storm")
        broker.start(60)
        broker.apply(fixed_topology(), 120)
        broker.apply(work_topology("default", "side"), 120)
        broker.stop()
        for node in cluster.nodes[:1]:
            node.wait_for_young_queues()
        self.store.open()
        command = [sys.executable, "-m", "broker_jobs.cli"]
        app = "tests.storm.jobs:jobs"
        worker = [
            *command, "worker", app, "-Q", "default,side", "-c", "12", "--shutdown-timeout", str(SHUTDOWN_SECONDS),
            "--set", f"handover_after={HANDOVER_SECONDS}", "--set", "worker_heartbeat=2",
        ]  # fmt: skip
        self.parts = [
            *(Part("coordinator", f"coordinator-{n}", [*command, "coordinator"], self) for n in (1, 2)),
            Part("beat", "beat-1", [*command, "beat", app], self),
            *(Part("worker", f"worker-{n}", worker, self) for n in (1, 2, 3)),
        ]
        self.producers = [
            Part(
                "producer", f"producer-{n}",
                [sys.executable, "-m", "tests.storm.producer", str(n), str(per_second / 2), str(seed)], self,
            )
            for n in (1, 2)
        ]  # fmt: skip
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start all processes, and whoever starts them again."""
        for part in [*self.parts, *self.producers]:
            part.start()
        self._supervisor.start()

    def _supervise(self) -> None:
        while not self._stop.wait(0.5):
            for part in [*self.parts, *self.producers]:
                if not part.runs and part.busy.acquire(blocking=False):
                    try:
                        if not self._stop.is_set():
                            self.journal.write("started again", target=part.name, pid_of=part.pid)
                            part.start()
                    finally:
                        part.busy.release()

    def producers_leave(self) -> None:
        """Let the producers end in order: what they are enqueueing is enqueued."""
        producers, self.producers = self.producers, []
        for part in producers:
            with part.busy:
                part.start()
                if not part.leave(180):
                    raise AssertionError(f"{part.name} does not leave")

    def close(self) -> None:
        """End everything."""
        self._stop.set()
        if self._supervisor.is_alive():
            self._supervisor.join(60)
        for part in self.parts:
            part.send(signal.SIGTERM)
        deadline = time.monotonic() + 10
        for part in self.parts:
            with contextlib.suppress(subprocess.TimeoutExpired):
                part.leave(max(0.1, deadline - time.monotonic()))
        self._ends.close()
        self.journal.close()

"""Measures the whole system at once: producer, worker, coordinator with SQLite, broker; every job is recorded."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from statistics import median
from typing import Any

from benchmarks import meter
from benchmarks.figure import Figure, Row
from benchmarks.harness import Harness, Process, Sandbox, wait_for
from benchmarks.libraries.workers import OURS
from broker_jobs.broker import names
from broker_jobs.messages.state import State
from broker_jobs.store import Store
from tests.support.process import free_port

STEADY_SHARE = 0.75
"""Of what a burst came to: the rate that is then held, to see whether the log stays flat."""


class System:
    """Worker and coordinator in a sandbox, and their store."""

    def __init__(self, sandbox: Sandbox, broker_pid: int) -> None:
        self.sandbox = sandbox
        self._metrics_port = free_port()
        metrics = {"BROKER_JOBS_METRICS_PORT": str(self._metrics_port)}
        self.coordinator = sandbox.start("broker_jobs.cli", "coordinator", **metrics)
        wait_for(lambda: sandbox.depth(names.LOG)[1] > 0, "a coordinator")
        self.worker = OURS.start(sandbox)
        self._beat: Process | None = None
        self._pids = {"broker": broker_pid, "coordinator": self.coordinator.pid, "worker": self.worker.pid}
        self._store = Store(sandbox.store)
        self._store.open()

    def start_beat(self) -> None:
        """Start a beat, if there is none yet."""
        if self._beat is None:
            self._beat = self.sandbox.start("broker_jobs.cli", "beat", "benchmarks.libraries.ours:jobs")

    def succeeded(self) -> int:
        """How many jobs have succeeded, as the store says."""
        return self.counts()[State.SUCCEEDED]

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state, as the store says."""
        return self._store.reader.statistics.counts()

    def cpu(self) -> dict[str, float]:
        """Processor time so far, by process."""
        return {name: meter.cpu_seconds(pid) for name, pid in self._pids.items()}

    def transactions(self) -> dict[float, int]:
        """How many transactions of the coordinator took at most so many seconds, by the bounds of its histogram."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10) as answer:
            found = re.findall(r'coordinator_commit_seconds_bucket\{le="([^"]+)"\} (\S+)', answer.read().decode())
        return {float(bound): int(float(count)) for bound, count in found}

    def close(self) -> None:
        """Close what was opened here."""
        self._store.close()


def whole(harness: Harness) -> Row:
    """Jobs a second from the first enqueue to the last `succeeded` in the store; then a steady rate."""
    row = Row("Whole system: producer, worker, coordinator on SQLite, RabbitMQ")
    rates: list[float] = []
    cpu: list[dict[str, float]] = []
    logs: list[int] = []
    with harness.sandbox() as sandbox:
        system = System(sandbox, harness.broker.pid)
        seen = {"idle": meter.memory(system.coordinator.pid)}
        for _ in range(harness.scale.rounds):
            count = harness.scale.of(30_000)
            rate, used, log, busy = _burst(system, count)
            rates.append(rate)
            cpu.append(used)
            logs.append(log)
            seen["busy"] = max(seen.get("busy", busy), busy)
        harness.memory["broker_jobs coordinator"] = seen
        row.add(
            Figure(
                "burst", "broker_jobs", "ours", "/s", tuple(rates), compared=False, note=f"log grew to {max(logs):,}"
            )
        )
        for name in cpu[0]:
            values = tuple(each[name] for each in cpu)
            row.add(Figure("processor a job", name, "ours", "us", values, less_is_better=True, compared=False))
        row.add(*_steady(system, median(rates) * STEADY_SHARE, harness.scale.seconds(9)))
        system.close()
    return row


def _burst(system: System, count: int) -> tuple[float, dict[str, float], int, meter.Memory]:
    sandbox = system.sandbox
    before, used = system.succeeded(), system.cpu()
    producer = sandbox.begin("publish_many", library="ours", count=count)
    wait_for(lambda: system.succeeded() > before, "the first job")  # the 200 that connect: then the burst begins
    start, first = time.perf_counter(), system.succeeded()
    longest = 0

    def done() -> bool:
        nonlocal longest
        sandbox.check()
        longest = max(longest, sandbox.depth(names.LOG)[0])
        return system.succeeded() >= before + 200 + count

    wait_for(done, f"{count} jobs succeeded", timeout=180, poll=0.05)
    seconds = time.perf_counter() - start
    busy = meter.memory(system.coordinator.pid)
    produced = sandbox.result(producer)
    now = system.cpu()
    per_job = {name: (now[name] - used[name]) / count * 1e6 for name in used}
    per_job["producer"] = produced["cpu"] / count * 1e6
    return (before + 200 + count - first) / seconds, per_job, longest, busy


def _steady(system: System, rate: float, seconds: float) -> list[Figure]:
    """Enqueue at a rate; whether log and work queue stay short, checked every 0.1 s in the second half."""
    sandbox = system.sandbox
    before = system.succeeded()
    depths: list[tuple[int, int]] = []
    done: dict[str, Any] = {}
    producer = sandbox.begin("publish_paced", library="ours", rate=rate, seconds=seconds)
    watcher = threading.Thread(target=lambda: done.update(sandbox.result(producer)), daemon=True)
    watcher.start()
    while watcher.is_alive():
        depths.append((sandbox.depth(names.LOG)[0], sandbox.depth(OURS.queue)[0]))
        time.sleep(0.1)
    if not done:
        raise RuntimeError("the producer failed")
    wait_for(lambda: system.succeeded() >= before + done["count"], "the rest", timeout=180)
    half = depths[len(depths) // 2 :]
    log, work = tuple(float(depth[0]) for depth in half), tuple(float(depth[1]) for depth in half)
    held = f"held at {rate:,.0f} jobs/s for {seconds:g} s"
    return [
        Figure("steady: waiting in the log", held, "ours", "records", log, less_is_better=True, compared=False),
        Figure("steady: waiting for a worker", held, "ours", "jobs", work, less_is_better=True, compared=False),
    ]

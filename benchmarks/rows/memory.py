"""Measures the memory of each process, idle and busy, and of a worker while many jobs are due next month."""

from __future__ import annotations

import time

from benchmarks import meter
from benchmarks.figure import Figure, Row
from benchmarks.harness import Harness
from benchmarks.rows.whole import System
from broker_jobs.messages.state import State


def memory(harness: Harness) -> Row:
    """Megabytes, resident and (in the note) with shared pages divided among the processes that share them."""
    row = Row("Memory")
    with harness.sandbox() as sandbox:
        system = System(sandbox, harness.broker.pid)
        beat = sandbox.start("broker_jobs.cli", "beat", "benchmarks.libraries.ours:jobs")
        time.sleep(1.0)
        harness.memory["broker_jobs beat"] = {"idle": meter.memory(beat.pid)}
        harness.memory.setdefault("broker_jobs coordinator", {"idle": meter.memory(system.coordinator.pid)})
        harness.memory.setdefault("broker_jobs worker", {"idle": meter.memory(system.worker.pid)})
        count = harness.scale.of(100_000)
        before = [meter.memory(process.pid) for process in (system.worker, system.coordinator)]
        producer = sandbox.begin("schedule_far", count=count)
        producing = meter.memory(producer.pid)
        while producer.popen.poll() is None:
            producing = max(producing, meter.memory(producer.pid))
            time.sleep(0.2)
        sandbox.result(producer)
        harness.memory["broker_jobs producer"] = {"busy": producing}
        deadline = time.monotonic() + 120
        while system.counts()[State.SCHEDULED] < count and time.monotonic() < deadline:
            time.sleep(0.2)
        after = [meter.memory(process.pid) for process in (system.worker, system.coordinator)]
        known = system.counts()[State.SCHEDULED]
        system.close()
    for name, seen in sorted(harness.memory.items()):
        for when, held in seen.items():
            row.add(_figure(when, name, held))
    for name, was, held in zip(("worker", "coordinator"), before, after, strict=True):
        measure = f"{known:,} jobs wait for next month"
        row.add(
            _figure(measure, f"broker_jobs {name} before", was), _figure(measure, f"broker_jobs {name} after", held)
        )
    return row


def _figure(measure: str, name: str, held: meter.Memory) -> Figure:
    library = "ours" if name.startswith("broker_jobs") else "bare" if name.startswith("pika") else "peer"
    note = f"PSS {held.pss:.0f} MB"
    return Figure(
        measure, name, library, "MB", (round(held.rss, 1),), less_is_better=True, compared=False, note=note  # type: ignore[arg-type]
    )  # fmt: skip

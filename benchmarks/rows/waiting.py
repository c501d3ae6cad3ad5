"""Measures jobs that wait: a child for its parent, a child for a large batch, many jobs for few slots."""

from __future__ import annotations

import time

from benchmarks import meter, stamps
from benchmarks.figure import Figure, Row, percentile
from benchmarks.harness import Harness, Sandbox, wait_for
from benchmarks.rows.whole import System

WARM_UP = 10
SLOTS = 100


def waiting(harness: Harness) -> Row:
    """A parent's end to its child's start, idle; a batch of 100,000, from creation to end; jobs through 100 slots."""
    row = Row("Jobs that wait: continuations, batches, limits (worker, coordinator on SQLite, RabbitMQ)")
    _children(row, harness)
    _batch(row, harness)
    _limited(row, harness)
    return row


def _children(row: Row, harness: Harness) -> None:
    count, rounds = harness.scale.of(100), harness.scale.rounds
    with harness.sandbox() as sandbox:
        system = System(sandbox, harness.broker.pid)
        whole = WARM_UP + count * rounds
        sandbox.run("publish_children", count=whole, gap=0.05)
        wait_for(lambda: stamps.count(sandbox.stamps) >= whole, f"{whole} children")
        late = [(started - ended) * 1000 for ended, started in stamps.read(sandbox.stamps)][WARM_UP:]
        system.close()
    each = [late[number * count : (number + 1) * count] for number in range(rounds)]
    for percent in (50, 99):
        values = tuple(percentile(one, percent) for one in each)
        row.add(
            Figure(
                f"parent's end to child's start, p{percent}", "broker_jobs", "ours", "ms", values, less_is_better=True,
                compared=False,
            )
        )  # fmt: skip


def _batch(row: Row, harness: Harness) -> None:
    count = harness.scale.of(100_000)
    runs = [_one_batch(harness, count) for _ in range(harness.scale.rounds)]
    title = f"batch of {count:,}"
    for key, what, name, unit in (
        ("created", "created", "producer", "jobs/s"),
        ("run", "from its creation to its end", "whole system", "jobs/s"),
        ("producer", "memory", "producer", "MB"),
        ("coordinator", "memory", "coordinator, most", "MB"),
    ):
        values = tuple(run[key] for run in runs)
        less = unit == "MB"
        row.add(Figure(f"{title}: {what}", name, "ours", unit, values, less_is_better=less, compared=False))


def _one_batch(harness: Harness, count: int) -> dict[str, float]:
    with harness.sandbox() as sandbox:
        system = System(sandbox, harness.broker.pid)
        began = time.perf_counter()
        producer = sandbox.begin("publish_batch", count=count)
        most = 0.0

        def ended() -> bool:
            nonlocal most
            sandbox.check()
            most = max(most, meter.memory(system.coordinator.pid).rss)
            return stamps.count(sandbox.stamps) > 0

        wait_for(ended, "the batch's child", timeout=300, poll=0.1)
        seconds = time.perf_counter() - began
        done = sandbox.result(producer)
        wait_for(lambda: system.succeeded() > count, "the child's end")
        time.sleep(1)  # a second completion would start a second child
        if (times := stamps.count(sandbox.stamps)) != 1 or system.succeeded() != count + 1:
            raise RuntimeError(f"the batch ended {times} times, with {system.succeeded()} of {count + 1} succeeded")
        system.close()
    return {
        "created": count / done["seconds"],
        "run": count / (seconds - done["before"]),
        "producer": done["rss"],
        "coordinator": most,
    }


def _limited(row: Row, harness: Harness) -> None:
    count = harness.scale.of(10_000)
    with harness.sandbox() as sandbox:
        system = System(sandbox, harness.broker.pid)
        rates = [_one_line(sandbox, system, count) for _ in range(harness.scale.rounds)]
        system.close()
    row.add(Figure(f"through a limit of {SLOTS}", "broker_jobs", "ours", "jobs/s", tuple(rates), compared=False))


def _one_line(sandbox: Sandbox, system: System, count: int) -> float:
    before = system.succeeded()
    producer = sandbox.begin("publish_limited", count=count, slots=SLOTS)
    wait_for(lambda: system.succeeded() > before, "the first job")
    start, first = time.perf_counter(), system.succeeded()
    wait_for(lambda: system.succeeded() >= before + count, f"{count} jobs", timeout=300, poll=0.05)
    seconds = time.perf_counter() - start
    sandbox.result(producer)
    return (before + count - first) / seconds

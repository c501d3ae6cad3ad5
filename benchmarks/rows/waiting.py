"""Jobs that wait for others: a child for its parent, a child for a batch of many, many for a slot of few."""

from __future__ import annotations

import time

from benchmarks import meter, stamps
from benchmarks.figure import Figure, Row, percentile
from benchmarks.rows.whole import System
from benchmarks.stage import Corner, Stage, wait_for

WARM_UP = 10
SLOTS = 100


def waiting(stage: Stage) -> Row:
    """A parent's end to its child's start, idle; a batch of 100,000, from creation to end; jobs through 100 slots."""
    row = Row("Jobs that wait: continuations, batches, limits (worker, coordinator on SQLite, RabbitMQ)")
    _children(row, stage)
    _batch(row, stage)
    _limited(row, stage)
    return row


def _children(row: Row, stage: Stage) -> None:
    count, rounds = stage.scale.of(100), stage.scale.rounds
    with stage.corner() as corner:
        system = System(corner, stage.broker.pid)
        whole = WARM_UP + count * rounds
        corner.run("publish_children", count=whole, gap=0.05)
        wait_for(lambda: stamps.count(corner.stamps) >= whole, f"{whole} children")
        late = [(started - ended) * 1000 for ended, started in stamps.read(corner.stamps)][WARM_UP:]
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


def _batch(row: Row, stage: Stage) -> None:
    count = stage.scale.of(100_000)
    runs = [_one_batch(stage, count) for _ in range(stage.scale.rounds)]
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


def _one_batch(stage: Stage, count: int) -> dict[str, float]:
    with stage.corner() as corner:
        system = System(corner, stage.broker.pid)
        began = time.perf_counter()
        producer = corner.begin("publish_batch", count=count)
        most = 0.0

        def ended() -> bool:
            nonlocal most
            corner.check()
            most = max(most, meter.memory(system.coordinator.pid).rss)
            return stamps.count(corner.stamps) > 0

        wait_for(ended, "the batch's child", timeout=300, poll=0.1)
        seconds = time.perf_counter() - began
        done = corner.result(producer)
        wait_for(lambda: system.succeeded() > count, "the child's end")
        time.sleep(1)  # a second completion would start a second child
        if (times := stamps.count(corner.stamps)) != 1 or system.succeeded() != count + 1:
            raise RuntimeError(f"the batch ended {times} times, with {system.succeeded()} of {count + 1} succeeded")
        system.close()
    return {
        "created": count / done["seconds"],
        "run": count / (seconds - done["before"]),
        "producer": done["rss"],
        "coordinator": most,
    }


def _limited(row: Row, stage: Stage) -> None:
    count = stage.scale.of(10_000)
    with stage.corner() as corner:
        system = System(corner, stage.broker.pid)
        rates = [_one_line(corner, system, count) for _ in range(stage.scale.rounds)]
        system.close()
    row.add(Figure(f"through a limit of {SLOTS}", "broker_jobs", "ours", "jobs/s", tuple(rates), compared=False))


def _one_line(corner: Corner, system: System, count: int) -> float:
    before = system.succeeded()
    producer = corner.begin("publish_limited", count=count, slots=SLOTS)
    wait_for(lambda: system.succeeded() > before, "the first job")
    start, first = time.perf_counter(), system.succeeded()
    wait_for(lambda: system.succeeded() >= before + count, f"{count} jobs", timeout=300, poll=0.05)
    seconds = time.perf_counter() - start
    corner.result(producer)
    return (before + count - first) / seconds

"""Measures what a job of each kind costs the coordinator, beside what it costs the broker in the same run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import meter, stamps
from benchmarks.databases import databases
from benchmarks.figure import Figure, Row
from benchmarks.harness import Harness, Sandbox, wait_for
from benchmarks.rows.whole import System

STEADY_RATE = 1_000
"""Jobs a second: about a sixth of what a burst comes to, so that the log is read as it comes."""
SLOTS = 100
SCHEDULES = 500
"""Of every second."""
LEAD_SECONDS = 5.0
"""Between the last publish and the due time of delayed jobs."""


class Kind(NamedTuple):
    """A kind of job. `send` sends so many; it returns how many will succeed, of which the cost is shared."""

    name: str
    jobs: int
    send: Callable[[System, int], int]


def kinds(harness: Harness) -> Row:
    """Processor time a job, of coordinator, broker and worker; jobs a second, and the memory of the coordinator."""
    row = Row("Kinds of job: processor time a job (worker, coordinator, RabbitMQ)")
    with harness.sandbox() as sandbox, databases(sandbox) as addresses:
        for database, url in addresses.items():
            for kind in KINDS:
                _measure(row, harness, database, url("".join(filter(str.isalnum, kind.name))), kind)
    return row


def _measure(row: Row, harness: Harness, database: str, store: str, kind: Kind) -> None:
    with harness.sandbox() as sandbox:
        sandbox.use_store(store)
        system = System(sandbox, harness.broker.pid)
        sandbox.run("publish_many", library="ours", count=200)  # and the 200 that connect
        wait_for(lambda: system.succeeded() >= 400, "the first jobs")
        costs: list[dict[str, float]] = []
        rates: list[float] = []
        for _ in range(harness.scale.rounds):
            before, used, start = system.succeeded(), system.cpu(), time.perf_counter()
            count = kind.send(system, harness.scale.of(kind.jobs))
            _wait(sandbox, system, before + count)
            rates.append(count / (time.perf_counter() - start))
            now = system.cpu()
            costs.append({name: (now[name] - used[name]) / count * 1e6 for name in used})
        memory, transactions = meter.memory(system.coordinator.pid), system.transactions()
        system.close()
    measure = f"{kind.name}, {database}"
    for name in ("coordinator", "broker", "worker"):
        values = tuple(each[name] for each in costs)
        shown = tuple(each["coordinator"] / each["broker"] for each in costs)
        note = f"{min(shown):.2f} to {max(shown):.2f} of the broker's" if name == "coordinator" else ""
        row.add(Figure(measure, name, "ours", "us", values, less_is_better=True, compared=False, note=note))
    bound = _bound(transactions, 0.999) * 1e3
    over = f"{transactions[math.inf] - transactions[0.1]} of {transactions[math.inf]} over 100 ms"
    row.add(Figure(measure, "transactions, p99.9 up to", "ours", "ms", (bound,), compared=False, note=over))
    row.add(
        Figure(measure, "sent and run", "ours", "/s", tuple(rates), compared=False, note=f"{memory.rss:.0f} MB at last")
    )


def _bound(transactions: dict[float, int], share: float) -> float:
    """The bound of the histogram that so many did not exceed."""
    wanted = transactions[math.inf] * share
    return next(bound for bound, count in sorted(transactions.items()) if count >= wanted)


def _wait(sandbox: Sandbox, system: System, wanted: int) -> None:
    def done() -> bool:
        sandbox.check()
        return system.succeeded() >= wanted

    wait_for(done, f"{wanted} jobs", timeout=120, poll=0.05)


# ---- the kinds


def _steady(system: System, count: int) -> int:
    done = system.sandbox.run("publish_paced", library="ours", rate=STEADY_RATE, seconds=count / STEADY_RATE)
    return int(done["count"])


def _burst(system: System, count: int) -> int:
    system.sandbox.run("publish_many", library="ours", count=count)
    return count + 200


def _delayed(system: System, count: int) -> int:
    system.sandbox.run("publish_delayed", count=count, seconds=count / 1_500 + LEAD_SECONDS)
    return count


def _children(system: System, count: int) -> int:
    system.sandbox.run("publish_families", count=count)
    return 2 * count


def _siblings(system: System, count: int) -> int:
    system.sandbox.run("publish_siblings", count=count)
    return count + 1


def _batch(system: System, count: int) -> int:
    seen = stamps.count(system.sandbox.stamps)
    system.sandbox.run("publish_batch", count=count)
    wait_for(lambda: stamps.count(system.sandbox.stamps) > seen, "the batch's child", timeout=300, poll=0.1)
    return count + 1


def _limited(system: System, count: int) -> int:
    system.sandbox.run("publish_limited", count=count, slots=SLOTS)
    return count


def _recurring(system: System, count: int) -> int:
    """Schedules of every second, for a while."""
    system.sandbox.run("put_schedules", count=SCHEDULES)
    before = system.succeeded()
    system.start_beat()
    _wait(system.sandbox, system, before + count)
    return system.succeeded() - before


KINDS = (
    Kind("fire-and-forget, steady", 10_000, _steady),
    Kind("fire-and-forget, burst", 30_000, _burst),
    Kind("delayed, one instant", 20_000, _delayed),
    Kind("parent and child, a job", 5_000, _children),
    Kind("children of one parent", 10_000, _siblings),
    Kind("batch member", 100_000, _batch),
    Kind(f"limited, {SLOTS} slots", 10_000, _limited),
    Kind("recurring", 6_000, _recurring),
)

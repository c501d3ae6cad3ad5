"""Measures confirmed publishing: one at a time, and pipelined."""

from __future__ import annotations

from statistics import median

from benchmarks.figure import Figure, LibraryKind, Row
from benchmarks.harness import Harness

ONE: tuple[tuple[str, LibraryKind, str, dict[str, str]], ...] = (
    ("pika, two quorum queues", "bare", "pika_jobs", {"BENCH_FANOUT": "1"}),
    ("pika, one quorum queue", "bare", "pika_jobs", {}),
    ("pika, one classic queue", "bare", "pika_jobs", {"BENCH_QUEUE_TYPE": "classic"}),
    ("broker_jobs enqueue()", "ours", "ours", {}),
    ("Celery delay()", "peer", "celery_jobs", {}),
    ("Dramatiq send()", "peer", "dramatiq_jobs", {}),
    ("taskiq kiq()", "peer", "taskiq_jobs", {}),
)
MANY: tuple[tuple[str, LibraryKind, str, dict[str, str]], ...] = (
    ("pika, two quorum queues", "bare", "pika_jobs", {"BENCH_FANOUT": "1"}),
    ("pika, one quorum queue", "bare", "pika_jobs", {}),
    ("broker_jobs enqueue_many()", "ours", "ours", {}),
    ("taskiq, 100 at once", "peer", "taskiq_jobs", {}),
)


def publish_one(harness: Harness) -> Row:
    """One at a time: the next is sent when the one before is confirmed."""
    row = Row("Publish, confirmed one at a time")
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(harness.scale.rounds):
        for name, _side, connection, environment in ONE:
            with harness.sandbox() as sandbox:
                done = sandbox.run("publish_one", environment, library=connection, seconds=harness.scale.seconds(1.5))
            rates.setdefault(name, []).append(done["count"] / done["seconds"])
            cpu.setdefault(name, []).append(done["cpu"] / done["count"] * 1e6)
    for name, library, _connection, _environment in ONE:
        note = f"{median(cpu[name]):.0f} us of processor a job"
        row.add(Figure("one at a time", name, library, "/s", tuple(rates[name]), note=note))
    return row


def publish_many(harness: Harness) -> Row:
    """Pipelined: thousands on their way, each confirmed."""
    row = Row("Publish, confirmed and pipelined")
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(harness.scale.rounds):
        for name, _side, connection, environment in MANY:
            with harness.sandbox() as sandbox:
                count = harness.scale.of(10_000 if connection == "taskiq_jobs" else 40_000)
                done = sandbox.run("publish_many", environment, library=connection, count=count)
            rates.setdefault(name, []).append(count / done["seconds"][0])
            cpu.setdefault(name, []).append(done["cpu"] / count * 1e6)
    for name, library, _connection, _environment in MANY:
        note = f"{median(cpu[name]):.0f} us of processor a job"
        row.add(Figure("pipelined", name, library, "/s", tuple(rates[name]), note=note))
    return row

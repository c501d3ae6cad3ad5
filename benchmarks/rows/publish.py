"""Publishing, confirmed: one at a time, and pipelined."""

from __future__ import annotations

from statistics import median

from benchmarks.figure import Figure, Row, Side
from benchmarks.stage import Stage

ONE: tuple[tuple[str, Side, str, dict[str, str]], ...] = (
    ("pika, two quorum queues", "bare", "pika_side", {"BENCH_FANOUT": "1"}),
    ("pika, one quorum queue", "bare", "pika_side", {}),
    ("pika, one classic queue", "bare", "pika_side", {"BENCH_QUEUE_TYPE": "classic"}),
    ("broker_jobs enqueue()", "ours", "ours", {}),
    ("Celery delay()", "peer", "celery_side", {}),
    ("Dramatiq send()", "peer", "dramatiq_side", {}),
    ("taskiq kiq()", "peer", "taskiq_side", {}),
)
MANY: tuple[tuple[str, Side, str, dict[str, str]], ...] = (
    ("pika, two quorum queues", "bare", "pika_side", {"BENCH_FANOUT": "1"}),
    ("pika, one quorum queue", "bare", "pika_side", {}),
    ("broker_jobs enqueue_many()", "ours", "ours", {}),
    ("taskiq, 100 at once", "peer", "taskiq_side", {}),
)


def publish_one(stage: Stage) -> Row:
    """One at a time: the next is sent when the one before is confirmed."""
    row = Row("Publish, confirmed one at a time")
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(stage.scale.rounds):
        for name, _side, connection, environment in ONE:
            with stage.corner() as corner:
                done = corner.run("publish_one", environment, side=connection, seconds=stage.scale.seconds(1.5))
            rates.setdefault(name, []).append(done["count"] / done["seconds"])
            cpu.setdefault(name, []).append(done["cpu"] / done["count"] * 1e6)
    for name, side, _connection, _environment in ONE:
        note = f"{median(cpu[name]):.0f} us of processor a job"
        row.add(Figure("one at a time", name, side, "/s", tuple(rates[name]), note=note))
    return row


def publish_many(stage: Stage) -> Row:
    """Pipelined: thousands on their way, each confirmed."""
    row = Row("Publish, confirmed and pipelined")
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(stage.scale.rounds):
        for name, _side, connection, environment in MANY:
            with stage.corner() as corner:
                count = stage.scale.of(10_000 if connection == "taskiq_side" else 40_000)
                done = corner.run("publish_many", environment, side=connection, count=count)
            rates.setdefault(name, []).append(count / done["seconds"][0])
            cpu.setdefault(name, []).append(done["cpu"] / count * 1e6)
    for name, side, _connection, _environment in MANY:
        note = f"{median(cpu[name]):.0f} us of processor a job"
        row.add(Figure("pipelined", name, side, "/s", tuple(rates[name]), note=note))
    return row

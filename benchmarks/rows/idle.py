"""Idle latency: from the call that enqueues to the first line of the function, one job at a time."""

from __future__ import annotations

from benchmarks import stamps
from benchmarks.figure import Figure, Row, percentile
from benchmarks.sides import workers
from benchmarks.sides.workers import Worker
from benchmarks.stage import Corner, Stage, wait_for

SEEN = (
    Worker("pika, quorum queue", "bare", "pika_side", workers.PIKA.queue, (), kind="quorum"),
    Worker("pika, classic queue", "bare", "pika_side", workers.PIKA.queue, (), kind="classic"),
    workers.OURS,
    workers.CELERY_PREFORK,
    workers.CELERY_SOLO,
    workers.DRAMATIQ,
    workers.TASKIQ,
)
WARM_UP = 30


def latency(stage: Stage) -> Row:
    """Milliseconds from the call to the function, p50 and p99 of each round."""
    row = Row("Idle latency: from the call to the start of the function")
    middle: list[Figure] = []
    tail: list[Figure] = []
    for worker in (seen for seen in SEEN if not stage.scale.quick or seen is not workers.CELERY_SOLO):
        with stage.corner() as corner:
            rounds = _measure(corner, worker, stage.scale.of(300), stage.scale.rounds)
        half, most = ([percentile(each, percent) for each in rounds] for percent in (50, 99))
        middle.append(Figure("p50", worker.name, worker.side, "ms", tuple(half), less_is_better=True))
        tail.append(Figure("p99", worker.name, worker.side, "ms", tuple(most), less_is_better=True))
    row.add(*middle, *tail)
    return row


def _measure(corner: Corner, worker: Worker, count: int, rounds: int) -> list[list[float]]:
    environment = {"BENCH_QUEUE_TYPE": worker.kind}
    if worker.side == "bare":
        corner.declare_quorum(worker.kind)
        corner.begin("consume", environment, url=corner.url, kind=worker.kind, stamping=True)
        corner.wait_for_consumers(worker.queue, 1)
    else:
        worker.start(corner)
    whole = WARM_UP + count * rounds
    corner.run("publish_stamps", environment, side=worker.connection, count=whole, gap=0.004)
    wait_for(lambda: stamps.count(corner.stamps) >= whole, f"{whole} starts")
    lateness = [(started - sent) * 1000 for sent, started in stamps.read(corner.stamps)][WARM_UP:]
    return [lateness[number * count : (number + 1) * count] for number in range(rounds)]

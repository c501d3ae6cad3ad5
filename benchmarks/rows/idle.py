"""Measures idle latency: from the call that enqueues to the first line of the function, one job at a time."""

from __future__ import annotations

from benchmarks import stamps
from benchmarks.figure import Figure, Row, percentile
from benchmarks.harness import Harness, Sandbox, wait_for
from benchmarks.libraries import workers
from benchmarks.libraries.workers import Worker

SEEN = (
    Worker("pika, quorum queue", "bare", "pika_jobs", workers.PIKA.queue, (), kind="quorum"),
    Worker("pika, classic queue", "bare", "pika_jobs", workers.PIKA.queue, (), kind="classic"),
    workers.OURS,
    workers.CELERY_PREFORK,
    workers.CELERY_SOLO,
    workers.DRAMATIQ,
    workers.TASKIQ,
)
WARM_UP = 30


def latency(harness: Harness) -> Row:
    """Milliseconds from the call to the function, p50 and p99 of each round."""
    row = Row("Idle latency: from the call to the start of the function")
    middle: list[Figure] = []
    tail: list[Figure] = []
    for worker in (seen for seen in SEEN if not harness.scale.quick or seen is not workers.CELERY_SOLO):
        with harness.sandbox() as sandbox:
            rounds = _measure(sandbox, worker, harness.scale.of(300), harness.scale.rounds)
        half, most = ([percentile(each, percent) for each in rounds] for percent in (50, 99))
        middle.append(Figure("p50", worker.name, worker.library, "ms", tuple(half), less_is_better=True))
        tail.append(Figure("p99", worker.name, worker.library, "ms", tuple(most), less_is_better=True))
    row.add(*middle, *tail)
    return row


def _measure(sandbox: Sandbox, worker: Worker, count: int, rounds: int) -> list[list[float]]:
    environment = {"BENCH_QUEUE_TYPE": worker.kind}
    if worker.library == "bare":
        sandbox.declare_quorum(worker.kind)
        sandbox.begin("consume", environment, url=sandbox.url, kind=worker.kind, stamping=True)
        sandbox.wait_for_consumers(worker.queue, 1)
    else:
        worker.start(sandbox)
    whole = WARM_UP + count * rounds
    sandbox.run("publish_stamps", environment, library=worker.connection, count=whole, gap=0.004)
    wait_for(lambda: stamps.count(sandbox.stamps) >= whole, f"{whole} starts")
    lateness = [(started - sent) * 1000 for sent, started in stamps.read(sandbox.stamps)][WARM_UP:]
    return [lateness[number * count : (number + 1) * count] for number in range(rounds)]

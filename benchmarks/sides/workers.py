"""Says how the workers of each library are started, and which queue they serve."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import bare
from benchmarks.figure import Side
from benchmarks.stage import Corner, Process
from broker_jobs.broker.names import work_queue


@dataclass(frozen=True)
class Worker:
    """One way to run jobs."""

    name: str
    side: Side
    connection: str
    """The file in sides/ that enqueues for it."""
    queue: str
    command: tuple[str, ...]
    consumers: int = 1
    jobs: int = 10_000
    """How many empty jobs make a round of one to three seconds."""
    kind: str = "classic"

    def start(self, corner: Corner) -> Process:
        """Start it and wait until it takes jobs."""
        environment = {"BENCH_QUEUE_TYPE": self.kind}
        if self.side == "bare":
            corner.declare_quorum(self.kind)
            process = corner.begin("consume", environment, url=corner.url, kind=self.kind)
        else:
            process = corner.start(*self.command, **environment)
        corner.wait_for_consumers(self.queue, self.consumers)
        return process


OURS = Worker(
    "broker_jobs worker",
    "ours",
    "ours",
    work_queue("default"),
    ("broker_jobs.cli", "worker", "benchmarks.sides.ours:jobs"),
    jobs=40_000,
    kind="quorum",
)
PIKA = Worker("pika, ack every 100", "bare", "pika_side", bare.QUEUE, (), jobs=100_000, kind="quorum")
_CELERY = ("celery", "-A", "benchmarks.sides.celery_side", "worker", "-l", "WARNING")
CELERY_PREFORK = Worker(
    "Celery prefork 2", "peer", "celery_side", "celery", (*_CELERY, "-P", "prefork", "-c", "2"), jobs=6_000
)
CELERY_THREADS = Worker(
    "Celery threads 8", "peer", "celery_side", "celery", (*_CELERY, "-P", "threads", "-c", "8"), jobs=6_000
)
CELERY_SOLO = Worker("Celery solo", "peer", "celery_side", "celery", (*_CELERY, "-P", "solo"), jobs=6_000)
DRAMATIQ = Worker(
    "Dramatiq 2 x 8",
    "peer",
    "dramatiq_side",
    "default",
    ("dramatiq", "benchmarks.sides.dramatiq_side", "-p", "2", "-t", "8"),
    consumers=2,
    jobs=15_000,
)
TASKIQ = Worker(
    "taskiq 2 processes",
    "peer",
    "taskiq_side",
    "taskiq",
    ("taskiq", "worker", "benchmarks.sides.taskiq_side:broker", "--workers", "2", "--log-level", "WARNING"),
    consumers=2,
    jobs=9_000,
)
FEW = (PIKA, OURS, CELERY_PREFORK, DRAMATIQ, TASKIQ)
"""Without the other ways to run Celery, where it is to be quick."""
ALL = (PIKA, OURS, CELERY_PREFORK, CELERY_THREADS, CELERY_SOLO, DRAMATIQ, TASKIQ)

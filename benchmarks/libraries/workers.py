"""The start commands of each library's workers, and the queues they serve."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import bare
from benchmarks.figure import LibraryKind
from benchmarks.harness import Process, Sandbox
from broker_jobs.broker.names import work_queue


@dataclass(frozen=True)
class Worker:
    """One way to run jobs."""

    name: str
    library: LibraryKind
    connection: str
    """The file in libraries/ that enqueues for it."""
    queue: str
    command: tuple[str, ...]
    consumers: int = 1
    jobs: int = 10_000
    """How many empty jobs make a round of one to three seconds."""
    kind: str = "classic"

    def start(self, sandbox: Sandbox) -> Process:
        """Start it and wait until it takes jobs."""
        environment = {"BENCH_QUEUE_TYPE": self.kind}
        if self.library == "bare":
            sandbox.declare_quorum(self.kind)
            process = sandbox.begin("consume", environment, url=sandbox.url, kind=self.kind)
        else:
            process = sandbox.start(*self.command, **environment)
        sandbox.wait_for_consumers(self.queue, self.consumers)
        return process


OURS = Worker(
    "broker_jobs worker",
    "ours",
    "ours",
    work_queue("default"),
    ("broker_jobs.cli", "worker", "benchmarks.libraries.ours:jobs"),
    jobs=40_000,
    kind="quorum",
)
PIKA = Worker("pika, ack every 100", "bare", "pika_jobs", bare.QUEUE, (), jobs=100_000, kind="quorum")
_CELERY = ("celery", "-A", "benchmarks.libraries.celery_jobs", "worker", "-l", "WARNING")
CELERY_PREFORK = Worker(
    "Celery prefork 2", "peer", "celery_jobs", "celery", (*_CELERY, "-P", "prefork", "-c", "2"), jobs=6_000
)
CELERY_THREADS = Worker(
    "Celery threads 8", "peer", "celery_jobs", "celery", (*_CELERY, "-P", "threads", "-c", "8"), jobs=6_000
)
CELERY_SOLO = Worker("Celery solo", "peer", "celery_jobs", "celery", (*_CELERY, "-P", "solo"), jobs=6_000)
DRAMATIQ = Worker(
    "Dramatiq 2 x 8",
    "peer",
    "dramatiq_jobs",
    "default",
    ("dramatiq", "benchmarks.libraries.dramatiq_jobs", "-p", "2", "-t", "8"),
    consumers=2,
    jobs=15_000,
)
TASKIQ = Worker(
    "taskiq 2 processes",
    "peer",
    "taskiq_jobs",
    "taskiq",
    ("taskiq", "worker", "benchmarks.libraries.taskiq_jobs:broker", "--workers", "2", "--log-level", "WARNING"),
    consumers=2,
    jobs=9_000,
)
FEW = (PIKA, OURS, CELERY_PREFORK, DRAMATIQ, TASKIQ)
"""Without the other ways to run Celery, where it is to be quick."""
ALL = (PIKA, OURS, CELERY_PREFORK, CELERY_THREADS, CELERY_SOLO, DRAMATIQ, TASKIQ)

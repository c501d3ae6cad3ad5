"""Measures the time of imports: of the package, and of the parts that a producer needs."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks.figure import Figure, LibraryKind, Row
from benchmarks.harness import Harness

DRAMATIQ = "import dramatiq; from dramatiq.brokers.rabbitmq import RabbitmqBroker"
IMPORTS: tuple[tuple[str, LibraryKind, str], ...] = (
    ("import broker_jobs", "ours", "import broker_jobs"),
    ("BrokerJobs of broker_jobs", "ours", "from broker_jobs import BrokerJobs"),
    ("Dramatiq with its RabbitmqBroker", "peer", DRAMATIQ),
    ("Celery", "peer", "from celery import Celery; Celery"),
    ("taskiq with its AioPikaBroker", "peer", "from taskiq_aio_pika import AioPikaBroker"),
)
_TIMED = """
import time
wall, cpu = time.perf_counter(), time.process_time()
{statement}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def imports(harness: Harness) -> Row:
    """Milliseconds of each import, each in an interpreter of its own, in turns; the first turn is not counted."""
    row = Row("Import")
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in IMPORTS}
    for turn in range(1 + harness.scale.of(25)):
        for name, _, statement in IMPORTS:
            program = _TIMED.format(statement=statement)
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            if turn:  # the first one may compile
                wall, cpu = (float(seconds) * 1_000 for seconds in done.stdout.split())
                seen[name].append((wall, cpu))
    for index, measure in enumerate(("import", "its processor time")):
        beside = [times[index] for times in seen[IMPORTS[2][0]]]
        for name, library, _ in IMPORTS:
            values = tuple(times[index] for times in seen[name])
            least, middle = min(values) / min(beside), median(values) / median(beside)
            note = f"{least:.2f} of Dramatiq's at the least, {middle:.2f} median"
            row.add(Figure(measure, name, library, "ms", values, less_is_better=True, note=note))
    return row

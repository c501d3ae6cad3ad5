"""Measures the coordinator alone: records per second on small and large stores, and the cost of recurring jobs."""

from __future__ import annotations

from benchmarks.databases import Address, databases
from benchmarks.figure import Figure, Row
from benchmarks.harness import Harness, Sandbox

FULL = (10_000, 100_000, 1_000_000)
SCHEDULES = 10_000


def coordinator(harness: Harness) -> Row:
    """Records a second: reading a message of the log, deciding, committing; two records a job, no broker."""
    row = Row("Coordinator: records of the log decided and committed, without a broker")
    with harness.sandbox() as sandbox, databases(sandbox) as addresses:
        for database, url in addresses.items():
            _measure(row, harness, sandbox, database, url)
    return row


def _measure(row: Row, harness: Harness, sandbox: Sandbox, database: str, url: Address) -> None:
    for full in FULL[:2] if harness.scale.quick else FULL:
        done = sandbox.result(
            sandbox.begin(
                "records", url=url(str(full)), full=full, count=harness.scale.of(30_000), rounds=harness.scale.rounds
            ),
            timeout=900,
        )
        measure = f"{database}, {full:,} jobs in the store"
        rates = tuple(done["records"] / seconds for seconds in done["seconds"])
        row.add(Figure(measure, "broker_jobs", "ours", "records/s", rates, compared=False))
        cpu = tuple(seconds / done["records"] * 1e6 for seconds in done["cpu"])
        row.add(Figure(f"{measure}: processor", "a record", "ours", "us", cpu, less_is_better=True, compared=False))


def recurring(harness: Harness) -> Row:
    """What 10,000 schedules cost a beat and the coordinator; ticks of a beat in which none, one and all are due."""
    row = Row(f"Recurring: {SCHEDULES:,} schedules")
    with harness.sandbox() as sandbox:
        done = sandbox.run("schedules", url=sandbox.store, count=SCHEDULES, rounds=harness.scale.rounds)
    for measure, values in done.items():
        row.add(Figure(measure, "broker_jobs", "ours", "ms", tuple(values), less_is_better=True, compared=False))
    return row

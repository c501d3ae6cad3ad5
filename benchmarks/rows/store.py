"""Measures the store alone: rows per second, compared with plain inserts by SQLAlchemy Core."""

from __future__ import annotations

from benchmarks.databases import Address, databases
from benchmarks.figure import Figure, Row
from benchmarks.harness import Harness, Sandbox


def store(harness: Harness) -> Row:
    """Rows a second, 2,000 a transaction."""
    row = Row("Store: rows of jobs, 2,000 a transaction")
    with harness.sandbox() as sandbox, databases(sandbox) as addresses:
        for database, url in addresses.items():
            _measure(row, harness, sandbox, database, url)
    return row


def _measure(row: Row, harness: Harness, sandbox: Sandbox, database: str, url: Address) -> None:
    count = harness.scale.of(30_000)
    for how, name, bare in (
        ("core", "SQLAlchemy Core insert", True),
        ("store", "broker_jobs insert", False),
        ("update", "broker_jobs update", False),
    ):
        done = sandbox.run("store_rows", url=url(how), count=count, how=how, rounds=harness.scale.rounds)
        rates = tuple(count / seconds for seconds in done["seconds"])
        row.add(Figure(database, name, "bare" if bare else "ours", "rows/s", rates))

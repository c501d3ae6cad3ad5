"""Measures every read and every page of the dashboard with 1,000,000 jobs in the store, on both databases."""

from __future__ import annotations

from benchmarks.databases import Address, databases
from benchmarks.figure import Figure, Row, percentile
from benchmarks.harness import Harness, Sandbox

FILL_SECONDS = 1_800.0


def pages(harness: Harness) -> Row:
    """Milliseconds of reads and pages; the note has the 95th percentile."""
    row = Row("Dashboard: reads and pages of a store with many jobs")
    with harness.sandbox() as sandbox, databases(sandbox) as addresses:
        for database, url in addresses.items():
            _measure(row, harness, sandbox, database, url)
    return row


def _measure(row: Row, harness: Harness, sandbox: Sandbox, database: str, url: Address) -> None:
    at = url("pages")
    sandbox.result(sandbox.begin("pages_fill", url=at, count=harness.scale.of(1_000_000)), timeout=FILL_SECONDS)
    for what in ("reads", "pages"):
        found = sandbox.result(sandbox.begin("pages_read", url=at, what=what), timeout=FILL_SECONDS)
        for name, seconds in found.items():
            values = tuple(second * 1_000 for second in seconds)
            note = f"p95 {percentile(values, 95):.0f}"
            figure = Figure(
                f"{database} {what}", name, "ours", "ms", values, less_is_better=True, compared=False, note=note
            )
            row.add(figure)

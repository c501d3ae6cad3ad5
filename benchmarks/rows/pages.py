"""The dashboard with 1,000,000 jobs in the store: every read of it, and every page, on both databases."""

from __future__ import annotations

from benchmarks.databases import Address, databases
from benchmarks.figure import Figure, Row, percentile
from benchmarks.stage import Corner, Stage

FILL_SECONDS = 1_800.0


def pages(stage: Stage) -> Row:
    """Milliseconds of reads and pages; the note has the 95th percentile."""
    row = Row("Dashboard: reads and pages of a store with many jobs")
    with stage.corner() as corner, databases(corner) as addresses:
        for database, url in addresses.items():
            _measure(row, stage, corner, database, url)
    return row


def _measure(row: Row, stage: Stage, corner: Corner, database: str, url: Address) -> None:
    at = url("pages")
    corner.result(corner.begin("pages_fill", url=at, count=stage.scale.of(1_000_000)), timeout=FILL_SECONDS)
    for what in ("reads", "pages"):
        found = corner.result(corner.begin("pages_read", url=at, what=what), timeout=FILL_SECONDS)
        for name, seconds in found.items():
            values = tuple(second * 1_000 for second in seconds)
            note = f"p95 {percentile(values, 95):.0f}"
            figure = Figure(
                f"{database} {what}", name, "ours", "ms", values, less_is_better=True, compared=False, note=note
            )
            row.add(figure)

"""The store alone: rows a second, beside plain inserts by SQLAlchemy Core."""

from __future__ import annotations

from benchmarks.databases import Address, databases
from benchmarks.figure import Figure, Row
from benchmarks.stage import Corner, Stage


def store(stage: Stage) -> Row:
    """Rows a second, 2,000 a transaction."""
    row = Row("Store: rows of jobs, 2,000 a transaction")
    with stage.corner() as corner, databases(corner) as addresses:
        for database, url in addresses.items():
            _measure(row, stage, corner, database, url)
    return row


def _measure(row: Row, stage: Stage, corner: Corner, database: str, url: Address) -> None:
    count = stage.scale.of(30_000)
    for how, name, bare in (
        ("core", "SQLAlchemy Core insert", True),
        ("store", "broker_jobs insert", False),
        ("update", "broker_jobs update", False),
    ):
        done = corner.run("store_rows", url=url(how), count=count, how=how, rounds=stage.scale.rounds)
        rates = tuple(count / seconds for seconds in done["seconds"])
        row.add(Figure(database, name, "bare" if bare else "ours", "rows/s", rates))

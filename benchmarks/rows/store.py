"""The store alone: rows a second, beside plain inserts by SQLAlchemy Core."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.figure import Figure, Row
from benchmarks.stage import Corner, Stage
from tests.support.postgres import Postgres
from tests.support.process import ServerMissingError


def store(stage: Stage) -> Row:
    """Rows a second, 2,000 a transaction."""
    row = Row("Store: rows of jobs, 2,000 a transaction")
    with stage.corner() as corner:
        _measure(row, stage, corner, "SQLite", lambda name: f"sqlite:///{corner.folder / name}.sqlite")
        try:
            server = Postgres()
        except ServerMissingError:
            return row
        try:
            server.start()
            _measure(row, stage, corner, "PostgreSQL", lambda _: server.url(server.create_database()))
        finally:
            server.dispose()
    return row


def _measure(row: Row, stage: Stage, corner: Corner, database: str, url: Callable[[str], str]) -> None:
    count = stage.scale.of(30_000)
    for how, name, bare in (
        ("core", "SQLAlchemy Core insert", True),
        ("store", "broker_jobs insert", False),
        ("update", "broker_jobs update", False),
    ):
        done = corner.run("store_rows", url=url(how), count=count, how=how, rounds=stage.scale.rounds)
        rates = tuple(count / seconds for seconds in done["seconds"])
        row.add(Figure(database, name, "bare" if bare else "ours", "rows/s", rates))

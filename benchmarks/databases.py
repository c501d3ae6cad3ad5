"""Says which databases a row is measured on: SQLite, and PostgreSQL where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.stage import Corner
from tests.support.postgres import Postgres
from tests.support.process import ServerMissingError

Address = Callable[[str], str]
"""The address of an empty store by a plain name."""


@contextmanager
def databases(corner: Corner) -> Iterator[dict[str, Address]]:
    """The databases by their names, while the block runs."""
    found: dict[str, Address] = {"SQLite": lambda name: f"sqlite:///{corner.folder / name}.sqlite"}
    try:
        server = Postgres()
    except ServerMissingError:
        yield found
        return
    try:
        server.start()
        yield found | {"PostgreSQL": lambda _: server.url(server.create_database())}
    finally:
        server.dispose()

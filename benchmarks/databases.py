"""Provides the databases for a row: SQLite, and PostgreSQL if it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.harness import Sandbox
from tests.support.postgres import Postgres
from tests.support.process import ServerMissingError

Address = Callable[[str], str]
"""Name -> URL of an empty store."""


@contextmanager
def databases(sandbox: Sandbox) -> Iterator[dict[str, Address]]:
    """The databases by name, while the block runs."""
    found: dict[str, Address] = {"SQLite": lambda name: f"sqlite:///{sandbox.folder / name}.sqlite"}
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

"""Brings a database to the schema this program knows: the missing steps, in order, each under the lock.

Several processes may start at once: the first one migrates, the others wait and find nothing left to do.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, inspect, text

from broker_jobs.errors import StoreError
from broker_jobs.store.migrations import Step

ADVISORY_LOCK = 0x62726F6B65726A6F
"""PostgreSQL's lock for the time before there is a meta row to lock."""


class NewerSchemaError(StoreError):
    """A newer program has changed the store: waiting mends nothing, this one must be upgraded."""


def schema_of(connection: Connection) -> int:
    """The schema version of a database; 0: it has no tables of ours."""
    if not inspect(connection).has_table("meta"):
        return 0
    return int(connection.execute(text("SELECT schema FROM meta WHERE id = 1")).scalar_one_or_none() or 0)


def check(schema: int, known: int) -> None:
    """Refuse a schema this program does not know.

    Raises:
        StoreError: a newer program has changed the store; or an older copy was put in its place.
    """
    if schema > known:
        raise NewerSchemaError(f"the store has schema {schema}, this program knows {known}: upgrade this program")


def migrate(connection: Connection, steps: Sequence[Step]) -> int:
    """Apply the steps a database lacks; the connection is in a transaction that (on SQLite) holds the write lock.

    Returns:
        How many steps were applied.

    Raises:
        StoreError: the schema is newer than the steps.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        _make_schema(connection)
        _take_turn(connection)
    schema = schema_of(connection)
    check(schema, len(steps))
    for number, step in enumerate(steps[schema:], start=schema + 1):
        step(connection)
        connection.execute(text("UPDATE meta SET schema = :number WHERE id = 1"), {"number": number})
    return len(steps) - schema


def _take_turn(connection: Connection) -> None:
    """Lock the row that every transaction locks first, before any table is: an old coordinator that holds it and waits
    for a table of a long step would otherwise end the step as a deadlock, each time it is tried."""
    if inspect(connection).has_table("meta"):
        connection.execute(text("SELECT schema FROM meta WHERE id = 1 FOR UPDATE"))


def _make_schema(connection: Connection) -> None:
    """Make the PostgreSQL schema the tables live in, where it is missing (asked first: making needs a privilege)."""
    name = connection.execute(text("SHOW search_path")).scalar_one().split(",")[0].strip(' "')
    if not connection.execute(text("SELECT 1 FROM pg_namespace WHERE nspname = :name"), {"name": name}).first():
        quoted = connection.dialect.identifier_preparer.quote(name)
        connection.exec_driver_sql(f"CREATE SCHEMA {quoted}")

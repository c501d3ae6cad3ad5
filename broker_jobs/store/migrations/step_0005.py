"""Adds the name of the installation that a store belongs to."""

from __future__ import annotations

from sqlalchemy import Connection

from broker_jobs.store.migrations.types import types_of


def apply(connection: Connection) -> None:
    """Make the table; the first coordinator that opens the store writes its one row."""
    types = types_of(connection)
    connection.exec_driver_sql(
        "CREATE TABLE installation (id {int} PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL)".format(**types)
    )

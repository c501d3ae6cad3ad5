"""Adds how often a job was interrupted because its worker had to leave."""

from __future__ import annotations

from sqlalchemy import Connection

from broker_jobs.store.migrations.types import types_of


def apply(connection: Connection) -> None:
    """Add the column."""
    types = types_of(connection)
    connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN interruptions {int} NOT NULL DEFAULT 0".format(**types))

"""Adds what waits for something other than time: holds, batches with their additions, and marks to be worked off."""

from __future__ import annotations

from sqlalchemy import Connection

from broker_jobs.store.migrations.types import types_of

TABLES = (
    """CREATE TABLE holds (
        holder {key} NOT NULL, kind {key} NOT NULL, target {key} NOT NULL, on_end {key} NOT NULL, unmet {int} NOT NULL,
        since {real} NOT NULL, PRIMARY KEY (holder, kind, target))""",
    """CREATE TABLE batches (
        id {key} PRIMARY KEY, title TEXT NOT NULL, parent {key}, state {key} NOT NULL, total {int} NOT NULL,
        open {int} NOT NULL, succeeded {int} NOT NULL, failed {int} NOT NULL, deleted {int} NOT NULL,
        created_at {real} NOT NULL, ended_at {real})""",
    """CREATE TABLE additions (
        id {key} PRIMARY KEY, batch {key} NOT NULL, parent_addition {key}, chunks {int}, seen {int} NOT NULL,
        opened {int} NOT NULL, created_at {real} NOT NULL)""",
    "CREATE TABLE chunks (addition {key} NOT NULL, number {int} NOT NULL, PRIMARY KEY (addition, number))",
    """CREATE TABLE marks (
        kind {key} NOT NULL, target {key} NOT NULL, outcome {key} NOT NULL, PRIMARY KEY (kind, target))""",
)

INDEXES = (
    "CREATE INDEX holds_target ON holds (kind, target, unmet, on_end)",
    "CREATE INDEX batches_parent ON batches (parent) WHERE parent IS NOT NULL",
    "CREATE INDEX additions_batch ON additions (batch)",
    "CREATE INDEX additions_parent ON additions (parent_addition) WHERE parent_addition IS NOT NULL",
    "CREATE INDEX additions_unsealed ON additions (created_at) WHERE opened = 0",
    "CREATE INDEX jobs_batch ON jobs (batch, state, id) WHERE batch IS NOT NULL",
)


def apply(connection: Connection) -> None:
    """Make the tables and indexes."""
    types = types_of(connection)
    for statement in TABLES + INDEXES:
        connection.exec_driver_sql(statement.format(**types))

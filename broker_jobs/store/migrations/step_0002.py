"""Adds what waits for something other than time: holds, batches, marks, unique keys and slots."""

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
    "CREATE TABLE uniques (key {key} PRIMARY KEY, job_id {key} NOT NULL, scope {key} NOT NULL, until {real})",
    """CREATE TABLE slots (
        key {key} NOT NULL, job_id {key} NOT NULL, n {int} NOT NULL, taken {int} NOT NULL, most {int} NOT NULL,
        PRIMARY KEY (key, job_id))""",
    "CREATE TABLE rates (key {key} NOT NULL, at {real} NOT NULL, job_id {key} NOT NULL, used {int} NOT NULL)",
    """CREATE TABLE subscriptions (
        origin {key} NOT NULL, event {key} NOT NULL, job {key} NOT NULL, call TEXT NOT NULL,
        PRIMARY KEY (origin, event, job))""",
    "CREATE TABLE limits (key {key} PRIMARY KEY, most {int} NOT NULL)",
)

INDEXES = (
    "CREATE INDEX holds_target ON holds (kind, target, unmet, on_end)",
    "CREATE INDEX batches_parent ON batches (parent) WHERE parent IS NOT NULL",
    "CREATE INDEX additions_batch ON additions (batch)",
    "CREATE INDEX additions_parent ON additions (parent_addition) WHERE parent_addition IS NOT NULL",
    "CREATE INDEX additions_unsealed ON additions (created_at) WHERE opened = 0",
    "CREATE INDEX subscriptions_event ON subscriptions (event)",
    "CREATE INDEX slots_line ON slots (key, taken, n)",
    "CREATE INDEX slots_job ON slots (job_id)",
    "CREATE INDEX rates_at ON rates (key, at)",
    "CREATE INDEX rates_job ON rates (job_id)",
    "CREATE INDEX jobs_batch ON jobs (batch, state, id) WHERE batch IS NOT NULL",
)


def apply(connection: Connection) -> None:
    """Make the tables and indexes."""
    types = types_of(connection)
    for statement in TABLES + INDEXES:
        connection.exec_driver_sql(statement.format(**types))

"""Adds what is seen: orders for lists of jobs, statistics, links that outlive holds, functions, and parts that live.

A job that merely runs touches three orders: of its states by creation and by change, and that of what is out. Those of
its name and queue never change. The others hold only jobs that failed, wait, recur or carry tags.
"""

from __future__ import annotations

from sqlalchemy import Connection

from broker_jobs.store.migrations.types import types_of

TABLES = (
    "ALTER TABLE jobs ADD COLUMN unknowns {int} NOT NULL DEFAULT 0",
    "CREATE TABLE ended (state {key} PRIMARY KEY, n {int} NOT NULL)",
    """CREATE TABLE queue_outcomes (
        minute {int} NOT NULL, queue {key} NOT NULL, n {int} NOT NULL, PRIMARY KEY (minute, queue))""",
    """CREATE TABLE durations (
        minute {int} NOT NULL, kind {key} NOT NULL, bucket {int} NOT NULL, n {int} NOT NULL,
        PRIMARY KEY (minute, kind, bucket))""",
    """CREATE TABLE bonds (
        child {key} NOT NULL, parent {key} NOT NULL, on_end {key} NOT NULL, PRIMARY KEY (child, parent))""",
    """CREATE TABLE functions (
        name {key} NOT NULL, origin {key} NOT NULL, queue {key} NOT NULL, doc TEXT NOT NULL, parameters TEXT NOT NULL,
        seen_at {real} NOT NULL, PRIMARY KEY (name, origin))""",
    """CREATE TABLE parts (
        id {key} NOT NULL, kind {key} NOT NULL, host TEXT NOT NULL, pid {int} NOT NULL, version TEXT NOT NULL,
        active {int} NOT NULL, seen_at {real} NOT NULL, PRIMARY KEY (id, kind))""",
)

INDEXES = (
    "CREATE INDEX jobs_made ON jobs (state, created_at, id, queue, job)",
    "CREATE INDEX jobs_changed ON jobs (state, changed_at, id)",
    "CREATE INDEX jobs_queue ON jobs (queue, created_at, id)",
    "CREATE INDEX jobs_job ON jobs (job, created_at, id)",
    "CREATE INDEX jobs_recurring_made ON jobs (recurring, state, created_at, id) WHERE recurring IS NOT NULL",
    "CREATE INDEX jobs_tagged ON jobs (created_at, id) WHERE tags IS NOT NULL",
    "CREATE INDEX jobs_told ON jobs (state, created_at, id) WHERE (reason IS NOT NULL OR error IS NOT NULL)",
    "CREATE INDEX jobs_soon ON jobs (state, due_at, id, wire) WHERE state = 'scheduled'",
    "CREATE INDEX jobs_retry ON jobs (state, due_at, id) WHERE state = 'scheduled' AND why IN ('retry', 'crash')",
    "CREATE INDEX bonds_parent ON bonds (parent, child)",
    "CREATE INDEX functions_origin ON functions (origin)",
    "CREATE INDEX batches_made ON batches (created_at, id)",
    "CREATE INDEX batches_state ON batches (state, created_at, id)",
    "CREATE INDEX batches_ended ON batches (ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX parked_at ON parked (at, id)",
    "CREATE INDEX audit_made ON audit (at, id)",
)

DROPS = (
    "DROP INDEX jobs_ended",
    "DROP INDEX jobs_recurring",
    "DROP INDEX jobs_due",
    "DROP INDEX audit_at",
)

FILLS = (
    "INSERT INTO ended (state, n) SELECT state, sum(n) FROM outcomes GROUP BY state",
    """INSERT INTO bonds (child, parent, on_end) SELECT holder, CASE kind WHEN 'batch' THEN 'batch:' || target
        ELSE target END, min(on_end) FROM holds WHERE kind IN ('job', 'batch') GROUP BY 1, 2""",
    """INSERT INTO counts (queue, state, n) SELECT queue, 'retry', count(*) FROM jobs
        WHERE state = 'scheduled' AND why IN ('retry', 'crash') GROUP BY queue""",
)


def apply(connection: Connection) -> None:
    """Make the tables and indexes, and fill what earlier transactions would have kept."""
    types = types_of(connection)
    for statement in TABLES + DROPS + INDEXES:
        connection.exec_driver_sql(statement.format(**types))
    for statement in FILLS:
        connection.exec_driver_sql(statement)

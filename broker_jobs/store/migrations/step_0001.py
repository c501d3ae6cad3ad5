"""Makes the first tables.

The partial indexes keep the hot path cheap: a job that merely runs touches the index of its state and that of what is
out, nothing else. SQLite uses a partial index only when the query repeats its condition literally, so the queries do;
and it prefers the index of the state to a partial one that does not begin with the state, so those do.
"""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, text

from broker_jobs.store.migrations.types import types_of

TABLES = (
    """CREATE TABLE meta (
        id {int} PRIMARY KEY CHECK (id = 1), store_id TEXT NOT NULL, schema {int} NOT NULL, serial {int} NOT NULL,
        log_time {real} NOT NULL, last_tick_at {real} NOT NULL, control_version {int} NOT NULL,
        schedules_version {int} NOT NULL, accepted_serial {int} NOT NULL)""",
    """CREATE TABLE jobs (
        id {key} PRIMARY KEY, job TEXT, queue {key} NOT NULL, state {key} NOT NULL, why TEXT, wire {int} NOT NULL,
        epoch {int} NOT NULL, attempt {int} NOT NULL, crashes {int} NOT NULL, returns {int} NOT NULL,
        fence {int} NOT NULL, owner {key}, owned {int} NOT NULL, sender {key}, due_at {real}, grace_until {real},
        created_at {real} NOT NULL, changed_at {real} NOT NULL, released_at {real}, started_at {real}, ended_at {real},
        copy_until {real}, retries {int} NOT NULL, envelope TEXT, reason TEXT, result TEXT, result_lost TEXT,
        error TEXT, parent {key}, batch {key}, recurring {key}, tags TEXT, progress TEXT, history TEXT)""",
    "CREATE TABLE counts (queue {key} NOT NULL, state {key} NOT NULL, n {int} NOT NULL, PRIMARY KEY (queue, state))",
    """CREATE TABLE outcomes (
        minute {int} NOT NULL, state {key} NOT NULL, n {int} NOT NULL, PRIMARY KEY (minute, state))""",
    "CREATE TABLE queues (name {key} PRIMARY KEY, paused {int} NOT NULL)",
    """CREATE TABLE audit (
        id {key} PRIMARY KEY, at {real} NOT NULL, by TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
        detail TEXT NOT NULL)""",
    """CREATE TABLE schedules (
        name {key} PRIMARY KEY, cron TEXT NOT NULL, tz TEXT NOT NULL, misfire TEXT NOT NULL, overlap TEXT NOT NULL,
        call TEXT NOT NULL, origin TEXT NOT NULL, version {int} NOT NULL, paused {int} NOT NULL,
        last_planned_at {real}, last_job_id TEXT, created_at {real} NOT NULL, changed_at {real} NOT NULL)""",
    """CREATE TABLE workers (
        id {key} PRIMARY KEY, host TEXT NOT NULL, slot TEXT NOT NULL, pid {int} NOT NULL, queues TEXT NOT NULL,
        concurrency {int} NOT NULL, running {int} NOT NULL, done {int} NOT NULL, cpu_percent {real} NOT NULL,
        rss_bytes {int} NOT NULL, version TEXT NOT NULL, started_at {real} NOT NULL, seen_at {real} NOT NULL,
        lost {int} NOT NULL)""",
    """CREATE TABLE parked (
        id {key} PRIMARY KEY, at {real} NOT NULL, origin TEXT NOT NULL, reason TEXT NOT NULL, body {bytes} NOT NULL,
        exchange TEXT NOT NULL, key TEXT NOT NULL, type TEXT NOT NULL, message_id TEXT NOT NULL)""",
    """CREATE TABLE lines (
        n {serial}, job_id {key} NOT NULL, attempt {int} NOT NULL, at {real} NOT NULL, digest {int} NOT NULL,
        text TEXT NOT NULL)""",
)

INDEXES = (
    "CREATE INDEX jobs_state ON jobs (state, id)",
    "CREATE INDEX jobs_due ON jobs (state, due_at, id) WHERE state = 'scheduled' AND wire = 0",
    "CREATE INDEX jobs_grace ON jobs (state, grace_until) WHERE state = 'scheduled' AND grace_until IS NOT NULL",
    "CREATE INDEX jobs_sending ON jobs (id, sender) WHERE wire = 1",
    "CREATE INDEX jobs_owner ON jobs (state, owner, id) WHERE state = 'processing'",
    "CREATE INDEX jobs_cancel ON jobs (state, why, id) WHERE state = 'processing' AND why = 'cancel'",
    "CREATE INDEX jobs_fence ON jobs (id, fence) WHERE fence > 0",
    "CREATE INDEX jobs_out ON jobs (queue, (coalesce(released_at, created_at))) WHERE wire = 2",
    "CREATE INDEX jobs_fragile ON jobs (queue, crashes) WHERE crashes >= 2 AND wire <> 0",
    "CREATE INDEX jobs_recurring ON jobs (recurring, state) WHERE recurring IS NOT NULL",
    """CREATE INDEX jobs_ended ON jobs (state, (coalesce(ended_at, changed_at)))
        WHERE state IN ('succeeded', 'failed', 'deleted')""",
    "CREATE INDEX audit_at ON audit (at)",
    "CREATE UNIQUE INDEX lines_job ON lines (job_id, attempt, at, digest)",
)


def apply(connection: Connection) -> None:
    """Make every table and the one row of meta, with a fresh store id."""
    types = types_of(connection)
    for statement in TABLES + INDEXES:
        connection.exec_driver_sql(statement.format(**types))
    connection.execute(
        text(
            "INSERT INTO meta (id, store_id, schema, serial, log_time, last_tick_at, control_version,"
            " schedules_version, accepted_serial) VALUES (1, :store_id, 1, 0, 0, 0, 0, 0, 0)"
        ),
        {"store_id": uuid.uuid4().hex},
    )

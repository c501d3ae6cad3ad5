"""Makes the tables and indexes.

A job that merely runs touches three orders: its state by creation and by change, and what is published. The orders of
its name and queue never change. The partial indexes hold only jobs that failed, wait, recur, carry tags or
are kept for a time of their own. SQLite uses
a partial index only when the query repeats its condition literally, so the queries do; and it prefers the index of the
state to a partial one that does not begin with the state, so those do.
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
        id {key} PRIMARY KEY, job TEXT, queue {key} NOT NULL, state {key} NOT NULL, reason_code TEXT, publication {int}
        NOT NULL, epoch {int} NOT NULL, attempt {int} NOT NULL, crashes {int} NOT NULL, returns {int} NOT NULL, fence
        {int} NOT NULL, owner {key}, owned {int} NOT NULL, sender {key}, due_at {real}, grace_until {real}, created_at
        {real} NOT NULL, changed_at {real} NOT NULL, released_at {real}, started_at {real}, ended_at {real}, copy_until
        {real}, retries {int} NOT NULL, envelope TEXT, reason TEXT, result TEXT, result_lost TEXT, error TEXT, parent
        {key}, batch {key}, recurring {key}, tags TEXT, progress TEXT, history TEXT,
        unknowns {int} NOT NULL, interruptions {int} NOT NULL, lost_since {int} NOT NULL,
        waits {int} NOT NULL, conditions {int} NOT NULL,
        alias_group {key}, counted_as {key}, gives_back {int} NOT NULL, ran_on {key}, ran_host {key},
        priority {key}, keep_until {real}, result_until {real})""",
    """CREATE TABLE attempts (
        job_id {key} NOT NULL, epoch {int} NOT NULL, attempt {int} NOT NULL, ended {key} NOT NULL, at {real} NOT NULL,
        started_at {real}, ended_at {real} NOT NULL, worker {key}, host {key}, release TEXT, reason TEXT, error TEXT,
        fingerprint {key}, PRIMARY KEY (job_id, epoch))""",
    "CREATE TABLE counts (queue {key} NOT NULL, state {key} NOT NULL, n {int} NOT NULL, PRIMARY KEY (queue, state))",
    """CREATE TABLE outcomes (
        minute {int} NOT NULL, state {key} NOT NULL, n {int} NOT NULL, PRIMARY KEY (minute, state))""",
    "CREATE TABLE queues (name {key} PRIMARY KEY, paused {int} NOT NULL)",
    """CREATE TABLE audit (
        id {key} PRIMARY KEY, at {real} NOT NULL, by TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
        detail TEXT NOT NULL, user_id TEXT NOT NULL)""",
    """CREATE TABLE schedules (
        name {key} PRIMARY KEY, cron TEXT NOT NULL, tz TEXT NOT NULL, misfire TEXT NOT NULL, overlap TEXT NOT NULL,
        call TEXT NOT NULL, service TEXT NOT NULL, version {int} NOT NULL, paused {int} NOT NULL,
        last_planned_at {real}, last_job_id TEXT, created_at {real} NOT NULL, changed_at {real} NOT NULL)""",
    """CREATE TABLE workers (
        id {key} PRIMARY KEY, host TEXT NOT NULL, slot TEXT NOT NULL, pid {int} NOT NULL, queues TEXT NOT NULL,
        served TEXT NOT NULL, queue_limits TEXT NOT NULL, concurrency {int} NOT NULL, running {int} NOT NULL,
        done {int} NOT NULL, cpu_percent {real} NOT NULL, rss_bytes {int} NOT NULL, version TEXT NOT NULL,
        service {key} NOT NULL, code {key} NOT NULL,
        busy TEXT NOT NULL, started_at {real} NOT NULL, seen_at {real} NOT NULL, silent_since {real},
        problem TEXT NOT NULL, lost {int} NOT NULL)""",
    "CREATE TABLE code_jobs (code {key} NOT NULL, job {key} NOT NULL, PRIMARY KEY (code, job))",
    """CREATE TABLE removed_declarations (
        service {key} NOT NULL, kind {key} NOT NULL, name {key} NOT NULL, at {real} NOT NULL,
        PRIMARY KEY (service, kind, name))""",
    "CREATE TABLE worker_changes (worker {key} PRIMARY KEY, change TEXT NOT NULL)",
    """CREATE TABLE dead_letters (
        id {key} PRIMARY KEY, at {real} NOT NULL, origin TEXT NOT NULL, reason TEXT NOT NULL, body {bytes} NOT NULL,
        exchange TEXT NOT NULL, key TEXT NOT NULL, type TEXT NOT NULL, message_id TEXT NOT NULL, user_id TEXT NOT NULL,
        dead_lettered {int} NOT NULL, size {int} NOT NULL)""",
    "CREATE TABLE poison_marks (hash {key} PRIMARY KEY, at {real} NOT NULL)",
    """CREATE TABLE log_lines (
        n {serial}, job_id {key} NOT NULL, attempt {int} NOT NULL, at {real} NOT NULL, digest {int} NOT NULL,
        text TEXT NOT NULL)""",
    """CREATE TABLE dependencies (
        holder {key} NOT NULL, kind {key} NOT NULL, target {key} NOT NULL, on_end {key} NOT NULL, unsatisfied {int} NOT
        NULL, since {real} NOT NULL, PRIMARY KEY (holder, kind, target))""",
    """CREATE TABLE batches (
        id {key} PRIMARY KEY, title TEXT NOT NULL, parent {key}, state {key} NOT NULL, total {int} NOT NULL,
        open {int} NOT NULL, succeeded {int} NOT NULL, failed {int} NOT NULL, deleted {int} NOT NULL,
        created_at {real} NOT NULL, ended_at {real})""",
    """CREATE TABLE batch_submissions (
        id {key} PRIMARY KEY, batch {key} NOT NULL, parent_submission {key}, chunks {int}, seen {int} NOT NULL,
        accepted {int} NOT NULL, opened {int} NOT NULL, since {real} NOT NULL)""",
    "CREATE TABLE chunks (submission {key} NOT NULL, number {int} NOT NULL, PRIMARY KEY (submission, number))",
    """CREATE TABLE work_items (
        kind {key} NOT NULL, target {key} NOT NULL, outcome {key} NOT NULL, PRIMARY KEY (kind, target))""",
    """CREATE TABLE unique_keys (
        key {key} PRIMARY KEY, job_id {key} NOT NULL, scope {key} NOT NULL, until {real}, after {key})""",
    "CREATE TABLE alias_groups (id {key} PRIMARY KEY, root {key} NOT NULL)",
    """CREATE TABLE lines (
        key {key} PRIMARY KEY, kind {key} NOT NULL, limit_code {int} NOT NULL, limit_set {int}, rank {int} NOT NULL,
        span {real}, fixed {int} NOT NULL, taken {int} NOT NULL, turns {int} NOT NULL, tail {int} NOT NULL,
        next_at {real})""",
    """CREATE TABLE line_entries (
        key {key} NOT NULL, job_id {key} NOT NULL, place {int} NOT NULL, stage {int} NOT NULL,
        PRIMARY KEY (key, job_id))""",
    """CREATE TABLE rate_starts (
        key {key} NOT NULL, at {real} NOT NULL, job_id {key} NOT NULL, epoch {int} NOT NULL)""",
    "CREATE TABLE open_runs (name {key} PRIMARY KEY, n {int} NOT NULL)",
    """CREATE TABLE subscriptions (
        service {key} NOT NULL, event {key} NOT NULL, job {key} NOT NULL, call TEXT NOT NULL,
        PRIMARY KEY (service, event, job))""",
    "CREATE TABLE ended (state {key} PRIMARY KEY, n {int} NOT NULL)",
    """CREATE TABLE queue_outcomes (
        minute {int} NOT NULL, queue {key} NOT NULL, n {int} NOT NULL, PRIMARY KEY (minute, queue))""",
    """CREATE TABLE durations (
        minute {int} NOT NULL, kind {key} NOT NULL, bucket {int} NOT NULL, n {int} NOT NULL,
        PRIMARY KEY (minute, kind, bucket))""",
    """CREATE TABLE kind_outcomes (
        minute {int} NOT NULL, job {key} NOT NULL, state {key} NOT NULL, n {int} NOT NULL,
        PRIMARY KEY (minute, job, state))""",
    """CREATE TABLE kind_durations (
        minute {int} NOT NULL, job {key} NOT NULL, kind {key} NOT NULL, bucket {int} NOT NULL, n {int} NOT NULL,
        PRIMARY KEY (minute, job, kind, bucket))""",
    """CREATE TABLE relations (
        child {key} NOT NULL, parent {key} NOT NULL, on_end {key} NOT NULL, PRIMARY KEY (child, parent))""",
    """CREATE TABLE functions (
        name {key} NOT NULL, service {key} NOT NULL, queue {key} NOT NULL, doc TEXT NOT NULL, parameters TEXT NOT NULL,
        seen_at {real} NOT NULL, PRIMARY KEY (name, service))""",
    """CREATE TABLE components (
        id {key} NOT NULL, kind {key} NOT NULL, host TEXT NOT NULL, pid {int} NOT NULL, version TEXT NOT NULL,
        active {int} NOT NULL, seen_at {real} NOT NULL, PRIMARY KEY (id, kind))""",
    "CREATE TABLE installation (id {int} PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL)",
)

INDEXES = (
    "CREATE INDEX jobs_state ON jobs (state, id)",
    "CREATE INDEX jobs_grace ON jobs (grace_until) WHERE grace_until IS NOT NULL",
    "CREATE INDEX jobs_keep ON jobs (keep_until, id) WHERE keep_until IS NOT NULL",
    "CREATE INDEX jobs_result ON jobs (result_until, id) WHERE result_until IS NOT NULL",
    "CREATE INDEX jobs_publishing ON jobs (id, sender) WHERE publication = 1",
    "CREATE INDEX jobs_owner ON jobs (state, owner, id) WHERE state = 'processing'",
    "CREATE INDEX jobs_cancel ON jobs (state, reason_code, id) WHERE state = 'processing' AND reason_code = 'cancel'",
    "CREATE INDEX jobs_fence ON jobs (id, fence) WHERE fence > 0",
    "CREATE INDEX jobs_out ON jobs (queue, (coalesce(released_at, created_at))) WHERE publication = 2",
    "CREATE INDEX attempts_error ON attempts (fingerprint, at) WHERE fingerprint IS NOT NULL",
    "CREATE INDEX attempts_at ON attempts (at, fingerprint) WHERE fingerprint IS NOT NULL",
    "CREATE UNIQUE INDEX log_lines_job ON log_lines (job_id, attempt, at, digest)",
    "CREATE INDEX dependencies_target ON dependencies (kind, target, unsatisfied, on_end, holder)",
    "CREATE INDEX dependencies_holder ON dependencies (holder, unsatisfied)",
    "CREATE INDEX batches_parent ON batches (parent) WHERE parent IS NOT NULL",
    "CREATE INDEX batch_submissions_batch ON batch_submissions (batch, opened, since, id)",
    """CREATE INDEX batch_submissions_parent ON batch_submissions (parent_submission)
        WHERE parent_submission IS NOT NULL""",
    "CREATE INDEX batch_submissions_open ON batch_submissions (since) WHERE opened = 0 AND chunks IS NULL",
    "CREATE INDEX batch_submissions_opened ON batch_submissions (since) WHERE opened = 1",
    "CREATE INDEX work_items_target ON work_items (target, kind)",
    "CREATE INDEX subscriptions_event ON subscriptions (event)",
    "CREATE INDEX unique_keys_job ON unique_keys (job_id)",
    "CREATE INDEX unique_keys_after ON unique_keys (after) WHERE after IS NOT NULL",
    "CREATE INDEX unique_keys_until ON unique_keys (until) WHERE until IS NOT NULL",
    "CREATE INDEX jobs_alias_group ON jobs (alias_group, id) WHERE alias_group IS NOT NULL",
    "CREATE INDEX line_entries_stage ON line_entries (key, stage, place)",
    "CREATE INDEX line_entries_job ON line_entries (job_id)",
    "CREATE INDEX lines_next ON lines (next_at) WHERE next_at IS NOT NULL",
    "CREATE INDEX rate_starts_at ON rate_starts (key, at)",
    "CREATE INDEX rate_starts_job ON rate_starts (job_id, epoch)",
    "CREATE INDEX jobs_batch ON jobs (batch, state, id) WHERE batch IS NOT NULL",
    "CREATE INDEX jobs_failed_elsewhere ON jobs (batch, id) WHERE counted_as = 'failed' AND state = 'deleted'",
    "CREATE INDEX jobs_made ON jobs (state, created_at, id, queue, job)",
    "CREATE INDEX jobs_changed ON jobs (state, changed_at, id)",
    "CREATE INDEX jobs_queue ON jobs (queue, created_at, id)",
    "CREATE INDEX jobs_job ON jobs (job, created_at, id)",
    "CREATE INDEX jobs_recurring_made ON jobs (recurring, state, created_at, id) WHERE recurring IS NOT NULL",
    "CREATE INDEX jobs_tagged ON jobs (created_at, id) WHERE tags IS NOT NULL",
    "CREATE INDEX jobs_told ON jobs (state, created_at, id) WHERE (reason IS NOT NULL OR error IS NOT NULL)",
    "CREATE INDEX jobs_soon ON jobs (state, due_at, id, publication) WHERE state = 'scheduled'",
    """CREATE INDEX jobs_retry ON jobs (state, due_at, id)
        WHERE state = 'scheduled' AND reason_code IN ('retry', 'crash')""",
    "CREATE INDEX jobs_unknown ON jobs (queue, job, id) WHERE waits >= 16",
    "CREATE INDEX relations_parent ON relations (parent, child)",
    "CREATE INDEX functions_service ON functions (service)",
    "CREATE INDEX batches_made ON batches (created_at, id)",
    "CREATE INDEX batches_state ON batches (state, created_at, id)",
    "CREATE INDEX batches_ended ON batches (ended_at, id) WHERE ended_at IS NOT NULL",
    "CREATE INDEX dead_letters_at ON dead_letters (at, id, size)",
    "CREATE INDEX audit_made ON audit (at, id)",
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

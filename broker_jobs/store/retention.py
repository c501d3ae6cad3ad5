"""Forgets what is old: ended jobs by the state they ended in, their lines, old commands and old throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, text

from broker_jobs.clock import Instant

_NEEDED = (
    " AND NOT EXISTS (SELECT 1 FROM dependencies WHERE dependencies.kind = 'job' AND dependencies.target = jobs.id)"
    " AND NOT EXISTS (SELECT 1 FROM relations JOIN jobs AS child ON child.id = relations.child"
    " WHERE relations.parent = jobs.id AND child.state IN ('awaiting', 'scheduled', 'enqueued', 'processing'))"
    " AND NOT EXISTS (SELECT 1 FROM unique_keys WHERE unique_keys.job_id = jobs.id"
    " AND (unique_keys.until IS NULL OR unique_keys.until > :now))"
    " AND (alias_group IS NULL OR reason_code = 'alias' OR NOT EXISTS (SELECT 1 FROM jobs AS alias"
    " WHERE alias.alias_group = jobs.alias_group AND alias.alias_group IS NOT NULL AND alias.id <> jobs.id))"
)
"""What has not ended may need a job that has: its end, its result, its key, or what it is an alias of."""
_PURGEABLE = {
    state: text(
        f"SELECT id, queue, state FROM jobs WHERE state = '{state}' AND publication = 0"  # noqa: S608  # a constant
        " AND changed_at < :before"
        " AND (grace_until IS NULL OR grace_until <= :log_time) AND (copy_until IS NULL OR copy_until < :now)"
        f"{_NEEDED} ORDER BY changed_at LIMIT :limit"
    )
    for state in ("succeeded", "deleted", "failed")
}
_FORGET = tuple(
    text(f"DELETE FROM {table} WHERE {column} IN :ids").bindparams(bindparam("ids", expanding=True))  # noqa: S608
    for table, column in (
        ("alias_groups", "root"),
        ("jobs", "id"),
        ("log_lines", "job_id"),
        ("dependencies", "holder"),
        ("line_entries", "job_id"),
        ("rate_starts", "job_id"),
        ("unique_keys", "job_id"),
        ("relations", "child"),
    )
)
_FORGET_AUDIT = text("DELETE FROM audit WHERE at < :before")
_FORGET_OUTCOMES = text("DELETE FROM outcomes WHERE minute < :before")
_FORGET_BATCH_RELATIONS = text(
    "DELETE FROM relations WHERE child IN"
    " (SELECT 'batch:' || id FROM batches WHERE ended_at IS NOT NULL AND ended_at < :before)"
)
_FORGET_BATCHES = text(
    "DELETE FROM batches WHERE ended_at IS NOT NULL AND ended_at < :before AND NOT EXISTS (SELECT 1 FROM dependencies"
    " WHERE dependencies.kind = 'batch' AND dependencies.target = batches.id)"
)
_FORGET_SUBMISSIONS = text("DELETE FROM batch_submissions WHERE opened = 1 AND since < :log_before")
_FORGET_BY_AGE = (_FORGET_AUDIT, _FORGET_BATCH_RELATIONS, _FORGET_BATCHES)
_FORGET_WINDOWS = text("DELETE FROM unique_keys WHERE until IS NOT NULL AND until <= :now AND after IS NULL")
_FORGET_QUEUE_OUTCOMES = text("DELETE FROM queue_outcomes WHERE minute < :before")
_FORGET_DURATIONS = text("DELETE FROM durations WHERE minute < :before")
_FORGET_COMPONENTS = text("DELETE FROM components WHERE seen_at < :before")
KEEP_OUTCOMES_SECONDS = 8 * 86_400.0
"""A week, and what is under way of the next one."""
KEEP_RATES_SECONDS = 2 * 3_600.0
"""Rates and lengths of time are asked for of the last hour."""
KEEP_COMPONENTS_SECONDS = 3_600.0
_FORGET_BY_OWN_AGE = (
    (_FORGET_OUTCOMES, KEEP_OUTCOMES_SECONDS),
    (_FORGET_QUEUE_OUTCOMES, KEEP_RATES_SECONDS),
    (_FORGET_DURATIONS, KEEP_RATES_SECONDS),
    (_FORGET_COMPONENTS, KEEP_COMPONENTS_SECONDS),
)
CHUNK = 500


def purgeable(
    connection: Connection, keep: Mapping[str, float], *, now: Instant, log_time: float, limit: int
) -> list[tuple[str, str, str]]:
    """(id, queue, state) of jobs that may be forgotten: ended, kept long enough, nothing of them on its way."""
    found: list[tuple[str, str, str]] = []
    for state, seconds in keep.items():
        values = {"before": now - seconds, "log_time": log_time, "now": now, "limit": limit - len(found)}
        found += [(job_id, queue, of) for job_id, queue, of in connection.execute(_PURGEABLE[state], values)]
    return found


def forget_old(connection: Connection, ids: Sequence[str], *, now: Instant, before: Instant, log_before: float) -> bool:
    """Remove these jobs with all that is theirs, what is older than `before`, old statistics; whether any but jobs was.

    `log_before` is the log time of submissions.
    """
    for start in range(0, len(ids), CHUNK):
        for statement in _FORGET:
            connection.execute(statement, {"ids": list(ids[start : start + CHUNK])})
    old = [connection.execute(statement, {"before": before}) for statement in _FORGET_BY_AGE]
    old.append(connection.execute(_FORGET_SUBMISSIONS, {"log_before": log_before}))
    old.append(connection.execute(_FORGET_WINDOWS, {"now": now}))
    old += [connection.execute(statement, {"before": now - keep}) for statement, keep in _FORGET_BY_OWN_AGE]
    return any(result.rowcount > 0 for result in old)

"""Forgets what is old: ended jobs by the state they ended in, their lines, old commands and old throughput.

A page looks at so many old rows and no more, whether they may go or something still needs them: a store where much is
old and needed is as quick as one where all may go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import TextClause, bindparam, text

from broker_jobs.clock import Instant
from broker_jobs.store.connections import WriteConnection, in_chunks
from broker_jobs.store.needed import COMES_BACK, IS_AWAITED, needed

_IS_FREE = (
    "publication = 0 AND grace_until IS NULL AND (copy_until IS NULL OR copy_until < :now)"
    " AND (counted_as IS NULL OR counted_as <> 'open')"
)
"""Nothing of a job may be on its way: no message, no grace that was not looked at, no copy, no count to be changed."""
_OLD = {
    state: text(
        "SELECT page.id, page.queue, page.changed_at, page.alias_group, page.is_alias,"  # noqa: S608
        f" page.is_free = 0 OR {needed(':before')} OR (page.is_unsatisfied = 1 AND EXISTS ({COMES_BACK})) AS is_needed"
        " FROM (SELECT id, queue, changed_at, alias_group,"
        " CASE WHEN reason_code = 'alias' THEN 1 ELSE 0 END AS is_alias,"
        " CASE WHEN reason_code = 'unsatisfied' THEN 1 ELSE 0 END AS is_unsatisfied,"
        f" CASE WHEN {_IS_FREE} AND keep_until IS NULL THEN 1 ELSE 0 END AS is_free"
        f" FROM jobs WHERE state = '{state}' AND changed_at < :before AND (changed_at, id) > (:at, :id)"
        " ORDER BY changed_at, id LIMIT :limit) AS page ORDER BY page.changed_at, page.id"
    )
    for state in ("succeeded", "deleted", "failed")
}
"""Jobs that are kept as long as the settings say. One that says otherwise for itself is passed by."""
_OVER = text(
    "SELECT page.id, page.queue, page.state, page.keep_until, page.alias_group, page.is_alias,"  # noqa: S608  # as above
    f" page.is_free = 0 OR {needed(':now - (page.keep_until - page.changed_at)')}"
    f" OR (page.is_unsatisfied = 1 AND EXISTS ({COMES_BACK})) AS is_needed"
    " FROM (SELECT id, queue, state, keep_until, changed_at, alias_group,"
    " CASE WHEN reason_code = 'alias' THEN 1 ELSE 0 END AS is_alias,"
    " CASE WHEN reason_code = 'unsatisfied' THEN 1 ELSE 0 END AS is_unsatisfied,"
    f" CASE WHEN {_IS_FREE} AND state IN ('succeeded', 'deleted', 'failed') THEN 1 ELSE 0 END AS is_free"
    " FROM jobs WHERE keep_until IS NOT NULL AND keep_until < :now AND (keep_until, id) > (:at, :id)"
    " ORDER BY keep_until, id LIMIT :limit) AS page ORDER BY page.keep_until, page.id"
)
"""Jobs that say for themselves how long they are kept (`keep`)."""
_RESULTS_OVER = text(
    f"SELECT page.id, page.result_until, {IS_AWAITED} AS is_needed FROM (SELECT id, result_until FROM jobs"  # noqa: S608  # as above
    " WHERE result_until IS NOT NULL AND result_until < :now AND (result_until, id) > (:at, :id)"
    " ORDER BY result_until, id LIMIT :limit) AS page ORDER BY page.result_until, page.id"
)
"""Jobs whose results are kept no longer (`keep_result`), and no other job is waiting for."""
RESULT_IS_OVER = "its time to be kept (keep_result) is over"
_FORGET_RESULTS = text(
    f"UPDATE jobs SET result = NULL, result_until = NULL, result_lost = '{RESULT_IS_OVER}' WHERE id IN :ids"  # noqa: S608  # as above
).bindparams(bindparam("ids", expanding=True))
_OLD_BATCHES = text(
    "SELECT page.id, page.ended_at, EXISTS (SELECT 1 FROM dependencies WHERE dependencies.kind = 'batch'"
    " AND dependencies.target = page.id) OR EXISTS (SELECT 1 FROM batch_submissions WHERE batch = page.id"
    " AND (opened = 0 OR chunks IS NULL)) AS is_needed FROM (SELECT id, ended_at FROM batches"
    " WHERE ended_at IS NOT NULL AND ended_at < :before AND (ended_at, id) > (:at, :id)"
    " ORDER BY ended_at, id LIMIT :limit) AS page ORDER BY page.ended_at, page.id"
)
_OLD_RATES = text(
    "SELECT page.key AS id, page.is_idle = 0 OR EXISTS (SELECT 1 FROM line_entries WHERE line_entries.key = page.key)"
    " OR EXISTS (SELECT 1 FROM rate_starts WHERE rate_starts.key = page.key"
    " AND rate_starts.at >= :now - 2 * coalesce(page.span, 1)) AS is_needed"
    " FROM (SELECT key, span, CASE WHEN limit_set IS NULL AND taken = 0 AND turns = 0 AND next_at IS NULL"
    " THEN 1 ELSE 0 END AS is_idle FROM lines"
    " WHERE key > :id AND key >= 'rate:' AND key < 'rate;' ORDER BY key LIMIT :limit) AS page ORDER BY page.key"
)
"""Rates that nobody waits for: their starts count no more."""


def _delete(table: str, column: str) -> TextClause:
    statement = text(f"DELETE FROM {table} WHERE {column} IN :ids")  # noqa: S608  # constants
    return statement.bindparams(bindparam("ids", expanding=True))


_FORGET_JOBS = tuple(
    _delete(table, column)
    for table, column in (
        ("jobs", "id"),
        ("attempts", "job_id"),
        ("dependencies", "holder"),
        ("relations", "child"),
    )
)
"""A job that may go has nothing in lines; the starts of a rate count on without it."""
_FORGET_LINES = text(
    "DELETE FROM log_lines WHERE n IN (SELECT n FROM log_lines WHERE job_id IN :ids LIMIT :limit)"
).bindparams(bindparam("ids", expanding=True))
MOST_LINES = 10_000
"""Lines that one page removes: a job may have written any number. It goes when its last line has."""
_FORGET_GROUPS = (_delete("alias_groups", "id"),)
_FORGET_BATCHES = (_delete("batches", "id"),)
_FORGET_BATCH_RELATIONS = (_delete("relations", "child"),)
_FORGET_RATES = (_delete("lines", "key"), _delete("rate_starts", "key"))
_FORGET_AUDIT = text(
    "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < :before ORDER BY at, id LIMIT :limit)"
)
_FORGET_SUBMISSIONS = text(
    "DELETE FROM batch_submissions WHERE id IN (SELECT id FROM batch_submissions WHERE opened = 1"
    " AND since < :log_before AND (chunks IS NOT NULL OR since < :uncommitted_before)"
    " AND NOT EXISTS (SELECT 1 FROM batch_submissions AS inside"
    " WHERE inside.parent_submission = batch_submissions.id AND inside.opened = 0) LIMIT :limit)"
)
"""One that was abandoned before its commit came is needed until then: its block may run, and send more of it."""
_FORGET_WINDOWS = text(
    "DELETE FROM unique_keys WHERE key IN (SELECT key FROM unique_keys WHERE until IS NOT NULL AND until <= :now"
    " AND after IS NULL ORDER BY until LIMIT :limit)"
)
_FORGET_OUTCOMES = text("DELETE FROM outcomes WHERE minute < :before")
_FORGET_QUEUE_OUTCOMES = text("DELETE FROM queue_outcomes WHERE minute < :before")
_FORGET_DURATIONS = text("DELETE FROM durations WHERE minute < :before")
_FORGET_KIND_OUTCOMES = text("DELETE FROM kind_outcomes WHERE minute < :before")
_FORGET_KIND_DURATIONS = text("DELETE FROM kind_durations WHERE minute < :before")
_FORGET_COMPONENTS = text("DELETE FROM components WHERE seen_at < :before")
KEEP_UNCOMMITTED_SECONDS = 30 * 86_400.0
"""A block hardly runs longer. Its producer may have ended without a word, so that no commit ever comes."""
KEEP_OUTCOMES_SECONDS = 8 * 86_400.0
"""A week, and what is under way of the next one."""
KEEP_RATES_SECONDS = 2 * 3_600.0
"""Rates and lengths of time are asked for of the last hour."""
KEEP_KINDS_SECONDS = 25 * 3_600.0
"""A day, and what is under way of the next one: a week of minutes of each kind of job would be many rows."""
KEEP_COMPONENTS_SECONDS = 3_600.0
_FORGET_BY_OWN_AGE = (
    (_FORGET_OUTCOMES, KEEP_OUTCOMES_SECONDS),
    (_FORGET_QUEUE_OUTCOMES, KEEP_RATES_SECONDS),
    (_FORGET_DURATIONS, KEEP_RATES_SECONDS),
    (_FORGET_KIND_OUTCOMES, KEEP_KINDS_SECONDS),
    (_FORGET_KIND_DURATIONS, KEEP_RATES_SECONDS),
    (_FORGET_COMPONENTS, KEEP_COMPONENTS_SECONDS),
)
_START = (float("-inf"), "")
_BATCHES, _RATES, _OWN, _RESULTS = "batches", "rates", "own", "results"


@dataclass(slots=True)
class PurgeProgress:
    """How far through what is old a purge has come, from one page to the next.

    Rows that something needs are passed by once, so that what became old since is found behind them at once; they are
    looked at again after `restart`.
    """

    is_complete: bool = False
    """The last page reached the end of all that is old."""
    _passed: dict[str, tuple[float, str]] = field(default_factory=dict)

    def restart(self) -> None:
        """Look at everything again."""
        self._passed.clear()
        self.is_complete = False

    def passed(self, what: str) -> tuple[float, str]:
        """The place up to which rows of a kind were looked at."""
        return self._passed.get(what, _START)

    def pass_by(self, what: str, at: float, id: str) -> None:
        """Rows of a kind were looked at up to this place."""
        self._passed[what] = (at, id)


class Retention:
    """Removes what is old, a page at a time, in a transaction.

    Args:
        connection: of the transaction.
        progress: how far earlier pages came; this one goes on from there.
        limit: rows that this page may look at.
    """

    def __init__(self, connection: WriteConnection, progress: PurgeProgress, limit: int) -> None:
        self._connection = connection
        self._progress = progress
        self._left = limit
        self._limit = limit
        self._lines_left = MOST_LINES

    def forget_old(self, keep: Mapping[str, float], *, now: Instant, log_time: float) -> list[tuple[str, str, str]]:
        """Remove what is old with all that is its own; (id, queue, state) of the jobs that were removed.

        Args:
            keep: seconds that jobs are kept, by the state they ended in.
            now: wall time.
            log_time: the time by which submissions are old.
        """
        longest = max(keep.values())
        log_before, uncommitted_before = log_time - longest, log_time - max(longest, KEEP_UNCOMMITTED_SECONDS)
        submissions = {"log_before": log_before, "uncommitted_before": uncommitted_before, "limit": self._limit}
        pages = (
            self._run(_FORGET_WINDOWS, {"now": now, "limit": self._limit}),
            self._run(_FORGET_AUDIT, {"before": now - longest, "limit": self._limit}),
            self._run(_FORGET_SUBMISSIONS, submissions),
        )
        for statement, kept in _FORGET_BY_OWN_AGE:
            self._run(statement, {"before": now - kept})
        failed_before = now - keep["failed"]
        forgotten = [
            job
            for state, seconds in keep.items()
            for job in self._forget_jobs(state, now=now, before=now - seconds, failed_before=failed_before)
        ]
        forgotten += self._forget_own(now, failed_before)
        self._forget_results(now)
        self._forget_batches(now - longest)
        self._forget_rates(now)
        self._progress.is_complete = self._left > 0 and self._lines_left > 0 and max(pages) < self._limit
        return forgotten

    def _forget_jobs(
        self, state: str, *, now: Instant, before: Instant, failed_before: Instant
    ) -> list[tuple[str, str, str]]:
        place = self._progress.passed(state)
        rows = self._page(state, _OLD[state], "changed_at", now=now, before=before, failed_before=failed_before)
        return [(row.id, row.queue, state) for row in self._forget(rows, state, place)]

    def _forget_own(self, now: Instant, failed_before: Instant) -> list[tuple[str, str, str]]:
        place = self._progress.passed(_OWN)
        rows = self._page(_OWN, _OVER, "keep_until", now=now, failed_before=failed_before)
        return [(row.id, row.queue, row.state) for row in self._forget(rows, _OWN, place)]

    def _forget(self, rows: Sequence[Any], what: str, place: tuple[float, str]) -> list[Any]:
        """Remove those of a page of jobs that nothing needs; these."""
        free = [row for row in rows if not row.is_needed]
        if not self._forget_lines([row.id for row in free]):
            self._progress.pass_by(what, *place)  # the next page comes back to these
            return []
        self._delete(_FORGET_JOBS, [row.id for row in free])
        self._delete(_FORGET_GROUPS, list({row.alias_group for row in free if row.alias_group and not row.is_alias}))
        return free

    def _forget_results(self, now: Instant) -> None:
        rows = self._page(_RESULTS, _RESULTS_OVER, "result_until", now=now)
        self._delete((_FORGET_RESULTS,), [row.id for row in rows if not row.is_needed])

    def _forget_lines(self, ids: Sequence[str]) -> bool:
        """Remove what these jobs have logged; False: more is left than one page removes."""
        for chunk in in_chunks(ids):
            self._lines_left -= self._run(_FORGET_LINES, {"ids": chunk, "limit": self._lines_left})
            if self._lines_left <= 0:
                return False
        return True

    def _forget_batches(self, before: Instant) -> None:
        rows = self._page(_BATCHES, _OLD_BATCHES, "ended_at", before=before)
        free = [row.id for row in rows if not row.is_needed]
        self._delete(_FORGET_BATCHES, free)
        self._delete(_FORGET_BATCH_RELATIONS, [f"batch:{id}" for id in free])

    def _forget_rates(self, now: Instant) -> None:
        rows = self._page(_RATES, _OLD_RATES, None, now=now)
        self._delete(_FORGET_RATES, [row.id for row in rows if not row.is_needed])

    def _page(self, what: str, statement: TextClause, order: str | None, **values: float) -> Sequence[Any]:
        """The next old rows of a kind, by an instant (or by their id alone) and their id."""
        if self._left <= 0:
            return ()
        at, id = self._progress.passed(what)
        bound = values | {"limit": self._left, "id": id} | ({} if order is None else {"at": at})
        rows = self._connection.execute(statement, bound).all()
        self._left -= len(rows)
        if rows:
            last = rows[-1]
            self._progress.pass_by(what, 0.0 if order is None else getattr(last, order), last.id)
        return rows

    def _delete(self, statements: Sequence[TextClause], ids: Sequence[str]) -> None:
        for chunk in in_chunks(ids):
            for statement in statements:
                self._run(statement, {"ids": chunk})

    def _run(self, statement: TextClause, values: Mapping[str, object]) -> int:
        removed = self._connection.execute(statement, values).rowcount
        self._connection.wrote = self._connection.wrote or removed > 0
        return removed

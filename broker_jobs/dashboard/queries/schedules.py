"""Reads recurring jobs: their next run times, their last runs, and the preview of a cron expression."""

from __future__ import annotations

from typing import Any

from broker_jobs.beat import cron
from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard.queries import call_source
from broker_jobs.dashboard.queries.job_summary import masked_call, read_envelope
from broker_jobs.dashboard.queries.jobs import JobQueries
from broker_jobs.dashboard.queries.query_context import QueryContext, argument_view, optional_datetime
from broker_jobs.dashboard.views import FunctionView, ScheduleSummary, ScheduleView
from broker_jobs.errors import OptionError
from broker_jobs.messages.priority import NORMAL
from broker_jobs.store import ScheduleRow, SearchQuery

NEXT_TIMES = 5
LAST_RUNS = 20
MAX_PREVIEW_TIMES = 50


class ScheduleQueries:
    """Queries about recurring jobs."""

    def __init__(self, context: QueryContext, jobs: JobQueries) -> None:
        self._context = context
        self._jobs = jobs

    def all(self) -> list[ScheduleSummary]:
        """All recurring jobs, by name."""
        functions = self._context.functions.by_name()
        return [ScheduleSummary(**self._fields(row, functions)) for row in self._context.reader.schedules.all()]

    def get(self, name: str) -> ScheduleView | None:
        """Everything about one recurring job, or None."""
        row = self.row(name)
        if row is None:
            return None
        context = self._context
        functions = context.functions.by_name()
        envelope = read_envelope(row.call)
        job, queue = str(envelope.get("job", "")), str(envelope.get("queue", "default"))
        call = masked_call(envelope, queue, functions.get(job), context.masking)
        return ScheduleView(
            **self._fields(row, functions),
            arguments=[argument_view(each) for each in (*call.args, *call.kwargs)],
            next_times=[as_datetime(at) for at in _next_times(row, context.clock.now(), NEXT_TIMES)],
            runs=self._jobs.summaries(context.reader.jobs.search(SearchQuery(recurring=name, limit=LAST_RUNS)).rows),
        )

    def row(self, name: str) -> ScheduleRow | None:
        """The stored recurring job with its call unmasked, to change it; never shown."""
        return self._context.reader.schedules.get(name)

    def preview(self, cron_text: str, tz: str, count: int = NEXT_TIMES) -> list[float]:
        """The next times of a cron expression.

        Raises:
            OptionError: what is wrong in the expression or the time zone.
        """
        cron.check(cron_text, tz)
        return cron.next_many(cron_text, tz, self._context.clock.now(), min(count, MAX_PREVIEW_TIMES))

    def _fields(self, row: ScheduleRow, functions: dict[str, FunctionView]) -> dict[str, Any]:
        context = self._context
        envelope = read_envelope(row.call)
        job, queue = str(envelope.get("job", "")), str(envelope.get("queue", "default"))
        last = None if row.last_job_id is None else context.reader.jobs.get(row.last_job_id)
        return {
            "name": row.name,
            "cron": row.cron,
            "schedule": cron.words(row.cron),
            "tz": row.tz,
            "misfire": row.misfire,
            "overlap": row.overlap,
            "job": job,
            "call": call_source.line(job, *masked_call(envelope, queue, functions.get(job), context.masking)),
            "queue": queue,
            "priority": envelope.get("priority", NORMAL),
            "service": row.service,
            "paused": row.paused,
            "next_at": optional_datetime(next(iter(_next_times(row, context.clock.now(), 1)), None)),
            "last_at": optional_datetime(row.last_planned_at) if row.last_job_id is not None else None,
            "last_job": row.last_job_id,
            "last_state": None if last is None else last.state,
        }


def _next_times(row: ScheduleRow, now: Instant, count: int) -> list[Instant]:
    """The next times; none while the recurring job is paused."""
    if row.paused:
        return []
    try:
        return cron.next_many(row.cron, row.tz, now, count)
    except OptionError:  # the declaring program knows a time zone that this machine does not
        return []

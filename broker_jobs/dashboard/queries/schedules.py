"""Looks recurring jobs up: when they run next, what they ran last, and what a cron expression would mean."""

from __future__ import annotations

from typing import Any

from broker_jobs.beat import cron as cron
from broker_jobs.clock import Instant, as_datetime
from broker_jobs.dashboard import call_source
from broker_jobs.dashboard.queries.base import argument, moment
from broker_jobs.dashboard.queries.job_line import called, read_envelope
from broker_jobs.dashboard.queries.jobs import JobQueries
from broker_jobs.dashboard.views import FunctionView, ScheduleLine, ScheduleView
from broker_jobs.errors import OptionError
from broker_jobs.store import ScheduleRow, SearchQuery

NEXT_TIMES = 5
LAST_RUNS = 20
MOST_PREVIEWED = 50


class ScheduleQueries(JobQueries):
    """What is asked about recurring jobs."""

    def schedules(self) -> list[ScheduleLine]:
        """All recurring jobs, by name."""
        declared = self._declared()
        return [ScheduleLine(**self._fields(row, declared)) for row in self._reader.schedules()]

    def schedule(self, name: str) -> ScheduleView | None:
        """All that is known of one recurring job; None: there is none of this name."""
        row = self.schedule_row(name)
        if row is None:
            return None
        declared = self._declared()
        envelope = read_envelope(row.call)
        job, queue = str(envelope.get("job", "")), str(envelope.get("queue", "default"))
        call = called(envelope, queue, declared.get(job), self._masking)
        return ScheduleView(
            **self._fields(row, declared),
            arguments=[argument(each) for each in (*call.args, *call.kwargs)],
            next_times=[as_datetime(at) for at in _next_times(row, self._clock.now(), NEXT_TIMES)],
            runs=self._lines(self._reader.search(SearchQuery(recurring=name, limit=LAST_RUNS)).rows),
        )

    def schedule_row(self, name: str) -> ScheduleRow | None:
        """How a recurring job stands in the store, its call unmasked: for changing it."""
        return self._reader.schedule(name)

    def preview(self, cron_text: str, tz: str, count: int = NEXT_TIMES) -> list[float]:
        """The next times of a cron expression.

        Raises:
            OptionError: what is wrong in the expression or the time zone.
        """
        cron.check(cron_text, tz)
        return cron.next_many(cron_text, tz, self._clock.now(), min(count, MOST_PREVIEWED))

    def _fields(self, row: ScheduleRow, declared: dict[str, FunctionView]) -> dict[str, Any]:
        envelope = read_envelope(row.call)
        job, queue = str(envelope.get("job", "")), str(envelope.get("queue", "default"))
        last = None if row.last_job_id is None else self._reader.job(row.last_job_id)
        return {
            "name": row.name,
            "cron": row.cron,
            "tz": row.tz,
            "misfire": row.misfire,
            "overlap": row.overlap,
            "job": job,
            "call": call_source.line(job, *called(envelope, queue, declared.get(job), self._masking)),
            "queue": queue,
            "origin": row.origin,
            "paused": row.paused,
            "next_at": moment(next(iter(_next_times(row, self._clock.now(), 1)), None)),
            "last_at": moment(row.last_planned_at) if row.last_job_id is not None else None,
            "last_job": row.last_job_id,
            "last_state": None if last is None else last.state,
        }


def _next_times(row: ScheduleRow, now: Instant, count: int) -> list[Instant]:
    """The next planned times; none while it is paused."""
    if row.paused:
        return []
    try:
        return cron.next_many(row.cron, row.tz, now, count)
    except OptionError:  # of a program with other time zones
        return []

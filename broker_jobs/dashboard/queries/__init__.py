"""Reads the store and returns what pages, API and command line show, already masked.

Every method makes a few short reads and takes no write lock. Arguments, results and messages become views here, so
masking happens here and nowhere else.

query_context.py      what all queries share: reader, masking, clock, declared functions
jobs.py               a page of jobs, one job;   job_summary.py  a job in a list
batches.py  schedules.py  system.py  overview.py   the other subjects
call_source.py        writes a call as Python code;   traceback_parser.py  reads a traceback
"""

from __future__ import annotations

from collections.abc import Mapping

from broker_jobs.clock import Clock
from broker_jobs.dashboard.masking import Masking
from broker_jobs.dashboard.queries.batches import BatchQueries
from broker_jobs.dashboard.queries.jobs import JobQueries
from broker_jobs.dashboard.queries.overview import OverviewQueries
from broker_jobs.dashboard.queries.query_context import QueryContext
from broker_jobs.dashboard.queries.schedules import ScheduleQueries
from broker_jobs.dashboard.queries.system import SystemQueries
from broker_jobs.store import Reader


class Queries:
    """All queries, by subject. They block: call them in a thread.

    Example:
        queries.jobs.page(JobsQuery(state=State.FAILED))
    """

    def __init__(self, reader: Reader, masking: Masking, clock: Clock, retention: Mapping[str, float]) -> None:
        """Args:
        reader: of the store.
        masking: what is hidden.
        clock: decides what is silent, late or due.
        retention: seconds by final state.
        """
        context = QueryContext(reader, masking, clock, retention)
        self.functions = context.functions
        self.jobs = JobQueries(context)
        self.batches = BatchQueries(context, self.jobs)
        self.schedules = ScheduleQueries(context, self.jobs)
        self.system = SystemQueries(context, self.jobs)
        self.overview = OverviewQueries(context, self.system)

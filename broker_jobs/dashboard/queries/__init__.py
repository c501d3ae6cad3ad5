"""Turns rows of the store into what is shown. Every method is a few short reads; none takes the write lock.

Masking happens here, as here is where arguments, results and messages become views. One module a subject; `Queries` is
all of them.
"""

from __future__ import annotations

from broker_jobs.dashboard.queries.batches import BatchQueries
from broker_jobs.dashboard.queries.overview import OverviewQueries
from broker_jobs.dashboard.queries.schedules import ScheduleQueries


class Queries(OverviewQueries, ScheduleQueries, BatchQueries):
    """What pages, API and command line ask of the store. Blocking: call it in a thread."""

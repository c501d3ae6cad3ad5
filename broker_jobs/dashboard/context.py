"""Holds what every page needs: where to read, how to act, the time, and what the house is called."""

from __future__ import annotations

from dataclasses import dataclass

from broker_jobs.clock import Clock
from broker_jobs.dashboard.actions import Actions
from broker_jobs.dashboard.queries import Queries


@dataclass(frozen=True)
class RequestContext:
    """In `request.app.state.desk`; pages reach it by `frame.desk(request)`."""

    queries: Queries
    actions: Actions
    clock: Clock
    title: str = "broker_jobs"
    read_only: bool = False
    page_size: int = 50
    """Rows on a page of a list."""

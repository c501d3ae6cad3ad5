"""A request context without a system behind it: for what stands before the pages."""

from __future__ import annotations

from typing import Any, cast

from broker_jobs.clock import SystemClock, as_datetime
from broker_jobs.dashboard.actions import Actions
from broker_jobs.dashboard.context import RequestContext
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.views import LiveCounts, QueueView
from broker_jobs.messages.state import State


class FakeQueries:
    """Queries with one queue, that count how often the live counts are read."""

    def __init__(self) -> None:
        self.reads = 0
        self.serial = 1
        self.alert: Exception | None = None
        self.overview = self.system = self

    def live_counts(self) -> LiveCounts:
        """The live counts."""
        self.reads += 1
        if self.alert is not None:
            raise self.alert
        return LiveCounts(
            serial=self.serial, at=as_datetime(0), counts=dict.fromkeys(State, 0),
            ended={"succeeded": self.serial, "failed": 0, "deleted": 0}, alerts=0,
        )  # fmt: skip

    def queues(self) -> list[QueueView]:
        """The one queue."""
        return [
            QueueView(
                name="mail", paused=False, enqueued=0, enqueued_high=0, enqueued_low=0, processing=0, scheduled=0,
                failed=0, oldest_seconds=None, ended_per_minute=0, workers=1,
            )
        ]  # fmt: skip


class FakeActions:
    """Records the actions."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.alert: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        def do(*given: Any, **named: Any) -> None:
            if self.alert is not None:
                raise self.alert
            self.done.append((name, *given, *named.values()))

        return do


def context_of(
    actions: FakeActions | None = None, queries: FakeQueries | None = None, *, read_only: bool = False
) -> RequestContext:
    """A request context with these."""
    return RequestContext(
        cast("Queries", queries or FakeQueries()),
        cast("Actions", actions or FakeActions()),
        SystemClock(),
        read_only=read_only,
    )

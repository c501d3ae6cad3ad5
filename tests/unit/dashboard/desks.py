"""A desk without a house behind it: for what stands before the pages."""

from __future__ import annotations

from typing import Any, cast

from broker_jobs.clock import SystemClock, as_datetime
from broker_jobs.dashboard.actions import Actions
from broker_jobs.dashboard.desk import Desk
from broker_jobs.dashboard.lookup import Lookup
from broker_jobs.dashboard.views import Pulse, QueueView
from broker_jobs.job.state import State


class Sees:
    """One queue, and pulses that are counted."""

    def __init__(self) -> None:
        self.looked = 0
        self.serial = 1
        self.trouble: Exception | None = None

    def pulse(self) -> Pulse:
        """One read."""
        self.looked += 1
        if self.trouble is not None:
            raise self.trouble
        return Pulse(
            serial=self.serial, at=as_datetime(0), counts=dict.fromkeys(State, 0),
            ended={"succeeded": self.serial, "failed": 0, "deleted": 0}, troubles=0,
        )  # fmt: skip

    def queues(self) -> list[QueueView]:
        """The one queue."""
        return [
            QueueView(
                name="mail", paused=False, enqueued=0, processing=0, scheduled=0, failed=0, oldest_seconds=None,
                ended_per_minute=0, workers=1,
            )
        ]  # fmt: skip


class Acts:
    """Writes down what is done."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.trouble: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        def do(*given: Any) -> None:
            if self.trouble is not None:
                raise self.trouble
            self.done.append((name, *given))

        return do


def desk_of(acts: Acts | None = None, sees: Sees | None = None, *, read_only: bool = False) -> Desk:
    """A desk with these."""
    return Desk(cast("Lookup", sees or Sees()), cast("Actions", acts or Acts()), SystemClock(), read_only=read_only)

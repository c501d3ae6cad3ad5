"""Turns what a person does to recurring jobs into commands to the coordinator.

Separate from the other actions as these are all about one thing, and build most of their commands by `producer/`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pydantic import ValidationError

from broker_jobs.dashboard.declared_jobs import checked_remote
from broker_jobs.dashboard.queries import Queries
from broker_jobs.errors import OptionError, UsageError
from broker_jobs.messages.commands import Command, Misfire, Overlap, PutRecurring, Schedule
from broker_jobs.messages.priority import Priority
from broker_jobs.producer.recurring import Recurring, RecurringOptions
from broker_jobs.producer.requests import DirectSource, RequestClient


class ScheduleActions:
    """The actions on recurring jobs. Their first argument, `by`, is the person or program in the audit."""

    def __init__(self, requests: RequestClient, queries: Queries) -> None:
        self._requests = requests
        self._queries = queries

    def put(
        self,
        by: str,
        name: str,
        cron: str,
        *,
        tz: str,
        misfire: str,
        overlap: str,
        job: str,
        args: list[Any],
        kwargs: dict[str, Any],
        queue: str | None = None,
        priority: Priority | None = None,
    ) -> None:
        """Add a recurring job, or replace the one of this name. `change` keeps its call."""
        requests = self._requests.on_behalf_of(by)
        remote = checked_remote(requests, self._queries, job, args, kwargs, queue=queue, priority=priority)
        call = remote.bind(*args, **kwargs)
        options = cast("RecurringOptions", {"tz": tz, "misfire": misfire, "overlap": overlap})
        self._recurring(requests).put(name, cron, call, **options)

    def change(self, by: str, name: str, cron: str, *, tz: str, misfire: str, overlap: str) -> None:
        """Change when a recurring job runs. If code declares it, the next start of that program reverts the change."""
        row = self._queries.schedules.row(name)
        if row is None:
            raise UsageError(f"there is no recurring job {name!r}")
        requests = self._requests.on_behalf_of(by)

        def make() -> PutRecurring:
            schedule = Schedule(
                name=name, cron=cron, tz=tz, misfire=cast("Misfire", misfire), overlap=cast("Overlap", overlap),
                call=row.call, service=row.service,
            )  # fmt: skip
            return PutRecurring(**requests.command_fields(), schedule=schedule)

        send_command(requests, make)

    def pause(self, by: str, name: str) -> None:
        """Skip its runs until it is resumed."""
        self._recurring(self._requests.on_behalf_of(by)).pause(name)

    def resume(self, by: str, name: str) -> None:
        """Continue with its next run."""
        self._recurring(self._requests.on_behalf_of(by)).resume(name)

    def trigger(self, by: str, name: str) -> str:
        """Run it now, in addition to its schedule. Returns the id of the job."""
        return self._recurring(self._requests.on_behalf_of(by)).trigger(name).id

    def remove(self, by: str, name: str) -> None:
        """Remove it; its jobs stay."""
        self._recurring(self._requests.on_behalf_of(by)).remove(name)

    def _recurring(self, requests: RequestClient) -> Recurring:
        return Recurring(DirectSource(requests), _declares_nothing)


def send_command(requests: RequestClient, make: Callable[[], Command]) -> dict[str, Any]:
    """Send a command; an invalid field is the caller's mistake."""
    try:
        command = make()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "command"
        raise OptionError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
    return requests.command(command).detail


def _declares_nothing() -> None:
    """Recurring jobs of a person are added at run time, never declared by code."""

"""Makes the calls that a person writes: checked, and with all that the code of their function declares."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from broker_jobs.dashboard.argument_validation import argument_of, check_arguments, check_json
from broker_jobs.dashboard.queries import Queries
from broker_jobs.dashboard.views import FunctionView
from broker_jobs.function.keys import filled
from broker_jobs.function.options import FunctionOptions, JobOptions, job_options
from broker_jobs.messages.envelope import Envelope
from broker_jobs.messages.priority import Priority
from broker_jobs.producer.remote import RemoteJob
from broker_jobs.producer.requests import DirectSource, RequestClient
from broker_jobs.producer.routing import ScheduledTime


def checked_remote(
    requests: RequestClient,
    queries: Queries,
    job: str,
    args: list[Any],
    kwargs: dict[str, Any],
    *,
    queue: str | None,
    priority: Priority | None,
) -> RemoteJob:
    """The remote job of this name, after its arguments were checked."""
    check_json(args, kwargs)
    function = queries.functions.get(job)
    if function is not None:
        check_arguments(function, args, kwargs)
    target = queue or (function.queue if function is not None else None)
    options: JobOptions = {"name": job}
    if target is not None:
        options["queue"] = target
    if priority is not None:
        options["priority"] = priority
    chosen = job_options(options)
    if function is not None:  # with all that its code declares
        chosen = replace(
            chosen, priority=priority or function.priority, policy=function.policy, tags=tuple(function.tags)
        )
        return DeclaredJob(job, chosen, requests, function)
    return RemoteJob(job, chosen, DirectSource(requests))


class DeclaredJob(RemoteJob):
    """A job whose function a program has declared: its calls have the keys that they would have from code."""

    def __init__(self, name: str, options: FunctionOptions, requests: RequestClient, function: FunctionView) -> None:
        super().__init__(name, options, DirectSource(requests))
        self._function = function

    def envelope(
        self,
        bound: tuple[list[Any], dict[str, Any]],
        job_id: str,
        created_at: datetime,
        scheduled: ScheduledTime | None = None,
    ) -> Envelope:
        """As that of any job, with the declared unique key and limits."""
        envelope = super().envelope(bound, job_id, created_at, scheduled)
        unique, limits = filled(
            self._function.unique, self._function.limits, lambda name: argument_of(self._function, name, *bound)
        )
        return envelope.evolve(unique=unique, limits=limits)

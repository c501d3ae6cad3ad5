"""Keeps which jobs of a program are made for which events: `@jobs.subscribe("user.registered")`.

It only remembers: it is written at import, where nothing may touch the network. Each worker and each beat of the
program sends what its code subscribes to when it starts, and what the code no longer has ends with that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker_jobs.errors import DefinitionError
from broker_jobs.function.template import template_of
from broker_jobs.messages.codec import encode
from broker_jobs.messages.commands import Subscription
from broker_jobs.messages.envelope import MAX_RECORDS
from broker_jobs.producer.job import Job
from broker_jobs.producer.recurring import TEMPLATE_CREATED_AT, TEMPLATE_ID
from broker_jobs.producer.requests import RequestClient


class Subscriptions:
    """The subscriptions of a program."""

    def __init__(self, requests: RequestClient, on_declared: Callable[[], None]) -> None:
        self._requests = requests
        self._on_declared = on_declared
        self._declared: dict[tuple[str, str], Job[..., Any]] = {}

    def add(self, event: str, job: Job[..., Any]) -> None:
        """Have the job made for each event of this name.

        Raises:
            DefinitionError: the job is another program's or waits for others, or has a key that is made of arguments,
                which the coordinator does not look at.
        """
        if not job.belongs_to(self._requests):
            raise DefinitionError(f"{job.name} belongs to another BrokerJobs; subscribe it there")
        if job.waits:
            raise DefinitionError(f"{job.name} subscribes to {event!r} and waits for nothing else: leave out .after(…)")
        for key in job.key_texts:
            if template_of(key).places:
                raise DefinitionError(
                    f"{job.name} subscribes to {event!r} and cannot have the key {key!r}: one that is made of "
                    "arguments is for jobs that are enqueued. Have the subscribed job enqueue another one"
                )
        if len(self._declared) >= MAX_RECORDS and (event, job.name) not in self._declared:
            raise DefinitionError(f"the code of a program has at most {MAX_RECORDS:_} subscriptions")
        self._declared[event, job.name] = job
        self._on_declared()

    def declared(self) -> list[Subscription]:
        """What the code subscribes to, as it is sent. A job's arguments come with the event."""
        return [Subscription(event=event, call=_template(job)) for (event, _), job in self._declared.items()]


def _template(job: Job[..., Any]) -> str:
    return encode(job.envelope(([], {}), TEMPLATE_ID, TEMPLATE_CREATED_AT).evolve(epoch=0)).decode()

"""Publishes what belongs to no single job, with options of its own: `jobs.using(publish_timeout=2).publish(…)`.

`BrokerJobs` has the same methods, with the options of the settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from broker_jobs.function.options import FunctionOptions
from broker_jobs.messages.envelope import End
from broker_jobs.producer.asyncio_support import warn_if_blocking
from broker_jobs.producer.batch import Batch
from broker_jobs.producer.connection import Publishing
from broker_jobs.producer.dependencies import DependencyTarget, join_parents, parents_of
from broker_jobs.producer.enqueue_many import enqueue_many, enqueue_many_async
from broker_jobs.producer.job import Call
from broker_jobs.producer.pubsub import publish, publish_async
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient

R = TypeVar("R")


class WithOptions:
    """Enqueues many calls, publishes events and makes batches with other options. Made by `jobs.using(…)`.

    jobs.using(publish_timeout=2, fail_fast=True).publish("user.registered", 42)
    """

    def __init__(self, requests: RequestClient, options: FunctionOptions) -> None:
        self._requests = requests
        self._options = options

    def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[Receipt[R]]:
        """As `jobs.enqueue_many`. The options of a call itself (`job.using(…).bind(…)`) win."""
        warn_if_blocking("enqueue_many()", "enqueue_many_async(…)")
        return enqueue_many(self._requests, calls, self._options)

    async def enqueue_many_async(self, calls: Iterable[Call[R]], /) -> list[Receipt[R]]:
        """As `enqueue_many`, without blocking the event loop."""
        return await enqueue_many_async(self._requests, calls, self._options)

    def publish(self, event: str, /, *args: Any, **kwargs: Any) -> str:
        """As `jobs.publish`. The publish timeout is that of each of at most three attempts."""
        warn_if_blocking("publish()", "publish_async(…)")
        return publish(self._requests.connection, self._how(), event, args, kwargs)

    async def publish_async(self, event: str, /, *args: Any, **kwargs: Any) -> str:
        """As `publish`, without blocking the event loop."""
        return await publish_async(self._requests.connection, self._how(), event, args, kwargs)

    def batch(
        self,
        title: str = "",
        /,
        *,
        after: Receipt[object] | Batch | Iterable[Receipt[object] | Batch] = (),
        on: End = "succeeded",
    ) -> Batch:
        """As `jobs.batch`. The options are those of its messages; options of publishing of its jobs change nothing."""
        given = (after,) if isinstance(after, DependencyTarget | str) or not isinstance(after, Iterable) else after
        parents = join_parents((), parents_of(given, on, "", "batch(after=…)"))
        return Batch(self._requests, title, parents=parents, options=self._options)

    def _how(self) -> Publishing:
        return self._requests.connection.publishing(self._options.publish_timeout, self._options.fail_fast)

"""Enqueues many jobs at once: publishes chunks of messages, several of them unconfirmed at a time.

All calls are checked before the first one is published. This is not a batch: if RabbitMQ fails in the middle, the
confirmed jobs stay enqueued, and the error lists them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from broker_jobs.broker.interface import Broker, PublishFailure, Unconfirmed
from broker_jobs.errors import ArgumentsError, BrokerError, UsageError
from broker_jobs.producer.asyncio_support import await_cancellable
from broker_jobs.producer.batch_submission import PublishResults, note_enqueued
from broker_jobs.producer.errors import EnqueueManyError
from broker_jobs.producer.job import Call, PreparedMessage
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient

R = TypeVar("R")
EnqueueSteps: TypeAlias = Generator[Future[PublishResults], PublishResults, PublishResults]
"""Yields each future to wait for, so that a thread and an event loop share the steps."""

CHUNK = 1000
MAX_UNCONFIRMED_CHUNKS = 4
"""The next chunk is written while the first is confirmed."""


def enqueue_many(requests: RequestClient, calls: Iterable[Call[R]]) -> list[Receipt[R]]:
    """Enqueue calls in order; see `BrokerJobs.enqueue_many`."""
    prepared = _prepare(requests, calls)
    if not prepared:
        return []
    try:
        broker = requests.connection.broker()
    except BrokerError as error:
        return _receipts(prepared, [PublishFailure(Unconfirmed.NOT_SENT, str(error))] * len(prepared))
    steps = _publish(broker, prepared, requests.connection.settings.publish_timeout)
    try:
        future = next(steps)
        while True:
            future = steps.send(future.result())
    except StopIteration as end:
        return _receipts(prepared, end.value)
    finally:
        steps.close()


async def enqueue_many_async(requests: RequestClient, calls: Iterable[Call[R]]) -> list[Receipt[R]]:
    """As `enqueue_many`, without blocking the event loop."""
    prepared = _prepare(requests, calls)
    if not prepared:
        return []
    try:
        broker = await requests.connection.broker_async()
    except BrokerError as error:
        return _receipts(prepared, [PublishFailure(Unconfirmed.NOT_SENT, str(error))] * len(prepared))
    steps = _publish(broker, prepared, requests.connection.settings.publish_timeout)
    try:
        future = next(steps)
        while True:
            future = steps.send(await await_cancellable(future))
    except StopIteration as end:
        return _receipts(prepared, end.value)
    finally:
        steps.close()


def _prepare(requests: RequestClient, calls: Iterable[Call[Any]]) -> list[PreparedMessage]:
    prepared: list[PreparedMessage] = []
    for call in calls:
        if not isinstance(call, Call):
            raise ArgumentsError(f"enqueue_many() takes calls: write welcome.bind(…) for each, not {call!r}")
        if not call.source.belongs_to(requests):
            raise UsageError(f"{call.job} belongs to another BrokerJobs; enqueue it there")
        prepared.append(call.source.prepare(call.bound))
    return prepared


def _publish(broker: Broker, prepared: Sequence[PreparedMessage], timeout: float) -> EnqueueSteps:
    """Publish in chunks until the first failure; returns one entry per message, None if it is confirmed."""
    results: PublishResults = []
    in_flight: deque[Future[PublishResults]] = deque()
    published = 0
    try:
        while in_flight or published < len(prepared):
            while len(in_flight) < MAX_UNCONFIRMED_CHUNKS and published < len(prepared):
                chunk = [each.message for each in prepared[published : published + CHUNK]]
                in_flight.append(broker.publish(chunk, timeout))
                published += len(chunk)
            got = yield in_flight[0]
            in_flight.popleft()
            results.extend(got)
            if first := next(filter(None, got), None):
                while in_flight:
                    results.extend((yield in_flight[0]))
                    in_flight.popleft()
                unsent = PublishFailure(Unconfirmed.NOT_SENT, first.reason)
                return results + [unsent] * (len(prepared) - len(results))
        return results
    finally:
        for future in in_flight:  # the caller was interrupted or cancelled: what is not written yet is never sent
            future.cancel()


def _receipts(prepared: Sequence[PreparedMessage], results: PublishResults) -> list[Receipt[Any]]:
    """The receipts, or an error that lists the jobs by their outcome."""
    if not any(results):
        note_enqueued(prepared[-1].receipt.job, len(prepared))
        return [each.receipt for each in prepared]
    by_outcome: dict[Unconfirmed | None, list[Receipt[Any]]] = {
        None: [],
        Unconfirmed.NOT_SENT: [],
        Unconfirmed.UNKNOWN: [],
    }
    for each, failure in zip(prepared, results, strict=True):
        by_outcome[failure.kind if failure is not None else None].append(each.receipt)
    first = next(failure for failure in results if failure is not None)
    not_sent, unknown = by_outcome[Unconfirmed.NOT_SENT], by_outcome[Unconfirmed.UNKNOWN]
    counts = [f"{len(not_sent):_} of {len(prepared):_} jobs were not enqueued"] if not_sent else []
    counts += [f"{len(unknown):_} of {len(prepared):_} may be enqueued or not"] if unknown else []
    some = ", ".join(receipt.id for receipt in (not_sent + unknown)[:3])
    more = "…" if len(not_sent) + len(unknown) > 3 else ""
    raise EnqueueManyError(
        f"{', '.join(counts)}: {first.reason} ({some}{more}); see .enqueued, .not_enqueued, .unknown",
        enqueued=by_outcome[None],
        not_enqueued=not_sent,
        unknown=unknown,
    )

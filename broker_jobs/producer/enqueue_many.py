"""Enqueues many jobs at once: publishes chunks of messages, several of them unconfirmed at a time.

All calls are checked before the first one is published. This is not a batch: if RabbitMQ fails in the middle, the
confirmed jobs stay enqueued, and the error lists them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from itertools import takewhile
from typing import Any, NamedTuple, TypeAlias, TypeVar

from broker_jobs.broker.interface import PublishFailure, Unconfirmed
from broker_jobs.errors import ArgumentsError, UsageError
from broker_jobs.function.options import NO_OPTIONS, FunctionOptions
from broker_jobs.producer.batch_submission import PublishResults, note_enqueued
from broker_jobs.producer.confirms import await_confirms, wait_for_confirms
from broker_jobs.producer.connection import Connection, Publishing
from broker_jobs.producer.errors import EnqueueManyError
from broker_jobs.producer.job import Call, PreparedMessage
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient

R = TypeVar("R")


class ConfirmWait(NamedTuple):
    """One step: wait for the confirms of a chunk."""

    future: Future[PublishResults]
    timeout: float
    messages: int


EnqueueSteps: TypeAlias = Generator[ConfirmWait, PublishResults, PublishResults]
"""Yields what to wait for, so that a thread and an event loop share the steps."""

CHUNK = 1000
MAX_UNCONFIRMED_CHUNKS = 4
"""The next chunk is written while the first is confirmed."""


class _Prepared(NamedTuple):
    each: PreparedMessage
    how: Publishing


def enqueue_many(
    requests: RequestClient, calls: Iterable[Call[R]], options: FunctionOptions = NO_OPTIONS
) -> list[Receipt[R]]:
    """Enqueue calls in order; see `BrokerJobs.enqueue_many`. `options`: for the calls that have none of their own."""
    prepared = _prepare(requests, calls, options)
    steps = _publish(requests.connection, prepared)
    try:
        wait = next(steps)
        while True:
            wait = steps.send(wait_for_confirms(wait.future, wait.timeout, wait.messages))
    except StopIteration as end:
        return _receipts([each for each, _ in prepared], end.value)
    finally:
        steps.close()


async def enqueue_many_async(
    requests: RequestClient, calls: Iterable[Call[R]], options: FunctionOptions = NO_OPTIONS
) -> list[Receipt[R]]:
    """As `enqueue_many`, without blocking the event loop."""
    prepared = _prepare(requests, calls, options)
    if prepared and (failed := await requests.connection.connect_async(prepared[0].how)) is not None:
        return _receipts([each for each, _ in prepared], [failed] * len(prepared))
    steps = _publish(requests.connection, prepared)
    try:
        wait = next(steps)
        while True:
            wait = steps.send(await await_confirms(wait.future, wait.timeout, wait.messages))
    except StopIteration as end:
        return _receipts([each for each, _ in prepared], end.value)
    finally:
        steps.close()


def _prepare(
    requests: RequestClient, calls: Iterable[Call[Any]], options: FunctionOptions = NO_OPTIONS
) -> list[_Prepared]:
    prepared: list[_Prepared] = []
    for call in calls:
        if not isinstance(call, Call):
            raise ArgumentsError(f"enqueue_many() takes calls: write welcome.bind(…) for each, not {call!r}")
        if not call.source.belongs_to(requests):
            raise UsageError(f"{call.job} belongs to another BrokerJobs; enqueue it there")
        prepared.append(_Prepared(call.source.prepare(call.bound), call.source.publishing(options)))
    return prepared


def _publish(connection: Connection, prepared: Sequence[_Prepared]) -> EnqueueSteps:
    """Publish in chunks until the first failure; returns one entry per message, None if it is confirmed.

    A chunk is one publish, so its calls have the same deadline.
    """
    results: PublishResults = []
    in_flight: deque[ConfirmWait] = deque()
    published = 0
    try:
        while in_flight or published < len(prepared):
            while len(in_flight) < MAX_UNCONFIRMED_CHUNKS and published < len(prepared):
                how = prepared[published].how
                chunk = [
                    each.message
                    for each, _ in takewhile(lambda one: one.how == how, prepared[published : published + CHUNK])  # noqa: B023
                ]
                in_flight.append(ConfirmWait(connection.publish(chunk, how), how.timeout, len(chunk)))
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
        for wait in in_flight:  # the caller was interrupted or cancelled: what is not written yet is never sent
            wait.future.cancel()


def _receipts(prepared: Sequence[PreparedMessage], results: PublishResults) -> list[Receipt[Any]]:
    """The receipts, or an error that lists the jobs by their outcome."""
    if not prepared:
        return []
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

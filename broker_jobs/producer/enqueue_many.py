"""Enqueues many jobs at once: messages go out in chunks, several on their way, and are confirmed together.

All calls are checked before the first is published. It is no batch: when RabbitMQ goes away in the middle, what was
confirmed stays enqueued, and the error says which.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from broker_jobs.broker.interface import Broker, PublishFailure, Unconfirmed
from broker_jobs.errors import ArgumentsError, BrokerError, UsageError
from broker_jobs.producer import stray_enqueues
from broker_jobs.producer.blocking import withdrawable
from broker_jobs.producer.call import Call
from broker_jobs.producer.errors import EnqueueManyError
from broker_jobs.producer.job import Prepared
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient

R = TypeVar("R")
Results: TypeAlias = list[PublishFailure | None]
Sending: TypeAlias = Generator[Future[Results], Results, Results]

CHUNK = 1000
CHUNKS_OUT = 4
"""Chunks published and unconfirmed: the next is written while the first is confirmed."""


def enqueue_many(requests: RequestClient, calls: Iterable[Call[R]]) -> list[Receipt[R]]:
    """Enqueue calls in order; see `BrokerJobs.enqueue_many`."""
    prepared = _prepare(requests, calls)
    if not prepared:
        return []
    try:
        broker = requests.connection.broker()
    except BrokerError as error:
        return _receipts(prepared, [PublishFailure(Unconfirmed.NOT_SENT, str(error))] * len(prepared))
    sending = _send(broker, prepared, requests.connection.settings.publish_timeout)
    try:
        future = next(sending)
        while True:
            future = sending.send(future.result())
    except StopIteration as end:
        return _receipts(prepared, end.value)
    finally:
        sending.close()


async def enqueue_many_async(requests: RequestClient, calls: Iterable[Call[R]]) -> list[Receipt[R]]:
    """As `enqueue_many`; the event loop goes on meanwhile."""
    prepared = _prepare(requests, calls)
    if not prepared:
        return []
    try:
        broker = await requests.connection.broker_async()
    except BrokerError as error:
        return _receipts(prepared, [PublishFailure(Unconfirmed.NOT_SENT, str(error))] * len(prepared))
    sending = _send(broker, prepared, requests.connection.settings.publish_timeout)
    try:
        future = next(sending)
        while True:
            future = sending.send(await withdrawable(future))
    except StopIteration as end:
        return _receipts(prepared, end.value)
    finally:
        sending.close()


def _prepare(requests: RequestClient, calls: Iterable[Call[Any]]) -> list[Prepared]:
    prepared: list[Prepared] = []
    for call in calls:
        if not isinstance(call, Call):
            raise ArgumentsError(f"enqueue_many() takes calls: write welcome.bind(…) for each, not {call!r}")
        if not call.source.belongs_to(requests):
            raise UsageError(f"{call.job} belongs to another BrokerJobs; enqueue it there")
        prepared.append(call.source.prepare(call.bound))
    return prepared


def _send(broker: Broker, prepared: Sequence[Prepared], timeout: float) -> Sending:
    """Publish in chunks; yields the future to wait for, returns one entry a message. Stops at the first failure."""
    results: Results = []
    out: deque[Future[Results]] = deque()
    published = 0
    try:
        while out or published < len(prepared):
            while len(out) < CHUNKS_OUT and published < len(prepared):
                chunk = [each.message for each in prepared[published : published + CHUNK]]
                out.append(broker.publish(chunk, timeout))
                published += len(chunk)
            got = yield out[0]
            out.popleft()
            results.extend(got)
            if first := next(filter(None, got), None):
                while out:
                    results.extend((yield out[0]))
                    out.popleft()
                unsent = PublishFailure(Unconfirmed.NOT_SENT, first.reason)
                return results + [unsent] * (len(prepared) - len(results))
        return results
    finally:
        for future in out:  # the caller was interrupted or cancelled: it has given up what is on its way
            future.cancel()


def _receipts(prepared: Sequence[Prepared], results: Results) -> list[Receipt[Any]]:
    """The receipts, or the error that says which calls have none."""
    if not any(results):
        stray_enqueues.note(prepared[-1].receipt.job, len(prepared))
        return [each.receipt for each in prepared]
    sorted_out: dict[Unconfirmed | None, list[Receipt[Any]]] = {
        None: [],
        Unconfirmed.NOT_SENT: [],
        Unconfirmed.UNKNOWN: [],
    }
    for each, failure in zip(prepared, results, strict=True):
        sorted_out[failure.kind if failure is not None else None].append(each.receipt)
    first = next(failure for failure in results if failure is not None)
    not_sent, unknown = sorted_out[Unconfirmed.NOT_SENT], sorted_out[Unconfirmed.UNKNOWN]
    counts = [f"{len(not_sent):_} of {len(prepared):_} jobs were not enqueued"] if not_sent else []
    counts += [f"{len(unknown):_} of {len(prepared):_} may be enqueued or not"] if unknown else []
    some = ", ".join(receipt.id for receipt in (not_sent + unknown)[:3])
    more = "…" if len(not_sent) + len(unknown) > 3 else ""
    raise EnqueueManyError(
        f"{', '.join(counts)}: {first.reason} ({some}{more}); see .enqueued, .not_enqueued, .unknown",
        enqueued=sorted_out[None],
        not_enqueued=not_sent,
        unknown=unknown,
    )

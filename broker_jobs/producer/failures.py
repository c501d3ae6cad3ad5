"""Lists the failed jobs of a batch, page by page, and requeues them.

Separate from batch.py, which is long enough; the bulk command of the command line is here too.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from broker_jobs.errors import ArgumentsError
from broker_jobs.messages.commands import BulkDelete, BulkFail, BulkRequeue, JobFilter, JobReply, ListFailures
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient

PAGE_SIZE = 100
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Failure:
    """A job of a batch that failed for good: its name, arguments and error.

    `args` and `kwargs` are the JSON values that were sent, without defaults. `error_type` is the name of the
    exception's class; `attempts` counts all runs.
    """

    job: str
    receipt: Receipt[Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    attempts: int
    error_type: str
    message: str
    traceback: str

    @property
    def id(self) -> str:
        """The job's id."""
        return self.receipt.id

    def requeue(self) -> None:
        """Run the job again. Raises as `receipt.requeue()`."""
        self.receipt.requeue()

    async def requeue_async(self) -> None:
        """As `requeue`, without blocking the event loop."""
        await self.receipt.requeue_async()


def failures(requests: RequestClient, batch_id: str) -> Iterator[Failure]:
    """The failed jobs of a batch; each page is requested when the iterator reaches it."""
    requests.batch_view(batch_id)  # commands overtake the log, so wait until the coordinator knows the batch
    return _pages(requests, batch_id)


async def failures_async(requests: RequestClient, batch_id: str) -> AsyncIterator[Failure]:
    """As `failures`, without blocking the event loop."""
    await requests.batch_view_async(batch_id)
    after = ""
    while True:
        page = _page((await requests.command_async(_query(requests, batch_id, after))).detail)
        if not page:
            return
        for view in page:
            yield _failure(requests, view)
        after = page[-1].id


def requeue_failures(requests: RequestClient, batch_id: str, error_text: str) -> int:
    """Requeue the failed jobs of a batch; the number of them."""
    command = _requeue_command(requests, batch_id, error_text)
    requests.batch_view(batch_id)  # commands overtake the log, so wait until the coordinator knows the batch
    return int(run_bulk_command(requests, command)["done"])


async def requeue_failures_async(requests: RequestClient, batch_id: str, error_text: str) -> int:
    """As `requeue_failures`, without blocking the event loop."""
    import asyncio  # noqa: PLC0415  # a program without an event loop does not pay for it

    command = _requeue_command(requests, batch_id, error_text)
    await requests.batch_view_async(batch_id)
    pause = FIRST_PAUSE_SECONDS
    while not (detail := (await requests.command_async(command)).detail)["finished"]:
        await asyncio.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
    return int(detail["done"])


def _requeue_command(requests: RequestClient, batch_id: str, error_text: str) -> BulkRequeue:
    try:
        job_filter = JobFilter(batch=batch_id, error_text=error_text or None)
    except ValidationError:
        raise ArgumentsError("the text to look for in errors has at most 1,000 characters, and no NUL") from None
    return BulkRequeue(**requests.command_fields(), filter=job_filter)


def run_bulk_command(requests: RequestClient, command: BulkRequeue | BulkDelete | BulkFail) -> dict[str, Any]:
    """Send a bulk command and wait until the coordinator has finished it; the detail of its last reply.

    Sending the same command again changes nothing; its reply reports the progress of the first one.
    """
    pause = FIRST_PAUSE_SECONDS
    while not (detail := requests.command(command).detail)["finished"]:
        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
    return detail


def _pages(requests: RequestClient, batch_id: str) -> Iterator[Failure]:
    after = ""
    while True:
        page = _page(requests.command(_query(requests, batch_id, after)).detail)
        if not page:
            return
        for view in page:
            yield _failure(requests, view)
        after = page[-1].id


def _query(requests: RequestClient, batch_id: str, after: str) -> ListFailures:
    return ListFailures(**requests.command_fields(), batch_id=batch_id, after=after, limit=PAGE_SIZE)


def _page(detail: dict[str, Any]) -> list[JobReply]:
    return [JobReply.model_validate(view) for view in detail.get("failures", [])]


def _failure(requests: RequestClient, view: JobReply) -> Failure:
    error = view.error
    return Failure(
        job=view.job,
        receipt=Receipt(view.id, requests, view.job),
        args=tuple(view.args),
        kwargs=view.kwargs,
        attempts=view.attempt,
        error_type="" if error is None else error.type,
        message=view.reason if error is None else error.message,
        traceback="" if error is None else error.traceback or "",
    )

"""What has failed in a batch, job by job, so that a program can look at it and run it again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from broker_jobs.errors import ArgumentsError
from broker_jobs.messages.commands import BulkDelete, BulkRequeue, JobFilter, JobReply, ListFailures
from broker_jobs.messages.envelope import new_id
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient

PAGE = 100
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Failure:
    """A job that failed for good: which, with what arguments, and why.

    `args` and `kwargs` are as they travel: JSON, defaults not filled in. `error_type` is the exception's name.
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


def failures(requests: RequestClient, batch_id: str) -> Iterator[Failure]:
    """The failed jobs of a batch, asked for page by page as they are taken."""
    requests.batch_view(batch_id)  # a batch made just now is first waited for
    return _pages(requests, batch_id)


def requeue_failures(requests: RequestClient, batch_id: str, error_text: str) -> int:
    """Have the failed jobs of a batch run again; how many that were."""
    try:
        meant = JobFilter(batch=batch_id, error_text=error_text or None)
    except ValidationError:
        raise ArgumentsError("the text to look for in errors has at most 1,000 characters, and no NUL") from None
    requests.batch_view(batch_id)  # a batch made just now is first waited for
    command = BulkRequeue(id=new_id(), at=requests.now(), by=requests.by, filter=meant)
    return int(worked_off(requests, command)["done"])


def worked_off(requests: RequestClient, command: BulkRequeue | BulkDelete) -> dict[str, Any]:
    """Give a bulk command and stay until it is worked off; its last reply's detail.

    The same command again changes nothing; its reply says how far the first one is.
    """
    pause = FIRST_PAUSE_SECONDS
    while not (detail := requests.command(command).detail)["finished"]:
        time.sleep(pause)
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
    return detail


def _pages(requests: RequestClient, batch_id: str) -> Iterator[Failure]:
    after = ""
    while True:
        question = ListFailures(
            id=new_id(), at=requests.now(), by=requests.by, batch_id=batch_id, after=after, limit=PAGE
        )  # fmt: skip
        page = [JobReply.model_validate(view) for view in requests.command(question).detail.get("failures", [])]
        if not page:
            return
        for view in page:
            yield _failure(requests, view)
        after = page[-1].id


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

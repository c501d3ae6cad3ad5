"""Groups jobs into a batch: all of them are enqueued or none, and other jobs can wait until all have ended.

Each `with` block is one submission: its jobs are sent while the block runs, and start when it has ended. A block that
raises starts nothing. The file is over 300 lines, as the public methods of `Batch` with their docstrings take most of
it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

from broker_jobs.clock import Seconds, When, as_seconds
from broker_jobs.errors import ArgumentsError, EnqueueError, ResultTimeout, UsageError
from broker_jobs.function.option_checks import check_id
from broker_jobs.function.options import NO_OPTIONS, FunctionOptions
from broker_jobs.messages.batch import BatchCommit
from broker_jobs.messages.commands import BatchReply, DeleteBatch
from broker_jobs.messages.envelope import MAX_NAME_CHARS, MAX_RECORDS, Parent, new_id
from broker_jobs.messages.state import State
from broker_jobs.producer.asyncio_support import warn_if_blocking
from broker_jobs.producer.batch_submission import (
    BatchSubmission,
    CommitUnknown,
    Phase,
    StrayEnqueues,
    SubmissionSteps,
    run_steps,
    run_steps_async,
    unwatch_stray_enqueues,
    watch_stray_enqueues,
)
from broker_jobs.producer.connection import Publishing
from broker_jobs.producer.current_job import inside_job
from broker_jobs.producer.dependencies import DependencyTarget
from broker_jobs.producer.errors import BatchUnknown
from broker_jobs.producer.failures import Failure, failures, failures_async, requeue_failures, requeue_failures_async
from broker_jobs.producer.job import Call, Job
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient
from broker_jobs.producer.routing import ScheduledTime, scheduled_time

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

ANSWERS = "the coordinator answers"
MAX_TITLE_CHARS = MAX_NAME_CHARS
MAX_DEPTH = 10
"""How deep batches can nest. Deeper nesting is most likely an endless loop."""


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """The jobs of a batch by their outcome. A sub-batch counts as one job, with its own outcome."""

    total: int
    open: int
    """Not ended: waiting, enqueued or running."""
    succeeded: int
    failed: int
    deleted: int

    @property
    def ended(self) -> int:
        """Succeeded, failed or deleted."""
        return self.succeeded + self.failed + self.deleted


class Batch(DependencyTarget):
    """Jobs that start together, when the `with` block has ended. Made by `jobs.batch(…)`.

    Other jobs can wait until all jobs of the batch have ended: `summary.after(batch).enqueue()`. Open the batch again
    to add jobs to it, also from one of its running jobs (`current_job().batch`).

    with jobs.batch("import") as batch:
        for row in rows:
            batch.enqueue(load, row)
    """

    is_batch: ClassVar[bool] = True

    def __init__(
        self,
        requests: RequestClient,
        title: str = "",
        *,
        id: str | None = None,
        parents: tuple[Parent, ...] = (),
        outer: Batch | None = None,
        options: FunctionOptions = NO_OPTIONS,
    ) -> None:
        if not isinstance(title, str):
            raise ArgumentsError(f"batch() takes a title, not {title!r}; its jobs: with jobs.batch() as batch: …")
        if len(title) > MAX_TITLE_CHARS:
            raise ArgumentsError(f"the title of a batch has at most {MAX_TITLE_CHARS} characters, not {len(title)}")
        self.id = new_id() if id is None else check_id(id, "the id of a batch")
        self.title = title
        self._requests = requests
        self._parents = parents
        self._outer = outer
        self._options = options  # how it is published
        self.enclosing: tuple[Batch, ...] = (self, *(outer.enclosing if outer is not None else ()))
        """This batch, the batch it is part of, and so on outwards."""
        if len(self.enclosing) > MAX_DEPTH:
            raise UsageError(f"batches nest at most {MAX_DEPTH} deep")
        self._lock = threading.Lock()
        self._committed = id is not None  # at least one submission
        self.submission: BatchSubmission | None = None
        """The submission of the block that is running."""
        self._last: BatchSubmission | None = None
        self._outer_submission: BatchSubmission | None = None
        self._stray: StrayEnqueues | None = None

    def __repr__(self) -> str:
        return f"Batch({self.title + ' ' if self.title else ''}{self.id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batch) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    # --- adding jobs ---

    def enqueue(self, job: Job[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R]:
        """Add a job. It starts when the block has ended.

        Raises:
            ArgumentsError: the first argument is no job, or the arguments do not fit. If the block raises it, no job of
                the block starts.
            UsageError: called outside the block, or with a job of another program.
            EnqueueError: RabbitMQ is unreachable, blocked or refuses, or the job is too large.
        """
        submission = self._open_submission()
        _check_job(job, "enqueue")
        return self._add(submission, job, job.bind_arguments(args, kwargs))

    def schedule(self, job: Job[P, R], when: When, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R]:
        """Add a job to run later; not before the block has ended.

        Args:
            when: a timedelta from now or an aware datetime, at most ten years ahead.

        Raises:
            As `enqueue`.
        """
        submission = self._open_submission()
        _check_job(job, "schedule")
        scheduled = scheduled_time(when, self._requests.now())
        return self._add(submission, job, job.bind_arguments(args, kwargs), scheduled)

    def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[Receipt[R]]:
        """Add many calls (`load.bind(…)`).

        Returns:
            The receipts, in the order of the calls.

        Raises:
            As `enqueue`.
        """
        submission = self._open_submission()
        receipts: list[Receipt[R]] = []
        for call in calls:
            if not isinstance(call, Call):
                raise ArgumentsError(f"enqueue_many() takes calls: write welcome.bind(…) for each, not {call!r}")
            receipts.append(self._add(submission, call.source, call.bound))
        return receipts

    def batch(self, title: str = "", /) -> Batch:
        """A sub-batch. Open it inside the block of this one; its jobs start when this block has ended.

        with batch.batch("images") as images:
            images.enqueue(resize, path)

        Raises:
            ArgumentsError: the title has more than 200 characters.
            UsageError: called outside the block, or more than ten batches deep.
        """
        if len(self._open_submission().batches) >= MAX_RECORDS:
            raise UsageError(f"a block makes at most {MAX_RECORDS:_} sub-batches; open the batch again for more")
        return Batch(self._requests, title, outer=self, options=self._options)

    # --- the block ---

    def __enter__(self) -> Self:
        warn_if_blocking("with batch", "async with batch")
        if self._last is not None and self._last.phase is Phase.UNKNOWN:
            with self._commit_outcome(self._last):
                run_steps(self._last.repeat_commit(), self._how().timeout)
        self._open(on_loop=False)
        return self

    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        submission = self._close()
        if kind is not None:
            submission.abandon()
            return
        with self._commit_outcome(submission):
            run_steps(self._finish(submission), self._how().timeout)

    async def __aenter__(self) -> Self:
        if (failed := await self._requests.connection.connect_async(self._how())) is not None:
            raise EnqueueError(f"{self.label} was not enqueued: {failed.reason}")
        if self._last is not None and self._last.phase is Phase.UNKNOWN:
            with self._commit_outcome(self._last):
                await run_steps_async(self._last.repeat_commit(), self._how().timeout)
        self._open(on_loop=True)
        return self

    async def __aexit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        submission = self._close()
        if kind is not None:
            submission.abandon()
            return
        with self._commit_outcome(submission):
            await run_steps_async(self._finish(submission), self._how().timeout)

    # --- state and outcome ---

    def state(self) -> State:
        """The current state: awaiting (its block runs, or it waits for others), processing, or how it ended.

        Raises:
            UsageError: its block was never completed.
            ResultTimeout: no coordinator answered within the publish timeout, or it does not know the batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("batch.state()", "batch.state_async()", "the coordinator answers")
        if self._is_in_first_block():
            return State.AWAITING
        self._require_committed()
        return State(self._requests.batch_view(self.id).state)

    async def state_async(self) -> State:
        """As `state`, without blocking the event loop."""
        if self._is_in_first_block():
            return State.AWAITING
        self._require_committed()
        return State((await self._requests.batch_view_async(self.id)).state)

    def counts(self) -> BatchCounts:
        """The number of its jobs by their outcome.

        Raises:
            As `failures`.
        """
        warn_if_blocking("batch.counts()", "batch.counts_async()", "the coordinator answers")
        self._require_committed()
        return _counts(self._requests.batch_view(self.id))

    async def counts_async(self) -> BatchCounts:
        """As `counts`, without blocking the event loop."""
        self._require_committed()
        return _counts(await self._requests.batch_view_async(self.id))

    def wait(self, timeout: Seconds | None = None) -> State:
        """Wait until all its jobs and sub-batches have ended.

        Args:
            timeout: seconds or a timedelta; None waits without end.

        Returns:
            State.SUCCEEDED if all of them have succeeded, else how the batch ended.

        Raises:
            ResultTimeout: it has not ended in time, or no coordinator answered.
            UsageError: called inside a job or inside its block, or its block was never completed.
            BrokerError: RabbitMQ cannot be reached.
        """
        self._refuse_to_wait()
        warn_if_blocking("batch.wait()", "batch.wait_async()", "the batch has ended")
        seconds = None if timeout is None else as_seconds(timeout)
        return self._final_state(self._requests.wait_for_batch(self.id, seconds), seconds)

    async def wait_async(self, timeout: Seconds | None = None) -> State:  # noqa: ASYNC109  # as wait()
        """As `wait`, without blocking the event loop."""
        self._refuse_to_wait()
        seconds = None if timeout is None else as_seconds(timeout)
        return self._final_state(await self._requests.wait_for_batch_async(self.id, seconds), seconds)

    def failures(self) -> Iterator[Failure]:
        """Iterate over its failed jobs and those of its sub-batches, oldest first. Each can be requeued.

        A duplicate whose original failed outside the batch is among them; it has the original's error, and to requeue
        it requeues the original.

        Pages are requested as you iterate. A job that fails meanwhile may be missing; one that you requeue does not
        appear again.

        for failure in batch.failures():
            if failure.error_type == "TimeoutError":
                failure.requeue()

        Raises:
            UsageError: called inside its block, or its block was never completed.
            ResultTimeout: no coordinator answered within the publish timeout, or it does not know the batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("batch.failures()", "async for failure in batch.failures_async()", ANSWERS)
        self._require_committed()
        return failures(self._requests, self.id)

    def failures_async(self) -> AsyncIterator[Failure]:
        """As `failures`, without blocking the event loop: `async for failure in batch.failures_async():`."""
        self._require_committed()
        return failures_async(self._requests, self.id)

    def requeue_failures(self, error_text: str = "") -> int:
        """Run its failed jobs and those of its sub-batches again, by one command.

        It returns when all of them are requeued, which takes a while for very many. To choose by anything but the
        error text, see `failures`.

        Args:
            error_text: only jobs with this text in their error or reason, ignoring case; at most 1,000 characters.

        Returns:
            The number of jobs that were requeued.

        Raises:
            ArgumentsError: the text is too long.
            UsageError: called inside its block, or its block was never completed.
            ResultTimeout: no coordinator answered within the publish timeout, or it does not know the batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("batch.requeue_failures()", "batch.requeue_failures_async()", "all are requeued")
        self._require_committed()
        return requeue_failures(self._requests, self.id, error_text)

    async def requeue_failures_async(self, error_text: str = "") -> int:
        """As `requeue_failures`, without blocking the event loop."""
        self._require_committed()
        return await requeue_failures_async(self._requests, self.id, error_text)

    def delete(self) -> bool:
        """Delete all its jobs that have not ended, and those of its sub-batches.

        Returns:
            False if the batch had already ended.

        Raises:
            UsageError: called inside its block (raise an exception there to abandon it), or its block was never
                completed.
            ResultTimeout: no coordinator answered within the publish timeout, or it does not know the batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("batch.delete()", "batch.delete_async()", ANSWERS)
        self._require_committed()
        self._requests.batch_view(self.id)  # commands overtake the log, so wait until it knows the batch
        reply = self._requests.command(DeleteBatch(**self._requests.command_fields(), batch_id=self.id))
        return not reply.detail.get("ended", False)

    async def delete_async(self) -> bool:
        """As `delete`, without blocking the event loop."""
        self._require_committed()
        await self._requests.batch_view_async(self.id)
        reply = await self._requests.command_async(DeleteBatch(**self._requests.command_fields(), batch_id=self.id))
        return not reply.detail.get("ended", False)

    # --- inside ---

    @property
    def label(self) -> str:
        """Its title or id, for error messages: "batch 'import'"."""
        return f"batch {self.title!r}" if self.title else f"batch {self.id}"

    def _how(self) -> Publishing:
        return self._requests.connection.publishing(self._options.publish_timeout, self._options.fail_fast)

    def _open_submission(self) -> BatchSubmission:
        submission = self.submission
        if submission is not None:
            return submission
        if self._last is None and not self._committed:
            raise UsageError(f"{self.label} is not open; write: with batch:")
        raise UsageError(f"{self.label} is closed; to add to it open it again: with batch:")

    def _add(
        self,
        submission: BatchSubmission,
        job: Job[..., R],
        bound: tuple[list[Any], dict[str, Any]],
        scheduled: ScheduledTime | None = None,
    ) -> Receipt[R]:
        requests = self._requests
        if not job.belongs_to(requests):
            raise UsageError(f"{job.name} belongs to another BrokerJobs; enqueue it there")
        envelope = job.new_envelope(bound, requests.now(), scheduled).evolve(epoch=0, batch=self.id)
        if envelope.after is not None:
            enclosing = {batch.id for batch in self.enclosing}
            if any(parent.batch and parent.id in enclosing for parent in envelope.after.parents):
                raise UsageError(f"{job.name} would wait for the batch it is part of: enqueue it outside the batch")
        submission.add(envelope)
        return job.new_receipt(envelope.id, submission)

    def _open(self, *, on_loop: bool) -> None:
        with self._lock:
            if self.submission is not None:
                raise UsageError(f"{self.label} is open already; each with block is one submission")
            outer = None if self._outer is None else self._outer.submission
            if self._outer is not None and outer is None and not self._committed:
                raise UsageError(f"{self.label} is part of {self._outer.label}: open it inside that one's with block")
            if outer is not None:
                outer.open_sub_batches += 1
            self._outer_submission = outer
            self._last = self.submission = BatchSubmission(
                self._requests.connection, self.id, self.label, self._how(), on_loop=on_loop
            )
        self._stray = watch_stray_enqueues()

    def _close(self) -> BatchSubmission:
        """Close the block, without a commit, and return its submission."""
        with self._lock:
            submission, self.submission = self.submission, None
            stray, self._stray = self._stray, None
            if self._outer_submission is not None:
                self._outer_submission.open_sub_batches -= 1
        if stray is not None:
            unwatch_stray_enqueues(stray)
        if submission is None:
            raise UsageError(f"{self.label} is not open")
        if stray is not None and stray.count and not submission.count and not submission.batches:
            logger.warning(
                "%s is empty, but %d %s enqueued inside its block without joining it: write batch.enqueue(%s, …)",
                self.label, stray.count, "job was" if stray.count == 1 else "jobs were", stray.last,
            )  # fmt: skip
        return submission

    def _finish(self, submission: BatchSubmission) -> SubmissionSteps:
        if submission.open_sub_batches:
            submission.abandon()
            raise UsageError(f"{self.label} has a sub-batch whose with block has not ended; nothing of it starts")
        return submission.commit(lambda chunks: self._commit_message(submission, chunks))

    def _commit_message(self, submission: BatchSubmission, chunks: int) -> BatchCommit:
        return BatchCommit(
            batch=self.id,
            submission=submission.id,
            created_at=self._requests.now(),
            chunks=chunks,
            title=self.title,
            parent=None if self._outer is None else self._outer.id,
            parent_submission=None if self._outer_submission is None else self._outer_submission.id,
            batches=submission.batches,
            parents=self._parents,
        )

    @contextmanager
    def _commit_outcome(self, submission: BatchSubmission) -> Iterator[None]:
        """Apply the outcome of a commit to this batch and to the batch it is part of."""
        outer = self._outer_submission
        try:
            yield
        except CommitUnknown as unknown:
            error = BatchUnknown(
                f"{self.label} may start or not: its commit has no confirm ({unknown}); "
                "to repeat it, which is harmless: with error.batch: pass",
                self,
            )
            if outer is not None:
                outer.fail(error)  # the outer batch must not wait for a sub-batch that may not exist
            raise error from None
        if outer is not None and not self._committed:
            outer.batches.append(self.id)
        self._committed = True

    def _is_in_first_block(self) -> bool:
        """Whether its first block runs, so that the coordinator does not know it."""
        return self.submission is not None and not self._committed

    def _require_committed(self) -> None:
        if self._is_in_first_block():
            raise UsageError(f"{self.label} is complete when its with block has ended; call this after it")
        if not self._committed and (self._last is None or self._last.phase is not Phase.UNKNOWN):
            raise UsageError(f"{self.label} was never completed; write: with batch:")

    def _refuse_to_wait(self) -> None:
        if inside_job():
            raise UsageError("a job that waits for a batch can stop every worker; use child.after(batch)")
        if self.submission is not None:
            raise UsageError(f"{self.label} is complete when its with block has ended; call this after it")
        self._require_committed()

    def _final_state(self, view: BatchReply, seconds: float | None) -> State:
        state = State(view.state)
        if not state.is_final:
            raise ResultTimeout(
                f"{self.label} is still {state} ({view.total - view.open} of {view.total} ended) "
                f"after {0 if seconds is None else seconds:g} s"
            )
        return state


def _check_job(job: object, method: str) -> None:
    if not isinstance(job, Job):
        raise ArgumentsError(f"batch.{method}() takes a job first: write batch.{method}(welcome, …), not {job!r}")


def _counts(view: BatchReply) -> BatchCounts:
    return BatchCounts(view.total, view.open, view.succeeded, view.failed, view.deleted)

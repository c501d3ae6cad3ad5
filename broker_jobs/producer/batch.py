"""A batch: many jobs of which all are enqueued or none, and which end together.

Each `with` is one submission: its jobs travel while the block runs, and start when the block has ended. A block that
raises starts nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

from broker_jobs.clock import Seconds, When, as_seconds
from broker_jobs.errors import ArgumentsError, BrokerError, EnqueueError, ResultTimeout, UsageError
from broker_jobs.function.options import check_id
from broker_jobs.messages.batch import BatchCommit
from broker_jobs.messages.commands import BatchReply, DeleteBatch
from broker_jobs.messages.envelope import MAX_NAME_CHARS, MAX_RECORDS, Parent, new_id
from broker_jobs.messages.state import State
from broker_jobs.producer import stray_enqueues
from broker_jobs.producer.batch_submission import BatchSubmission, CommitUnknown, Phase, Sending, drive, drive_async
from broker_jobs.producer.blocking import warn_if_blocking
from broker_jobs.producer.call import Call
from broker_jobs.producer.counts import BatchCounts, counts_of
from broker_jobs.producer.current_job import inside_job
from broker_jobs.producer.dependencies import DependencyTarget
from broker_jobs.producer.errors import BatchUnknown
from broker_jobs.producer.failure import Failure, failures, requeue_failures
from broker_jobs.producer.job import Job
from broker_jobs.producer.receipt import Receipt
from broker_jobs.producer.requests import RequestClient
from broker_jobs.producer.routing import Later, later

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

MAX_TITLE_CHARS = MAX_NAME_CHARS
MAX_DEPTH = 10
"""How deep batches nest; a batch of batches of batches is a loop that does not end."""


class Batch(DependencyTarget):
    """Jobs that start together, when the block has ended, and end together. Made by `jobs.batch(…)`.

    `with batch:` again, also from one of its running jobs (`current_job().batch`), adds to it.
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
        self.nest: tuple[Batch, ...] = (self, *(outer.nest if outer is not None else ()))
        """It, the batch it is part of, and so on outwards."""
        if len(self.nest) > MAX_DEPTH:
            raise UsageError(f"batches nest at most {MAX_DEPTH} deep")
        self._lock = threading.Lock()
        self._known = id is not None  # a submission of it is committed
        self.submission: BatchSubmission | None = None
        """What its block adds, while it runs."""
        self._last: BatchSubmission | None = None
        self._outer_submission: BatchSubmission | None = None
        self._stray_enqueues: stray_enqueues.StrayEnqueues | None = None

    def __repr__(self) -> str:
        return f"Batch({self.title + ' ' if self.title else ''}{self.id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batch) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    # --- what is in it ---

    def enqueue(self, job: Job[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R]:
        """Add a job; it starts when the block has ended.

        Raises:
            ArgumentsError: no job, or the arguments do not fit; out of the block it starts nothing.
            UsageError: outside the block, or a job of another program.
            EnqueueError: RabbitMQ did not take jobs over, or the job is too large.
        """
        submission = self._open_submission()
        _check_job(job, "enqueue")
        return self._add(submission, job, job.bound(args, kwargs))

    def schedule(self, job: Job[P, R], when: When, /, *args: P.args, **kwargs: P.kwargs) -> Receipt[R]:
        """Add a job for later: a timedelta from now, or an aware datetime. It starts when the block has ended too.

        Raises:
            As `enqueue`.
        """
        submission = self._open_submission()
        _check_job(job, "schedule")
        meant = later(when, self._requests.now())
        return self._add(submission, job, job.bound(args, kwargs), meant)

    def enqueue_many(self, calls: Iterable[Call[R]], /) -> list[Receipt[R]]:
        """Add many calls (`load.bind(…)`); the receipts in their order.

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
        """A batch that is part of this one; to be filled inside this one's block, and started with it.

        Raises:
            ArgumentsError: the title is too long.
            UsageError: outside the block, or more than ten deep.
        """
        if len(self._open_submission().batches) >= MAX_RECORDS:
            raise UsageError(f"a block makes at most {MAX_RECORDS:_} sub-batches; open the batch again for more")
        return Batch(self._requests, title, outer=self)

    # --- the block ---

    def __enter__(self) -> Self:
        warn_if_blocking("with batch", "async with batch")
        if self._last is not None and self._last.phase is Phase.UNKNOWN:
            with self._ending(self._last):
                drive(self._last.repeat())
        self._open(on_loop=False)
        return self

    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        submission = self._leave()
        if kind is not None:
            submission.give_up()
            return
        with self._ending(submission):
            drive(self._finish(submission))

    async def __aenter__(self) -> Self:
        try:
            await self._requests.connection.broker_async()
        except BrokerError as error:
            raise EnqueueError(f"{self.shown} was not enqueued: {error}") from None
        if self._last is not None and self._last.phase is Phase.UNKNOWN:
            with self._ending(self._last):
                await drive_async(self._last.repeat())
        self._open(on_loop=True)
        return self

    async def __aexit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        submission = self._leave()
        if kind is not None:
            submission.give_up()
            return
        with self._ending(submission):
            await drive_async(self._finish(submission))

    # --- what becomes of it ---

    def state(self) -> State:
        """Where the batch stands: awaiting (its block runs, or what it waits for does), processing, or how it ended.

        Raises:
            UsageError: it was never filled.
            ResultTimeout: no coordinator answered within the publish timeout, or none knows the batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("batch.state()", "batch.state_async()", "the coordinator answers")
        if self._is_open_first():
            return State.AWAITING
        self._check_complete()
        return State(self._requests.batch_view(self.id).state)

    async def state_async(self) -> State:
        """As `state`; the event loop goes on meanwhile."""
        if self._is_open_first():
            return State.AWAITING
        self._check_complete()
        return State((await self._requests.batch_view_async(self.id)).state)

    def counts(self) -> BatchCounts:
        """How many of its jobs have ended, and how; one whose block runs has none that are known.

        Raises:
            As `failures`.
        """
        warn_if_blocking("batch.counts()", "batch.counts_async()", "the coordinator answers")
        self._check_complete()
        return counts_of(self._requests.batch_view(self.id))

    async def counts_async(self) -> BatchCounts:
        """As `counts`; the event loop goes on meanwhile."""
        self._check_complete()
        return counts_of(await self._requests.batch_view_async(self.id))

    def wait(self, timeout: Seconds | None = None) -> State:
        """Wait until all its jobs and sub-batches have ended; succeeded: all of them have, or else how it ended.

        Args:
            timeout: seconds or a timedelta; None waits for ever.

        Raises:
            ResultTimeout: it has not ended in time, or no coordinator answered.
            UsageError: asked inside a job or inside its block, or it was never filled.
            BrokerError: RabbitMQ cannot be reached.
        """
        self._refuse_to_wait()
        warn_if_blocking("batch.wait()", "batch.wait_async()", "the batch has ended")
        seconds = None if timeout is None else as_seconds(timeout)
        return self._ended(self._requests.batch_ended(self.id, seconds), seconds)

    async def wait_async(self, timeout: Seconds | None = None) -> State:  # noqa: ASYNC109  # as wait()
        """As `wait`; the event loop goes on meanwhile."""
        self._refuse_to_wait()
        seconds = None if timeout is None else as_seconds(timeout)
        return self._ended(await self._requests.batch_ended_async(self.id, seconds), seconds)

    def failures(self) -> Iterator[Failure]:
        """Its failed jobs and those of its sub-batches, oldest first, a page at a time; each can be requeued.

        A job that fails while one iterates may be met or not; one that was requeued is not met again.

        Raises:
            UsageError: asked inside its block, or it was never filled.
            ResultTimeout: no coordinator answered within the publish timeout, or none knows the batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        self._check_complete()
        return failures(self._requests, self.id)

    def requeue_failures(self, error_text: str = "") -> int:
        """Run its failed jobs again, those of its sub-batches too, by one command; how many that were.

        Returns when all of them are requeued, which takes a while where there are very many. To choose by anything
        else: `for failure in batch.failures(): … failure.requeue()`.

        Args:
            error_text: only those with this in their error or reason, in any case; at most 1,000 characters.

        Raises:
            ArgumentsError: the text is too long.
            UsageError: asked inside its block, or it was never filled.
            ResultTimeout: no coordinator answered within the publish timeout, or none knows the batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        warn_if_blocking("batch.requeue_failures()", "asyncio.to_thread(batch.requeue_failures)", "all are requeued")
        self._check_complete()
        return requeue_failures(self._requests, self.id, error_text)

    def delete(self) -> bool:
        """Delete all its jobs that have not ended, those of sub-batches too. False: it had already ended.

        Raises:
            UsageError: asked inside its block (raise to give it up), or it was never filled.
            ResultTimeout: no coordinator answered within the publish timeout, or none knows the batch.
            BrokerError: RabbitMQ cannot be reached.
        """
        self._check_complete()
        requests = self._requests
        requests.batch_view(self.id)  # commands overtake the log: a batch made just now is first waited for
        reply = requests.command(DeleteBatch(id=new_id(), at=requests.now(), by=requests.by, batch_id=self.id))
        return not reply.detail.get("ended", False)

    # --- inside ---

    @property
    def shown(self) -> str:
        """What a message calls it: "batch 'import'"."""
        return f"batch {self.title!r}" if self.title else f"batch {self.id}"

    def _open_submission(self) -> BatchSubmission:
        submission = self.submission
        if submission is not None:
            return submission
        if self._last is None and not self._known:
            raise UsageError(f"{self.shown} is not open; write: with batch:")
        raise UsageError(f"{self.shown} is closed; to add to it open it again: with batch:")

    def _add(
        self,
        submission: BatchSubmission,
        job: Job[..., R],
        bound: tuple[list[Any], dict[str, Any]],
        meant: Later | None = None,
    ) -> Receipt[R]:
        requests = self._requests
        if not job.belongs_to(requests):
            raise UsageError(f"{job.name} belongs to another BrokerJobs; enqueue it there")
        envelope = job.draft(bound, requests.now(), meant).evolve(epoch=0, batch=self.id)
        if envelope.after is not None:
            ours = {batch.id for batch in self.nest}
            if any(parent.batch and parent.id in ours for parent in envelope.after.parents):
                raise UsageError(f"{job.name} would wait for the batch it is part of: enqueue it beside the batch")
        submission.add(envelope)
        return job.fresh_receipt(envelope.id, submission)

    def _open(self, *, on_loop: bool) -> None:
        with self._lock:
            if self.submission is not None:
                raise UsageError(f"{self.shown} is open already; each with block is one submission")
            outer = None if self._outer is None else self._outer.submission
            if self._outer is not None and outer is None and not self._known:
                raise UsageError(f"{self.shown} is part of {self._outer.shown}: open it inside that one's with block")
            if outer is not None:
                outer.parts_open += 1
            self._outer_submission = outer
            self._last = self.submission = BatchSubmission(
                self._requests.connection, self.id, self.shown, on_loop=on_loop
            )
        self._stray_enqueues = stray_enqueues.watch()

    def _leave(self) -> BatchSubmission:
        """Close the block; nothing is committed yet."""
        with self._lock:
            submission, self.submission = self.submission, None
            watched, self._stray_enqueues = self._stray_enqueues, None
            if self._outer_submission is not None:
                self._outer_submission.parts_open -= 1
        if watched is not None:
            stray_enqueues.unwatch(watched)
        if submission is None:
            raise UsageError(f"{self.shown} is not open")
        if watched is not None and watched.count and not submission.count and not submission.batches:
            logger.warning(
                "%s is empty; %d %s enqueued beside it: write batch.enqueue(%s, …)",
                self.shown, watched.count, "job was" if watched.count == 1 else "jobs were", watched.last,
            )  # fmt: skip
        return submission

    def _finish(self, submission: BatchSubmission) -> Sending:
        if submission.parts_open:
            submission.give_up()
            raise UsageError(f"{self.shown} has a sub-batch whose with block has not ended; nothing of it starts")
        return submission.finish(lambda chunks: self._commit(submission, chunks))

    def _commit(self, submission: BatchSubmission, chunks: int) -> BatchCommit:
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
    def _ending(self, submission: BatchSubmission) -> Iterator[None]:
        """Around the sealing: what its outcome means for this batch and the one it is part of."""
        outer = self._outer_submission
        try:
            yield
        except CommitUnknown as unknown:
            error = BatchUnknown(
                f"{self.shown} may start or not: no confirm came for its end ({unknown}); "
                "to repeat it, which is harmless: with error.batch: pass",
                self,
            )
            if outer is not None:
                outer.break_off(error)  # whether it is there to be waited for is not known
            raise error from None
        if outer is not None and not self._known:
            outer.batches.append(self.id)
        self._known = True

    def _is_open_first(self) -> bool:
        """Whether its first block runs, so that nobody knows of it."""
        return self.submission is not None and not self._known

    def _check_complete(self) -> None:
        if self._is_open_first():
            raise UsageError(f"{self.shown} is complete when its with block has ended; ask after it")
        if not self._known and (self._last is None or self._last.phase is not Phase.UNKNOWN):
            raise UsageError(f"{self.shown} was never completed; write: with batch:")

    def _refuse_to_wait(self) -> None:
        if inside_job():
            raise UsageError("a job that waits for a batch can stop every worker; use child.after(batch)")
        if self.submission is not None:
            raise UsageError(f"{self.shown} is complete when its with block has ended; ask after it")
        self._check_complete()

    def _ended(self, view: BatchReply, seconds: float | None) -> State:
        state = State(view.state)
        if not state.is_final:
            raise ResultTimeout(
                f"{self.shown} is still {state} ({view.total - view.open} of {view.total} ended) "
                f"after {0 if seconds is None else seconds:g} s"
            )
        return state


def _check_job(job: object, method: str) -> None:
    if not isinstance(job, Job):
        raise ArgumentsError(f"batch.{method}() takes a job first: write batch.{method}(welcome, …), not {job!r}")

"""Publishes the jobs of one batch submission while its block runs, in chunks, and then its commit.

So a batch of any size takes the memory of a few chunks, and little is left to do when the block ends. The coordinator
holds each chunk until the commit of its submission; if the producer dies inside the block, nothing starts. A chunk
and a commit may arrive twice, so a message without a confirm is simply sent again.

Jobs that are enqueued inside a block, but not in its batch, are counted here too: job.py and enqueue_many.py report
them, and batch.py, which imports both, warns. The file is over 300 lines, as these few belong to its blocks.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextvars import ContextVar
from enum import Enum
from typing import NamedTuple, NoReturn, TypeAlias

from broker_jobs.broker import names
from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.errors import EnqueueError, UsageError
from broker_jobs.messages.batch import CHUNK_BYTES, CHUNK_JOBS, BatchCommit, Chunk
from broker_jobs.messages.envelope import Envelope, new_id
from broker_jobs.producer.confirms import await_confirms, wait_for_confirms
from broker_jobs.producer.connection import Connection, Publishing
from broker_jobs.producer.routing import encode_limited

PublishResults: TypeAlias = list[PublishFailure | None]
SubmissionSteps: TypeAlias = Generator[Future[PublishResults], PublishResults, None]
"""Yields each future to wait for, so that a thread and an event loop share the steps."""

MAX_UNCONFIRMED = 4
"""The next chunk waits while more chunks than this are unconfirmed."""
MAX_UNCONFIRMED_ON_LOOP = 64
"""The same in an `async with`, where waiting would block the event loop."""
MAX_MESSAGE_BYTES = 15 * 1024 * 1024
"""RabbitMQ 4 closes the channel over a message of more than 16 MiB; an envelope grows as text within a chunk."""
TRIES = 3
"""How often a message without a confirm is sent, each time for the publish timeout."""


class Phase(Enum):
    """The progress of a submission."""

    OPEN = "its block runs"
    CLOSING = "its block has ended; chunks are not confirmed yet"
    COMMITTED = "its commit is confirmed"
    UNKNOWN = "its commit was sent, and may have arrived"
    ABANDONED = "it was not committed, and never will be"


class CommitUnknown(Exception):  # turned into a BatchUnknown, which has the batch
    """The commit has no confirm."""


class _InFlight(NamedTuple):
    message: Message
    future: Future[PublishResults]
    tries: int


class BatchSubmission:
    """One `with` block of a batch. Thread-safe: several threads of a block may add jobs.

    Args:
        title: the batch, as error messages name it.
        how: how its messages are published.
        on_loop: the block runs on an event loop.
    """

    def __init__(self, connection: Connection, batch_id: str, title: str, how: Publishing, *, on_loop: bool) -> None:
        self.id = new_id()
        self.phase = Phase.OPEN
        self.count = 0
        """Jobs added so far."""
        self.batches: list[str] = []
        """Sub-batches that were made and committed in the block."""
        self.open_sub_batches = 0
        self._connection = connection
        self._batch_id = batch_id
        self._title = title
        self._how = how
        self._pid = os.getpid()
        self._adding = 0  # the thread that adds a job
        self._max_unconfirmed = MAX_UNCONFIRMED_ON_LOOP if on_loop else MAX_UNCONFIRMED
        self._lock = threading.Lock()
        self._texts: list[str] = []  # the jobs of the next chunk
        self._bytes = 0
        self._chunks = 0
        self._in_flight: deque[_InFlight] = deque()
        self._commit: Message | None = None
        self._error: EnqueueError | None = None

    @property
    def is_open(self) -> bool:
        """Whether jobs can be added."""
        return self.phase is Phase.OPEN

    def add(self, envelope: Envelope) -> None:
        """Add a job. Publishes when a chunk is full, and waits when too many chunks are unconfirmed.

        Raises:
            UsageError: the block has ended.
            ArgumentsError: an argument has no JSON form.
            EnqueueError: the job is too large, or a chunk was not published: nothing of the submission starts.
        """
        body = encode_limited(envelope, self._connection.settings.max_body)
        if len(body) * 2 > MAX_MESSAGE_BYTES and len(body) + body.count(b'"') + body.count(b"\\") > MAX_MESSAGE_BYTES:
            raise EnqueueError(f"{envelope.job} {envelope.id} is too large for a batch; pass a reference to its data")
        self._check_caller()
        with self._lock:
            try:
                self._adding = threading.get_ident()
                self._add(body)
            finally:
                self._adding = 0

    def _add(self, body: bytes) -> None:
        if not self.is_open:
            raise UsageError(f"{self._title} is closed; to add to it open it again: with batch:")
        self._raise_error()
        if self._texts and self._bytes + len(body) > CHUNK_BYTES:
            self._publish_chunk()
        self._texts.append(body.decode())
        self._bytes += len(body)
        self.count += 1
        if len(self._texts) >= CHUNK_JOBS or self._bytes >= CHUNK_BYTES:
            self._publish_chunk()

    def _check_caller(self) -> None:
        """Raise UsageError where the lock would not be released, or two processes would number their chunks alike."""
        if self._pid != os.getpid():
            raise UsageError(f"{self._title} was opened in process {self._pid}, this is {os.getpid()}; open one here")
        if self._adding == threading.get_ident():
            raise UsageError(
                f"a signal or logging handler adds to {self._title} while its thread adds a job; nothing was added. "
                "Add it in another thread, or later"
            )

    def commit(self, make_commit: Callable[[int], BatchCommit]) -> SubmissionSteps:
        """Wait until all chunks are confirmed, then publish the commit, which is made of their number.

        Raises:
            EnqueueError: not committed, so nothing starts.
            CommitUnknown: the commit may have arrived; `repeat_commit`.
        """
        try:
            with self._lock:
                self.phase = Phase.CLOSING  # a thread that adds a job now gets an error, and no job is lost
                self._raise_error()
                if self._texts:
                    self._publish_chunk()
            while self._in_flight:
                first = self._in_flight.popleft()
                self._on_result(first, (yield first.future)[0])
            yield from self._publish_commit(self._commit_message(make_commit(self._chunks)))
        finally:
            if self.phase is Phase.CLOSING:
                self.abandon()

    def repeat_commit(self) -> SubmissionSteps:
        """Send an unconfirmed commit again. Raises CommitUnknown."""
        if self._commit is not None and self.phase is Phase.UNKNOWN:
            yield from self._publish_commit(self._commit)

    def abandon(self) -> None:
        """Give the submission up: nothing of it starts, and the coordinator deletes its jobs.

        The message about it is sent without waiting for its confirm. If it is lost, the jobs are deleted after a day.
        """
        self.phase = Phase.ABANDONED
        self._texts.clear()
        for each in self._in_flight:
            each.future.cancel()
        self._in_flight.clear()
        if self._chunks or self.batches:
            commit = BatchCommit(
                batch=self._batch_id, submission=self.id, created_at=self._connection.clock.now(),
                chunks=self._chunks, abandoned=True,
            )  # fmt: skip
            self._send(self._commit_message(commit))

    def fail(self, error: EnqueueError) -> None:
        """Prevent the commit: a sub-batch of it may be lost."""
        self._error = error

    def refuse_to_wait(self, title: str) -> None:
        """Raise UsageError if a wait for a job of this submission could not end."""
        if self.phase in (Phase.OPEN, Phase.CLOSING):
            raise UsageError(f"{title} starts when the batch is complete; call this after the with block")
        if self.phase is Phase.ABANDONED:
            raise UsageError(f"{title} never starts: the with block of {self._title} did not complete")

    # --- chunks ---

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _publish_chunk(self) -> None:
        number, self._chunks = self._chunks, self._chunks + 1
        texts, self._texts, self._bytes = self._texts, [], 0
        chunk = Chunk(
            batch=self._batch_id, submission=self.id, created_at=self._connection.clock.now(), number=number, jobs=texts
        )
        body = chunk.model_dump_json().encode()
        message = Message(names.OFFER, names.LOG_KEY, body, "chunk", f"{self.id}.{number}")
        self._in_flight.append(_InFlight(message, self._send(message), tries=1))
        while self._in_flight and (self._in_flight[0].future.done() or len(self._in_flight) > self._max_unconfirmed):
            first = self._in_flight.popleft()
            self._on_result(first, wait_for_confirms(first.future, self._how.timeout, 1)[0])

    def _on_result(self, chunk: _InFlight, failure: PublishFailure | None) -> None:
        """Accept a confirmed chunk, send an unconfirmed one again, or fail."""
        if failure is None:
            return
        if failure.kind is Unconfirmed.UNKNOWN and chunk.tries < TRIES:
            self._in_flight.append(_InFlight(chunk.message, self._send(chunk.message), chunk.tries + 1))
            return
        self._raise_lost(failure.reason)

    def _raise_lost(self, reason: str) -> NoReturn:
        self._error = EnqueueError(f"{self._title} was not enqueued, and nothing of it starts: {reason}")
        raise self._error

    # --- the commit ---

    def _commit_message(self, commit: BatchCommit) -> Message:
        body = commit.model_dump_json(exclude_none=True).encode()
        return Message(names.OFFER, names.LOG_KEY, body, "commit", self.id)

    def _publish_commit(self, message: Message) -> SubmissionSteps:
        reason = ""
        for _ in range(TRIES):
            future = self._send(message)
            before, self.phase, self._commit = self.phase, Phase.UNKNOWN, message
            failure = (yield future)[0]
            if failure is None:
                self.phase = Phase.COMMITTED
                return
            reason = failure.reason
            if failure.kind is Unconfirmed.NOT_SENT:
                self.phase = before
                if before is Phase.CLOSING:
                    self._raise_lost(failure.reason)
                break
        raise CommitUnknown(reason)

    def _send(self, message: Message) -> Future[PublishResults]:
        return self._connection.publish([message], self._how)


def run_steps(steps: SubmissionSteps, timeout: float) -> None:
    """Wait in this thread for each step; `timeout`: of its publishes."""
    try:
        future = next(steps)
        while True:
            future = steps.send(wait_for_confirms(future, timeout, 1))
    except StopIteration:
        return
    finally:
        steps.close()


async def run_steps_async(steps: SubmissionSteps, timeout: float) -> None:  # noqa: ASYNC109  # of its publishes
    """Wait on the event loop for each step."""
    try:
        future = next(steps)
        while True:
            future = steps.send(await await_confirms(future, timeout, 1, shielded=True))
    except StopIteration:
        return
    finally:
        steps.close()


# --- jobs enqueued inside a block, but not in its batch ---


class StrayEnqueues:
    """Counts the jobs that were enqueued inside an open block, but not in its batch.

    A job joins a batch only by `batch.enqueue(load, row)`, so that mail which a library sends inside the block does not
    join it. A block that ends empty although `load.enqueue(row)` was called in it is most likely a mistake.
    """

    def __init__(self, outer: StrayEnqueues | None) -> None:
        self.outer = outer
        self.count = 0
        self.last = ""


_innermost: ContextVar[StrayEnqueues | None] = ContextVar("broker_jobs_stray_enqueues", default=None)


def watch_stray_enqueues() -> StrayEnqueues:
    """Begin to count what is enqueued in this thread or task."""
    stray = StrayEnqueues(_innermost.get())
    _innermost.set(stray)
    return stray


def unwatch_stray_enqueues(stray: StrayEnqueues) -> None:
    """Stop counting for this block."""
    if _innermost.get() is stray:
        _innermost.set(stray.outer)


def note_enqueued(job: str, count: int = 1) -> None:
    """Count jobs that were enqueued outside any batch."""
    stray = _innermost.get()
    if stray is not None:
        stray.count += count
        stray.last = job

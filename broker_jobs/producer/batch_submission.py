"""Sends the jobs of one submission to a batch while its block runs: chunk by chunk, a few of them unconfirmed.

So a batch of any size takes the memory of a few chunks, and the work is done when the block ends. A chunk is held by
the coordinator until the commit of its submission; a producer that dies inside the block leaves nothing that starts.
The same chunk, and the same commit, may arrive twice, so what has no confirm is simply sent again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from enum import Enum
from typing import NamedTuple, NoReturn, TypeAlias

from broker_jobs.broker import names
from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.errors import BrokerError, EnqueueError, UsageError
from broker_jobs.messages.batch import CHUNK_BYTES, CHUNK_JOBS, BatchCommit, Chunk
from broker_jobs.messages.envelope import Envelope, new_id
from broker_jobs.producer.blocking import awaitable
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.routing import body_of

Results: TypeAlias = list[PublishFailure | None]
Sending: TypeAlias = Generator[Future[Results], Results, None]

CHUNKS_OUT = 4
"""Chunks published and unconfirmed, when the next makes the block wait."""
CHUNKS_OUT_ON_LOOP = 64
"""The same in an `async with`, where waiting would stop the event loop."""
MAX_MESSAGE_BYTES = 15 * 1024 * 1024
"""RabbitMQ 4 closes the channel over a message of more than 16 MiB; an envelope grows as text within a chunk."""
TRIES = 3
"""How often a message is sent whose confirm does not come, each for the publish timeout."""


class Phase(Enum):
    """How far a submission is."""

    OPEN = "its block runs"
    CLOSING = "its block has ended; chunks are waited for"
    SEALED = "its commit is confirmed"
    UNKNOWN = "its commit was sent, and may have arrived"
    ABANDONED = "it was not committed, and never will be"


class CommitUnknown(Exception):  # becomes a BatchUnknown, which knows the batch
    """The commit has no confirm."""


class _InFlight(NamedTuple):
    message: Message
    future: Future[Results]
    tries: int


class BatchSubmission:
    """One `with` of a batch. Thread-safe: the threads of a block may add to it together.

    Args:
        title: the batch, as messages name it.
        on_loop: the block runs on an event loop.
    """

    def __init__(self, connection: Connection, batch_id: str, title: str, *, on_loop: bool) -> None:
        self.id = new_id()
        self.phase = Phase.OPEN
        self.count = 0
        """Jobs added so far."""
        self.batches: list[str] = []
        """Sub-batches that were made and committed in it."""
        self.parts_open = 0
        self._connection = connection
        self._batch_id = batch_id
        self._title = title
        self._most = CHUNKS_OUT_ON_LOOP if on_loop else CHUNKS_OUT
        self._lock = threading.Lock()
        self._texts: list[str] = []
        self._bytes = 0
        self._number = 0
        self._out: deque[_InFlight] = deque()
        self._commit: Message | None = None
        self._broken: EnqueueError | None = None

    @property
    def is_open(self) -> bool:
        """Whether jobs can be added."""
        return self.phase is Phase.OPEN

    def add(self, envelope: Envelope) -> None:
        """Take a job in; publishes when a chunk is full, and waits when too many have no confirm.

        Raises:
            UsageError: the block has ended.
            ArgumentsError: an argument has no JSON form.
            EnqueueError: the job is too large, or RabbitMQ did not take a chunk over: nothing of the submission starts.
        """
        body = body_of(envelope, self._connection.settings.max_body)
        if len(body) * 2 > MAX_MESSAGE_BYTES and len(body) + body.count(b'"') + body.count(b"\\") > MAX_MESSAGE_BYTES:
            raise EnqueueError(f"{envelope.job} {envelope.id} is too large for a batch; pass a reference to its data")
        with self._lock:
            if not self.is_open:
                raise UsageError(f"{self._title} is closed; to add to it open it again: with batch:")
            self._check()
            if self._texts and self._bytes + len(body) > CHUNK_BYTES:
                self._close_chunk()
            self._texts.append(body.decode())
            self._bytes += len(body)
            self.count += 1
            if len(self._texts) >= CHUNK_JOBS or self._bytes >= CHUNK_BYTES:
                self._close_chunk()

    def finish(self, commit: Callable[[int], BatchCommit]) -> Sending:
        """Have all chunks confirmed, then the commit, which is made of their number; yields what to wait for.

        Raises:
            EnqueueError: not committed, so nothing starts.
            SealUnknown: the commit may have arrived; `repeat` it.
        """
        try:
            with self._lock:
                self.phase = Phase.CLOSING  # a thread of the block that comes now is told, not lost
                self._check()
                if self._texts:
                    self._close_chunk()
            while self._out:
                out = self._out.popleft()
                self._took(out, (yield out.future)[0])
            yield from self._send_commit(commit(self._number))
        finally:
            if self.phase is Phase.CLOSING:
                self.give_up()

    def repeat(self) -> Sending:
        """Send the commit again whose confirm did not come. Raises SealUnknown."""
        if self._commit is not None and self.phase is Phase.UNKNOWN:
            yield from self._publish_commit(self._commit)

    def give_up(self) -> None:
        """Have nothing of it started: what was published is never committed, and deleted soon.

        That its block raised is said without waiting; if the word is lost, its jobs are deleted after a day.
        """
        self.phase = Phase.ABANDONED
        self._texts.clear()
        for out in self._out:
            out.future.cancel()
        self._out.clear()
        if self._number or self.batches:
            self._send(
                self._commit_message(
                    BatchCommit(
                        batch=self._batch_id, submission=self.id, created_at=self._connection.clock.now(),
                        chunks=self._number, abandoned=True,
                    )
                )
            )  # fmt: skip

    def break_off(self, error: EnqueueError) -> None:
        """Have it not committed, as a part of it is lost."""
        self._broken = error

    def refuse_to_wait(self, title: str) -> None:
        """Raise UsageError where the jobs of this submission are waited for in vain."""
        if self.phase in (Phase.OPEN, Phase.CLOSING):
            raise UsageError(f"{title} starts when the batch is complete; ask after the with block")
        if self.phase is Phase.ABANDONED:
            raise UsageError(f"{title} never starts: the with block of {self._title} did not complete")

    # --- chunks ---

    def _check(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _close_chunk(self) -> None:
        number, self._number = self._number, self._number + 1
        texts, self._texts, self._bytes = self._texts, [], 0
        chunk = Chunk(
            batch=self._batch_id,
            submission=self.id,
            created_at=self._connection.clock.now(),
            number=number,
            jobs=texts,
        )
        body = chunk.model_dump_json().encode()
        self._publish(Message(names.REPORT, names.LOG_KEY, body, "chunk", f"{self.id}.{number}"), 1)
        while self._out and (self._out[0].future.done() or len(self._out) > self._most):
            out = self._out.popleft()
            self._took(out, out.future.result()[0])

    def _publish(self, message: Message, tries: int) -> None:
        self._out.append(_InFlight(message, self._send(message), tries))

    def _took(self, out: _InFlight, failure: PublishFailure | None) -> None:
        """A chunk is confirmed, sent again, or lost."""
        if failure is None:
            return
        if failure.kind is Unconfirmed.UNKNOWN and out.tries < TRIES:
            self._publish(out.message, out.tries + 1)
            return
        self._lose(failure.reason)

    def _lose(self, reason: str) -> NoReturn:
        self._broken = EnqueueError(f"{self._title} was not enqueued, and nothing of it starts: {reason}")
        raise self._broken

    # --- the commit ---

    def _send_commit(self, commit: BatchCommit) -> Sending:
        yield from self._publish_commit(self._commit_message(commit))

    def _commit_message(self, commit: BatchCommit) -> Message:
        body = commit.model_dump_json(exclude_none=True).encode()
        return Message(names.REPORT, names.LOG_KEY, body, "commit", self.id)

    def _publish_commit(self, message: Message) -> Sending:
        reason = ""
        for _ in range(TRIES):
            future = self._send(message)
            before, self.phase, self._commit = self.phase, Phase.UNKNOWN, message
            failure = (yield future)[0]
            if failure is None:
                self.phase = Phase.SEALED
                return
            reason = failure.reason
            if failure.kind is Unconfirmed.NOT_SENT:
                self.phase = before
                if before is Phase.CLOSING:
                    self._lose(failure.reason)
                break
        raise CommitUnknown(reason)

    def _send(self, message: Message) -> Future[Results]:
        try:
            return self._connection.broker().publish([message], self._connection.settings.publish_timeout)
        except BrokerError as error:
            failed: Future[Results] = Future()
            failed.set_result([PublishFailure(Unconfirmed.NOT_SENT, str(error))])
            return failed


def drive(sending: Sending) -> None:
    """Wait in this thread for what is on its way."""
    try:
        future = next(sending)
        while True:
            future = sending.send(future.result())
    except StopIteration:
        return
    finally:
        sending.close()


async def drive_async(sending: Sending) -> None:
    """Wait on the event loop for what is on its way."""
    try:
        future = next(sending)
        while True:
            future = sending.send(await awaitable(future))
    except StopIteration:
        return
    finally:
        sending.close()

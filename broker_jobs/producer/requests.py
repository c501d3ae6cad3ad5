"""Asks the coordinator over the broker: publishes a command or question, and waits for the reply in a private queue.

So a producer needs no database to wait for a result. The same message is repeated every two seconds until it is
answered: a coordinator that takes over knows nothing of who waits. What is waited for is an event, never a poll; the
conversation is written once, as a generator of what to wait for, and driven by a thread or by an event loop.
"""

from __future__ import annotations

import socket
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeAlias, TypedDict

from broker_jobs.broker import names
from broker_jobs.broker.interface import Message, PublishFailure, Unconfirmed
from broker_jobs.errors import BrokerError, ResultTimeout, UsageError
from broker_jobs.messages.commands import BatchReply, Command, GetBatch, GetJob, JobReply, Reply
from broker_jobs.messages.envelope import new_id
from broker_jobs.producer.blocking import awaitable
from broker_jobs.producer.connection import Connection
from broker_jobs.producer.reply_queue import ReplyQueue

REPEAT_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.05
"""Before an unknown job is asked for again; doubles up to REPEAT_SECONDS. The log is read a moment after a confirm."""
MAX_NAME_CHARS = 300
"""Of who asks."""
LAST_LOOK_SECONDS = 0.5
"""What a result that did not come in time may cost more, to say where the job stands."""


class Wait(NamedTuple):
    """What a conversation waits for: a reply, at most so long."""

    reply: Future[Reply]
    seconds: float


class CommandStamp(TypedDict):
    """What every command has."""

    id: str
    at: float
    by: str


class QuerySubject(NamedTuple):
    """What is asked about: a job or a batch."""

    id: str
    is_batch: bool = False


Conversation: TypeAlias = Generator[Wait, Reply | None, Reply | None]


class RequestClient:
    """The questions of one program. Thread-safe.

    Args:
        sender: the way to the broker.
        by: who asks, for the audit table; None: this host.
        mailbox: where answers come; None: one of its own.
    """

    def __init__(self, connection: Connection, by: str | None = None, reply_queue: ReplyQueue | None = None) -> None:
        self.connection = connection
        self.by = by or socket.gethostname()
        self._reply_queue = reply_queue or ReplyQueue(connection)

    def on_behalf(self, who: str) -> RequestClient:
        """The same with somebody's name in what it asks."""
        return RequestClient(self.connection, who[:MAX_NAME_CHARS], self._reply_queue)

    def stamp(self) -> CommandStamp:
        """What every command begins with: `DeleteJob(**asker.stamp(), job_id=…)`."""
        return {"id": new_id(), "at": self.now(), "by": self.by}

    def now(self) -> float:
        """The time a command is stamped with."""
        return self.connection.clock.now()

    def command(self, command: Command) -> Reply:
        """Have a command carried out.

        Raises:
            UsageError: the coordinator refuses, and says why.
            ResultTimeout: no coordinator answered within the publish timeout.
            BrokerError: RabbitMQ cannot be reached.
        """
        seconds = self.connection.settings.publish_timeout
        self._reply_queue.open()
        return _taken(drive(self._repeated(command, seconds)), seconds)

    def view(self, job_id: str) -> JobReply:
        """Where a job stands. Raises as `command`; ResultTimeout also when the coordinator does not know the job."""
        return JobReply.model_validate(self._seen(QuerySubject(job_id)))

    async def view_async(self, job_id: str) -> JobReply:
        """As `view`; the event loop goes on meanwhile."""
        return JobReply.model_validate(await self._seen_async(QuerySubject(job_id)))

    def ended(self, job_id: str, seconds: float | None) -> JobReply:
        """A job's view when it has ended, or as it is after `seconds`; None waits for ever. Raises as `view`."""
        return JobReply.model_validate(self._ended(QuerySubject(job_id), seconds))

    async def ended_async(self, job_id: str, seconds: float | None) -> JobReply:
        """As `ended`; the event loop goes on meanwhile."""
        return JobReply.model_validate(await self._ended_async(QuerySubject(job_id), seconds))

    def batch_view(self, batch_id: str) -> BatchReply:
        """Where a batch stands. Raises as `view`."""
        return BatchReply.model_validate(self._seen(QuerySubject(batch_id, is_batch=True)))

    async def batch_view_async(self, batch_id: str) -> BatchReply:
        """As `batch_view`; the event loop goes on meanwhile."""
        return BatchReply.model_validate(await self._seen_async(QuerySubject(batch_id, is_batch=True)))

    def batch_ended(self, batch_id: str, seconds: float | None) -> BatchReply:
        """A batch's view when it has ended, or as it is after `seconds`; None waits for ever. Raises as `view`."""
        return BatchReply.model_validate(self._ended(QuerySubject(batch_id, is_batch=True), seconds))

    async def batch_ended_async(self, batch_id: str, seconds: float | None) -> BatchReply:
        """As `batch_ended`; the event loop goes on meanwhile."""
        return BatchReply.model_validate(await self._ended_async(QuerySubject(batch_id, is_batch=True), seconds))

    def close(self) -> None:
        """Give the private queue back. Tolerates twice and never."""
        self._reply_queue.close()

    # --- conversations ---

    def _seen(self, subject: QuerySubject) -> dict[str, Any]:
        seconds = self.connection.settings.publish_timeout
        self._reply_queue.open()
        return _known(drive(self._until_known(subject, seconds, until_ended=False)), subject, seconds)

    async def _seen_async(self, subject: QuerySubject) -> dict[str, Any]:
        seconds = self.connection.settings.publish_timeout
        await self._reply_queue.open_async()
        return _known(await drive_async(self._until_known(subject, seconds, until_ended=False)), subject, seconds)

    def _ended(self, subject: QuerySubject, seconds: float | None) -> dict[str, Any]:
        self._reply_queue.open()
        reply = drive(self._until_known(subject, seconds, until_ended=True))
        if reply is None or not _is_known(reply):
            reply = drive(self._until_known(subject, LAST_LOOK_SECONDS, until_ended=False)) or reply
        return _known(reply, subject, seconds)

    async def _ended_async(self, subject: QuerySubject, seconds: float | None) -> dict[str, Any]:
        await self._reply_queue.open_async()
        reply = await drive_async(self._until_known(subject, seconds, until_ended=True))
        if reply is None or not _is_known(reply):
            reply = await drive_async(self._until_known(subject, LAST_LOOK_SECONDS, until_ended=False)) or reply
        return _known(reply, subject, seconds)

    def _question(self, subject: QuerySubject, *, until_ended: bool) -> Command:
        now = self.now()
        if subject.is_batch:
            return GetBatch(id=new_id(), at=now, by=self.by, batch_id=subject.id, until_ended=until_ended)
        return GetJob(id=new_id(), at=now, by=self.by, job_id=subject.id, until_ended=until_ended)

    def _repeated(self, command: Command, seconds: float | None) -> Conversation:
        """Publish a command until it is answered; None when it is not in time."""
        broker = self.connection.broker()
        message = Message(
            names.REPORT, names.COMMAND_KEY, command.model_dump_json().encode(), "command", command.id,
            reply_to=self._reply_queue.address, correlation_id=command.id,
        )  # fmt: skip
        deadline = None if seconds is None else self.connection.clock.monotonic() + seconds
        answered = self._reply_queue.expect(command.id)
        refused: PublishFailure | None = None
        sent: Future[list[PublishFailure | None]] | None = None
        try:
            while True:
                left = REPEAT_SECONDS if deadline is None else deadline - self.connection.clock.monotonic()
                if left <= 0:
                    if refused is not None:
                        raise BrokerError(f"the coordinator could not be asked: {refused.reason}")
                    return None
                sent = broker.publish([message], min(left, self.connection.settings.publish_timeout))
                reply = yield Wait(answered, min(left, REPEAT_SECONDS))
                if reply is not None:
                    return reply
                refused = _not_sent(sent)
        finally:
            self._reply_queue.forget(command.id)
            if sent is not None:
                sent.cancel()  # nobody waits for the answer any more: what is not written yet never goes out

    def _until_known(self, subject: QuerySubject, seconds: float | None, *, until_ended: bool) -> Conversation:
        """Ask for a job or batch until it is known; the last reply, or None if there was none."""
        monotonic = self.connection.clock.monotonic
        deadline = None if seconds is None else monotonic() + seconds
        pause = FIRST_PAUSE_SECONDS
        last: Reply | None = None
        while True:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return last
            reply = yield from self._repeated(self._question(subject, until_ended=until_ended), left)
            if reply is None or reply.refused is not None or _is_known(reply):
                return reply or last
            last = reply
            yield Wait(Future(), pause if left is None else min(pause, left))
            pause = min(pause * 2, REPEAT_SECONDS)


def drive(conversation: Conversation) -> Reply | None:
    """Hold a conversation in this thread."""
    try:
        wait = next(conversation)
        while True:
            try:
                reply = wait.reply.result(wait.seconds)
            except TimeoutError:
                reply = None
            wait = conversation.send(reply)
    except StopIteration as end:
        last: Reply | None = end.value
        return last
    finally:
        conversation.close()


async def drive_async(conversation: Conversation) -> Reply | None:
    """Hold a conversation on the event loop."""
    try:
        wait = next(conversation)
        while True:
            try:
                reply = await awaitable(wait.reply, wait.seconds)
            except TimeoutError:
                reply = None
            wait = conversation.send(reply)
    except StopIteration as end:
        last: Reply | None = end.value
        return last
    finally:
        conversation.close()


def _not_sent(sent: Future[list[PublishFailure | None]]) -> PublishFailure | None:
    """Why the last message was certainly not sent, if that is known by now."""
    failure = sent.result()[0] if sent.done() else None
    return failure if failure is not None and failure.kind is Unconfirmed.NOT_SENT else None


def _taken(reply: Reply | None, seconds: float) -> Reply:
    if reply is None:
        raise no_answer(seconds)
    if reply.refused is not None:
        raise UsageError(reply.refused)
    return reply


def _known(reply: Reply | None, subject: QuerySubject, seconds: float | None) -> dict[str, Any]:
    """The view in a reply."""
    if reply is None:
        raise no_answer(seconds)
    if reply.refused is not None:
        raise UsageError(reply.refused)
    if not _is_known(reply):
        what = f"batch {subject.id}" if subject.is_batch else subject.id
        raise ResultTimeout(f"{what} is still unknown to the coordinator after {_text(seconds)}")
    return reply.detail


def _is_known(reply: Reply) -> bool:
    return bool(reply.detail.get("known"))


def no_answer(seconds: float | None) -> ResultTimeout:
    """The error of a question without an answer."""
    return ResultTimeout(f"no coordinator answered in {_text(seconds)}: is one running? (broker-jobs coordinator)")


def _text(seconds: float | None) -> str:
    return "any time" if seconds is None else f"{seconds:g} s"

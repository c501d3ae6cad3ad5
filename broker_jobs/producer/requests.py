"""Sends commands and queries to the coordinator, and waits for the replies in a private queue.

So a producer needs no database to wait for a result. A message is repeated every two seconds until it is answered,
because a coordinator that takes over does not know the open requests. The steps of a request are written once, as a
generator that yields what to wait for; a thread or an event loop runs it. The file is over 300 lines, as the reply
queue is of no use without the client.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, TypedDict

from pydantic import ValidationError

from broker_jobs.broker import names
from broker_jobs.broker.future import SignalSafeFuture
from broker_jobs.broker.interface import Broker, Consumer, Delivery, Message, PublishFailure, Unconfirmed
from broker_jobs.broker.roles import command_exchange
from broker_jobs.errors import BrokerError, BrokerJobsError, ResultTimeout, UsageError
from broker_jobs.function.hooks import OnEnqueue
from broker_jobs.messages.commands import BatchReply, Command, GetBatch, GetJob, JobReply, Reply
from broker_jobs.messages.envelope import new_id
from broker_jobs.producer.asyncio_support import await_future, in_thread
from broker_jobs.producer.connection import Connection

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.05
"""Pause before the next query for an unknown job, as the log is read after a confirm; doubles up to REPEAT_SECONDS."""
MAX_USER_CHARS = 300
EXPIRATION_SHARE = 3
"""A command that ends may be so long in its queue, as a part of the time that is left; as long again in the hands of a
coordinator; and the rest is for the transaction that applies it. So at the end it is applied, or it never will be."""
FINAL_QUERY_SECONDS = 0.5
"""Extra time, after a wait has timed out, to learn the state of the job for the error message."""


class Wait(NamedTuple):
    """One step of a request: wait for this reply, at most this long."""

    reply: Future[Reply]
    seconds: float


class CommandFields(TypedDict):
    """The fields that every command has."""

    id: str
    at: float
    by: str


class QuerySubject(NamedTuple):
    """The job or batch that a query is about."""

    id: str
    is_batch: bool = False


Audit: TypeAlias = Callable[[str], bool]
"""Whether a command of this id was applied or refused, by the audit in the store. Raises BrokerJobsError: unknown."""
RequestSteps: TypeAlias = Generator[Wait, Reply | None, Reply | None]


class JobSource(Protocol):
    """What a job belongs to: a program, or a group of jobs that a program includes."""

    @property
    def requests(self) -> RequestClient:
        """The request client of the program. Raises UsageError: no program includes the group."""
        ...

    @property
    def enqueue_hooks(self) -> Sequence[OnEnqueue]:
        """What is called for each job that is enqueued."""
        ...


@dataclass(frozen=True)
class DirectSource:
    """A `JobSource` without hooks: what a person enqueues, as on the dashboard, is no call of the program."""

    requests: RequestClient
    enqueue_hooks: Sequence[OnEnqueue] = ()


class RequestClient:
    """Sends the commands and queries of one program. Thread-safe.

    Args:
        connection: the connection to the broker.
        by: the name in the audit; None: the name of this host.
        reply_queue: receives the replies; None: a new one.
        audit: decides whether a command was applied that got no reply. With it commands end: one that is not applied
            within the publish timeout never will be.
    """

    def __init__(
        self,
        connection: Connection,
        by: str | None = None,
        reply_queue: ReplyQueue | None = None,
        *,
        audit: Audit | None = None,
    ) -> None:
        self.connection = connection
        self._audit = audit
        self.by = by or socket.gethostname()
        self._reply_queue = reply_queue or ReplyQueue(connection)

    def on_behalf_of(self, user: str) -> RequestClient:
        """A client that sends its commands in the name of this user, with the same reply queue."""
        return RequestClient(self.connection, user[:MAX_USER_CHARS], self._reply_queue, audit=self._audit)

    def ending(self, audit: Audit) -> RequestClient:
        """A client whose commands end, with the same reply queue."""
        return RequestClient(self.connection, self.by, self._reply_queue, audit=audit)

    def end_commands(self, audit: Audit) -> None:
        """Let commands end from now on."""
        self._audit = audit

    def command_fields(self) -> CommandFields:
        """The fields that every command begins with: `DeleteJob(**requests.command_fields(), job_id=…)`."""
        return {"id": new_id(), "at": self.now(), "by": self.by}

    def now(self) -> float:
        """The time, as seconds since 1970, for the field `at` of a command."""
        return self.connection.clock.now()

    def command(self, command: Command) -> Reply:
        """Send a command and wait until it is carried out.

        Raises:
            UsageError: the coordinator refuses the command; the text is its reason.
            ResultTimeout: no coordinator answered within the publish timeout. Where commands end, the text says that
                it has expired and never will be applied, that it was applied, or that this is unknown.
            BrokerError: RabbitMQ cannot be reached.
        """
        seconds = self.connection.settings.publish_timeout
        ends = self._audit is not None or self.connection.settings.expire_commands
        self._reply_queue.open()
        reply = run(self._send_until_answered(command, seconds, ends=ends))
        if ends and (reply is None or reply.expired):
            raise ResultTimeout(self._end_of(command, expired=reply is not None))
        return _accepted(reply, seconds)

    async def command_async(self, command: Command) -> Reply:
        """As `command`, without blocking the event loop. If it is cancelled, what is not written yet is never sent."""
        seconds = self.connection.settings.publish_timeout
        ends = self._audit is not None or self.connection.settings.expire_commands
        await self._reply_queue.open_async()
        reply = await run_async(self._send_until_answered(command, seconds, ends=ends))
        if ends and (reply is None or reply.expired):
            raise ResultTimeout(await in_thread(lambda: self._end_of(command, expired=reply is not None)))
        return _accepted(reply, seconds)

    def _end_of(self, command: Command, *, expired: bool) -> str:
        """What became of a command that got no answer in its time."""
        seconds = self.connection.settings.publish_timeout
        never = f"expired: the command was not applied in {seconds:g} s and never will be; is a coordinator running?"
        if expired:
            return never
        if self._audit is None:
            return f"{never} (broker-jobs coordinator; if it was applied, the audit has it as {command.id})"
        try:
            applied = self._audit(command.id)
        except BrokerJobsError as error:
            return (
                f"unknown: no coordinator answered in {seconds:g} s, and the audit cannot be read: {error}. If the "
                f"audit has no command {command.id}, it was not applied and never will be"
            )
        if applied:
            return f"done: the command was decided, and its answer was lost; the audit has it as {command.id}"
        return f"{never} (broker-jobs coordinator)"

    def job_view(self, job_id: str) -> JobReply:
        """The current state of a job. Raises as `command`; ResultTimeout also if the coordinator does not know it."""
        return JobReply.model_validate(self._view(QuerySubject(job_id)))

    async def job_view_async(self, job_id: str) -> JobReply:
        """As `job_view`, without blocking the event loop."""
        return JobReply.model_validate(await self._view_async(QuerySubject(job_id)))

    def wait_for_job(self, job_id: str, seconds: float | None) -> JobReply:
        """The view of a job when it has ended, or after `seconds`; None waits without end. Raises as `job_view`."""
        return JobReply.model_validate(self._wait_until_ended(QuerySubject(job_id), seconds))

    async def wait_for_job_async(self, job_id: str, seconds: float | None) -> JobReply:
        """As `wait_for_job`, without blocking the event loop."""
        return JobReply.model_validate(await self._wait_until_ended_async(QuerySubject(job_id), seconds))

    def batch_view(self, batch_id: str) -> BatchReply:
        """The current state of a batch. Raises as `job_view`."""
        return BatchReply.model_validate(self._view(QuerySubject(batch_id, is_batch=True)))

    async def batch_view_async(self, batch_id: str) -> BatchReply:
        """As `batch_view`, without blocking the event loop."""
        return BatchReply.model_validate(await self._view_async(QuerySubject(batch_id, is_batch=True)))

    def wait_for_batch(self, batch_id: str, seconds: float | None) -> BatchReply:
        """The view of a batch when it has ended, or after `seconds`; None waits without end. Raises as `job_view`."""
        return BatchReply.model_validate(self._wait_until_ended(QuerySubject(batch_id, is_batch=True), seconds))

    async def wait_for_batch_async(self, batch_id: str, seconds: float | None) -> BatchReply:
        """As `wait_for_batch`, without blocking the event loop."""
        return BatchReply.model_validate(
            await self._wait_until_ended_async(QuerySubject(batch_id, is_batch=True), seconds)
        )

    def close(self) -> None:
        """Close the reply queue. A second call does nothing."""
        self._reply_queue.close()

    # --- requests ---

    def _view(self, subject: QuerySubject) -> dict[str, Any]:
        seconds = self.connection.settings.publish_timeout
        self._reply_queue.open()
        return _detail(run(self._query_until_known(subject, seconds, until_ended=False)), subject, seconds)

    async def _view_async(self, subject: QuerySubject) -> dict[str, Any]:
        seconds = self.connection.settings.publish_timeout
        await self._reply_queue.open_async()
        reply = await run_async(self._query_until_known(subject, seconds, until_ended=False))
        return _detail(reply, subject, seconds)

    def _wait_until_ended(self, subject: QuerySubject, seconds: float | None) -> dict[str, Any]:
        self._reply_queue.open()
        reply = run(self._query_until_known(subject, seconds, until_ended=True))
        if reply is None or not _is_known(reply):
            reply = run(self._query_until_known(subject, FINAL_QUERY_SECONDS, until_ended=False)) or reply
        return _detail(reply, subject, seconds)

    async def _wait_until_ended_async(self, subject: QuerySubject, seconds: float | None) -> dict[str, Any]:
        await self._reply_queue.open_async()
        reply = await run_async(self._query_until_known(subject, seconds, until_ended=True))
        if reply is None or not _is_known(reply):
            reply = await run_async(self._query_until_known(subject, FINAL_QUERY_SECONDS, until_ended=False)) or reply
        return _detail(reply, subject, seconds)

    def _query(self, subject: QuerySubject, *, until_ended: bool) -> Command:
        now = self.now()
        if subject.is_batch:
            return GetBatch(id=new_id(), at=now, by=self.by, batch_id=subject.id, until_ended=until_ended)
        return GetJob(id=new_id(), at=now, by=self.by, job_id=subject.id, until_ended=until_ended)

    def _send_until_answered(self, command: Command, seconds: float | None, *, ends: bool = False) -> RequestSteps:
        """Publish a command until it is answered; None if it is not answered in time."""
        broker = self.connection.broker()
        message = Message(
            command_exchange(command.kind), names.COMMAND_KEY, command.model_dump_json().encode(), "command",
            command.id, reply_to=self._reply_queue.address, correlation_id=command.id,
        )  # fmt: skip
        deadline = None if seconds is None else self.connection.clock.monotonic() + seconds
        answered = self._reply_queue.expect(command.id)
        failure: PublishFailure | None = None
        sent: Future[list[PublishFailure | None]] | None = None
        try:
            while True:
                left = REPEAT_SECONDS if deadline is None else deadline - self.connection.clock.monotonic()
                if left <= 0:
                    if failure is not None:
                        raise BrokerError(f"the request was not sent to the coordinator: {failure.reason}")
                    return None
                if ends:
                    message = message._replace(expiration=left / EXPIRATION_SHARE)
                sent = broker.publish([message], min(left, self.connection.settings.publish_timeout))
                reply = yield Wait(answered, min(left, REPEAT_SECONDS))
                if reply is not None:
                    return reply
                failure = _not_sent(sent)
        finally:
            self._reply_queue.forget(command.id)
            if sent is not None:
                sent.cancel()  # the reply is not waited for any more, so what is not written yet is not sent

    def _query_until_known(self, subject: QuerySubject, seconds: float | None, *, until_ended: bool) -> RequestSteps:
        """Query a job or batch until the coordinator knows it; the last reply, or None if there was none."""
        monotonic = self.connection.clock.monotonic
        deadline = None if seconds is None else monotonic() + seconds
        pause = FIRST_PAUSE_SECONDS
        last: Reply | None = None
        while True:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return last
            reply = yield from self._send_until_answered(self._query(subject, until_ended=until_ended), left)
            if reply is None or reply.refused is not None or _is_known(reply):
                return reply or last
            last = reply
            yield Wait(SignalSafeFuture(), pause if left is None else min(pause, left))
            pause = min(pause * 2, REPEAT_SECONDS)


class ReplyQueue:
    """The private queue for all replies to one program. Thread-safe.

    The first request declares it; after a change of the broker object it is declared again.
    """

    def __init__(self, connection: Connection) -> None:
        self.address = ""
        """The name of the queue."""
        self._connection = connection
        self._waiting: dict[str, Future[Reply]] = {}
        self._opened: dict[Broker, tuple[str, Consumer]] = {}  # no lock: it is opened by signal handlers, and forked

    def open(self) -> None:
        """Declare the queue, unless it is open.

        Raises:
            BrokerError: RabbitMQ refuses, or cannot be reached.
        """
        broker = self._connection.broker()
        if broker in self._opened:
            return
        self._opened.clear()  # of a broker that is closed, or that the parent process goes on to use
        mine = broker.subscribe_private(self._on_deliveries)
        if (opened := self._opened.setdefault(broker, mine)) is not mine:
            mine[1].close()
        self.address = opened[0]

    async def open_async(self) -> None:
        """As `open`, without blocking the event loop."""
        if await self._connection.broker_async() not in self._opened:
            await in_thread(self.open)

    def close(self) -> None:
        """Delete the queue. A second call does nothing."""
        opened = list(self._opened.values())
        self._opened.clear()
        for _, subscription in opened:
            subscription.close()

    def expect(self, id: str) -> Future[Reply]:
        """The future reply to the command with this id."""
        answered: SignalSafeFuture[Reply] = SignalSafeFuture()
        self._waiting[id] = answered
        return answered

    def forget(self, id: str) -> None:
        """Stop waiting for the reply to the command with this id."""
        self._waiting.pop(id, None)

    def _on_deliveries(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            try:
                reply = Reply.model_validate_json(delivery.body)
            except ValidationError as error:
                logger.warning("an unreadable reply of the coordinator is ignored; the request is repeated: %s", error)
                continue
            answered = self._waiting.pop(reply.id, None)
            if answered is not None and not answered.done():
                answered.set_result(reply)


def run(steps: RequestSteps) -> Reply | None:
    """Run a request in this thread."""
    try:
        wait = next(steps)
        while True:
            try:
                reply = wait.reply.result(wait.seconds)
            except TimeoutError:
                reply = None
            wait = steps.send(reply)
    except StopIteration as end:
        last: Reply | None = end.value
        return last
    finally:
        steps.close()


async def run_async(steps: RequestSteps) -> Reply | None:
    """Run a request on the event loop."""
    try:
        wait = next(steps)
        while True:
            try:
                reply = await await_future(wait.reply, wait.seconds, cancel=False)
            except TimeoutError:
                reply = None
            wait = steps.send(reply)
    except StopIteration as end:
        last: Reply | None = end.value
        return last
    finally:
        steps.close()


def _not_sent(sent: Future[list[PublishFailure | None]]) -> PublishFailure | None:
    """The failure of the last message, if it is already certain that it was not sent."""
    failure = sent.result()[0] if sent.done() else None
    return failure if failure is not None and failure.kind is Unconfirmed.NOT_SENT else None


def _accepted(reply: Reply | None, seconds: float | None) -> Reply:
    if reply is None:
        raise ResultTimeout(
            f"no coordinator answered in {_seconds_text(seconds)}: is one running? (broker-jobs coordinator)"
        )
    if reply.refused is not None:
        raise UsageError(reply.refused)
    return reply


def _detail(reply: Reply | None, subject: QuerySubject, seconds: float | None) -> dict[str, Any]:
    """The view in a reply."""
    reply = _accepted(reply, seconds)
    if not _is_known(reply):
        what = f"batch {subject.id}" if subject.is_batch else subject.id
        raise ResultTimeout(
            f"{what} is still unknown to the coordinator after {_seconds_text(seconds)}: "
            "it was never enqueued on this broker, or it is kept no longer"
        )
    return reply.detail


def _is_known(reply: Reply) -> bool:
    return bool(reply.detail.get("known"))


def _seconds_text(seconds: float | None) -> str:
    return "any time" if seconds is None else f"{seconds:g} s"

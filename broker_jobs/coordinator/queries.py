"""Answers askers: at once, or when the job they wait for has ended. State, but no I/O and no clock of its own.

Waiters live in memory only: askers repeat their question every two seconds, so a failover costs a moment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel

from broker_jobs.broker.interface import Message
from broker_jobs.clock import Instant
from broker_jobs.messages import codec
from broker_jobs.messages.commands import BatchReply, JobReply, Reply
from broker_jobs.messages.envelope import BATCH_PREFIX
from broker_jobs.messages.events import ErrorInfo
from broker_jobs.messages.priority import PRIORITIES, Priority
from broker_jobs.messages.state import State
from broker_jobs.store.records import BatchRow
from broker_jobs.store.row import Row

logger = logging.getLogger(__name__)

MOST_DEEP = 150
"""Levels of the arguments that a list of failures shows."""
MAX_REPLY_BYTES = 1024 * 1024
"""RabbitMQ 4 refuses messages over 16 MiB, or over what its administrator sets, and closes the channel over them."""
REPLY_HEAD_BYTES = 1024
"""Of a reply, beside its values."""
FORGET_SECONDS = 30.0
"""An asker that has not repeated itself for so long is gone."""
MOST_WAITERS = 1_000
"""Of one job or batch: all are answered in one transaction, each with the whole result. Others ask again."""


@dataclass(frozen=True, slots=True)
class _Waiter:
    reply_to: str
    id: str
    until: Instant


class Waiters:
    """Who waits for the end of which job."""

    def __init__(self) -> None:
        self._waiting: dict[str, dict[tuple[str, str], _Waiter]] = {}

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def wait(self, job_id: str, reply_to: str, id: str, now: Instant) -> None:
        """Answer this asker when the job ends; asking again renews the wait."""
        waiters = self._waiting.setdefault(job_id, {})
        if len(waiters) < MOST_WAITERS or (reply_to, id) in waiters:
            waiters[reply_to, id] = _Waiter(reply_to, id, now + FORGET_SECONDS)

    def ended(self, job_id: str, shown: Row) -> list[Message]:
        """The answers to all who wait for this job, which has ended as is shown; they wait until they are `told`."""
        waiters = self._waiting.get(job_id)
        return [answer(w.reply_to, w.id, view(shown)) for w in waiters.values()] if waiters else []

    def follow(self, job_id: str, root: str, now: Instant) -> None:
        """Who waits for this job, which has become an alias, waits for its root."""
        for waiter in self._waiting.get(job_id, {}).values():
            self.wait(root, waiter.reply_to, waiter.id, now)

    def batch_ended(self, batch: BatchRow) -> list[Message]:
        """The answers to all who wait for this batch, which has ended; they wait until they are `told`."""
        waiters = self._waiting.get(batch_holder(batch.id))
        detail = batch_view(batch, batch.id).model_dump(mode="json")
        return [reply(w.reply_to, Reply(id=w.id, detail=detail)) for w in waiters.values()] if waiters else []

    def told(self, ids: Iterable[str]) -> None:
        """The end of these jobs and batches is committed, and its answers are on their way."""
        for id in ids:
            self._waiting.pop(id, None)

    def waits_for(self, job_id: str) -> bool:
        """Whether anybody does."""
        return job_id in self._waiting

    def forget(self, now: Instant) -> None:
        """Drop waiters that have gone."""
        for job_id, waiters in list(self._waiting.items()):
            living = {key: w for key, w in waiters.items() if w.until > now}
            if living:
                self._waiting[job_id] = living
            else:
                del self._waiting[job_id]


def batch_holder(batch: str) -> str:
    """The name under which a batch is waited for, and waits itself."""
    return f"{BATCH_PREFIX}{batch}"


def view(row: Row | None, id: str = "") -> JobReply:
    """What an asker learns of a job."""
    if row is None:
        return JobReply(id=id, known=False)
    envelope = codec.decode(row.envelope) if row.envelope and row.tags else None  # the column joins them by spaces
    return JobReply(
        id=row.id, known=True, job=row.job, state=row.state.value, attempt=row.attempt, reason=row.reason,
        result=row.result, result_lost=row.result_lost,
        error=ErrorInfo.model_validate_json(row.error) if row.error else None,
        queue=row.queue, priority=_priority(row), tags=list(envelope.tags) if envelope else [], runs=_runs(row),
        retries=row.retries, created_at=row.created_at, due_at=row.due_at, started_at=row.started_at,
        ended_at=row.ended_at,
    )  # fmt: skip


def _priority(row: Row) -> Priority | None:
    return next((priority for priority in PRIORITIES if priority == row.priority), None)


def _runs(row: Row) -> int:
    """How many runs have begun; the history begins with the latest 200 steps, of which two are a run."""
    begun = sum(state == State.PROCESSING.value for _, state, _ in row.history)
    return max(begun, row.attempt - 1 if row.state is State.ENQUEUED or row.is_waiting else begun)


def batch_view(batch: BatchRow | None, id: str) -> BatchReply:
    """What an asker learns of a batch."""
    if batch is None:
        return BatchReply(id=id, known=False)
    return BatchReply(
        id=batch.id, known=True, title=batch.title, state=batch.state, total=batch.total, open=batch.open,
        succeeded=batch.succeeded, failed=batch.failed, deleted=batch.deleted,
    )  # fmt: skip


def failure_view(row: Row, root: Row) -> JobReply:
    """A failed job with what it was called with; without that, if no reply holds it. `root` tells how it failed."""
    failed = view(root).model_copy(update={"id": row.id, "job": row.job})
    if row.envelope and len(row.envelope) > MAX_REPLY_BYTES // 2:
        return failed
    envelope = codec.decode(row.envelope) if row.envelope else None
    called = {} if envelope is None else {"args": envelope.args, "kwargs": envelope.kwargs}
    if _is_too_deep(called):
        return failed
    return failed.model_copy(update=called)


def _is_too_deep(value: object) -> bool:
    """Whether JSON is nested so deep that a reply around it may not be readable: readers end at 200."""
    level = [value]
    for _ in range(MOST_DEEP):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def answer(reply_to: str, id: str, view: JobReply) -> Message:
    """The message that answers a question about a job."""
    return reply(reply_to, Reply(id=id, detail=view.model_dump(mode="json", exclude_none=True)))


def page(values: Iterable[BaseModel]) -> tuple[list[dict[str, object]], bool]:
    """As many of these as one reply holds, at least one; and whether some are left."""
    shown: list[dict[str, object]] = []
    size = 0
    for value in values:
        size += len(value.model_dump_json())
        if shown and size > MAX_REPLY_BYTES - REPLY_HEAD_BYTES:
            return shown, True
        shown.append(value.model_dump(mode="json"))
    return shown, False


def reply(reply_to: str, reply: Reply) -> Message:
    """The message that carries a reply to its asker's own queue; instead of one that is too large, a refusal."""
    body = reply.model_dump_json().encode()
    if len(body) > MAX_REPLY_BYTES:
        refused = f"the answer has {len(body):_} bytes, and a message of this system {MAX_REPLY_BYTES:_} at most"
        logger.warning("%s: %s", reply.id, refused)
        body = Reply(id=reply.id, ok=False, refused=refused).model_dump_json().encode()
    return Message("", reply_to, body, type="reply", correlation_id=reply.id)

"""Runs the coordinator's transactions, and finds the record that cannot be decided.

Nothing is acknowledged before its transaction is committed. A decision that raises is repeated with half of the
records, until the one that raises is alone; that one becomes a dead letter, and its neighbours are decided.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker
from broker_jobs.clock import Clock
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.failures import (
    MOST_REASON_CHARS,
    WORK,
    NotStoredError,
    ToldTogetherError,
    WorkItemError,
    body_of,
    description,
    sentence,
)
from broker_jobs.coordinator.input_queue import MOST_INPUTS
from broker_jobs.coordinator.inputs import ChunkReceived, CommandReceived, Input, QueuedInput, Unreadable, alone
from broker_jobs.coordinator.patient_store import PatientStore
from broker_jobs.coordinator.precise_timer import AHEAD_SECONDS
from broker_jobs.coordinator.queries import reply
from broker_jobs.coordinator.records import JobRecord, Undecidable, job_id
from broker_jobs.messages.commands import DeleteDeadLetter, ReplayDeadLetter, Reply

logger = logging.getLogger(__name__)

SLOW_SECONDS = 1.0
"""A transaction that takes longer has too many inputs for its store; the next one gets half of them."""
BUSY_SECONDS = 0.06
"""Processor time that a transaction should use, as the end of a job waits for it; the tasks that follow use as much."""
LEAST_INPUTS = 100
REPLY_TIMEOUT_SECONDS = 10.0


class Transactions:
    """The engine's transactions, one after another, in the coordinator's thread.

    Args:
        engine: decides.
        store: where.
        broker: takes the refusals of commands that raise.
        clock: measures how long a transaction takes.
        may_release: whether jobs may be released now.
        audited: the answer to a command that was applied, by its id, as JSON text; or None.
    """

    def __init__(
        self,
        engine: Engine,
        store: PatientStore,
        broker: Broker,
        clock: Clock,
        *,
        may_release: Callable[[], bool],
        audited: Callable[[str], str | None],
    ) -> None:
        self._audited = audited
        self._engine = engine
        self._store = store
        self._broker = broker
        self._clock = clock
        self._may_release = may_release
        self.most = MOST_INPUTS
        """Inputs of the next transaction."""
        self.count = 0
        """Transactions that were committed; a coordinator whose count stands still may be stuck."""

    def apply(self, pieces: list[QueuedInput]) -> tuple[list[Effects], float]:
        """Decide these; what follows, one value for each transaction it took, and the seconds."""
        started, used_before = self._clock.monotonic(), time.thread_time()
        effects = self._apply_safely(pieces)
        seconds = self._clock.monotonic() - started
        self._measured(_jobs_in(pieces), seconds, time.thread_time() - used_before)
        return effects, seconds

    def _measured(self, inputs: int, seconds: float, used: float) -> None:
        """Say how many inputs the next transaction takes. `used`: processor time; the rest is the store's own."""
        if seconds > SLOW_SECONDS:  # nothing is released after one of ACTIVE_SECONDS, however often it is repeated
            self.most //= 2
        elif seconds < SLOW_SECONDS / 4:
            self.most *= 2
        if inputs >= LEAST_INPUTS and used > 0.0:
            self.most = min(self.most, int(inputs * BUSY_SECONDS / used))
        self.most = max(LEAST_INPUTS, min(MOST_INPUTS, self.most))

    def _apply_safely(self, pieces: list[QueuedInput]) -> list[Effects]:
        """All pieces in one transaction; when a decision raises, in halves."""
        done: list[Effects] = []
        while True:
            try:
                done += self._apply([piece.input for piece in pieces])
                self._engine.skipped_items = frozenset()
                self._engine.tells_together = True
                return done
            except NotStoredError:
                raise
            except ToldTogetherError:
                self._engine.tells_together = False
                continue
            except Exception as error:  # noqa: BLE001  # whatever a decision raises, the log must go on
                if isinstance(error, WorkItemError) and error.item not in self._engine.skipped_items:
                    done.append(self._set_item_aside(error))
                    self._engine.skipped_items |= {error.item}  # where one of these records makes it, it is not stored
                    continue
                if len(pieces) == 1:
                    return done + self._set_aside(pieces[0], error)
            logger.warning("a transaction of %d records failed; each half is applied separately", len(pieces))
            half = len(pieces) // 2
            return done + self._apply_safely(pieces[:half]) + self._apply_safely(pieces[half:])

    def _apply(self, inputs: list[Input]) -> list[Effects]:
        late: list[CommandReceived] = []
        ending = any(isinstance(one, CommandReceived) and one.until is not None for one in inputs)

        def decide() -> Effects:
            timely = inputs
            if ending:  # asked at each try: the store may have been away meanwhile
                now = self._clock.monotonic()
                late[:] = [
                    one
                    for one in inputs
                    if isinstance(one, CommandReceived) and one.until is not None and one.until <= now
                ]
                timely = [one for one in inputs if not any(one is command for command in late)]
            return self._engine.apply(timely, self._clock.now(), may_release=self._may_release(), ahead=AHEAD_SECONDS)

        effects = self._store.persist(decide, refusable=True)
        self.count += 1
        for command in late:
            self._answer_late(command)
        return [effects]

    def _answer_late(self, asked: CommandReceived) -> None:
        """Answer a command whose time was over; if it was applied before, when it came for the first time, so."""
        command = asked.command
        applied = self._store.persist(lambda: self._audited(command.id))
        if applied is None:
            logger.warning("a command (%s, by %s) came too late and is not applied", command.kind, command.by)
        if asked.reply_to:
            expired = Reply(id=command.id, ok=False, refused="its time was over", expired=True)
            answer = expired if applied is None else Reply.model_validate_json(applied)
            self._broker.publish([reply(asked.reply_to, answer)], timeout=REPLY_TIMEOUT_SECONDS)

    # ---- what cannot be decided

    def _set_aside(self, piece: QueuedInput, error: Exception) -> list[Effects]:
        """Keep a record that cannot be decided, without its neighbours, for a person to look at and to replay."""
        logger.error("a record cannot be applied; it is now a dead letter (broker-jobs dead-letters)", exc_info=error)
        asked = piece.input
        if isinstance(asked, CommandReceived) and asked.reply_to:
            refused = f"it cannot be carried out: {sentence(error)}"[:MOST_REASON_CHARS]
            refusal = Reply(id=asked.command.id, ok=False, refused=refused)
            self._broker.publish([reply(asked.reply_to, refusal)], timeout=REPLY_TIMEOUT_SECONDS)
            if isinstance(asked.command, ReplayDeadLetter | DeleteDeadLetter):
                return []  # the dead letter that it names is kept, and its sender has the refusal
        if piece.delivery is None:
            return self._fail_job(asked)
        origin = {names.LOG: "log", names.COMMAND: "command", names.DUE: "due"}.get(piece.delivery.queue, "dead")
        received = alone(piece.delivery, asked)
        try:
            return self._apply([Unreadable(origin, description(error), received)])
        except NotStoredError:
            raise
        except Exception:
            logger.exception("the store refuses the body of a message; its dead letter has the hash of the body alone")
        digest = f"{len(received.body)} bytes, sha256 {hashlib.sha256(received.body).hexdigest()}".encode()
        return self._apply([Unreadable(origin, description(error), received._replace(body=digest))])

    def _fail_job(self, own: Input) -> list[Effects]:
        """A record of our own raised. If it does so again its job fails, as there is no message to keep."""
        try:
            return self._apply([own])
        except NotStoredError:
            raise
        except Exception as error:
            if not isinstance(own, JobRecord):
                logger.exception(
                    "a record of the coordinator itself cannot be applied, and names no job: it is dropped"
                )
                return []
            reason = (
                f"a record of the coordinator about it cannot be applied: {type(error).__name__}: {sentence(error)}"
            )
        try:
            return self._apply([Undecidable(job_id(own), reason[:MOST_REASON_CHARS])])
        except NotStoredError:
            raise
        except Exception:
            logger.exception("a record about job %s cannot be applied, and the job cannot be failed", job_id(own))
            return []

    def _set_item_aside(self, error: WorkItemError) -> Effects:
        """Keep a work item that cannot be worked off as a dead letter, so that the transactions after it go on."""
        item, cause = error.item, error.__cause__ or error
        logger.error(
            "work item %s %s cannot be carried out; it is now a dead letter (broker-jobs dead-letters)",
            item.kind,
            item.target,
            exc_info=cause,
        )
        body = body_of(item)
        reason = f"work item {item.kind} {item.target}: {description(cause)}"

        def set_aside() -> Effects:
            with self._store.store.transaction() as tx:
                tx.work_items.drop(item)
                tx.dead_letters.add(
                    f"{WORK}:{hashlib.sha256(body).hexdigest()[:32]}", at=self._clock.now(), origin=WORK, reason=reason,
                    body=body, type=WORK,
                )  # fmt: skip
                return Effects(tx.meta, dead_letters=[(WORK, reason)])

        return self._store.persist(set_aside)


def _jobs_in(pieces: list[QueuedInput]) -> int:
    """How many inputs these are; the jobs of a batch's chunk count one by one."""
    chunks = [piece.input for piece in pieces if isinstance(piece.input, ChunkReceived)]
    return len(pieces) - len(chunks) + sum(len(chunk.members) for chunk in chunks)

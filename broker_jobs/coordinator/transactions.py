"""Runs the coordinator's transactions: waits while the store is away, and finds the record that cannot be decided.

Nothing is acknowledged before its transaction is committed. A decision that raises is repeated with half of the
records, until the one that raises is alone; that one becomes a dead letter, and its neighbours are decided.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker
from broker_jobs.clock import Clock
from broker_jobs.coordinator.engine import Effects, Engine
from broker_jobs.coordinator.input_queue import MOST_INPUTS, QueuedInput
from broker_jobs.coordinator.inputs import CommandReceived, Input, Unreadable, alone
from broker_jobs.coordinator.precise_timer import AHEAD_SECONDS
from broker_jobs.coordinator.queries import reply
from broker_jobs.errors import StoreError
from broker_jobs.messages.commands import DeleteDeadLetter, ReplayDeadLetter, Reply
from broker_jobs.store.migrate import NewerSchemaError

logger = logging.getLogger(__name__)

STORE_PATIENCE_SECONDS = 300.0
"""If the store is away for longer, the deliveries are returned once, and consumed again when it answers."""
LONGEST_PAUSE_SECONDS = 5.0
"""Between two tries while the store is away."""
SLOW_SECONDS = 1.0
"""A transaction that takes longer has too many inputs for its store; the next one gets half of them."""
LEAST_INPUTS = 100
REPLY_TIMEOUT_SECONDS = 10.0
MOST_REASON_CHARS = 500
MOST_TRACEBACK_CHARS = 4_000

Stored = TypeVar("Stored")


class NotStoredError(Exception):
    """The store could not be written before this coordinator had to stop: nothing may be acknowledged."""


class Transactions:
    """The engine's transactions, one after another, in the coordinator's thread.

    Args:
        engine: decides.
        broker: takes the refusals of commands that raise.
        clock: measures how long a transaction takes.
        stopping: set when the coordinator has to stop.
        may_release: whether jobs may be released now.
        on_fatal: called with the reason when this program cannot use the store.
        give_log_back: called when the store is away for long.
        take_log_again: called when it answers again after that.
        audited: the answer to a command that was applied, by its id, as JSON text; or None.
    """

    def __init__(
        self,
        engine: Engine,
        broker: Broker,
        clock: Clock,
        stopping: threading.Event,
        *,
        may_release: Callable[[], bool],
        on_fatal: Callable[[str], None],
        give_log_back: Callable[[], None],
        take_log_again: Callable[[], None],
        audited: Callable[[str], str | None],
    ) -> None:
        self._audited = audited
        self._engine = engine
        self._broker = broker
        self._clock = clock
        self._stopping = stopping
        self._may_release = may_release
        self._on_fatal = on_fatal
        self._give_log_back = give_log_back
        self._take_log_again = take_log_again
        self._down_since: float | None = None
        self.most = MOST_INPUTS
        """Inputs of the next transaction."""
        self.count = 0
        """Transactions that were committed; a coordinator whose count stands still may be stuck."""

    @property
    def store_is_away(self) -> bool:
        """Whether the store does not answer."""
        return self._down_since is not None

    def apply(self, pieces: list[QueuedInput]) -> tuple[list[Effects], float]:
        """Decide these; what follows, one value for each transaction it took, and the seconds."""
        started = self._clock.monotonic()
        effects = self._apply_safely(pieces)
        seconds = self._clock.monotonic() - started
        if seconds > SLOW_SECONDS:  # nothing is released after one of ACTIVE_SECONDS, however often it is repeated
            self.most = max(LEAST_INPUTS, self.most // 2)
        elif seconds < SLOW_SECONDS / 4:
            self.most = min(MOST_INPUTS, self.most * 2)
        return effects, seconds

    def _apply_safely(self, pieces: list[QueuedInput]) -> list[Effects]:
        """All pieces in one transaction; when a decision raises, in halves."""
        try:
            return self._apply([piece.input for piece in pieces])
        except NotStoredError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a decision raises, the log must go on
            if len(pieces) == 1:
                return self._set_aside(pieces[0], error)
            logger.warning("a transaction of %d records failed; each half is applied separately", len(pieces))
        half = len(pieces) // 2
        return self._apply_safely(pieces[:half]) + self._apply_safely(pieces[half:])

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

        effects = self.persist(decide)
        self.count += 1
        for command in late:
            self._answer_late(command)
        return [effects]

    def _answer_late(self, asked: CommandReceived) -> None:
        """Answer a command whose time was over; if it was applied before, when it came for the first time, so."""
        command = asked.command
        applied = self.persist(lambda: self._audited(command.id))
        if applied is None:
            logger.warning("a command (%s, by %s) came too late and is not applied", command.kind, command.by)
        if asked.reply_to:
            expired = Reply(id=command.id, ok=False, refused="its time was over", expired=True)
            answer = expired if applied is None else Reply.model_validate_json(applied)
            self._broker.publish([reply(asked.reply_to, answer)], timeout=REPLY_TIMEOUT_SECONDS)

    def _set_aside(self, piece: QueuedInput, error: Exception) -> list[Effects]:
        """Keep a record that cannot be decided, without its neighbours, for a person to look at and to replay."""
        logger.error("a record cannot be applied; it is now a dead letter (broker-jobs dead-letters)", exc_info=error)
        if piece.delivery is None:
            return []
        said = " ".join(str(getattr(error, "orig", None) or error).split())
        asked = piece.input
        if isinstance(asked, CommandReceived) and asked.reply_to:
            refused = f"it cannot be carried out: {said}"[:MOST_REASON_CHARS]
            refusal = Reply(id=asked.command.id, ok=False, refused=refused)
            self._broker.publish([reply(asked.reply_to, refusal)], timeout=REPLY_TIMEOUT_SECONDS)
            if isinstance(asked.command, ReplayDeadLetter | DeleteDeadLetter):
                return []  # the dead letter that it names is kept, and its sender has the refusal
        trace = "".join(traceback.format_tb(error.__traceback__))
        reason = f"{type(error).__name__}: {said}"[:MOST_REASON_CHARS] + "\n" + trace[-MOST_TRACEBACK_CHARS:]
        origin = {names.LOG: "log", names.COMMAND: "command", names.DUE: "due"}.get(piece.delivery.queue, "dead")
        return self._apply([Unreadable(origin, reason, alone(piece.delivery, piece.input))])

    def persist(self, work: Callable[[], Stored]) -> Stored:
        """The result of a transaction; while the store is away it is tried again, and nothing is acknowledged.

        Raises:
            NotStoredError: the coordinator has to stop, and the store does not answer or is too new.
        """
        pause, gave_back = 0.1, False
        while True:
            try:
                result = work()
            except NewerSchemaError as error:  # the log is for a coordinator that understands the store
                self._on_fatal(str(error))
                self._give_log_back()
                raise NotStoredError from error
            except StoreError as error:
                if self._note_failure(error) > STORE_PATIENCE_SECONDS and not gave_back:
                    gave_back = True
                    logger.error("the store has not answered for long: deliveries return to the log until it does")
                    self._give_log_back()
                if self._stopping.wait(pause):
                    raise NotStoredError from error
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            self._note_answer()
            if gave_back:
                self._take_log_again()
            return result

    def _note_failure(self, error: StoreError) -> float:
        """For how many seconds the store has not answered."""
        now = self._clock.monotonic()
        if self._down_since is None:
            self._down_since = now
            logger.error("the store does not answer (%s); the records stay in the log; trying again", error)
        return now - self._down_since

    def _note_answer(self) -> None:
        if self._down_since is not None:
            logger.warning("the store answers again after %.0f s", self._clock.monotonic() - self._down_since)
            self._down_since = None

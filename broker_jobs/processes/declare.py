"""Tells the coordinator what a program's code subscribes to and can run, and repeats it until it is answered.

Each worker and each beat does, when it starts: who subscribes says so itself, whichever of its parts comes first. It
is done once answered; the coordinator keeps it while the program is down, so its jobs are made meanwhile. What it can
run is for who has not its code: a person who runs a job from a form.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Delivery, Message
from broker_jobs.clock import Clock
from broker_jobs.function.describe import chunks
from broker_jobs.messages.commands import DeclareFunctions, DeclareSubscriptions, FunctionInfo, Reply, Subscription
from broker_jobs.messages.envelope import new_id

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LAST_PAUSE_SECONDS = 60.0
"""Before it is said again; doubles up to this, as what nobody answers piles up until a coordinator comes."""


class Declarer:
    """The thread that says it. One declaration; for another make another.

    Args:
        exchange: started by the caller.
        origin: the program; what it has declared before and does not name now ends.
        subscriptions: all of its code's.
        by: who says so, in the coordinator's audit.
        functions: describes all that its code can run; called on the thread, as it may take a while. None: it has no
            code, and says nothing of it.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        origin: str,
        subscriptions: Sequence[Subscription],
        by: str,
        *,
        functions: Callable[[], Sequence[FunctionInfo]] | None = None,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._origin = origin
        self._by = by
        self._functions = functions
        self._subscribing = DeclareSubscriptions(
            id=new_id(), at=clock.now(), by=by, origin=origin, subscriptions=list(subscriptions)
        )
        self._unanswered: dict[str, DeclareSubscriptions | DeclareFunctions] = {self._subscribing.id: self._subscribing}
        self._answered = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to say it; tolerates twice."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="declare", daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the answer; whether it came."""
        return self._answered.wait(seconds)

    def stop(self, timeout: float = 5.0) -> None:
        """Say it no more; tolerates twice and never started."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            reply_to, subscription = self._broker.subscribe_private(self._receive)
        except Exception:
            logger.exception("what this program subscribes to and can run could not be declared; start it again")
            return
        pause = FIRST_PAUSE_SECONDS
        try:
            while not self._over.is_set():
                if self._broker.connected and not self._broker.blocked:
                    self._publish(list(self._unanswered.values()), reply_to)
                    waited, pause = pause, min(2 * pause, LAST_PAUSE_SECONDS)
                    if self._functions is not None:
                        self._publish(self._describe(self._functions), reply_to)
                        self._functions = None
                    if not self._unanswered:
                        break
                else:
                    waited = FIRST_PAUSE_SECONDS
                self._over.wait(waited)
        finally:
            subscription.close()

    def _describe(self, functions: Callable[[], Sequence[FunctionInfo]]) -> list[DeclareFunctions]:
        """The messages that say what the code can run; not understood is not declared, and harms nothing else."""
        try:
            parts = list(chunks(functions()))
        except Exception:
            logger.exception("what this program can run could not be described; no form of it will be shown")
            return []
        now = self._clock.now()
        told = [
            DeclareFunctions(
                id=new_id(), at=now, by=self._by, origin=self._origin, functions=part, last=number == len(parts)
            )
            for number, part in enumerate(parts, start=1)
        ]
        self._unanswered.update({command.id: command for command in told})
        return told

    def _publish(self, told: Sequence[DeclareSubscriptions | DeclareFunctions], reply_to: str) -> None:
        if told:
            self._broker.publish([self._message(command, reply_to) for command in told])

    def _message(self, command: DeclareSubscriptions | DeclareFunctions, reply_to: str) -> Message:
        body = command.model_dump_json().encode()
        return Message(names.REPORT, names.COMMAND_KEY, body, "command", command.id, reply_to, command.id)

    def _receive(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            try:
                reply = Reply.model_validate_json(delivery.body)
            except ValidationError as error:
                logger.warning("an answer to what this program declares cannot be read: %s", error)
                continue
            if self._unanswered.pop(reply.id, None) is None:
                continue
            if not reply.ok or reply.refused is not None:
                what = "subscribes to" if reply.id == self._subscribing.id else "can run"
                logger.error("the coordinator refuses what this program %s: %s", what, reply.refused)
            if reply.id == self._subscribing.id:
                self._answered.set()
            if not self._unanswered and self._functions is None:
                self._over.set()

"""Declares a program's subscriptions and functions to the coordinator, and repeats that until it is answered.

Each worker and each beat does this when it starts, so the order of their starts does not matter. The coordinator keeps
the declarations while the program is down: events enqueue jobs meanwhile. Functions are declared for the dashboard,
which has no access to the code: they describe the forms that run a job.
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
"""The pause between two tries doubles up to this: while no coordinator runs, the tries pile up in RabbitMQ."""


class Declarer:
    """A thread that sends one declaration. Create another Declarer for another declaration.

    Args:
        broker: started by the caller.
        service: the name of the program. Subscriptions that it declared before and does not name now end. Empty: it
            has none, and declares no subscriptions.
        subscriptions: all subscriptions of its code.
        by: the sender, for the coordinator's audit.
        functions: describes all functions of its code; called on the thread, as it may take a while. None: the program
            has no code, and declares no functions.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        service: str,
        subscriptions: Sequence[Subscription],
        by: str,
        *,
        functions: Callable[[], Sequence[FunctionInfo]] | None = None,
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._service = service
        self._by = by
        self._functions = functions
        self._subscriptions = DeclareSubscriptions(
            id=new_id(), at=clock.now(), by=by, service=service, subscriptions=list(subscriptions)
        )
        self._unanswered: dict[str, DeclareSubscriptions | DeclareFunctions] = {}
        self._subscribed = threading.Event()
        if service:
            self._unanswered[self._subscriptions.id] = self._subscriptions
        else:
            self._subscribed.set()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Calling it again does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="declare", daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait until the coordinator has answered the subscriptions; whether it has."""
        return self._subscribed.wait(seconds)

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the thread, waiting at most `timeout` seconds. May be called twice, and without start()."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        try:
            reply_to, subscription = self._broker.subscribe_private(self._receive)
        except Exception:
            logger.exception("subscriptions and functions could not be declared; restart this program")
            return
        pause = FIRST_PAUSE_SECONDS
        try:
            while not self._done.is_set():
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
                self._done.wait(waited)
        finally:
            subscription.close()

    def _describe(self, functions: Callable[[], Sequence[FunctionInfo]]) -> list[DeclareFunctions]:
        """The commands that declare the functions; none if they cannot be described, which affects nothing else."""
        try:
            parts = list(chunks(functions()))
        except Exception:
            logger.exception("the functions of this program could not be described; the dashboard shows no forms")
            return []
        now = self._clock.now()
        commands = [
            DeclareFunctions(
                id=new_id(), at=now, by=self._by, service=self._service, functions=part, last=number == len(parts)
            )
            for number, part in enumerate(parts, start=1)
        ]
        self._unanswered.update({command.id: command for command in commands})
        return commands

    def _publish(self, commands: Sequence[DeclareSubscriptions | DeclareFunctions], reply_to: str) -> None:
        if commands:
            self._broker.publish([self._message(command, reply_to) for command in commands])

    def _message(self, command: DeclareSubscriptions | DeclareFunctions, reply_to: str) -> Message:
        body = command.model_dump_json().encode()
        return Message(names.DECLARE, names.COMMAND_KEY, body, "command", command.id, reply_to, command.id)

    def _receive(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            try:
                reply = Reply.model_validate_json(delivery.body)
            except ValidationError as error:
                logger.warning("a reply to a declaration could not be decoded; the declaration is repeated: %s", error)
                continue
            if self._unanswered.pop(reply.id, None) is None:
                continue
            if not reply.ok or reply.refused is not None:
                what = "subscriptions" if reply.id == self._subscriptions.id else "functions"
                logger.error("the coordinator refuses the %s of this program: %s", what, reply.refused)
            if reply.id == self._subscriptions.id:
                self._subscribed.set()
            if not self._unanswered and self._functions is None:
                self._done.set()

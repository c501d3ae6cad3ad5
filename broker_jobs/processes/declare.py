"""Tells the coordinator what events a program's code subscribes to, and repeats it until it is answered.

Each worker and each beat does, when it starts: who subscribes says so itself, whichever of its parts comes first. It
is done once answered; the coordinator keeps it while the program is down, so its jobs are made meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from pydantic import ValidationError

from broker_jobs.clock import Clock
from broker_jobs.exchange import names
from broker_jobs.exchange.port import Delivery, Exchange, Message
from broker_jobs.job.envelope import new_id
from broker_jobs.outcome.command import DeclareSubscriptions, Reply, Subscription

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LAST_PAUSE_SECONDS = 60.0
"""Before it is said again; doubles up to this, as what nobody answers piles up until a coordinator comes."""


class Declarer:
    """The thread that says it. One declaration; for another make another.

    Args:
        exchange: started by the caller.
        origin: the program; what it has subscribed to before and does not name now ends.
        subscriptions: all of its code's.
        by: who says so, in the coordinator's audit.
    """

    def __init__(
        self, exchange: Exchange, clock: Clock, origin: str, subscriptions: Sequence[Subscription], by: str
    ) -> None:
        self._exchange = exchange
        self._command = DeclareSubscriptions(
            id=new_id(), at=clock.now(), by=by, origin=origin, subscriptions=list(subscriptions)
        )
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
            reply_to, subscription = self._exchange.subscribe_private(self._receive)
        except Exception:
            log.exception("what this program subscribes to could not be declared; start it again")
            return
        command = self._command
        message = Message(
            names.REPORT, names.COMMAND_KEY, command.model_dump_json().encode(), "command", command.id, reply_to,
            command.id,
        )  # fmt: skip
        pause = FIRST_PAUSE_SECONDS
        try:
            while not self._over.is_set():
                if self._exchange.connected and not self._exchange.blocked:
                    self._exchange.publish([message])
                    waited, pause = pause, min(2 * pause, LAST_PAUSE_SECONDS)
                else:
                    waited = FIRST_PAUSE_SECONDS
                self._over.wait(waited)
        finally:
            subscription.close()

    def _receive(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            try:
                reply = Reply.model_validate_json(delivery.body)
            except ValidationError as error:
                log.warning("an answer to what this program declares cannot be read: %s", error)
                continue
            if reply.id != self._command.id:
                continue
            if not reply.ok or reply.refused is not None:
                log.error("the coordinator refuses what this program subscribes to: %s", reply.refused)
            self._answered.set()
            self._over.set()

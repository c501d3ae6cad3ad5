"""Receives what the coordinator sends to workers: fences, pauses, cancellations, changes. Says hello on connecting.

It binds first and then says hello, so that no message is lost between the snapshot and the first broadcast. The wait
for the coordinator's answer is bounded; a late answer is applied when it arrives.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from pydantic import ValidationError

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Consumer, Delivery, Message
from broker_jobs.clock import Clock
from broker_jobs.consumer.program_code import ProgramCode
from broker_jobs.consumer.revocations import Revocations
from broker_jobs.messages.commands import Hello, Reply
from broker_jobs.messages.control import Control, WorkerChange
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.events import WorkerRef

logger = logging.getLogger(__name__)


class ControlSubscription:
    """The private queue a worker hears the coordinator by."""

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        fences: Revocations,
        ref: WorkerRef,
        *,
        queues: Callable[[], Sequence[str]],
        version: str,
        code: ProgramCode,
        running: Callable[[], list[tuple[str, int]]],
        cancel: Callable[[Iterable[str]], None],
        changed: Callable[[], None],
        on_change: Callable[[WorkerChange], None],
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._revocations = fences
        self._ref = ref
        self._queues = queues
        self._version = version
        self._code = code
        self._said_code = ""
        self._is_untold = False
        self._running = running
        self._cancel = cancel
        self._changed = changed
        self._on_change = on_change
        self._subscription: Consumer | None = None
        self._queue_name = ""
        self._hello_id = ""
        self._hello_said = False
        self.answered = threading.Event()
        """Set by the first answer to a hello."""

    def start(self) -> None:
        """Bind the private queue and say hello; tolerates twice."""
        if self._subscription is not None:
            return
        self._queue_name, self._subscription = self._broker.subscribe_private(
            self._take, bind_to=names.CONTROL, on_ready=self._on_ready
        )
        if not self._hello_said:
            self._say_hello()

    def stop(self) -> None:
        """Hear no more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()

    def look(self) -> None:
        """Say hello again if the coordinator does not know the jobs of this program, or it has more than it had.

        Some may be held until a worker knows them.
        """
        news = self._is_untold or self._code.digest != self._said_code
        if self._hello_said and news and self._broker.connected:
            self._is_untold = False
            self._say_hello()

    def _on_ready(self, channel: int) -> None:
        if self._queue_name:  # else start() says it
            self._say_hello()

    def _say_hello(self) -> None:
        self._hello_said = True
        self._hello_id = new_id()
        self._said_code = self._code.digest
        hello = Hello(
            id=self._hello_id,
            at=self._clock.now(),
            worker=self._ref,
            queues=list(self._queues()),
            running=self._running(),
            version=self._version,
            service=self._code.service,
            code=self._said_code,
            jobs=self._code.jobs,
        )
        message = Message(
            names.REPORT,
            names.COMMAND_KEY,
            hello.model_dump_json().encode(),
            type="command",
            message_id=hello.id,
            reply_to=self._queue_name,
            correlation_id=hello.id,
        )
        self._broker.publish([message])

    def _take(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            try:
                self._hear(delivery.body)
            except ValidationError as error:
                logger.warning("a control message could not be decoded and is ignored: %s", error)
            except Exception:
                logger.exception("control message failed; the next heartbeat asks for a snapshot")

    def _hear(self, body: bytes) -> None:
        reply = _as_reply(body)
        if reply is None:
            control = Control.model_validate_json(body)
        elif not reply.ok:
            logger.warning("the coordinator refuses this worker: %s", reply.refused)
            return
        else:
            control = Control.model_validate(reply.detail)
        answer = reply is not None and reply.id == self._hello_id
        self._revocations.learn(control, self._clock.monotonic(), asked=answer)
        self._cancel(control.cancel)
        self._changed()
        self._is_untold = self._is_untold or self._ref.id in control.untold
        for change in control.changes:
            if self._ref.id in change.workers:
                self._on_change(change)
        if answer:
            self.answered.set()


def _as_reply(body: bytes) -> Reply | None:
    """The body as a `Reply`; None where it is none (a `Control` has no id)."""
    try:
        return Reply.model_validate_json(body)
    except ValidationError:
        return None

"""Brings events to the log: gathered into messages, confirmed, repeated until they are.

The worker's end of the event contract. One message is in flight at a time, so that the order of events is kept through
any failure; while its confirm is awaited the next events gather, which makes the messages large exactly when there is
much to tell, and immediate when there is little. The coordinator ignores what it has seen, so an unknown end of a
publish is simply repeated.

How a body reaches the broker is given (`send`), as this class knows no broker.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from broker_jobs.clock import Clock
from broker_jobs.messages.envelope import MAX_RECORDS
from broker_jobs.messages.events import FLUSH_BYTES, WorkerRef, event_json

logger = logging.getLogger(__name__)

MAX_EVENTS = MAX_RECORDS
"""Events of one message at most, so that one transaction of the coordinator stays short."""
REPEAT_SECONDS = 0.2
"""How long a failed publish rests before it is repeated."""


class DeliveryTag(NamedTuple):
    """Where a delivery is to be acknowledged."""

    channel: int
    tag: int


Then: TypeAlias = DeliveryTag | Callable[[], None] | None
"""What follows the confirm of an event: an acknowledgement, a call (quick; on the I/O thread), or nothing."""

Send: TypeAlias = Callable[[bytes, Callable[[str | None], None]], None]
"""Publishes a body to the log and calls back exactly once: None when it is confirmed, else why not."""


class EventSender:
    """Gathers events and sends them; thread-safe. Nothing put in is dropped while the process lives."""

    def __init__(
        self, send: Send, worker: WorkerRef, clock: Clock, *, acknowledge: Callable[[Sequence[DeliveryTag]], None]
    ) -> None:
        self._send = send
        self._clock = clock
        self._acknowledge = acknowledge
        self._head = b'{"v":1,"worker":' + event_json(worker) + b',"sent_at":'
        self._waiting: deque[tuple[bytes, Then]] = deque()
        self._in_flight = threading.Lock()
        """Held from the publish of a message to its confirm; the thread that holds it sends."""
        self._sent: list[tuple[bytes, Then]] = []
        self._repeat_at: float | None = None
        self._failures = 0
        self._sending_thread: int | None = None

    @property
    def waiting(self) -> int:
        """How many events are not confirmed yet."""
        return len(self._waiting) + len(self._sent)

    def put(self, event: bytes, then: Then = None) -> None:
        """Add an event (its JSON); it leaves at once when nothing is in flight."""
        self._waiting.append((event, then))
        if not self._in_flight.locked():
            self._flush()

    def repeat_failed(self) -> None:
        """Send again what failed, when it has rested. Called a few times a second."""
        repeat_at = self._repeat_at
        if repeat_at is not None and self._clock.monotonic() >= repeat_at:
            self._repeat_at = None
            self._publish(self._sent)
            self._flush()

    def _flush(self) -> None:
        # A loop, not a call from the callback: a `send` that calls back at once would nest without end.
        while self._waiting and self._in_flight.acquire(blocking=False):
            self._sent = self._gather()
            if not self._sent:  # another thread was faster
                self._in_flight.release()
                continue
            self._publish(self._sent)

    def _gather(self) -> list[tuple[bytes, Then]]:
        received: list[tuple[bytes, Then]] = []
        size = 0
        waiting = self._waiting
        while waiting and size < FLUSH_BYTES and len(received) < MAX_EVENTS:
            item = waiting.popleft()
            size += len(item[0])
            received.append(item)
        return received

    def _publish(self, events: list[tuple[bytes, Then]]) -> None:
        sent_at = repr(self._clock.now()).encode("ascii")
        body = b'%b%b,"events":[%b]}' % (self._head, sent_at, b",".join([event for event, _ in events]))
        self._sending_thread = threading.get_ident()
        self._send(body, self._ended)
        self._sending_thread = None

    def _ended(self, failure: str | None) -> None:
        if failure is not None:
            self._failures += 1
            report = logger.warning if self._failures == 1 else logger.debug
            report("%d events are not confirmed (%s); they are sent again until they are", len(self._sent), failure)
            self._repeat_at = self._clock.monotonic() + REPEAT_SECONDS
            return
        if self._failures:
            logger.info("events are confirmed again after %d failed publishes", self._failures)
            self._failures = 0
        events, self._sent = self._sent, []
        nested = self._sending_thread == threading.get_ident()
        self._in_flight.release()
        try:
            self._follow(events)
        finally:
            if not nested:
                self._flush()

    def _follow(self, events: list[tuple[bytes, Then]]) -> None:
        places: list[DeliveryTag] = []
        for _, then in events:
            if isinstance(then, DeliveryTag):
                places.append(then)
            elif then is not None:
                try:
                    then()
                except Exception:
                    logger.exception("the step after a confirmed event failed; the next events continue")
        if places:
            self._acknowledge(places)

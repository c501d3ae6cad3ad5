"""Tells the coordinator that worker processes live which cannot say it themselves, what they run, and when they end.

A worker sends its own heartbeats. Its supervisor speaks for it when these do not arrive: a job keeps Python's GIL, or
its connection is lost and the supervisor's is not. It lists what the worker runs, so the coordinator starts none of it
elsewhere. When a process ends it says so at once, and nobody has to wait for a lease.

The messages are made without pydantic, which a supervisor does not load.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Message, PublishFailure
from broker_jobs.errors import BrokerError
from broker_jobs.processes.child import ChildProcess, Ref

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
PUBLISH_SECONDS = 10.0
SILENT_SECONDS = 3.0
"""A child that has not reported for this long cannot speak for itself."""
LATE_SECONDS = 5.0
"""A child's own heartbeat may be confirmed this much later than the next one is due."""
STARTED_AFTER_SECONDS = 1.0
"""A worker reports a run as started after a second; its supervisor does if it cannot."""
MOST_ENDED = 1_000
"""Ends of processes that are kept while RabbitMQ is away."""
STOP_SECONDS = 2.0


class SupervisedHeartbeats:
    """The heartbeats of a supervisor, over a connection of its own."""

    def __init__(
        self,
        broker: Broker,
        *,
        period_seconds: float = 5.0,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`period_seconds`: between two heartbeats of a worker. `now`, `monotonic`: clocks, in seconds."""
        self._broker = broker
        self._period_seconds = period_seconds
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._spoken: dict[str, float] = {}
        """Worker → when it was spoken for last."""
        self._ends: dict[str, Message] = {}
        """Worker → the message that its process has ended, until it is confirmed."""
        self._in_flight = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Connect, in a thread: the children do not wait for it."""
        self._thread = threading.Thread(target=self._connect, name="supervisor's connection", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, for at most two seconds, and close."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(CONNECT_SECONDS + 1.0)
        until = self._monotonic() + STOP_SECONDS
        while self._ends and self._broker.connected and self._monotonic() < until:
            self._publish({}, [])
            time.sleep(0.01)
        self._broker.stop(0.0)

    def look(self, children: list[ChildProcess]) -> None:
        """Speak for those of these that cannot."""
        now = self._monotonic()
        spoken: dict[str, ChildProcess] = {}
        messages: list[Message] = []
        with self._lock:
            self._spoken = {child.worker_id: self._spoken.get(child.worker_id, float("-inf")) for child in children}
        for child in children:
            if self._cannot_speak(child) and now - self._spoken[child.worker_id] >= self._period_seconds:
                spoken[child.worker_id] = child
                messages.append(self._message(child.ref, self._said_of(child)))
        if self._publish(spoken, messages):
            self._spoken |= dict.fromkeys(spoken, now)

    def ended(self, child: ChildProcess) -> None:
        """Say that the process of this one has ended, and what it ran."""
        runs = [(run.id, run.epoch) for run in child.board.runs()]
        ended = {"kind": "supervised", "at": self._now(), "running": runs, "ended": child.how_it_ended()[:500]}
        with self._lock:
            if len(self._ends) < MOST_ENDED:
                self._ends[child.worker_id] = self._message(child.ref, [ended])
        self._publish({}, [])

    def _cannot_speak(self, child: ChildProcess) -> bool:
        heard = child.heard_seconds_ago
        if heard is None:  # it has not begun, or could never speak
            return bool(child.board.runs()) and child.silent_seconds > SILENT_SECONDS
        return child.silent_seconds > SILENT_SECONDS or heard > self._period_seconds + LATE_SECONDS

    def _said_of(self, child: ChildProcess) -> list[dict[str, Any]]:
        """The events: what it runs has started, as it may not have said so, and it lives."""
        at = self._now()
        silent = child.silent_seconds > SILENT_SECONDS
        runs = child.board.runs()
        started = [
            {"kind": "started", "id": run.id, "epoch": run.epoch, "at": run.started_at}
            for run in runs
            if at - run.started_at >= STARTED_AFTER_SECONDS  # known to the coordinator already, as a rule
        ]
        lives: dict[str, Any] = {
            "kind": "supervised",
            "at": at,
            "running": [(run.id, run.epoch) for run in runs],
            "queues": list(child.report.queues) if child.report is not None else [],
        }
        if silent:
            lives["silent_since"] = child.silent_since
        return [*started, lives]

    def _message(self, ref: Ref, events: list[dict[str, Any]]) -> Message:
        bundle = {"v": 1, "worker": ref._asdict(), "sent_at": self._now(), "events": events}
        body = json.dumps(bundle, separators=(",", ":")).encode()
        return Message(names.REPORT, names.LOG_KEY, body, type="events")

    def _publish(self, spoken: dict[str, ChildProcess], messages: list[Message]) -> bool:
        """Publish these and the ends that are not confirmed, unless something is in flight; whether it did."""
        with self._lock:
            ends = dict(self._ends)
            if self._in_flight or not (messages or ends) or not self._broker.connected:
                return False
            self._in_flight = True
        sent_at = self._monotonic()
        future = self._broker.publish([*ends.values(), *messages], timeout=PUBLISH_SECONDS)
        future.add_done_callback(partial(self._published, list(ends), list(spoken.values()), sent_at))
        return True

    def _published(
        self,
        ends: list[str],
        spoken: list[ChildProcess],
        sent_at: float,
        future: Future[list[PublishFailure | None]],
    ) -> None:
        """On the broker's I/O thread."""
        failures = future.result()
        with self._lock:
            self._in_flight = False
            for worker, failure in zip(ends, failures, strict=False):
                if failure is None:
                    self._ends.pop(worker, None)
        for child, failure in zip(spoken, failures[len(ends) :], strict=False):
            if failure is None:
                child.heard.append(sent_at)
            else:
                logger.debug("the heartbeat for worker process %s was not confirmed: %s", child.process.pid, failure)

    def _connect(self) -> None:
        said = ""
        pause = 1.0
        while not self._stopped.is_set():
            try:
                self._broker.start(CONNECT_SECONDS)
            except BrokerError as error:
                if str(error) != said:
                    said = str(error)
                    logger.warning(
                        "the supervisor has no connection to RabbitMQ and speaks for no worker process: %s; "
                        "trying again every few seconds",
                        error,
                    )
                self._stopped.wait(pause)
                pause = min(pause * 2, CONNECT_SECONDS)
            else:
                return

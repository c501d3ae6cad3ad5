"""Consumes the coordinator's queues, and declares work queues that jobs were sent to and that do not exist."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Consumer, Delivery
from broker_jobs.broker.topology import work_topology
from broker_jobs.coordinator.input_queue import InputQueue
from broker_jobs.coordinator.inputs import QueuedInput
from broker_jobs.coordinator.records import FromWorker, Unroutable
from broker_jobs.errors import BrokerError, BrokerRefused
from broker_jobs.messages import codec
from broker_jobs.messages.events import Returned
from broker_jobs.settings import Settings

logger = logging.getLogger(__name__)

DECLARE_TIMEOUT_SECONDS = 3.0
PROOF_TIMEOUT_SECONDS = 3.0
PREFETCH = {names.LOG: 2_000, names.COMMAND: 500, names.DUE: 1_000, names.DEAD_LETTERS: 100}


class QueueConsumers:
    """The consumers of a coordinator. Their deliveries go into the input queue."""

    def __init__(self, broker: Broker, input_queue: InputQueue, on_control: Callable[[list[Delivery]], None]) -> None:
        self._broker = broker
        self._input_queue = input_queue
        self._on_control = on_control
        self._consumers: dict[str, Consumer] = {}
        self._control: Consumer | None = None
        self._lost: SimpleQueue[tuple[str, int]] = SimpleQueue()
        self._times_opened = 0

    def open(self) -> None:
        """Consume (the coordinator's thread, or before it is there). What came before `close` comes again."""
        self._input_queue.lost_all()
        self._times_opened += 1
        for queue, prefetch in PREFETCH.items():
            self._consumers[queue] = self._broker.subscribe(
                [queue],
                partial(self._arrived, self._times_opened, queue),
                prefetch=prefetch,
                on_lost=partial(self._channel_lost, queue),
            )
        _, self._control = self._broker.subscribe_private(self._on_control, bind_to=names.CONTROL)

    def close(self) -> None:
        """Return what was taken and not acknowledged; tolerates twice."""
        if self._control is not None:
            self._control.close()
        for consumer in self._consumers.values():
            consumer.close()
        self._times_opened += 1

    def problem(self) -> str | None:
        """Why one of the queues is not consumed: a permission, or the queue, is missing (any thread)."""
        return next((problem for each in list(self._consumers.values()) if (problem := each.problem) is not None), None)

    def has_answer(self) -> bool:
        """Whether the broker answers, behind all that it has said of our channels; `drop_lost` knows all of it then.

        Asked after a pause: a process that was stopped, or stood still, still has deliveries of channels that the
        broker has closed meanwhile, and another coordinator may have decided them.
        """
        try:
            self._broker.depth(names.LOG, timeout=PROOF_TIMEOUT_SECONDS)
        except BrokerError:
            return False
        return True

    def acknowledge(self) -> None:
        """All that was taken from the input queue is stored."""
        self._input_queue.acknowledge(self._consumers)

    def drop_lost(self) -> None:
        """Forget deliveries of channels that are gone: they come again (the coordinator's thread)."""
        try:
            while True:
                self._input_queue.lost(*self._lost.get_nowait())
        except Empty:
            return

    def _arrived(self, opened: int, queue: str, deliveries: list[Delivery]) -> None:
        if opened == self._times_opened:  # else it was closed meanwhile: they come again
            self._input_queue.put(queue, deliveries)

    def _channel_lost(self, queue: str, channel: int) -> None:
        self._lost.put((queue, channel))
        self._input_queue.wake()


class MissingQueues:
    """Declares the queue of a job that was returned as its queue does not exist: its worker may come later."""

    def __init__(self, broker: Broker, settings: Settings) -> None:
        self._broker = broker
        self._may_declare = settings.declare
        self._declared: set[str] = set()
        """Queues of which it was said that they are declared here: many jobs may have been sent before."""

    def declare(self, pieces: list[QueuedInput]) -> None:
        """Declare the missing queues; records of jobs whose queue cannot be declared are replaced in `pieces`."""
        declared: dict[str, str | None] = {}
        for number, piece in enumerate(pieces):
            event = piece.input.event if isinstance(piece.input, FromWorker) else None
            if not isinstance(event, Returned) or event.reason != "no queue":
                continue
            try:
                queue = codec.decode(event.envelope).queue
            except codec.Undecodable:
                continue
            if queue not in declared:
                declared[queue] = self._declare(queue)
            refused = declared[queue]
            if refused is not None:
                lost = Unroutable(event.id, event.epoch, refused, event.envelope)
                pieces[number] = QueuedInput(lost, piece.delivery)

    def _declare(self, queue: str) -> str | None:
        """Why the queue cannot be declared; None: it exists now, or the broker is away and the job comes again."""
        if not self._may_declare:
            return f"queue {queue!r} does not exist; declare it: broker-jobs topology apply -Q {queue}"
        try:
            self._broker.apply(work_topology(queue), timeout=DECLARE_TIMEOUT_SECONDS)
        except BrokerRefused as error:
            return f"queue {queue!r} does not exist and cannot be declared: {error}"
        except BrokerError as error:
            logger.warning("queue %r does not exist and cannot be declared now (%s); it is tried again", queue, error)
            return None
        if queue not in self._declared:
            self._declared.add(queue)
            logger.warning("queue %r did not exist when a job was sent to it: declared; does a worker serve it?", queue)
        return None

"""A whole coordinator in one thread, on a clock that stands still, with a broker that only hands over and listens."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from broker_jobs.broker import names
from broker_jobs.broker.interface import MAX_MESSAGE_BYTES, Consumer, Delivery, Message, PublishFailure
from broker_jobs.broker.topology import Topology
from broker_jobs.clock import ManualClock
from broker_jobs.coordinator.conditions.batches import ChunkTooLateError
from broker_jobs.coordinator.inputs import WorkItemsWaiting
from broker_jobs.coordinator.service import Coordinator
from broker_jobs.messages import codec
from broker_jobs.messages.commands import Reply
from broker_jobs.messages.control import Control
from broker_jobs.settings import Settings
from broker_jobs.store import Store
from tests.fuzz.values import NOW

CHANNEL = 1
EXPECTED = (ChunkTooLateError,)
"""What a decision raises of a message that is at fault, and says so."""


class HandingBroker:
    """A `Broker` that hands over what it is given, confirms all it gets, and sends ticks back."""

    def __init__(self) -> None:
        self.connected, self.blocked, self.reconnects = True, False, 0
        self.problem: str | None = None
        self.released: list[Message] = []
        self.findings: list[str] = []
        self.published: Counter[str] = Counter()
        self.unacknowledged: dict[str, dict[int, Delivery]] = {}
        self._hands: dict[str, Callable[[list[Delivery]], None]] = {}
        self._tag = 0

    def start(self, timeout: float = 10.0) -> None:
        """Do nothing."""

    def stop(self, timeout: float = 5.0) -> None:
        """Do nothing."""

    def apply(self, topology: Topology, timeout: float = 10.0) -> None:
        """Do nothing: every queue exists."""

    def depth(self, queue: str, timeout: float = 10.0) -> tuple[int, int] | None:
        """Empty."""
        return 0, 1

    def purge(self, queue: str, timeout: float = 10.0) -> int:
        """Nothing is there."""
        return 0

    def publish(self, messages: Sequence[Message], timeout: float = 10.0) -> Future[list[PublishFailure | None]]:
        """Confirm at once. What the coordinator says must be readable, and not too large."""
        for message in messages:
            self.published[message.exchange] += 1
            if wrong := _unreadable(message):
                self.findings.append(f"the coordinator publishes what {wrong}")
            if message.exchange == names.TICK:
                self.hand(names.COMMAND if message.key == names.COMMAND_KEY else names.LOG, [self.delivery(message)])
            elif message.exchange == names.WORK:
                self.released.append(message)
        done: Future[list[PublishFailure | None]] = Future()
        done.set_result([None] * len(messages))
        return done

    def delivery(self, message: Message) -> Delivery:
        """A message as it comes out of the queue of its exchange."""
        return Delivery(
            CHANNEL, 0, "", message.body, False, message.exchange, message.key, message.type,
            message.message_id, message.reply_to, message.correlation_id, 0, "coordinator",
        )  # fmt: skip

    def hand(self, queue: str, deliveries: list[Delivery]) -> None:
        """Deliver."""
        for one in deliveries:
            self._tag += 1
            handed = one._replace(queue=queue, channel=CHANNEL, tag=self._tag)
            self.unacknowledged[queue][self._tag] = handed
            self._hands[queue]([handed])

    def deliver_again(self) -> None:
        """What a coordinator has not acknowledged goes to the next one."""
        for queue, deliveries in self.unacknowledged.items():
            again = [
                one._replace(redelivered=True, delivery_count=one.delivery_count + 1) for one in deliveries.values()
            ]
            deliveries.clear()
            self.hand(queue, again)

    def subscribe(
        self,
        queues: Sequence[str],
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        prefetch: int | Mapping[str, int],
        on_lost: Callable[[int], None] | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> Consumer:
        """Remember who takes the deliveries of one queue."""
        (queue,) = queues
        self._hands[queue] = on_deliveries
        return HandConsumer(self.unacknowledged.setdefault(queue, {}))

    def subscribe_private(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        bind_to: str | None = None,
        on_ready: Callable[[int], None] | None = None,
    ) -> tuple[str, Consumer]:
        """Nobody writes to it."""
        return names.new_reply_queue(), HandConsumer({})


class HandConsumer:
    """Notes what is acknowledged."""

    consuming, problem = True, None

    def __init__(self, unacknowledged: dict[int, Delivery]) -> None:
        self._unacknowledged = unacknowledged

    def ack(self, channel: int, tag: int, *, multiple: bool = False) -> None:
        """With `multiple`, all up to this one; they are in the order of their tags."""
        if not multiple:
            self._unacknowledged.pop(tag, None)
            return
        while self._unacknowledged and (first := next(iter(self._unacknowledged))) <= tag:
            del self._unacknowledged[first]

    def requeue(self, channel: int, tag: int) -> None:
        """Not asked for."""

    def set_prefetch(self, count: int | Mapping[str, int]) -> None:
        """Not asked for."""

    def pause(self, queue: str, *, paused: bool) -> None:
        """Not asked for."""

    def has_stopped(self, queue: str) -> bool:
        """Not asked for."""
        return False

    def cancel(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _unreadable(message: Message) -> str | None:
    """Why nobody could read this; None: it is sound."""
    if len(message.body) > MAX_MESSAGE_BYTES:
        return f"no broker takes: {len(message.body)} bytes to {message.exchange!r}"
    try:
        if message.exchange in (names.WORK, names.DELAY):
            codec.decode(message.body)
        elif message.exchange == names.CONTROL:
            Control.model_validate_json(message.body)
        elif message.exchange == "":
            Reply.model_validate_json(message.body)
            if not names.is_reply_queue(message.key):
                return f"goes to {message.key!r}"
    except (codec.Undecodable, ValueError) as error:
        return f"nobody can read: {error} ({message.exchange}, {message.body[:300]!r})"
    return None


class Noted(logging.Handler):
    """Notes what a coordinator takes for a mistake of its own: errors with a traceback, outages that there are not."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.findings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, if it is one."""
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage()
        if error is not None and not isinstance(error, EXPECTED):
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = "" if place is None else f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
            self.findings.append(f"{text}: {type(error).__name__}: {str(error)[:300]} at {where}")
        elif "does not answer" in text or record.levelno >= logging.CRITICAL:
            self.findings.append(text)


class Room:
    """A coordinator and its store; `restart` begins with another one on the same store."""

    def __init__(self, url: str) -> None:
        self.clock = ManualClock(NOW)
        self.store = Store(url)
        self.store.open()
        self.settings = Settings.load(
            url="memory://fuzz", store=url, max_dead_letters=1_000_000, max_dead_letter_bytes=1 << 40
        )
        self.broker = HandingBroker()
        self.fatal: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        """What innocent processes do all the time."""
        self.noted = Noted()
        self._logger = logging.getLogger("broker_jobs.coordinator")
        self._logger.addHandler(self.noted)
        self._logger.propagate = False
        self._coordinator = self._begun()
        self.come_to_rest()

    def close(self) -> None:
        """Give back the log and the store."""
        self._logger.removeHandler(self.noted)
        self._logger.propagate = True
        self.store.close()

    def restart(self) -> None:
        """Another coordinator takes over, as if this one had been killed."""
        self._coordinator = self._begun()
        self.broker.deliver_again()

    def _begun(self) -> Coordinator:
        made = Coordinator(self.broker, self.store, self.settings, self.clock, on_fatal=self.fatal.append)
        made._leadership.begin(self.store.reader.meta())
        for effects in made._newer_messages.decide():
            made._set_timers(effects)
        made._consumers.open()
        made._round_began = self.clock.monotonic()
        return made

    def hand(self, deliveries: list[Delivery]) -> None:
        """Deliver, each from its queue."""
        for one in deliveries:
            self.broker.hand(one.queue, [one])

    def round(self, seconds: float) -> None:
        """One round of the coordinator, after so much time."""
        self.clock.advance(seconds)
        coordinator = self._coordinator
        timer = coordinator._publisher._precise_timer
        due, late = timer._due()
        if due:
            timer._publish([row for row, _ in due], [message for _, message in due])
        if late:
            timer._give_up(late)
        coordinator._input_queue.wait(0.0)
        coordinator._round()

    def come_to_rest(self) -> None:
        """Rounds until nothing is left to decide, and a few ticks more."""
        quiet = 0
        for number in range(20_000):  # what was delivered twice before is decided alone, in every second round
            if number % 10 == 0:
                self.meanwhile()
            self.round(0.02 if self.left() > 10 else 0.3)
            goes_on = any(isinstance(one, WorkItemsWaiting) for one in self._coordinator._input_queue._own)
            quiet = 0 if self.left() > 0 or goes_on else quiet + 1
            if quiet >= 6:
                return
        self.broker.findings.append("the coordinator does not come to rest")

    def left(self) -> int:
        """Deliveries that are not acknowledged; ticks come again and again, and the newest checkpoint is kept."""
        return sum(
            one.type not in ("tick", "checkpoint")
            for deliveries in self.broker.unacknowledged.values()
            for one in deliveries.values()
        )

    @property
    def restored(self) -> bool:
        """Whether a tick has made the store look older than the log."""
        return self._coordinator._leadership.restored

    def healthy(self) -> str:
        """Why it is not healthy; empty: it is."""
        is_healthy, reason = self._coordinator.healthy()
        return "" if is_healthy else reason

    def look_at_queues(self) -> None:
        """Look twice, more than a minute apart, at queues that are empty: what is in none of them is lost."""
        for _ in range(2):
            self._coordinator._watch._look_at_depths()
            for _ in range(65):
                self.meanwhile()
                self.round(1.0)

    def look_for_unknown_parents(self) -> None:
        """Let a day of log time pass, and look for parents that never came."""
        with self.store.transaction() as tx:
            tx.meta.log_time += 90_000.0
        self._coordinator._maintenance._last_unknown_parents = float("-inf")
        self._coordinator._maintenance.look_for_unknown_parents()

"""Beats: says to the coordinator, at each planned time of each schedule, that it has come.

A beat is a metronome and decides nothing. It learns the schedules from the coordinator (at the start, when told that
they changed, after a reconnect, and once a minute), and publishes a `Fire` at each planned time, never early by its
clock. When planned times have passed unfired (no beat ran, the broker was away, the clock stepped), it fires only the
latest of them, at once. A fire is only a prompt: the coordinator decides all planned times after the schedule's
`last_planned_at` that are due, so it knows what was missed and applies the misfire rule. Several beats, and a fire that
is repeated because its confirm did not come, do no harm.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from pydantic import ValidationError

from broker_jobs.beat.cron import latest, next_after
from broker_jobs.broker import names
from broker_jobs.broker.interface import Broker, Consumer, Delivery, Message, PublishFailure
from broker_jobs.clock import Clock, Instant
from broker_jobs.errors import OptionError
from broker_jobs.messages.commands import (
    BeatHeartbeat,
    DeclareRecurring,
    Fire,
    ListSchedules,
    Reply,
    Schedule,
    ScheduleReply,
)
from broker_jobs.messages.control import Control
from broker_jobs.messages.envelope import new_id
from broker_jobs.messages.process_info import ProcessInfo, this_process

logger = logging.getLogger(__name__)

ASK_EVERY_SECONDS = 60.0
REPEAT_SECONDS = 2.0
"""So long a beat waits for an answer, or after a failed publish, before it asks or publishes again."""
LOOK_EVERY_SECONDS = 1.0
"""The longest sleep, so that a step of the wall clock is noticed."""
UNTAKEN_SECONDS = 5.0
"""A fire that the coordinator's list does not know of after so long is fired again: it was lost, or came too early by
the coordinator's clock."""
HEARTBEAT_SECONDS = 10.0
"""So often a beat says that it lives, as it may have nothing to fire for months."""
AHEAD_SECONDS = 60.0
"""A schedule whose last planned time is so far ahead of now was planned by another clock: it is planned from now on."""
LATENESSES_KEPT = 1_000


class DueRun(NamedTuple):
    """A planned time of one version of a schedule."""

    planned_at: Instant
    name: str
    version: int


class _Known(NamedTuple):
    view: ScheduleReply
    next_at: Instant
    fired_at: Instant | None = None
    """The last planned time fired here."""


class ScheduleTimer:
    """Which planned time comes next; the part of a beat without threads or messages."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        """Schedules whose cron or time zone this program does not understand, and why."""
        self._known: dict[str, _Known] = {}
        self._heap: list[DueRun] = []  # may hold what is not next any more; `_known` says

    def learn(self, views: Iterable[ScheduleReply], now: Instant) -> None:
        """Take over the schedules there are; others are forgotten.

        A schedule that was never planned starts now. One whose next planned time has passed is due at once. What was
        fired here is not fired again, unless the coordinator still has not taken it after UNTAKEN_SECONDS.
        """
        learnt: dict[str, _Known] = {}
        self.refused = {}
        for view in views:
            if view.paused:
                continue
            known = self._known.get(view.name)
            last = view.last_planned_at
            if last is not None and last > now + AHEAD_SECONDS:
                last = None
                if known is not None and known.next_at > now:
                    known = None
            if known is not None and _same(known.view, view) and (last is None or last < known.next_at):
                fired_at = known.fired_at
                if fired_at is not None and (last is None or last < fired_at) and now - fired_at > UNTAKEN_SECONDS:
                    known = _Known(view, fired_at)
                learnt[view.name] = known
                continue
            try:
                next_at = next_after(view.cron, view.tz, now if last is None else last)
            except OptionError as error:
                self.refused[view.name] = str(error)
                continue
            learnt[view.name] = _Known(view, next_at)
        self._known = learnt
        self._heap = [DueRun(known.next_at, name, known.view.version) for name, known in learnt.items()]
        heapq.heapify(self._heap)

    def next_at(self) -> Instant | None:
        """When the next planned time comes; None when nothing is planned."""
        while self._heap:
            first = self._heap[0]
            known = self._known.get(first.name)
            if known is not None and known.next_at == first.planned_at:
                return first.planned_at
            heapq.heappop(self._heap)
        return None

    def due(self, now: Instant) -> list[DueRun]:
        """The planned times that have come, each once, of each schedule the latest; the earliest first."""
        fires: list[DueRun] = []
        while (next_at := self.next_at()) is not None and next_at <= now:
            first = heapq.heappop(self._heap)
            view = self._known[first.name].view
            newest = latest(view.cron, view.tz, first.planned_at, now)
            if newest is not None:
                first = first._replace(planned_at=newest)
            fires.append(first)
            following = next_after(view.cron, view.tz, first.planned_at)
            self._known[first.name] = _Known(view, following, first.planned_at)
            heapq.heappush(self._heap, first._replace(planned_at=following))
        return sorted(fires)


class Beat:
    """The metronome's thread.

    Args:
        exchange: started by the caller.
        clock: whose `now` says whether a planned time has come.
        origin: the program whose code declares `declared`; what it no longer declares is removed.
        declared: the recurring jobs of the code.
        id: who says so, in the coordinator's audit.
        on_fired: told of each fire's name and lateness in seconds, on the beat's thread.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        origin: str,
        declared: Sequence[Schedule],
        id: str,
        *,
        on_fired: Callable[[str, float], None] | None = None,
    ) -> None:
        if declared and not origin:
            raise ValueError("recurring jobs of the code need the name of their program")
        self.lateness: deque[float] = deque(maxlen=LATENESSES_KEPT)
        """Seconds from planned time to fire, of the last fires."""
        self._broker = broker
        self._clock = clock
        self._origin = origin
        self._id = id
        self._on_fired = on_fired
        self._metronome = ScheduleTimer()
        self._changed = threading.Condition()
        self._inbox: deque[Delivery] = deque()
        self._declare: DeclareRecurring | None = self._declaration(declared) if origin else None  # until answered
        self._declare_at = 0.0  # monotonic, as is the next one
        self._ask_at = 0.0
        self._sight_at = 0.0
        self._process_info = ProcessInfo()
        self._question = ""
        self._unsent: dict[str, DueRun] = {}  # by schedule: the latest whose publish failed
        self._repeat_at = 0.0
        self._ready = False  # answers can reach us
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._subscription: Consumer | None = None
        self._reply_to = ""

    def start(self) -> None:
        """Start beating; tolerates twice."""
        if self._thread is not None:
            return
        self._stopping = self._ready = False
        self._process_info = this_process()
        self._reply_to, self._subscription = self._broker.subscribe_private(
            self._receive, bind_to=names.CONTROL, on_ready=self._connected
        )
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop beating; tolerates twice and never started."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        thread.join(timeout)
        if self._subscription is not None:
            self._subscription.close()

    def declare(self, declared: Sequence[Schedule]) -> None:
        """Declare anew, when the code has declared more since the start: all of it, not the difference."""
        if not self._origin:
            raise ValueError("recurring jobs of the code need the name of their program")
        with self._changed:
            self._declare = self._declaration(declared)
            self._declare_at = 0.0
            self._changed.notify_all()

    def wake(self) -> None:
        """Look at the clock again: it was moved by hand."""
        with self._changed:
            self._changed.notify_all()

    # --- the exchange's thread ---

    def _receive(self, deliveries: list[Delivery]) -> None:
        with self._changed:
            self._inbox.extend(deliveries)
            self._changed.notify_all()

    def _connected(self, _: int) -> None:
        """News may have been lost with the connection, and so may an answer."""
        with self._changed:
            self._ready = True
            self._ask_at = self._declare_at = self._repeat_at = 0.0
            self._changed.notify_all()

    def _published(self, fires: list[DueRun], done: Future[list[PublishFailure | None]]) -> None:
        failed = [(fire, failure) for fire, failure in zip(fires, done.result(), strict=True) if failure is not None]
        if not failed:
            return
        logger.warning("%d fires are not confirmed (%s); repeating them", len(failed), failed[0][1].reason)
        with self._changed:
            for fire, _ in failed:
                self._unsent[fire.name] = max(fire, self._unsent.get(fire.name, fire))
            self._repeat_at = self._clock.monotonic() + REPEAT_SECONDS
            self._changed.notify_all()

    # --- the beat's thread ---

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                inbox, self._inbox = self._inbox, deque()
            try:
                self._read(inbox)
                self._speak()
            except Exception:
                logger.exception("the beat stumbled; it goes on in a second")
                self._sleep(LOOK_EVERY_SECONDS)
            else:
                self._sleep(self._pause())

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            if not self._stopping and not self._inbox and seconds > 0:
                self._changed.wait(seconds)

    def _pause(self) -> float:
        """Seconds until there is something to do; while nothing can be published, the longest sleep."""
        if not self._able():
            return LOOK_EVERY_SECONDS
        monotonic = self._clock.monotonic()
        waits = [LOOK_EVERY_SECONDS, self._ask_at - monotonic, self._sight_at - monotonic]
        if self._declare is not None:
            waits.append(self._declare_at - monotonic)
        if self._unsent:
            waits.append(self._repeat_at - monotonic)
        if (next_at := self._metronome.next_at()) is not None:
            waits.append(next_at - self._clock.now())
        return min(waits)

    def _able(self) -> bool:
        """Whether it is worth publishing: what passes meanwhile is one late fire later, not a heap of them."""
        return self._ready and self._broker.connected and not self._broker.blocked

    def _speak(self) -> None:
        if not self._able():
            return
        monotonic = self._clock.monotonic()
        if self._declare is not None and monotonic >= self._declare_at:
            self._declare_at = monotonic + REPEAT_SECONDS
            self._publish(self._declare)
        if monotonic >= self._ask_at:
            self._ask_at = monotonic + REPEAT_SECONDS
            question = ListSchedules(id=new_id(), at=self._clock.now(), by=self._id)
            self._question = question.id
            self._publish(question)
        now = self._clock.now()
        fires = self._metronome.due(now)
        for fire in fires:
            late = now - fire.planned_at
            self.lateness.append(late)
            if self._on_fired is not None:
                self._on_fired(fire.name, late)
        with self._changed:
            if self._unsent and monotonic >= self._repeat_at:
                newer = {fire.name for fire in fires}
                fires = [fire for fire in self._unsent.values() if fire.name not in newer] + fires
                self._unsent = {}
        if fires:
            messages = [self._message(self._fire(fire, now)) for fire in fires]
            self._broker.publish(messages).add_done_callback(partial(self._published, fires))
        if monotonic >= self._sight_at:
            self._sight_at = monotonic + HEARTBEAT_SECONDS
            host, pid, version = self._process_info
            self._broker.publish(
                [self._message(BeatHeartbeat(id=new_id(), at=now, by=self._id, host=host, pid=pid, version=version))]
            )

    def _read(self, inbox: Iterable[Delivery]) -> None:
        for delivery in inbox:
            try:
                if delivery.exchange == names.CONTROL:
                    if Control.model_validate_json(delivery.body).schedules_changed:
                        self._ask_at = 0.0
                        self._question = ""  # an answer under way may be older than this news
                else:
                    self._answered(Reply.model_validate_json(delivery.body))
            except ValidationError as error:
                logger.warning("a message to the beat cannot be read and is left out: %s", error)

    def _answered(self, reply: Reply) -> None:
        if self._declare is not None and reply.id == self._declare.id:
            self._declare = None
            if not reply.ok:
                logger.error("the coordinator refuses what this program declares: %s", reply.refused)
        elif reply.id == self._question and reply.ok:
            views = [ScheduleReply.model_validate(view) for view in reply.detail.get("schedules", ())]
            refused_before = self._metronome.refused
            self._metronome.learn(views, self._clock.now())
            self._question = ""
            self._ask_at = self._clock.monotonic() + ASK_EVERY_SECONDS
            for name, why in self._metronome.refused.items():
                if name not in refused_before:
                    logger.error("recurring job %s is not fired by this beat: %s", name, why)

    def _declaration(self, declared: Sequence[Schedule]) -> DeclareRecurring:
        return DeclareRecurring(
            id=new_id(), at=self._clock.now(), by=self._id, origin=self._origin, schedules=list(declared)
        )

    def _fire(self, fire: DueRun, now: Instant) -> Fire:
        return Fire(id=new_id(), at=now, by=self._id, name=fire.name, version=fire.version, planned_at=fire.planned_at)

    def _publish(self, command: DeclareRecurring | ListSchedules) -> None:
        """Send what is repeated anyway until it is answered."""
        self._broker.publish([self._message(command)._replace(reply_to=self._reply_to, correlation_id=command.id)])

    def _message(self, command: DeclareRecurring | ListSchedules | Fire | BeatHeartbeat) -> Message:
        body = command.model_dump_json().encode()
        return Message(names.REPORT, names.COMMAND_KEY, body, type="command", message_id=command.id)


def _same(one: ScheduleReply, other: ScheduleReply) -> bool:
    return (one.version, one.cron, one.tz) == (other.version, other.cron, other.tz)

"""Publishes a `Fire` to the coordinator at each planned time of each schedule.

A beat decides nothing. It requests the schedules from the coordinator (at the start, after a broadcast that they
changed, after a reconnect, and once a minute), and publishes a fire at each planned time, never early by its clock.
After missed planned times (no beat ran, the broker was unreachable, the clock stepped) it fires only the latest, at
once. The coordinator then decides all due planned times after the schedule's `last_planned_at`, so it knows which were
missed and applies the misfire rule. Running several beats, or repeating an unconfirmed fire, does no harm.

Over 300 lines: the thread and the pure timer inside it are read together.
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
from broker_jobs.broker.roles import command_exchange
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

REQUEST_EVERY_SECONDS = 60.0
"""Between two requests for the schedules."""
REPEAT_SECONDS = 2.0
"""A request without a reply, and a failed publish, are repeated after this."""
LONGEST_SLEEP_SECONDS = 1.0
"""Bounded, so that a step of the wall clock is noticed."""
REFIRE_SECONDS = 5.0
"""A fire that the coordinator's list does not show after this is fired again: it was lost, or was early by the
coordinator's clock."""
HEARTBEAT_SECONDS = 10.0
"""Between two heartbeats, which show that a beat runs even if it has nothing to fire for months."""
AHEAD_SECONDS = 60.0
"""A last planned time this far in the future comes from another clock: the schedule is planned from now on."""
MAX_LATENESSES = 1_000


class DueRun(NamedTuple):
    """A planned time of one version of a schedule."""

    planned_at: Instant
    name: str
    version: int


class _Timed(NamedTuple):
    schedule: ScheduleReply
    next_at: Instant
    fired_at: Instant | None = None
    """The last planned time that this beat fired."""


class ScheduleTimer:
    """Computes which planned time of which schedule is next. Pure: no threads, no messages."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        """Name -> reason, for schedules whose cron expression or time zone this program cannot use."""
        self._timed: dict[str, _Timed] = {}
        self._heap: list[DueRun] = []  # may contain outdated entries; `_timed` decides

    def update(self, schedules: Iterable[ScheduleReply], now: Instant) -> None:
        """Replace all schedules by these.

        A schedule that was never planned starts now. One whose next planned time has passed is due at once. A planned
        time that was fired is not fired again, unless the coordinator has not recorded it after REFIRE_SECONDS.
        """
        updated: dict[str, _Timed] = {}
        self.refused = {}
        for schedule in schedules:
            if schedule.paused:
                continue
            timed = self._timed.get(schedule.name)
            last = schedule.last_planned_at
            if last is not None and last > now + AHEAD_SECONDS:
                last = None
                if timed is not None and timed.next_at > now:
                    timed = None
            if timed is not None and _same_times(timed.schedule, schedule) and (last is None or last < timed.next_at):
                fired_at = timed.fired_at
                if fired_at is not None and (last is None or last < fired_at) and now - fired_at > REFIRE_SECONDS:
                    timed = _Timed(schedule, fired_at)
                updated[schedule.name] = timed
                continue
            try:
                next_at = next_after(schedule.cron, schedule.tz, now if last is None else last)
            except OptionError as error:
                self.refused[schedule.name] = str(error)
                continue
            updated[schedule.name] = _Timed(schedule, next_at)
        self._timed = updated
        self._heap = [DueRun(timed.next_at, name, timed.schedule.version) for name, timed in updated.items()]
        heapq.heapify(self._heap)

    def next_at(self) -> Instant | None:
        """The next planned time; None: there is none."""
        while self._heap:
            first = self._heap[0]
            timed = self._timed.get(first.name)
            if timed is not None and timed.next_at == first.planned_at:
                return first.planned_at
            heapq.heappop(self._heap)
        return None

    def due(self, now: Instant) -> list[DueRun]:
        """Remove and return the planned times that are due, the latest one of each schedule, earliest first."""
        fires: list[DueRun] = []
        while (next_at := self.next_at()) is not None and next_at <= now:
            first = heapq.heappop(self._heap)
            schedule = self._timed[first.name].schedule
            newest = latest(schedule.cron, schedule.tz, first.planned_at, now)
            if newest is not None:
                first = first._replace(planned_at=newest)
            fires.append(first)
            following = next_after(schedule.cron, schedule.tz, first.planned_at)
            self._timed[first.name] = _Timed(schedule, following, first.planned_at)
            heapq.heappush(self._heap, first._replace(planned_at=following))
        return sorted(fires)


class Beat:
    """The thread that fires.

    Args:
        broker: started by the caller.
        clock: its `now` decides whether a planned time is due.
        service: the program whose code declares `declared`; recurring jobs that it no longer declares are removed.
        declared: the recurring jobs in the code.
        id: the sender, for the coordinator's audit.
        on_fired: called with the name of each fire and its lateness in seconds, on the beat's thread.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        service: str,
        declared: Sequence[Schedule],
        id: str,
        *,
        on_fired: Callable[[str, float], None] | None = None,
    ) -> None:
        if declared and not service:
            raise ValueError("recurring jobs of the code need the name of their program")
        self.lateness: deque[float] = deque(maxlen=MAX_LATENESSES)
        """Seconds from planned time to fire, for the last fires."""
        self._broker = broker
        self._clock = clock
        self._service = service
        self._id = id
        self._on_fired = on_fired
        self._timer = ScheduleTimer()
        self._changed = threading.Condition()
        self._received: deque[Delivery | None] = deque()  # None: the connection is a new one
        self._declare: DeclareRecurring | None = self._declaration(declared) if service else None  # until answered
        self._declare_at = 0.0  # monotonic, as are the next two
        self._request_at = 0.0
        self._heartbeat_at = 0.0
        self._process_info = ProcessInfo()
        self._request_id = ""  # of the request whose reply is awaited
        self._listed: list[ScheduleReply] = []  # of the pages before it
        self._unsent: dict[str, DueRun] = {}  # by schedule: the latest fire whose publish failed
        self._repeat_at = 0.0
        self._ready = False  # the reply queue exists
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._subscription: Consumer | None = None
        self._reply_to = ""

    def start(self) -> None:
        """Start the thread. Calling it again does nothing."""
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
        """Stop the thread, waiting at most `timeout` seconds. May be called twice, and without start()."""
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
        """Declare again, after the code has declared more: all recurring jobs, not the difference."""
        if not self._service:
            raise ValueError("recurring jobs of the code need the name of their program")
        with self._changed:
            self._declare = self._declaration(declared)
            self._declare_at = 0.0
            self._changed.notify_all()

    def wake(self) -> None:
        """Look at the clock again, after a test has moved it."""
        with self._changed:
            self._changed.notify_all()

    # --- on the broker's thread ---

    def _receive(self, deliveries: list[Delivery]) -> None:
        with self._changed:
            self._received.extend(deliveries)
            self._changed.notify_all()

    def _connected(self, _: int) -> None:
        """Repeat everything: broadcasts and replies may have been lost with the connection."""
        with self._changed:
            self._ready = True
            self._received.append(None)  # behind the replies that came before
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
                deliveries, self._received = self._received, deque()
            try:
                self._handle(deliveries)
                self._publish_due()
            except Exception:
                logger.exception("the beat failed; it continues in a second")
                self._sleep(LONGEST_SLEEP_SECONDS)
            else:
                self._sleep(self._pause())

    def _sleep(self, seconds: float) -> None:
        with self._changed:
            if not self._stopping and not self._received and seconds > 0:
                self._changed.wait(seconds)

    def _pause(self) -> float:
        """Seconds until there is something to do; while nothing can be published, the longest sleep."""
        if not self._can_publish():
            return LONGEST_SLEEP_SECONDS
        monotonic = self._clock.monotonic()
        waits = [LONGEST_SLEEP_SECONDS, self._request_at - monotonic, self._heartbeat_at - monotonic]
        if self._declare is not None:
            waits.append(self._declare_at - monotonic)
        if self._unsent:
            waits.append(self._repeat_at - monotonic)
        if (next_at := self._timer.next_at()) is not None:
            waits.append(next_at - self._clock.now())
        return min(waits)

    def _can_publish(self) -> bool:
        """Whether the broker accepts messages. Planned times that pass meanwhile become one late fire per schedule."""
        return self._ready and self._broker.connected and not self._broker.blocked

    def _publish_due(self) -> None:
        """Publish whatever is due: declaration, request, fires, heartbeat."""
        if not self._can_publish():
            return
        monotonic = self._clock.monotonic()
        if self._declare is not None and monotonic >= self._declare_at:
            self._declare_at = monotonic + REPEAT_SECONDS
            self._publish(self._declare)
        if monotonic >= self._request_at:
            self._request_at = monotonic + REPEAT_SECONDS
            self._listed = []
            self._ask_for_schedules()
        now = self._clock.now()
        fires = self._timer.due(now)
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
        if monotonic >= self._heartbeat_at:
            self._heartbeat_at = monotonic + HEARTBEAT_SECONDS
            host, pid, version = self._process_info
            self._broker.publish(
                [self._message(BeatHeartbeat(id=new_id(), at=now, by=self._id, host=host, pid=pid, version=version))]
            )

    def _handle(self, deliveries: Iterable[Delivery | None]) -> None:
        for delivery in deliveries:
            if delivery is None:
                self._request_at = self._declare_at = self._repeat_at = 0.0
                self._request_id = ""
                continue
            try:
                if delivery.exchange == names.CONTROL:
                    if Control.model_validate_json(delivery.body).schedules_changed:
                        self._request_at = 0.0
                        self._request_id = ""  # a reply under way may be older than this change
                else:
                    self._handle_reply(Reply.model_validate_json(delivery.body))
            except ValidationError as error:
                logger.warning("a message to the beat could not be decoded and is ignored: %s", error)

    def _handle_reply(self, reply: Reply) -> None:
        if self._declare is not None and reply.id == self._declare.id:
            self._declare = None
            if not reply.ok:
                logger.error("the coordinator refuses the recurring jobs of this program: %s", reply.refused)
        elif reply.id == self._request_id and reply.ok:
            self._listed += [ScheduleReply.model_validate(schedule) for schedule in reply.detail.get("schedules", ())]
            if reply.detail.get("more") and self._listed:
                self._request_at = self._clock.monotonic() + REPEAT_SECONDS
                self._ask_for_schedules(after=self._listed[-1].name)
                return
            schedules, self._listed = self._listed, []
            refused_before = self._timer.refused
            self._timer.update(schedules, self._clock.now())
            self._request_id = ""
            self._request_at = self._clock.monotonic() + REQUEST_EVERY_SECONDS
            for name, reason in self._timer.refused.items():
                if name not in refused_before:
                    logger.error("recurring job %s is not fired by this beat: %s", name, reason)

    def _ask_for_schedules(self, after: str = "") -> None:
        """Ask for the first page, or for the one after a name."""
        request = ListSchedules(id=new_id(), at=self._clock.now(), by=self._id, after=after)
        self._request_id = request.id
        self._publish(request)

    def _declaration(self, declared: Sequence[Schedule]) -> DeclareRecurring:
        return DeclareRecurring(
            id=new_id(), at=self._clock.now(), by=self._id, service=self._service, schedules=list(declared)
        )

    def _fire(self, fire: DueRun, now: Instant) -> Fire:
        return Fire(id=new_id(), at=now, by=self._id, name=fire.name, version=fire.version, planned_at=fire.planned_at)

    def _publish(self, command: DeclareRecurring | ListSchedules) -> None:
        """Publish a command that is repeated until it is answered."""
        self._broker.publish([self._message(command)._replace(reply_to=self._reply_to, correlation_id=command.id)])

    def _message(self, command: DeclareRecurring | ListSchedules | Fire | BeatHeartbeat) -> Message:
        body = command.model_dump_json().encode()
        return Message(command_exchange(command.kind), names.COMMAND_KEY, body, type="command", message_id=command.id)


def _same_times(one: ScheduleReply, other: ScheduleReply) -> bool:
    return (one.version, one.cron, one.tz) == (other.version, other.cron, other.tz)

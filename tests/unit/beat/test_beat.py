"""A beat on the in-memory broker, with a coordinator that replies as each test needs."""

import os
import threading
from collections.abc import Iterator

import pytest

from broker_jobs.beat.beat import Beat
from broker_jobs.broker import names
from broker_jobs.broker.interface import Consumer, Delivery, Message, Unconfirmed
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.clock import ManualClock, SystemClock
from broker_jobs.messages.commands import (
    COMMAND,
    BeatHeartbeat,
    Command,
    DeclareRecurring,
    Fire,
    ListSchedules,
    Reply,
    Schedule,
    ScheduleReply,
)
from broker_jobs.messages.control import Control
from tests.support.consume import consume
from tests.support.wait import eventually

DECLARED = [Schedule(name="a", cron="* * * * *", call="{}", service="shop")]


class Coordinator:
    """Records commands, and replies with the schedules of the test."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.views: list[ScheduleReply] = []
        self.page = 1_000
        """Schedules in one reply."""
        self.silent = False
        self.refuses: str | None = None
        self.received: list[Command] = []
        self.reply_to = ""
        consume(broker, [names.COMMAND], self.receive, prefetch=100)

    def receive(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            consumer.ack(delivery.channel, delivery.tag)
            assert delivery.type == "command"
            command = COMMAND.validate_json(delivery.body)
            self.reply_to = delivery.reply_to or ""
            self.received.append(command)
            if self.silent or delivery.reply_to is None:
                continue
            reply = Reply(id=command.id, ok=self.refuses is None, refused=self.refuses)
            if isinstance(command, ListSchedules):
                after = [view for view in self.views if view.name > command.after]
                shown = [view.model_dump(mode="json") for view in after[: self.page]]
                detail = {"schedules": shown, "version": 1, "more": len(after) > self.page}
                reply = Reply(id=command.id, detail=detail)
            self.broker.publish([Message("", delivery.reply_to, reply.model_dump_json().encode(), "reply")])

    def broadcast(self, *, schedules_changed: bool) -> None:
        control = Control(version=1, schedules_changed=schedules_changed)
        self.broker.publish([Message(names.CONTROL, "", control.model_dump_json().encode(), "control")]).result(30)

    def fires(self) -> list[tuple[str, int, float]]:
        return [(c.name, c.version, c.planned_at) for c in list(self.received) if isinstance(c, Fire)]

    def requests(self) -> int:
        return sum(isinstance(command, ListSchedules) for command in list(self.received))

    def declared(self) -> list[DeclareRecurring]:
        return [command for command in list(self.received) if isinstance(command, DeclareRecurring)]


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    broker = MemoryBroker()
    broker.start()
    broker.apply(fixed_topology())
    yield broker
    broker.stop()


@pytest.fixture
def coordinator(broker: MemoryBroker) -> Coordinator:
    return Coordinator(broker)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def beat(broker: MemoryBroker, clock: ManualClock) -> Iterator[Beat]:
    beat = Beat(broker, clock, "", [], "beat-1")
    yield beat
    beat.stop()


def view(clock: ManualClock, name: str = "a", cron: str = "* * * * *", version: int = 1) -> ScheduleReply:
    return ScheduleReply(name=name, cron=cron, tz="UTC", version=version, paused=False, last_planned_at=clock.now())


def advance(beat: Beat, clock: ManualClock, seconds: float) -> None:
    clock.advance(seconds)
    beat.wake()


def test_it_fires_at_the_planned_time_and_not_before(coordinator: Coordinator, beat: Beat, clock: ManualClock) -> None:
    start = clock.now()
    coordinator.views = [view(clock, version=3)]
    beat.start()
    eventually(coordinator.requests)
    advance(beat, clock, 59.9)
    advance(beat, clock, 0.0)
    assert coordinator.fires() == []
    advance(beat, clock, 0.15)
    eventually(lambda: coordinator.fires() == [("a", 3, start + 60)])
    assert [round(late, 3) for late in beat.lateness] == [0.05]


def test_it_repeats_its_declaration_until_it_is_answered(
    broker: MemoryBroker, coordinator: Coordinator, clock: ManualClock
) -> None:
    coordinator.silent = True
    beat = Beat(broker, clock, "shop", DECLARED, "beat-1")
    beat.start()
    eventually(coordinator.declared)
    advance(beat, clock, 2.0)
    eventually(lambda: len(coordinator.declared()) == 2)
    one, two = coordinator.declared()
    assert (one.id, one.service, one.schedules, one.by) == (two.id, "shop", DECLARED, "beat-1")
    coordinator.silent = False
    advance(beat, clock, 2.0)
    eventually(lambda: len(coordinator.declared()) == 3)
    eventually(lambda: beat._declare is None)
    advance(beat, clock, 2.0)
    beat.declare([])
    eventually(lambda: len(coordinator.declared()) == 4)
    assert coordinator.declared()[3].schedules == []
    beat.stop()


def test_a_program_without_recurring_jobs_declares_an_empty_list(
    broker: MemoryBroker, coordinator: Coordinator, clock: ManualClock
) -> None:
    beat = Beat(broker, clock, "shop", [], "beat-1")
    beat.start()
    assert eventually(coordinator.declared)[0].schedules == []
    beat.stop()


def test_a_beat_without_a_program_cannot_declare(coordinator: Coordinator, beat: Beat) -> None:
    beat.start()
    eventually(coordinator.requests)
    assert coordinator.declared() == []
    with pytest.raises(ValueError, match="name of their program"):
        beat.declare(DECLARED)
    with pytest.raises(ValueError, match="name of their program"):
        Beat(coordinator.broker, SystemClock(), "", DECLARED, "beat-2")


def test_a_refused_declaration_is_logged_and_not_repeated(
    broker: MemoryBroker, coordinator: Coordinator, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.refuses = "cron is wrong"
    beat = Beat(broker, clock, "shop", DECLARED, "beat-1")
    beat.start()
    eventually(lambda: "cron is wrong" in caplog.text)
    beat.stop()


def test_only_a_change_of_schedules_makes_it_request_again(
    coordinator: Coordinator, beat: Beat, clock: ManualClock
) -> None:
    beat.start()
    eventually(coordinator.requests)
    coordinator.broadcast(schedules_changed=False)
    coordinator.views = [view(clock)]
    coordinator.broadcast(schedules_changed=True)
    eventually(lambda: coordinator.requests() == 2)
    start = clock.now()
    eventually(lambda: beat._timer.next_at() == start + 60)
    advance(beat, clock, 60)
    eventually(coordinator.fires)


def test_schedules_that_come_in_pages_are_all_fired(coordinator: Coordinator, beat: Beat, clock: ManualClock) -> None:
    coordinator.page = 2
    coordinator.views = [view(clock, f"s{n}") for n in range(5)]
    beat.start()
    eventually(lambda: coordinator.requests() == 3, what="a request for each page")
    advance(beat, clock, 60.0)
    eventually(lambda: len(coordinator.fires()) == 5)
    assert {name for name, *_ in coordinator.fires()} == {"s0", "s1", "s2", "s3", "s4"}


def test_a_reply_older_than_a_change_is_followed_by_another_request(coordinator: Coordinator, beat: Beat) -> None:
    coordinator.silent = True
    beat.start()
    eventually(lambda: coordinator.requests() == 1, what="its first request")
    request = next(command for command in coordinator.received if isinstance(command, ListSchedules))
    stale = Reply(id=request.id, detail={"schedules": [], "version": 1})
    control = Control(version=1, schedules_changed=True)
    coordinator.broker.publish(
        [
            Message(names.CONTROL, "", control.model_dump_json().encode(), "control"),
            Message("", coordinator.reply_to, stale.model_dump_json().encode(), "reply"),
        ]
    ).result(30)
    eventually(lambda: coordinator.requests() == 2, what="its second request")


def test_it_requests_once_a_minute_and_every_two_seconds_without_a_reply(
    coordinator: Coordinator, beat: Beat, clock: ManualClock
) -> None:
    coordinator.silent = True
    beat.start()
    eventually(lambda: coordinator.requests() == 1)
    advance(beat, clock, 2)
    eventually(lambda: coordinator.requests() == 2)
    coordinator.silent = False
    advance(beat, clock, 2)
    eventually(lambda: coordinator.requests() == 3)
    eventually(lambda: beat._request_id == "")
    advance(beat, clock, 59)
    advance(beat, clock, 1)
    eventually(lambda: coordinator.requests() == 4)


def test_a_reconnect_makes_it_request_again(coordinator: Coordinator, beat: Beat) -> None:
    beat.start()
    eventually(coordinator.requests)
    eventually(lambda: beat._request_id == "")
    coordinator.broker.lose_connections()
    eventually(lambda: coordinator.requests() == 2)


@pytest.mark.parametrize("kind", list(Unconfirmed))
def test_a_fire_without_a_confirm_is_repeated(
    coordinator: Coordinator, beat: Beat, clock: ManualClock, kind: Unconfirmed
) -> None:
    start = clock.now()
    coordinator.views = [view(clock, cron="*/30 * * * * *")]
    beat.start()
    eventually(beat._timer.next_at)
    coordinator.broker.fail_next(kind)
    advance(beat, clock, 30)
    eventually(lambda: beat._unsent)
    assert coordinator.fires() == []
    advance(beat, clock, 2)
    eventually(lambda: coordinator.fires() == [("a", 1, start + 30)])
    assert beat._unsent == {}


def test_a_beat_without_schedules_sends_a_heartbeat_every_ten_seconds(
    coordinator: Coordinator, beat: Beat, clock: ManualClock
) -> None:
    def heartbeats() -> list[BeatHeartbeat]:
        return [command for command in list(coordinator.received) if isinstance(command, BeatHeartbeat)]

    beat.start()
    eventually(lambda: len(heartbeats()) == 1)
    for times in range(2, 5):
        advance(beat, clock, 9)
        eventually(lambda: beat._heartbeat_at - clock.monotonic() == 1)
        assert len(heartbeats()) == times - 1
        advance(beat, clock, 1)
        eventually(lambda times=times: len(heartbeats()) == times)  # type: ignore[misc]
    last = heartbeats()[-1]
    assert (last.by, last.at, last.pid) == ("beat-1", clock.now(), os.getpid())
    assert last.host


def test_after_an_outage_only_the_latest_time_is_fired(
    coordinator: Coordinator, beat: Beat, clock: ManualClock
) -> None:
    start = clock.now()
    coordinator.views = [view(clock)]
    beat.start()
    eventually(beat._timer.next_at)
    coordinator.broker.disconnect()
    for _ in range(10):
        advance(beat, clock, 60)
    coordinator.broker.reconnect()
    eventually(lambda: coordinator.fires() == [("a", 1, start + 600)])


def test_a_message_that_cannot_be_decoded_is_ignored(
    coordinator: Coordinator, beat: Beat, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator.views = [view(clock, "bad", "0 9 * * MO"), view(clock)]
    beat.start()
    eventually(coordinator.requests)
    for broker, key in ((names.CONTROL, ""), ("", beat._reply_to)):
        coordinator.broker.publish([Message(broker, key, b"\xff{")]).result(30)
    eventually(lambda: caplog.text.count("could not be decoded") == 2)
    assert "'MO' is not a valid weekday" in caplog.text
    advance(beat, clock, 60)
    eventually(lambda: [name for name, _, _ in coordinator.fires()] == ["a"])


def test_every_fire_is_reported_with_its_lateness(
    broker: MemoryBroker, coordinator: Coordinator, clock: ManualClock
) -> None:
    fired: list[tuple[str, float]] = []
    beat = Beat(broker, clock, "", [], "beat-1", on_fired=lambda name, late: fired.append((name, late)))
    coordinator.views = [view(clock)]
    beat.start()
    eventually(beat._timer.next_at)
    advance(beat, clock, 61.5)
    eventually(lambda: [(name, round(late, 3)) for name, late in fired] == [("a", 1.5)])
    beat.stop()


def test_by_the_real_clock_it_fires_every_second_within_half_a_second(
    broker: MemoryBroker, coordinator: Coordinator
) -> None:
    clock = SystemClock()
    coordinator.views = [ScheduleReply(name="s", cron="* * * * * *", tz="UTC", version=1, paused=False)]
    beat = Beat(broker, clock, "", [], "beat-1")
    beat.start()
    eventually(lambda: len(coordinator.fires()) >= 3)
    beat.stop()
    planned = [planned_at for _, _, planned_at in coordinator.fires()]
    assert planned == [planned[0] + n for n in range(len(planned))]
    assert all(0 <= late < 0.5 for late in beat.lateness)


def test_start_and_stop_may_be_called_twice_and_leave_no_thread(beat: Beat, coordinator: Coordinator) -> None:
    threads = set(threading.enumerate())
    beat.stop()
    beat.start()
    beat.start()
    eventually(coordinator.requests)
    beat.stop()
    beat.stop()
    assert set(threading.enumerate()) <= threads
    before = coordinator.requests()
    beat.start()
    eventually(lambda: coordinator.requests() > before)


def test_a_reply_of_before_a_new_connection_does_not_count_after_it(beat: Beat, coordinator: Coordinator) -> None:
    """What changed while the connection was away is not in it."""
    coordinator.silent = True
    beat.start()
    eventually(coordinator.requests)
    asked = next(command for command in coordinator.received if isinstance(command, ListSchedules))
    body = Reply(id=asked.id, detail={"schedules": [], "version": 1}).model_dump_json().encode()
    late = Delivery(
        channel=1, tag=1, queue="", body=body, redelivered=False, exchange="", key=coordinator.reply_to, type="reply",
        message_id="", reply_to=None, correlation_id=None, delivery_count=0,
    )  # fmt: skip
    with beat._changed:  # both are there when the beat looks
        before = coordinator.requests()
        beat._receive([late])
        beat._connected(2)
    eventually(lambda: coordinator.requests() > before, 3)

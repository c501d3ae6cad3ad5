"""Releases committed a moment ahead go at their time: never before, and not for ever later."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker_jobs.broker.interface import Message
from broker_jobs.clock import ManualClock, SystemClock
from broker_jobs.coordinator.precise_timer import LONGEST_SECONDS, PreciseTimer
from broker_jobs.coordinator.records import TimerDue
from broker_jobs.store.row import Row
from tests.support.wait import eventually
from tests.unit.coordinator.engine_harness import EngineHarness


class Out:
    """What came through a gate, and when."""

    def __init__(self, clock: SystemClock | ManualClock) -> None:
        self.clock = clock
        self.went: list[tuple[str, float]] = []
        self.abandoned: list[str] = []
        self.timer = PreciseTimer(clock, self.publish, lambda rows: self.abandoned.extend(row.id for row in rows))

    def publish(self, rows: list[Row], messages: list[Message]) -> None:
        assert [message.message_id for message in messages] == [row.id for row in rows]
        self.went += [(row.id, self.clock.now()) for row in rows]

    def hold(self, *ids_and_times: tuple[str, float]) -> None:
        rows = [Row(id=id, released_at=at) for id, at in ids_and_times]
        self.timer.hold(rows, [Message("", "", b"", message_id=row.id) for row in rows])


@pytest.fixture
def out() -> Iterator[Out]:
    out = Out(SystemClock())
    out.timer.start()
    yield out
    out.timer.stop()


def test_each_goes_at_its_time_and_none_before(out: Out) -> None:
    start = out.clock.now()
    out.hold(("b", start + 0.06), ("a", start + 0.02), ("c", start + 0.06))
    eventually(lambda: len(out.went) == 3, what="all went")
    assert [id for id, _ in out.went] == ["a", "b", "c"]
    assert all(at >= start + wait for (_, at), wait in zip(out.went, (0.02, 0.06, 0.06), strict=True))


def test_a_stop_lets_go_what_is_held(out: Out) -> None:
    out.hold(("a", out.clock.now() + 0.05))
    out.timer.stop()
    assert [id for id, _ in out.went] == ["a"]
    out.timer.stop()


def test_who_stands_before_a_clock_that_was_set_back_is_given_up() -> None:
    clock = ManualClock()
    out = Out(clock)
    out.hold(("a", clock.now() + 0.02))
    clock.advance(LONGEST_SECONDS)
    clock.set_wall(0.0)
    out.timer.start()
    eventually(lambda: out.abandoned == ["a"], what="it is given up")
    assert out.went == []
    out.timer.stop()


def test_the_engine_releases_ahead_only_what_is_due_so_soon() -> None:
    harness = EngineHarness()
    harness.apply(harness.held("a", delay=10.0), harness.held("b", delay=10.03))
    harness.now += 9.985
    effects = harness.engine.apply([TimerDue("a"), TimerDue("b")], harness.now, ahead=0.02)
    assert [(row.id, row.released_at) for row in effects.releases] == [("a", harness.row("a").due_at)]

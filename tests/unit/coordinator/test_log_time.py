"""Clocks that step and stores that go back: what the coordinator's own marks in the log tell it."""

from __future__ import annotations

import pytest

from broker_jobs.coordinator.records import FromWorker, ReleaseUnknown, TimerDue
from broker_jobs.messages.events import Failed, Tick
from tests.unit.coordinator.engine_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_log_time_goes_on_after_a_clock_was_set_back(desk: Desk) -> None:
    def tick(sent_at: float) -> float:
        desk.apply(desk.tick(sent_at))
        return desk.store.reader.meta().log_time

    before = tick(desk.now) and tick(desk.now + 1)
    assert tick(desk.now + 86_400) <= before + 1
    tick(desk.now + 2)  # the clock is set back: this one counts nothing
    begin = desk.store.reader.meta().log_time
    assert [tick(desk.now + 2 + n) - begin for n in (1, 2, 3)] == [1, 2, 3]


def test_ticks_that_were_buffered_are_worth_one_second_together(desk: Desk) -> None:
    desk.ticks(5)
    begin = desk.store.reader.meta().log_time
    buffered = [desk.tick(desk.now + second) for second in range(1, 13)]
    for tick in buffered[:6]:  # in several transactions, as they are delivered
        desk.apply(tick)
    desk.apply(*buffered[6:])
    assert desk.store.reader.meta().log_time == begin + 1.0
    desk.now += 13.0
    desk.apply(desk.tick())
    assert desk.store.reader.meta().log_time == begin + 2.0


def test_log_time_goes_on_when_a_tick_was_lost(desk: Desk) -> None:
    desk.ticks(5)
    begin = desk.store.reader.meta().log_time
    desk.tick(desk.now + 1.0)
    again = desk.tick(desk.now + 3.0)
    desk.apply(again)
    desk.apply(again)  # delivered a second time
    assert desk.store.reader.meta().log_time == begin + 1.0


def test_ticks_of_the_coordinator_before_and_of_a_standby_count_nothing(desk: Desk) -> None:
    desk.ticks(5)
    begin = desk.store.reader.meta().log_time
    before = [desk.tick(desk.now + second) for second in range(1, 9)]
    after = Desk(desk.store, id="c2")
    after.apply(*before)
    assert after.store.reader.meta().log_time == begin
    standing_by = [after.tick(desk.now + second) for second in range(1, 200)]
    after.apply(after.tick(desk.now + 200.0))
    after.apply(*standing_by)
    assert after.store.reader.meta().log_time <= begin + 1.0


def test_a_grace_does_not_end_in_the_moment_a_broker_thaws(desk: Desk) -> None:
    desk.ticks(1)
    desk.apply(desk.held())
    row = desk.row()
    desk.apply(ReleaseUnknown("j", row.epoch))
    buffered = [desk.tick(desk.now + second) for second in range(1, 61)]
    desk.now += 61.0
    for tick in buffered:
        desk.apply(tick)
        assert desk.apply(TimerDue("j")).releases == []
    desk.ticks(10)
    assert len(desk.apply(TimerDue("j")).releases) == 1


def test_a_store_that_went_back_releases_nothing_of_the_same_batch(desk: Desk) -> None:
    meta = desk.store.reader.meta()
    effects = desk.apply(
        desk.held(), Tick(coordinator="c2", store=meta.store_id, serial=meta.serial + 100, sent_at=desk.now)
    )
    assert effects.went_back == meta.serial + 100
    assert effects.releases == []


def test_a_delay_a_job_asks_for_is_bounded_as_all_delays_are(desk: Desk) -> None:
    told = desk.failed()
    event = told.event.model_copy(update={"retry_after": 1e300})
    assert isinstance(event, Failed)
    desk.apply(desk.ready(), FromWorker(told.worker, event))
    assert desk.row().due_at == desk.now + 315_360_000

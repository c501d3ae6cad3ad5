"""Clocks that step and stores that go back: what the coordinator's own marks in the log tell it."""

from __future__ import annotations

import pytest

from broker_jobs.coordinator.records import FromWorker, ReleaseUnknown, TimerDue
from broker_jobs.messages.events import Failed, Tick
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def test_log_time_goes_on_after_a_clock_was_set_back(harness: EngineHarness) -> None:
    def tick(sent_at: float) -> float:
        harness.apply(harness.tick(sent_at))
        return harness.store.reader.meta().log_time

    before = tick(harness.now) and tick(harness.now + 1)
    assert tick(harness.now + 86_400) <= before + 1
    tick(harness.now + 2)  # the clock is set back: this one counts nothing
    begin = harness.store.reader.meta().log_time
    assert [tick(harness.now + 2 + n) - begin for n in (1, 2, 3)] == [1, 2, 3]


def test_ticks_that_were_buffered_are_worth_one_second_together(harness: EngineHarness) -> None:
    harness.ticks(5)
    begin = harness.store.reader.meta().log_time
    buffered = [harness.tick(harness.now + second) for second in range(1, 13)]
    for tick in buffered[:6]:  # in several transactions, as they are delivered
        harness.apply(tick)
    harness.apply(*buffered[6:])
    assert harness.store.reader.meta().log_time == begin + 1.0
    harness.now += 13.0
    harness.apply(harness.tick())
    assert harness.store.reader.meta().log_time == begin + 2.0


def test_log_time_goes_on_when_a_tick_was_lost(harness: EngineHarness) -> None:
    harness.ticks(5)
    begin = harness.store.reader.meta().log_time
    harness.tick(harness.now + 1.0)
    again = harness.tick(harness.now + 3.0)
    harness.apply(again)
    harness.apply(again)  # delivered a second time
    assert harness.store.reader.meta().log_time == begin + 1.0


def test_ticks_of_the_coordinator_before_and_of_a_standby_count_nothing(harness: EngineHarness) -> None:
    harness.ticks(5)
    begin = harness.store.reader.meta().log_time
    before = [harness.tick(harness.now + second) for second in range(1, 9)]
    after = EngineHarness(harness.store, id="c2")
    after.apply(*before)
    assert after.store.reader.meta().log_time == begin
    standing_by = [after.tick(harness.now + second) for second in range(1, 200)]
    after.apply(after.tick(harness.now + 200.0))
    after.apply(*standing_by)
    assert after.store.reader.meta().log_time <= begin + 1.0


def test_a_grace_does_not_end_in_the_moment_a_broker_thaws(harness: EngineHarness) -> None:
    harness.ticks(1)
    harness.apply(harness.held())
    row = harness.row()
    harness.apply(ReleaseUnknown("j", row.epoch))
    buffered = [harness.tick(harness.now + second) for second in range(1, 61)]
    harness.now += 61.0
    for tick in buffered:
        harness.apply(tick)
        assert harness.apply(TimerDue("j")).releases == []
    harness.ticks(10)
    assert len(harness.apply(TimerDue("j")).releases) == 1


def test_a_store_that_went_back_releases_nothing_of_the_same_batch(harness: EngineHarness) -> None:
    meta = harness.store.reader.meta()
    effects = harness.apply(
        harness.held(), Tick(coordinator="c2", store=meta.store_id, serial=meta.serial + 100, sent_at=harness.now)
    )
    assert effects.went_back == meta.serial + 100
    assert effects.releases == []


def test_a_delay_a_job_asks_for_is_bounded_as_all_delays_are(harness: EngineHarness) -> None:
    told = harness.failed()
    event = told.event.model_copy(update={"retry_after": 1e300})
    assert isinstance(event, Failed)
    harness.apply(harness.ready(), FromWorker(told.worker, event))
    assert harness.row().due_at == harness.now + 315_360_000

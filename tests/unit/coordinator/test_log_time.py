"""Clocks that step and stores that go back: what the coordinator's own marks in the log tell it."""

from __future__ import annotations

import pytest

from broker_jobs.coordinator.record import Told
from broker_jobs.outcome.event import Failed, Tick
from tests.unit.coordinator.desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_log_time_goes_on_after_a_clock_was_set_back(desk: Desk) -> None:
    def tick(sent_at: float) -> float:
        meta = desk.store.reader.meta()
        desk.apply(Tick(coordinator="c1", store=meta.store_id, serial=0, sent_at=sent_at))
        return desk.store.reader.meta().log_time

    before = tick(desk.now) and tick(desk.now + 1)
    assert tick(desk.now + 86_400) <= before + 1
    tick(desk.now + 2)  # the clock is set back: this one counts nothing
    begin = desk.store.reader.meta().log_time
    assert [tick(desk.now + 2 + n) - begin for n in (1, 2, 3)] == [1, 2, 3]


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
    desk.apply(desk.ready(), Told(told.worker, event))
    assert desk.row().due_at == desk.now + 315_360_000

"""A recurring job that is due and that no beat has fired is seen, as nothing else tells of a silent beat."""

from __future__ import annotations

from dataclasses import replace

from broker_jobs.coordinator.watch import OverdueSchedules
from broker_jobs.store.records import ScheduleRow

MINUTELY = ScheduleRow(name="minutely", cron="* * * * *", last_planned_at=6_000.0)
HOURLY = ScheduleRow(name="hourly", cron="0 * * * *", last_planned_at=3_600.0)


def test_nothing_is_overdue_before_its_next_planned_time() -> None:
    assert OverdueSchedules().seconds([MINUTELY, HOURLY], 6_059.0) == 0
    assert OverdueSchedules().seconds([], 6_059.0) == 0


def test_the_one_that_has_waited_longest_counts() -> None:
    overdue = OverdueSchedules()
    assert overdue.seconds([MINUTELY, HOURLY], 6_090.0) == 30
    assert overdue.seconds([MINUTELY, HOURLY], 7_210.0) == 1_150
    assert overdue.seconds([HOURLY], 7_210.0) == 10


def test_a_fire_and_a_change_are_heeded() -> None:
    overdue = OverdueSchedules()
    assert overdue.seconds([MINUTELY], 6_090.0) == 30
    assert overdue.seconds([replace(MINUTELY, last_planned_at=6_060.0)], 6_090.0) == 0
    assert overdue.seconds([replace(MINUTELY, version=2, cron="0 * * * *")], 6_090.0) == 0


def test_a_paused_one_is_not_overdue() -> None:
    assert OverdueSchedules().seconds([replace(MINUTELY, paused=True)], 9_000.0) == 0


def test_one_whose_time_zone_is_not_known_here_does_not_hide_the_others() -> None:
    assert OverdueSchedules().seconds([replace(HOURLY, name="far", tz="Nowhere/Far"), MINUTELY], 6_090.0) == 30

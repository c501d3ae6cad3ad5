"""The timer of a beat: which planned times are due, and when. No threads."""

import time

from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.beat.beat import REFIRE_SECONDS, DueRun, ScheduleTimer
from broker_jobs.beat.cron import next_after
from broker_jobs.clock import ManualClock
from broker_jobs.messages.commands import ScheduleReply

START = ManualClock().now()  # 2026-01-01T00:00Z
MINUTE = 60.0


def view(name: str = "a", cron: str = "* * * * *", **changes: object) -> ScheduleReply:
    return ScheduleReply.model_validate(
        {"name": name, "cron": cron, "tz": "UTC", "version": 1, "paused": False, "last_planned_at": START} | changes
    )


def test_nothing_is_planned_without_schedules() -> None:
    timer = ScheduleTimer()
    assert timer.next_at() is None
    assert timer.due(START) == []


def test_a_planned_time_is_due_from_its_instant_and_once() -> None:
    timer = ScheduleTimer()
    timer.update([view(version=7)], START)
    assert timer.next_at() == START + MINUTE
    assert timer.due(START + MINUTE - 0.001) == []
    assert timer.due(START + MINUTE) == [DueRun(START + MINUTE, "a", 7)]
    assert timer.due(START + MINUTE) == []
    assert timer.next_at() == START + 2 * MINUTE


def test_a_schedule_never_planned_starts_now() -> None:
    timer = ScheduleTimer()
    timer.update([view(last_planned_at=None)], START + 30)
    assert timer.next_at() == START + MINUTE


def test_of_the_planned_times_missed_before_the_start_the_latest_is_fired() -> None:
    timer = ScheduleTimer()
    timer.update([view()], START + 600.5)
    assert timer.due(START + 600.5) == [DueRun(START + 600, "a", 1)]
    assert timer.next_at() == START + 660


def test_of_the_planned_times_missed_by_a_sleep_the_latest_is_fired() -> None:
    timer = ScheduleTimer()
    timer.update([view(), view("b", "0 * * * *")], START)
    assert timer.due(START + 7200) == [DueRun(START + 7200, "a", 1), DueRun(START + 7200, "b", 1)]
    assert timer.due(START + 7200) == []


def test_an_update_fires_nothing_twice() -> None:
    timer = ScheduleTimer()
    timer.update([view()], START)
    assert len(timer.due(START + MINUTE)) == 1
    timer.update([view()], START + MINUTE + 1)  # a reply from before the fire
    assert timer.due(START + MINUTE + 1) == []
    assert timer.next_at() == START + 2 * MINUTE


def test_an_update_does_not_lose_a_due_time_of_a_schedule_never_planned() -> None:
    timer = ScheduleTimer()
    timer.update([view(last_planned_at=None)], START)
    timer.update([view(last_planned_at=None)], START + MINUTE)
    assert timer.due(START + MINUTE) == [DueRun(START + MINUTE, "a", 1)]


def test_a_fire_that_the_coordinator_has_not_recorded_is_repeated() -> None:
    timer = ScheduleTimer()
    timer.update([view()], START)
    timer.due(START + MINUTE)
    later = START + MINUTE + REFIRE_SECONDS + 1
    timer.update([view()], later)
    assert timer.due(later) == [DueRun(START + MINUTE, "a", 1)]
    timer.update([view(last_planned_at=START + MINUTE)], later + 1)
    assert timer.due(later + 1) == []


def test_a_time_that_another_beat_has_fired_is_not_fired() -> None:
    timer = ScheduleTimer()
    timer.update([view()], START)
    timer.update([view(last_planned_at=START + MINUTE)], START + MINUTE)
    assert timer.due(START + MINUTE) == []
    assert timer.next_at() == START + 2 * MINUTE


def test_a_changed_schedule_is_planned_again() -> None:
    timer = ScheduleTimer()
    timer.update([view()], START)
    timer.update([view(cron="*/5 * * * *", version=2)], START + 1)
    assert timer.due(START + 299) == []
    assert timer.due(START + 300) == [DueRun(START + 300, "a", 2)]


def test_paused_and_removed_schedules_do_not_fire() -> None:
    timer = ScheduleTimer()
    timer.update([view(), view("b")], START)
    timer.update([view(paused=True)], START)
    assert timer.due(START + 3600) == []
    assert timer.next_at() is None


def test_a_schedule_with_a_wrong_cron_or_zone_is_refused_and_the_others_fire() -> None:
    timer = ScheduleTimer()
    timer.update([view("bad", "0 9 * * MO"), view("worse", tz="Nowhere/City"), view("good")], START)
    assert set(timer.refused) == {"bad", "worse"}
    assert timer.due(START + MINUTE) == [DueRun(START + MINUTE, "good", 1)]


@given(
    st.lists(st.sampled_from(["* * * * *", "*/7 * * * * *", "30 2 * * *", "0 * * * *"]), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 5000), min_size=1, max_size=30),
)
def test_each_schedule_fires_its_latest_due_time_never_early_and_in_order(crons: list[str], steps: list[float]) -> None:
    timer = ScheduleTimer()
    now = START
    last = {f"s{n}": START for n in range(len(crons))}
    timer.update([view(name, cron) for name, cron in zip(last, crons, strict=True)], now)
    for step in steps:
        now += step
        fires = timer.due(now)
        assert fires == sorted(fires)
        for fire in fires:
            assert last[fire.name] < fire.planned_at <= now
            last[fire.name] = fire.planned_at
        for (name, planned_at), cron in zip(last.items(), crons, strict=True):
            assert next_after(cron, "UTC", planned_at) > now, name


def test_ten_thousand_schedules_are_cheap() -> None:
    views = [view(f"tenant-{n}", f"{n % 60} {n % 60} {n % 24} * * *") for n in range(10_000)]
    timer = ScheduleTimer()
    started = time.process_time()
    timer.update(views, START)
    first = time.process_time() - started
    for second in range(0, 3600, 60):
        timer.due(START + second)
    timer.update(views, START + 3600)
    again = time.process_time() - started - first
    assert first < 20
    assert again < 5

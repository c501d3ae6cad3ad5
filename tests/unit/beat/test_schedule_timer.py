"""Which planned times a beat fires, and when; no threads."""

import time

from hypothesis import given
from hypothesis import strategies as st

from broker_jobs.beat.beat import UNTAKEN_SECONDS, DueRun, ScheduleTimer
from broker_jobs.beat.cron import next_after
from broker_jobs.clock import ManualClock
from broker_jobs.messages.commands import ScheduleReply

START = ManualClock().now()  # 2026-01-01T00:00Z
MINUTE = 60.0


def view(name: str = "a", cron: str = "* * * * *", **changes: object) -> ScheduleReply:
    return ScheduleReply.model_validate(
        {"name": name, "cron": cron, "tz": "UTC", "version": 1, "paused": False, "last_planned_at": START} | changes
    )


def test_nothing_is_planned_before_anything_is_learnt() -> None:
    metronome = ScheduleTimer()
    assert metronome.next_at() is None
    assert metronome.due(START) == []


def test_a_planned_time_is_due_from_its_instant_and_once() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view(version=7)], START)
    assert metronome.next_at() == START + MINUTE
    assert metronome.due(START + MINUTE - 0.001) == []
    assert metronome.due(START + MINUTE) == [DueRun(START + MINUTE, "a", 7)]
    assert metronome.due(START + MINUTE) == []
    assert metronome.next_at() == START + 2 * MINUTE


def test_a_schedule_never_planned_starts_now() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view(last_planned_at=None)], START + 30)
    assert metronome.next_at() == START + MINUTE


def test_of_the_planned_times_missed_before_the_start_the_latest_is_fired() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view()], START + 600.5)
    assert metronome.due(START + 600.5) == [DueRun(START + 600, "a", 1)]
    assert metronome.next_at() == START + 660


def test_of_the_planned_times_missed_by_a_sleep_the_latest_is_fired() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view(), view("b", "0 * * * *")], START)
    assert metronome.due(START + 7200) == [DueRun(START + 7200, "a", 1), DueRun(START + 7200, "b", 1)]
    assert metronome.due(START + 7200) == []


def test_learning_again_fires_nothing_twice() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view()], START)
    assert len(metronome.due(START + MINUTE)) == 1
    metronome.learn([view()], START + MINUTE + 1)  # an answer that does not know of the fire yet
    assert metronome.due(START + MINUTE + 1) == []
    assert metronome.next_at() == START + 2 * MINUTE


def test_learning_again_does_not_lose_what_is_due_of_a_schedule_never_planned() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view(last_planned_at=None)], START)
    metronome.learn([view(last_planned_at=None)], START + MINUTE)
    assert metronome.due(START + MINUTE) == [DueRun(START + MINUTE, "a", 1)]


def test_a_fire_the_coordinator_has_not_taken_is_repeated() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view()], START)
    metronome.due(START + MINUTE)
    later = START + MINUTE + UNTAKEN_SECONDS + 1
    metronome.learn([view()], later)
    assert metronome.due(later) == [DueRun(START + MINUTE, "a", 1)]
    metronome.learn([view(last_planned_at=START + MINUTE)], later + 1)
    assert metronome.due(later + 1) == []


def test_what_another_beat_has_fired_is_not_fired_here() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view()], START)
    metronome.learn([view(last_planned_at=START + MINUTE)], START + MINUTE)
    assert metronome.due(START + MINUTE) == []
    assert metronome.next_at() == START + 2 * MINUTE


def test_a_changed_schedule_is_planned_anew() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view()], START)
    metronome.learn([view(cron="*/5 * * * *", version=2)], START + 1)
    assert metronome.due(START + 299) == []
    assert metronome.due(START + 300) == [DueRun(START + 300, "a", 2)]


def test_paused_and_removed_schedules_are_silent() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view(), view("b")], START)
    metronome.learn([view(paused=True)], START)
    assert metronome.due(START + 3600) == []
    assert metronome.next_at() is None


def test_a_schedule_that_cannot_be_read_is_named_and_the_others_go_on() -> None:
    metronome = ScheduleTimer()
    metronome.learn([view("bad", "0 9 * * MO"), view("worse", tz="Nowhere/City"), view("good")], START)
    assert set(metronome.refused) == {"bad", "worse"}
    assert metronome.due(START + MINUTE) == [DueRun(START + MINUTE, "good", 1)]


@given(
    st.lists(st.sampled_from(["* * * * *", "*/7 * * * * *", "30 2 * * *", "0 * * * *"]), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 5000), min_size=1, max_size=30),
)
def test_whenever_it_is_asked_each_schedule_fires_its_latest_time_never_early_and_in_order(
    crons: list[str], steps: list[float]
) -> None:
    metronome = ScheduleTimer()
    now = START
    last = {f"s{n}": START for n in range(len(crons))}
    metronome.learn([view(name, cron) for name, cron in zip(last, crons, strict=True)], now)
    for step in steps:
        now += step
        fires = metronome.due(now)
        assert fires == sorted(fires)
        for fire in fires:
            assert last[fire.name] < fire.planned_at <= now
            last[fire.name] = fire.planned_at
        for (name, planned_at), cron in zip(last.items(), crons, strict=True):
            assert next_after(cron, "UTC", planned_at) > now, name


def test_ten_thousand_schedules_are_cheap() -> None:
    views = [view(f"tenant-{n}", f"{n % 60} {n % 60} {n % 24} * * *") for n in range(10_000)]
    metronome = ScheduleTimer()
    started = time.process_time()
    metronome.learn(views, START)
    first = time.process_time() - started
    for second in range(0, 3600, 60):
        metronome.due(START + second)
    metronome.learn(views, START + 3600)
    again = time.process_time() - started - first
    assert first < 20
    assert again < 5

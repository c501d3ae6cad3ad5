"""Planned times are taken once; what was missed and what overlaps is decided by the schedule's rules."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from broker_jobs.beat.beat import ScheduleTimer
from broker_jobs.coordinator.commands import views
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.records import Released, TimerDue
from broker_jobs.messages import codec
from broker_jobs.messages.commands import (
    BulkDelete,
    DeclareRecurring,
    DeleteJob,
    Fire,
    JobFilter,
    ListSchedules,
    Misfire,
    Overlap,
    PauseRecurring,
    PutRecurring,
    RemoveRecurring,
    Reply,
    RequeueJob,
    Schedule,
    TriggerRecurring,
)
from broker_jobs.messages.envelope import MAX_RECORDS, LimitKey, is_generated_id
from broker_jobs.messages.state import State
from broker_jobs.store.row import Row
from tests.unit.coordinator.engine_harness import EngineHarness

HOUR = 3_600.0
MANY = 10_000


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def schedule(
    harness: EngineHarness,
    name: str = "s",
    cron: str = "0 * * * *",
    misfire: Misfire = "once",
    overlap: Overlap = "allow",
) -> Schedule:
    call = codec.encode(harness.envelope("template", epoch=0)).decode()
    return Schedule(name=name, cron=cron, misfire=misfire, overlap=overlap, call=call, service="shop")


def put(harness: EngineHarness, **rules: object) -> None:
    harness.apply(harness.ask(PutRecurring, schedule=schedule(harness, **rules)))  # type: ignore[arg-type]


def fire(harness: EngineHarness, planned_at: float, version: int = 1, name: str = "s") -> list[Row]:
    return harness.apply(harness.ask(Fire, name=name, version=version, planned_at=planned_at)).releases


def test_each_planned_time_runs_once_however_often_it_is_fired(harness: EngineHarness) -> None:
    put(harness)
    harness.now += HOUR
    assert len(fire(harness, harness.now)) == 1
    assert fire(harness, harness.now) == []
    assert fire(harness, harness.now - HOUR) == []


def test_the_id_of_a_planned_run_cannot_be_guessed_from_its_name_and_time(harness: EngineHarness) -> None:
    other = EngineHarness()
    put(harness, cron="* * * * *")
    put(other, cron="* * * * *")
    assert fire(harness, harness.now + 60.0) == fire(other, other.now + 60.0) == []
    harness.now = other.now = harness.now + 60.0
    jobs = [[row.id for row in one.store.reader.jobs.newest()] for one in (harness, other)]
    assert jobs[0] != jobs[1]
    assert len(jobs[0]) == len(jobs[1]) == 1
    assert is_generated_id(jobs[0][0])


def test_a_beat_whose_clock_is_ahead_loses_nothing_and_starts_nothing_early(harness: EngineHarness) -> None:
    put(harness, cron="*/5 * * * * *")
    assert fire(harness, harness.now + 5.0) == []
    job = harness.store.reader.jobs.newest()[0]
    assert (job.state, job.due_at) == (State.SCHEDULED, harness.now + 5.0)
    harness.now += 5.0
    assert len(harness.apply(TimerDue(job.id)).releases) == 1


def test_a_fire_of_an_older_version_or_a_paused_schedule_is_ignored(harness: EngineHarness) -> None:
    put(harness)
    put(harness, cron="30 * * * *")
    harness.now += HOUR
    assert fire(harness, harness.now, version=1) == []
    harness.apply(harness.ask(PauseRecurring, name="s", paused=True))
    assert fire(harness, harness.now, version=2) == []
    harness.now += HOUR
    harness.apply(harness.ask(PauseRecurring, name="s", paused=False))
    assert fire(harness, harness.now - 60.0, version=2) == []
    harness.now += HOUR
    assert len(fire(harness, harness.now, version=2)) == 1


@pytest.mark.parametrize(("misfire", "runs"), [("skip", 0), ("once", 1), ("all", 5)])
def test_missed_times_are_skipped_made_up_for_once_or_all(harness: EngineHarness, misfire: Misfire, runs: int) -> None:
    put(harness, misfire=misfire)
    harness.now += 5 * HOUR + 600.0
    assert len(fire(harness, harness.now - 600.0)) == runs
    harness.now += 50 * 60.0
    assert len(fire(harness, harness.now)) == 1


MINUTE = 60.0


def planned(harness: EngineHarness, name: str = "s") -> list[float]:
    """The planned times that were made jobs, in order, as seconds before now."""
    return sorted(
        harness.now - (row.due_at or 0.0) for row in harness.store.reader.jobs.newest(recurring=name, limit=500)
    )[::-1]


def all_fires(harness: EngineHarness, since: float, every: float = MINUTE, name: str = "s") -> list[Input]:
    """What a beat that lived through an outage of the coordinator has left in the queue."""
    count = int((harness.now - since) // every)
    times = [since + every * (number + 1) for number in range(count)]
    return [harness.ask(Fire, name=name, version=1, planned_at=time) for time in times]


@pytest.mark.parametrize(
    ("misfire", "late", "expected"),
    [
        ("once", 40.0, [40.0]),
        ("once", 59.0, [59.0]),
        ("once", 3.0, [3.0]),
        ("skip", 40.0, [40.0]),
        ("skip", 3.0, [3.0]),
        ("all", 40.0, [40.0 + MINUTE * n for n in range(59, -1, -1)]),
    ],
)
@pytest.mark.parametrize("order", ["as they came", "backwards", "twice", "only the first", "only the last"])
def test_fires_that_piled_up_are_decided_as_one(
    harness: EngineHarness, misfire: Misfire, late: float, expected: list[float], order: str
) -> None:
    put(harness, cron="* * * * *", misfire=misfire)
    since = harness.now
    harness.now += HOUR + late
    fires = all_fires(harness, since)
    fires = {
        "as they came": fires,
        "backwards": fires[::-1],
        "twice": [one for one in fires for _ in range(2)],
        "only the first": fires[:1],
        "only the last": fires[-1:],
    }[order]
    harness.apply(*fires[:20])
    for one in fires[20:]:
        harness.apply(one)
    assert planned(harness) == expected


def test_an_hourly_job_runs_once_after_a_day_of_silence_and_skips_if_it_is_told_to(harness: EngineHarness) -> None:
    for name, misfire in (("once", "once"), ("skip", "skip"), ("all", "all")):
        put(harness, name=name, misfire=misfire)
    since = harness.now
    harness.now += 24 * HOUR + 600.0
    for name in ("once", "skip", "all"):
        harness.apply(*all_fires(harness, since, HOUR, name))
    assert (planned(harness, "once"), planned(harness, "skip")) == ([600.0], [])
    assert planned(harness, "all") == [600.0 + HOUR * n for n in range(23, -1, -1)]


def test_of_each_second_those_of_the_last_five_are_not_missed(harness: EngineHarness) -> None:
    for misfire in ("once", "skip"):
        put(harness, name=misfire, cron="* * * * * *", misfire=misfire)
    harness.now += HOUR
    for misfire in ("once", "skip"):
        harness.apply(harness.ask(Fire, name=misfire, version=1, planned_at=harness.now))
        assert planned(harness, misfire) == [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_a_beat_whose_clock_is_behind_prompts_what_is_due_now(harness: EngineHarness) -> None:
    put(harness, cron="* * * * * *")
    for _ in range(10):
        harness.now += 1.0
        fire(harness, harness.now - 3.0)
    assert planned(harness) == [float(late) for late in range(9, -1, -1)]


def test_a_month_of_missed_seconds_costs_one_decision(harness: EngineHarness) -> None:
    put(harness, cron="* * * * * *", misfire="once")
    since = harness.now
    harness.now += 30 * 86_400.0
    assert len(fire(harness, since + 1.0)) == 6
    assert fire(harness, harness.now) == []


def test_all_that_was_missed_is_made_up_for_in_pages(harness: EngineHarness) -> None:
    for name in ("s", "t"):
        put(harness, name=name, cron="* * * * * *", misfire="all")
    harness.now += 2_500.0
    effects = harness.apply(*(harness.ask(Fire, name=name, version=1, planned_at=harness.now) for name in ("s", "t")))
    runs = [row.due_at for row in effects.releases]
    while effects.next:
        assert len(effects.releases) <= 1_002
        effects = harness.apply(*effects.next)
        runs += [row.due_at for row in effects.releases]
    assert len(runs) == 5_000
    assert len(set(runs)) == 2_500
    assert [row.last_planned_at for row in harness.store.reader.schedules.all()] == [harness.now] * 2


def test_pages_that_a_crash_left_are_prompted_again_by_the_beat(harness: EngineHarness) -> None:
    put(harness, cron="* * * * * *", misfire="all")
    timers = [ScheduleTimer()]
    harness.now += 1_500.0
    assert len(beats(harness, timers)) == 1_000  # what is left of the fires is lost
    harness.now += 60.0
    assert len(beats(harness, timers)) == 560


def test_times_of_a_clock_that_was_ahead_do_not_stop_the_schedule(harness: EngineHarness) -> None:
    put(harness, cron="* * * * *")
    timers = [ScheduleTimer()]
    harness.now += 86_400.0
    assert len(beats(harness, timers)) == 1
    harness.now -= 86_400.0 - 10 * MINUTE
    assert beats(harness, timers) == []
    harness.now += MINUTE
    assert len(beats(harness, timers)) == 1


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_what_is_made_up_for_obeys_overlap(harness: EngineHarness, overlap: Overlap) -> None:
    put(harness, cron="* * * * *", misfire="all", overlap=overlap)
    harness.now += 5 * MINUTE
    assert len(fire(harness, harness.now)) == 1
    assert planned(harness) == ([240.0] if overlap == "skip" else [240.0, 180.0, 120.0, 60.0, 0.0])


def test_overlap_skip_leaves_a_time_out_while_the_last_run_goes_on(harness: EngineHarness) -> None:
    put(harness, overlap="skip")
    harness.now += HOUR
    first = fire(harness, harness.now)[0]
    harness.now += HOUR
    assert fire(harness, harness.now) == []
    harness.apply(harness.succeeded(first.id))
    harness.now += HOUR
    assert len(fire(harness, harness.now)) == 1


def test_overlap_skip_leaves_a_time_out_while_a_run_that_was_deleted_may_be_running(harness: EngineHarness) -> None:
    put(harness, overlap="skip")
    harness.now += HOUR
    first = fire(harness, harness.now)[0]
    harness.apply(harness.ask(DeleteJob, job_id=first.id))
    harness.now += HOUR
    assert fire(harness, harness.now) == []
    harness.apply(harness.returned("fenced", first.id))
    harness.now += HOUR
    assert len(fire(harness, harness.now)) == 1


def test_the_first_run_that_is_left_goes_on_when_all_before_it_are_deleted_together(harness: EngineHarness) -> None:
    put(harness, cron="* * * * *", misfire="all", overlap="queue")
    harness.now += 150 * MINUTE
    fire(harness, harness.now)
    runs = sorted(harness.store.reader.jobs.newest(limit=500), key=lambda row: row.due_at or 0.0)
    harness.apply(harness.ask(BulkDelete, filter=JobFilter(ids=[row.id for row in runs[:-5]])))
    harness.work()
    assert {harness.row(row.id).state for row in runs[-5:]} == {State.AWAITING}, "the first may be running still"
    harness.apply(harness.returned("fenced", runs[0].id))
    assert [harness.row(row.id).state for row in runs[-5:]] == [State.ENQUEUED, *[State.AWAITING] * 4]


def test_the_end_of_a_run_starts_none_that_waits_for_a_parent(harness: EngineHarness) -> None:
    harness.apply(harness.child("child", "parent", recurring="s"), harness.held("run", recurring="s"))
    harness.apply(harness.succeeded("run"))
    assert harness.row("child").state is State.AWAITING


def test_a_fire_of_a_clock_far_ahead_prompts_what_is_due_now(harness: EngineHarness) -> None:
    put(harness, cron="* * * * *")
    harness.now += MINUTE
    assert [row.due_at for row in fire(harness, harness.now + 2 * MINUTE)] == [harness.now]
    assert fire(harness, harness.now + HOUR) == []


def test_overlap_queue_runs_them_one_after_the_other(harness: EngineHarness) -> None:
    put(harness, overlap="queue")
    harness.now += HOUR
    first = fire(harness, harness.now)[0]
    waiting = []
    for _ in range(2):
        harness.now += HOUR
        assert fire(harness, harness.now) == []
        newest = harness.store.reader.jobs.newest(state=State.AWAITING)[0]  # the newest first: ids sort by time
        assert harness.row(newest.id).reason == "waits for the run before it"
        waiting.append(newest.id)
    second = harness.apply(harness.succeeded(first.id)).releases
    assert [row.id for row in second] == [waiting[0]]
    third = harness.apply(harness.failed(waiting[0], final=True)).releases
    assert [row.id for row in third] == [waiting[1]]
    assert harness.apply(TimerDue(waiting[1])).releases == []


def test_what_the_code_no_longer_declares_is_removed_and_what_was_put_stays(harness: EngineHarness) -> None:
    one, two = schedule(harness, "one"), schedule(harness, "two")
    by_hand = schedule(harness, "tenant").model_copy(update={"service": ""})
    harness.apply(
        harness.ask(DeclareRecurring, service="shop", schedules=[one, two]), harness.ask(PutRecurring, schedule=by_hand)
    )
    harness.apply(harness.ask(DeclareRecurring, service="shop", schedules=[two]))
    harness.apply(harness.ask(DeclareRecurring, service="billing", schedules=[]))
    assert [row.name for row in harness.store.reader.schedules.all()] == ["tenant", "two"]


def test_declaring_the_same_again_changes_nothing(harness: EngineHarness) -> None:
    harness.apply(harness.ask(DeclareRecurring, service="shop", schedules=[schedule(harness)]))
    harness.now += HOUR
    effects = harness.apply(harness.ask(DeclareRecurring, service="shop", schedules=[schedule(harness)]))
    assert effects.control is None
    assert harness.store.reader.schedules.all()[0].version == 1


def test_a_trigger_runs_beside_the_schedule(harness: EngineHarness) -> None:
    put(harness)
    effects = harness.apply(harness.ask(TriggerRecurring, name="s", job_id="by-hand"))
    assert [(row.id, row.recurring) for row in effects.releases] == [("by-hand", "s")]
    harness.now += HOUR
    assert len(fire(harness, harness.now)) == 1


def test_commands_about_unknown_schedules_are_refused(harness: EngineHarness) -> None:
    for command in (
        harness.ask(TriggerRecurring, reply_to="me", name="x", job_id="1"),
        harness.ask(RemoveRecurring, reply_to="me", name="x"),
        harness.ask(PauseRecurring, reply_to="me", name="x", paused=True),
    ):
        reply = Reply.model_validate_json(harness.apply(command).messages[0].body)
        assert reply.refused == "no recurring job is named 'x'"


def test_a_schedule_that_cannot_be_planned_is_refused(harness: EngineHarness) -> None:
    bad = schedule(harness, cron="0 0 30 2 *")
    reply = Reply.model_validate_json(
        harness.apply(harness.ask(PutRecurring, reply_to="me", schedule=bad)).messages[0].body
    )
    assert reply.refused is not None
    assert harness.store.reader.schedules.all() == []


def test_a_beat_gets_the_list(harness: EngineHarness) -> None:
    put(harness)
    reply = Reply.model_validate_json(harness.apply(harness.ask(ListSchedules, reply_to="me")).messages[0].body)
    assert [(view["name"], view["cron"], view["paused"]) for view in reply.detail["schedules"]] == [
        ("s", "0 * * * *", False)
    ]


def states(harness: EngineHarness) -> list[str]:
    """Of the runs, by their planned time."""
    return [row.state.value for row in sorted(harness.store.reader.jobs.newest(), key=lambda row: row.due_at or 0.0)]


def test_runs_that_may_overlap_do_so_up_to_their_limit(harness: EngineHarness) -> None:
    limit = LimitKey(kind="concurrency", key="k", limit=2)
    call = codec.encode(harness.envelope("template", epoch=0, limits=[limit])).decode()
    harness.apply(harness.ask(PutRecurring, schedule=Schedule(name="s", cron="0 * * * *", call=call)))
    triggers = [harness.ask(TriggerRecurring, name="s", job_id=f"r{n}") for n in range(3)]
    assert [row.id for row in harness.apply(*triggers).releases] == ["r0", "r1"]
    assert [row.id for row in harness.apply(harness.succeeded("r1")).releases] == ["r2"]


def test_two_fires_of_one_transaction_do_not_overlap(harness: EngineHarness) -> None:
    put(harness, overlap="queue", misfire="all")
    put(harness, name="t", overlap="skip", misfire="all")
    fires = []
    for _ in range(2):
        harness.now += HOUR
        fires += [harness.ask(Fire, name=name, version=1, planned_at=harness.now) for name in ("s", "t")]
    harness.now += 1.0
    assert len(harness.apply(*fires).releases) == 2
    assert sorted(states(harness)) == ["awaiting", "enqueued", "enqueued"]


def test_deleting_a_run_that_waits_lets_no_other_go_beside_the_one_that_runs(harness: EngineHarness) -> None:
    put(harness, overlap="queue")
    for _ in range(3):
        harness.now += HOUR
        fire(harness, harness.now)
    waiting = next(row.id for row in harness.store.reader.jobs.newest(state="awaiting"))
    assert harness.apply(harness.ask(DeleteJob, job_id=waiting)).releases == []
    assert sorted(states(harness)) == ["awaiting", "deleted", "enqueued"]


@pytest.mark.parametrize("overlap", ["queue", "skip"])
def test_no_run_goes_beside_those_that_were_open_when_overlap_was_allowed(
    harness: EngineHarness, overlap: Overlap
) -> None:
    put(harness, overlap="allow")
    for _ in range(2):
        harness.now += HOUR
        fire(harness, harness.now)
    first, second = sorted(row.id for row in harness.store.reader.jobs.newest())
    put(harness, overlap=overlap)
    harness.now += HOUR
    assert fire(harness, harness.now, version=2) == []
    assert harness.apply(harness.succeeded(first)).releases == []
    third = sorted(row.id for row in harness.store.reader.jobs.newest())[2:]
    assert len(third) == (overlap == "queue")
    assert [row.id for row in harness.apply(harness.succeeded(second)).releases] == third
    harness.now += HOUR
    released = fire(harness, harness.now, version=2)
    assert len(released) == (overlap == "skip")
    if third:
        assert len(harness.apply(harness.succeeded(third[0])).releases) == 1


def test_a_run_that_was_requeued_and_the_one_after_it_are_both_over_before_the_third(harness: EngineHarness) -> None:
    put(harness, overlap="queue")
    for _ in range(3):
        harness.now += HOUR
        fire(harness, harness.now)
    first, second, third = sorted(row.id for row in harness.store.reader.jobs.newest())
    harness.apply(harness.failed(first, final=True))
    assert harness.apply(harness.ask(RequeueJob, job_id=first)).releases == [], "it joins the queue"
    assert [row.id for row in harness.apply(harness.succeeded(second)).releases] == [third]
    assert [row.id for row in harness.apply(harness.succeeded(third)).releases] == [first]


# ---- together with what beats


def beats(harness: EngineHarness, timers: list[ScheduleTimer]) -> list[Row]:
    """What all beats fire now; the jobs that are released."""
    with harness.store.transaction() as tx:
        known = views(tx)
    fires: list[Input] = []
    for timer in timers:
        timer.update(known, harness.now)
        fires += [
            harness.ask(Fire, name=due.name, version=due.version, planned_at=due.planned_at)
            for due in timer.due(harness.now)
        ]
    released: list[Row] = []
    for start in range(0, len(fires), 1_000):
        effects = harness.apply(*fires[start : start + 1_000])
        released += effects.releases
        harness.apply(*(Released(row.id, row.epoch) for row in effects.releases))
    return released


@pytest.mark.parametrize(
    ("tz", "starts", "expected"),
    [
        ("Europe/Berlin", "2026-03-29T00:00Z", ["nightly 01:00", "often 00:00", "often 00:30", "often 01:00"]),
        ("America/New_York", "2026-03-08T06:00Z", ["nightly 07:00", "often 06:00", "often 06:30", "often 07:00"]),
        ("Europe/Berlin", "2026-10-25T00:00Z", ["nightly 00:30", "often 00:00", "often 00:30", "often 01:00"]),
        ("America/New_York", "2026-11-01T05:00Z", ["often 05:00", "often 05:30", "often 06:00"]),
    ],
)
def test_two_beats_and_a_coordinator_take_the_times_of_a_night_in_which_clocks_change(
    harness: EngineHarness, tz: str, starts: str, expected: list[str]
) -> None:
    harness.now = datetime.fromisoformat(starts).timestamp() - 60.0
    for name, cron in (("nightly", "30 2 * * *"), ("often", "*/30 * * * *")):
        harness.apply(harness.ask(PutRecurring, schedule=schedule(harness, name, cron).model_copy(update={"tz": tz})))
    timers, ran = [ScheduleTimer(), ScheduleTimer()], list[str]()
    for _ in range(63):
        ran += [f"{row.recurring} {datetime.fromtimestamp(harness.now, UTC):%H:%M}" for row in beats(harness, timers)]
        harness.now += 60.0
    assert sorted(ran) == expected


def test_ten_thousand_schedules_fire_at_once_and_once_each(harness: EngineHarness) -> None:
    declared = [schedule(harness, f"tenant-{number}") for number in range(MANY)]
    for service, part in (("shop", declared[:MAX_RECORDS]), ("billing", declared[MAX_RECORDS:])):
        harness.apply(harness.ask(DeclareRecurring, service=service, schedules=part))
    timers = [ScheduleTimer(), ScheduleTimer()]
    assert beats(harness, timers) == []
    harness.now += HOUR
    released = beats(harness, timers)
    assert len({row.recurring for row in released}) == len(released) == MANY
    assert beats(harness, timers) == []
    assert harness.store.reader.statistics.counts()[State.ENQUEUED] == MANY


def test_what_a_declaration_removes_is_said_and_kept_until_it_is_declared_again(
    harness: EngineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = schedule(harness, "one"), schedule(harness, "two")
    harness.apply(harness.ask(DeclareRecurring, service="shop", schedules=[one, two]))
    assert harness.store.reader.declarations.removed() == []
    harness.apply(harness.ask(DeclareRecurring, service="shop", schedules=[two], by="beat-2"))
    (removed,) = harness.store.reader.declarations.removed()
    assert removed == ("shop", "recurring job", "one", harness.now)
    assert "recurring job one of program shop removed: its code, as beat-2 has it" in caplog.text
    harness.apply(harness.ask(DeclareRecurring, service="shop", schedules=[one]))
    assert [row.name for row in harness.store.reader.declarations.removed()] == ["two"]
    harness.apply(
        harness.ask(DeclareRecurring, service="billing", schedules=[one.model_copy(update={"service": "billing"})])
    )
    assert [row.name for row in harness.store.reader.declarations.removed()] == ["one", "two"]
    assert "recurring job one of program shop now belongs to program billing" in caplog.text

"""Limits hold whatever happens to workers; unique keys keep one job and lose no update."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker_jobs.coordinator.cascade import Kind, Task
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.records import DueNotice, LeaseOver, Released, ReleaseFailed, ReleaseUnknown, TimerDue
from broker_jobs.coordinator.release import release
from broker_jobs.messages import codec
from broker_jobs.messages.commands import (
    DeleteJob,
    GetJob,
    PutRecurring,
    Reply,
    RequeueJob,
    RescheduleJob,
    Schedule,
    SetLimit,
    TriggerRecurring,
)
from broker_jobs.messages.envelope import LimitKey, Policy, UniqueKey
from broker_jobs.messages.state import State
from broker_jobs.store.lines import LineEntry, Stage
from broker_jobs.store.row import Publication, Row
from broker_jobs.store.unique_keys import UniqueKeyRow
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness

SMTP = LimitKey(kind="concurrency", key="smtp", limit=2)


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def ids(rows: list[Row]) -> list[str]:
    return [row.id for row in rows]


def limited(harness: EngineHarness, id: str, *limits: LimitKey, **fields: Any) -> Any:
    return harness.held(id, limits=limits, **fields)


# ---- concurrency


def test_no_more_than_the_limit_are_out_and_the_others_stand_in_line(harness: EngineHarness) -> None:
    effects = harness.apply(*(limited(harness, str(n), SMTP) for n in range(5)))
    assert ids(effects.releases) == ["0", "1"]
    assert harness.row("2").reason == "waits for one of 2 slots of 'smtp'"
    assert ids(harness.apply(harness.succeeded("1")).releases) == ["2"]
    assert ids(harness.apply(harness.succeeded("0"), harness.succeeded("2")).releases) == ["3", "4"]


def test_who_comes_later_does_not_overtake(harness: EngineHarness) -> None:
    harness.apply(*(limited(harness, str(n), SMTP) for n in range(3)))
    effects = harness.apply(limited(harness, "late", SMTP), harness.succeeded("0"))
    assert ids(effects.releases) == ["2"]


def test_a_retry_gives_its_slot_back_and_takes_another_when_due(harness: EngineHarness) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(limited(harness, "a", one), limited(harness, "b", one))
    assert ids(harness.apply(harness.failed("a")).releases) == ["b"]
    harness.now += 5.0
    assert harness.apply(TimerDue("a")).releases == []
    effects = harness.apply(harness.succeeded("b"))
    assert [(row.id, row.attempt) for row in effects.releases] == [("a", 2)]


@pytest.mark.parametrize("crashes", [False, True])
def test_who_runs_again_stands_behind_those_that_waited_meanwhile(harness: EngineHarness, crashes: bool) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(*(limited(harness, id, one) for id in "abc"))
    harness.apply(harness.started("a", owned=True))
    ended = LeaseOver("a", "w1", "its worker vanished") if crashes else harness.failed("a")
    assert ids(harness.apply(ended).releases) == ["b"]
    harness.now += 5.0
    assert harness.apply(TimerDue("a")).releases == []
    assert ids(harness.apply(harness.succeeded("b")).releases) == ["c"]
    assert ids(harness.apply(harness.succeeded("c")).releases) == ["a"]


def test_a_crashed_worker_s_slot_comes_back_after_the_grace(harness: EngineHarness) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(limited(harness, "a", one), limited(harness, "b", one))
    harness.apply(harness.started("a"), LeaseOver("a", "w1", "gone"))
    assert harness.apply(harness.returned("redelivered", "a")).releases == []
    assert harness.row("b").state is State.AWAITING
    harness.ticks(11)
    assert ids(harness.apply(TimerDue("a")).releases) == ["a"]
    assert ids(harness.apply(harness.succeeded("a", 2)).releases) == ["b"]


def test_a_release_that_may_have_been_published_keeps_its_slot(harness: EngineHarness) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(limited(harness, "a", one), limited(harness, "b", one))
    assert harness.apply(ReleaseUnknown("a", 1)).releases == []
    harness.ticks(11)
    assert ids(harness.apply(TimerDue("a"), TimerDue("b")).releases) == ["a"]


def test_deleting_who_waits_or_who_is_out_lets_the_next_go(harness: EngineHarness) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(*(limited(harness, id, one) for id in "abcd"))
    assert harness.apply(harness.ask(DeleteJob, job_id="b")).releases == []
    assert harness.apply(harness.ask(DeleteJob, job_id="a")).releases == [], "a may be running still"
    assert ids(harness.apply(harness.returned("fenced", "a")).releases) == ["c"]
    assert ids(harness.apply(harness.succeeded("c")).releases) == ["d"]


def test_a_limit_changes_at_run_time(harness: EngineHarness) -> None:
    harness.apply(*(limited(harness, str(n), SMTP) for n in range(6)))
    assert ids(harness.apply(harness.ask(SetLimit, key="smtp", limit=4)).releases) == ["2", "3"]
    harness.apply(harness.ask(SetLimit, key="smtp", limit=1))
    assert harness.apply(harness.succeeded("0"), harness.succeeded("1"), harness.succeeded("2")).releases == []
    assert ids(harness.apply(harness.succeeded("3")).releases) == ["4"]


def test_two_limits_on_one_job_are_both_kept(harness: EngineHarness) -> None:
    host = LimitKey(kind="concurrency", key="host", limit=1)
    harness.apply(limited(harness, "a", SMTP, host), limited(harness, "b", SMTP, host), limited(harness, "c", SMTP))
    assert [harness.row(id).state for id in "abc"] == [State.ENQUEUED, State.AWAITING, State.ENQUEUED]
    assert ids(harness.apply(harness.succeeded("a")).releases) == ["b"]


def test_a_person_s_run_now_still_waits_for_a_slot(harness: EngineHarness) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(limited(harness, "a", one), limited(harness, "b", one))
    assert harness.apply(harness.ask(RequeueJob, job_id="b")).releases == []
    assert ids(harness.apply(harness.succeeded("a")).releases) == ["b"]


def test_a_job_that_is_returned_and_released_again_keeps_its_slot(harness: EngineHarness) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(limited(harness, "a", one), limited(harness, "b", one))
    assert ids(harness.apply(harness.returned("no queue", "a")).releases) == ["a"]
    assert harness.row("b").state is State.AWAITING
    assert ids(harness.apply(harness.succeeded("a", 2)).releases) == ["b"]


# ---- order


def test_ordered_jobs_run_one_at_a_time_in_order_of_acceptance_through_retries(harness: EngineHarness) -> None:
    line = LimitKey(kind="ordered", key="account-7")
    harness.apply(*(limited(harness, id, line) for id in "abc"))
    assert [harness.row(id).state for id in "abc"] == [State.ENQUEUED, State.AWAITING, State.AWAITING]
    assert harness.apply(harness.failed("a")).releases == []
    harness.now += 5.0
    assert ids(harness.apply(TimerDue("a")).releases) == ["a"]
    assert ids(harness.apply(harness.succeeded("a", 2)).releases) == ["b"]
    assert ids(harness.apply(harness.failed("b", final=True)).releases) == ["c"]


def test_an_ordered_job_that_is_not_due_lets_others_go_and_keeps_its_place(harness: EngineHarness) -> None:
    line = LimitKey(kind="ordered", key="k")
    harness.apply(limited(harness, "a", line, delay=60.0), *(limited(harness, id, line) for id in "bc"))
    assert [harness.row(id).state for id in "abc"] == [State.SCHEDULED, State.ENQUEUED, State.AWAITING]
    harness.now += 60.0
    assert harness.apply(TimerDue("a")).releases == []
    assert ids(harness.apply(harness.succeeded("b")).releases) == ["a"]
    assert ids(harness.apply(harness.succeeded("a")).releases) == ["c"]


@pytest.mark.parametrize("waits", ["parent", "batch", "time"])
def test_a_free_place_does_not_move_an_ordered_job_that_waits_for_something_else(
    harness: EngineHarness, waits: str
) -> None:
    line = LimitKey(kind="ordered", key="k")
    waiting: dict[str, Input] = {
        "parent": harness.child("w", "p", limits=[line]),
        "batch": harness.chunk("b", ["w"], limits=[line]),
        "time": harness.held("w", delay=60.0, limits=[line]),
    }
    come: dict[str, Input] = {"parent": harness.succeeded("p"), "batch": harness.commit("b"), "time": TimerDue("w")}
    harness.apply(harness.ready("p"), limited(harness, "a", line), waiting[waits], limited(harness, "z", line))
    assert ids(harness.apply(harness.succeeded("a")).releases) == ["z"]
    harness.apply(harness.ask(DeleteJob, job_id="z"), harness.returned("fenced", "z"))
    harness.apply(limited(harness, "y", line), limited(harness, "x", line))
    harness.now += 60.0
    harness.apply(come[waits])
    next_ones = ["x", "w"] if waits == "batch" else ["w", "x"]  # a member is accepted at the commit of its batch
    assert ids(harness.apply(harness.succeeded("y")).releases) == next_ones[:1]
    assert ids(harness.apply(harness.succeeded(next_ones[0])).releases) == next_ones[1:]


@pytest.mark.parametrize("known", ["before", "in the same transaction"])
def test_ordered_jobs_whose_messages_come_back_unrun_go_in_the_order_they_were_accepted(
    harness: EngineHarness, known: str
) -> None:
    first = harness.ready("b0", limits=(LimitKey(kind="ordered", key="k"),))
    if known == "before":
        harness.apply(first)
    others = [harness.ready(f"b{n}", limits=(LimitKey(kind="ordered", key="k"),)) for n in (1, 2)]
    returned = [harness.returned("not released", f"b{n}") for n in range(3)]
    inputs: list[Input] = [*others, *returned] if known == "before" else [first, *others, *returned]
    assert ids(harness.apply(*inputs).releases) == ["b0"]
    assert [harness.row(f"b{n}").state for n in (1, 2)] == [State.AWAITING] * 2


def test_a_job_that_runs_after_all_when_its_slot_was_given_back_is_over_the_limit_and_known_to_be(
    harness: EngineHarness,
) -> None:
    one = LimitKey(kind="concurrency", key="one", limit=1)
    harness.apply(limited(harness, "j", one))
    harness.apply(Released("j", 1))
    harness.apply(harness.returned("redelivered"))
    harness.now -= 3600.0  # its time has not come when the grace period ends
    harness.ticks(11)
    harness.apply(TimerDue("j"))
    assert harness.row().state is State.SCHEDULED
    assert ids(harness.apply(limited(harness, "other", one)).releases) == ["other"]
    harness.apply(harness.returned("redelivered"))
    harness.apply(harness.started())
    row = harness.row()
    assert (row.state, row.fence) == (State.PROCESSING, 1), "a run that was not given a slot is marked by its fence"
    assert broken(harness.store) == []
    harness.apply(harness.succeeded())
    assert ids(harness.apply(limited(harness, "third", one)).releases) == []
    assert ids(harness.apply(harness.succeeded("other")).releases) == ["third"]


def test_an_ordered_job_that_is_rescheduled_gives_the_place_back_and_keeps_its_rank(harness: EngineHarness) -> None:
    line = LimitKey(kind="ordered", key="k")
    harness.apply(*(limited(harness, id, line) for id in "abc"))
    harness.apply(harness.failed("a"))  # a retry holds the line
    assert harness.row("b").state is State.AWAITING
    effects = harness.apply(harness.ask(RescheduleJob, job_id="a", due_at=harness.now + 3600.0))
    assert ids(effects.releases) == ["b"]
    harness.now += 3600.0
    assert harness.apply(TimerDue("a")).releases == []
    assert ids(harness.apply(harness.succeeded("b")).releases) == ["a"]


def test_an_ordered_job_rescheduled_with_its_message_out_gives_the_place_back_when_it_is_clear(
    harness: EngineHarness,
) -> None:
    line = LimitKey(kind="ordered", key="k")
    harness.apply(*(limited(harness, id, line) for id in "ab"))
    harness.apply(harness.ask(RescheduleJob, job_id="a", due_at=harness.now + 3600.0))
    assert harness.row("b").state is State.AWAITING
    assert ids(harness.apply(harness.returned("fenced", "a")).releases) == ["b"]


@pytest.mark.parametrize("kind", ["ordered", "concurrency"])
def test_a_job_rescheduled_within_its_grace_gives_its_slot_back_when_that_is_over(
    harness: EngineHarness, kind: Any
) -> None:
    limit = LimitKey(kind=kind, key="k")
    harness.apply(*(limited(harness, id, limit) for id in "ab"))
    harness.apply(harness.returned("redelivered", "a"))
    harness.apply(harness.ask(RescheduleJob, job_id="a", due_at=harness.now + 3600.0))
    assert harness.row("b").state is State.AWAITING, "a may be running still"
    harness.ticks(11)
    with harness.store.transaction() as tx:
        over = tx.due.graces(tx.meta.log_time, limit=10)
    assert over == ["a"]
    assert ids(harness.apply(*map(TimerDue, over)).releases) == ["b"]
    with harness.store.transaction() as tx:
        assert tx.due.graces(tx.meta.log_time, limit=10) == []


def test_order_is_asked_before_slots(harness: EngineHarness) -> None:
    line, slot = LimitKey(kind="ordered", key="o"), LimitKey(kind="concurrency", key="k", limit=1)
    harness.apply(limited(harness, "other", slot), *(limited(harness, id, slot, line) for id in "ab"))
    assert ids(harness.apply(harness.succeeded("other")).releases) == ["a"]
    assert ids(harness.apply(harness.succeeded("a")).releases) == ["b"]


@pytest.mark.parametrize("kind", ["ordered", "concurrency", "rate"])
def test_a_person_does_not_run_a_member_of_a_batch_that_is_not_complete(harness: EngineHarness, kind: Any) -> None:
    limit = LimitKey(kind=kind, key="k", per=1.0 if kind == "rate" else None)
    harness.apply(harness.chunk("b", ["m", "d"], limits=[limit]))
    harness.apply(harness.ask(DeleteJob, job_id="d"))
    for id in "md":
        refused = harness.ask(RequeueJob, reply_to="me", job_id=id)
        answer = harness.apply(refused).messages[-1]
        assert "its batch is not complete" in (Reply.model_validate_json(answer.body).refused or "")
    assert ids(harness.apply(harness.commit("b")).releases) == ["m"]


@pytest.mark.parametrize("copy_comes", [True, False])
def test_a_due_notice_that_is_read_before_the_copy_of_its_job_takes_key_and_place(
    harness: EngineHarness, copy_comes: bool
) -> None:
    line = LimitKey(kind="ordered", key="k")
    held = harness.held("late", unique=UniqueKey(key="user:1", scope="running"), limits=[line])
    harness.apply(limited(harness, "a", line))
    harness.apply(DueNotice(held.envelope, held.body), *([held] if copy_comes else []), limited(harness, "b", line))
    harness.apply(unique(harness, "other"))
    assert harness.row("other").reason == "duplicate of late"
    assert ids(harness.apply(harness.succeeded("a")).releases) == ["late"]


# ---- rates


def run_out(harness: EngineHarness, names: list[str], seconds: float = 200.0) -> list[tuple[str, float]]:
    """Let time pass to whenever something comes due, with the look-ahead of a coordinator; (job, moment) of starts."""
    begun, ahead = harness.now, 0.02
    starts: list[tuple[str, float]] = []
    harness.apply()
    while len(starts) < len(names) and harness.now < begun + seconds:
        with harness.store.transaction() as tx:
            due = tx.due.jobs(harness.now + seconds, limit=1)
        if due:
            harness.now = max(harness.now, due[0][0] - ahead * 0.9)
        effects = harness.engine.apply([TimerDue(name) for name in names], harness.now, ahead=ahead)
        starts += [(row.id, round((row.released_at or 0.0) - begun, 3)) for row in effects.releases]
    return starts


def test_a_sliding_rate_starts_so_many_in_any_span_and_in_order(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=2, per=10.0)
    names = [str(n) for n in range(5)]
    effects = harness.apply(*(limited(harness, name, rate) for name in names))
    assert ids(effects.releases) == ["0", "1"]
    assert [harness.row(name).reason for name in names[2:]] == ["waits for the rate of 'api'"] * 3
    assert run_out(harness, names[2:]) == [("2", 10.0), ("3", 10.0), ("4", 20.0)]


def test_a_fixed_rate_starts_anew_with_each_window(harness: EngineHarness) -> None:
    harness.now = harness.now // 60.0 * 60.0 + 50.0
    rate = LimitKey(kind="rate", key="api", limit=2, per=60.0, window="fixed")
    effects = harness.apply(*(limited(harness, str(n), rate) for n in range(5)))
    assert ids(effects.releases) == ["0", "1"]
    assert run_out(harness, ["2", "3", "4"]) == [("2", 10.0), ("3", 10.0), ("4", 70.0)]


@pytest.mark.parametrize("span", [0.1, 0.3, 0.6, 0.7, 1.1])
def test_a_fixed_rate_goes_on_with_the_next_window_whatever_its_length(harness: EngineHarness, span: float) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=span, window="fixed")
    harness.apply(*(limited(harness, str(n), rate) for n in range(40)))
    moments = [at for _, at in run_out(harness, [str(n) for n in range(1, 40)])]
    assert [after - before for before, after in pairwise(moments)] == pytest.approx([span] * 38, abs=0.01)


@pytest.mark.parametrize("window", ["fixed", "sliding"])
@pytest.mark.parametrize("span", [1e-9, 1e-18, 5e-324])
def test_a_rate_whose_span_no_clock_tells_apart_stops_nothing(
    harness: EngineHarness, window: Literal["fixed", "sliding"], span: float
) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=span, window=window)
    names = [str(n) for n in range(3)]
    released = ids(harness.apply(*(limited(harness, name, rate) for name in names)).releases)
    released += [name for name, _ in run_out(harness, names[len(released) :])]
    assert released == names


@pytest.mark.parametrize(("per", "span"), [(None, 1.0), (10.0, 10.0)])
def test_a_start_counts_for_the_whole_span_though_later_ones_were_kept(
    harness: EngineHarness, per: float | None, span: float
) -> None:
    rate = LimitKey(kind="rate", key="api", limit=2, per=per)
    assert ids(harness.apply(limited(harness, "a", rate)).releases) == ["a"]
    harness.now += span / 2
    assert ids(harness.apply(limited(harness, "b", rate)).releases) == ["b"]
    assert harness.apply(limited(harness, "c", rate)).releases == []
    assert run_out(harness, ["c"]) == [("c", span / 2)]


def test_starts_that_count_no_more_are_forgotten_as_new_ones_are_kept(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    for n in range(20):
        assert ids(harness.apply(limited(harness, str(n), rate)).releases) == [str(n)]
        harness.now += 21.0
    with harness.store.transaction() as tx:
        assert len(tx.lines.latest_starts("rate:api", 0, 100)) <= 2


def test_after_an_outage_a_rate_holds_still(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    names = [str(n) for n in range(5)]
    harness.apply(*(limited(harness, name, rate) for name in names))
    harness.now += 3600.0
    assert run_out(harness, names[1:]) == [("1", 0.0), ("2", 10.0), ("3", 20.0), ("4", 30.0)]


def test_delayed_jobs_of_one_time_keep_their_rate(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    names = [str(n) for n in range(3)]
    harness.apply(*(limited(harness, name, rate, delay=30.0) for name in names))
    assert [at for _, at in run_out(harness, names)] == [30.0, 40.0, 50.0]


def test_the_next_start_of_a_rate_passes_on_when_its_job_is_deleted_or_rescheduled(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    names = [str(n) for n in range(5)]
    harness.apply(*(limited(harness, name, rate) for name in names))
    harness.apply(harness.ask(DeleteJob, job_id="1"))
    harness.apply(harness.ask(RescheduleJob, job_id="2", due_at=harness.now + 15.0))
    assert run_out(harness, ["2", "3", "4"]) == [("3", 10.0), ("4", 20.0), ("2", 30.0)]


def test_a_rate_changes_at_run_time(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    harness.apply(*(limited(harness, str(n), rate) for n in range(6)))
    assert ids(harness.apply(harness.ask(SetLimit, key="api", limit=3)).releases) == ["1", "2"]
    harness.apply(harness.ask(SetLimit, key="api", limit=1))
    assert run_out(harness, ["3", "4", "5"]) == [("3", 10.0), ("4", 20.0), ("5", 30.0)]


def test_who_waits_for_a_rate_keeps_no_slot_from_others(harness: EngineHarness) -> None:
    slot, rate = LimitKey(kind="concurrency", key="k", limit=1), LimitKey(kind="rate", key="r", limit=1, per=60.0)
    harness.apply(*(limited(harness, id, slot, rate) for id in "ab"))
    assert ids(harness.apply(harness.succeeded("a"), limited(harness, "c", slot)).releases) == ["c"]
    harness.now += 60.0
    assert harness.apply(TimerDue("b")).releases == []
    assert ids(harness.apply(harness.succeeded("c")).releases) == ["b"]


@pytest.mark.parametrize("window", ["fixed", "sliding"])
def test_a_start_of_a_rate_is_kept_for_who_waits_for_a_slot(
    harness: EngineHarness, window: Literal["fixed", "sliding"]
) -> None:
    slot, rate = slots("k", 1), LimitKey(kind="rate", key="r", limit=2, per=60.0, window=window)
    harness.apply(limited(harness, "out", slot), limited(harness, "a", slot, rate))
    assert harness.row("a").reason == "waits for one of 1 slots of 'k'"
    assert ids(harness.apply(*(limited(harness, id, rate) for id in "bc")).releases) == ["b"]
    assert ids(harness.apply(harness.succeeded("out")).releases) == ["a"]


def test_a_rate_line_does_not_sleep_through_a_clock_that_is_set_back(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="r", limit=1, per=10.0)
    harness.apply(*(limited(harness, id, rate) for id in "abc"))
    harness.now += 7_200.0
    assert ids(harness.apply(TimerDue("#rate:r")).releases) == ["b"]
    harness.now -= 3_600.0
    with harness.store.transaction() as tx:
        due = tx.due.jobs(harness.now + 15.0, limit=10)
    assert [id for _, id in due] == ["#rate:r"]
    harness.apply(TimerDue("#rate:r"))
    harness.now += 10.0
    assert ids(harness.apply(TimerDue("#rate:r")).releases) == ["c"]


def test_two_rates_on_one_job_are_both_kept(harness: EngineHarness) -> None:
    fast, slow = LimitKey(kind="rate", key="a", limit=1, per=3.0), LimitKey(kind="rate", key="b", limit=1, per=10.0)
    names = [str(n) for n in range(3)]
    effects = harness.apply(*(limited(harness, name, fast, slow) for name in names), limited(harness, "f", fast))
    assert ids(effects.releases) == ["0"]
    assert run_out(harness, ["1", "2", "f"]) == [("1", 10.0), ("2", 20.0), ("f", 23.0)]


# ---- unique keys


def unique(harness: EngineHarness, id: str, **rules: Any) -> Any:
    return harness.held(id, unique=UniqueKey(key="user:1", **rules))


@pytest.mark.parametrize("replace", [False, True])
def test_who_asked_for_a_job_before_it_became_an_alias_is_told_of_the_end_of_its_root(
    harness: EngineHarness, replace: bool
) -> None:
    key = UniqueKey(key="k", scope="running", replace=replace)
    asked = harness.ask(GetJob, reply_to="me", id="q", job_id="a" if replace else "b", until_ended=True)
    harness.apply(harness.held("a", delay=50.0, unique=key))
    harness.apply(asked)
    assert harness.apply(harness.held("b", unique=key)).messages == []
    root = "b" if replace else "a"
    harness.now += 50.0
    harness.release(root)
    (told,) = harness.apply(harness.succeeded(root, result='"x"')).messages
    assert Reply.model_validate_json(told.body).detail["result"] == '"x"'


def test_a_second_job_of_a_key_becomes_an_alias_whose_result_is_the_first_s(harness: EngineHarness) -> None:
    harness.apply(unique(harness, "a"))
    assert harness.apply(unique(harness, "b")).releases == []
    assert (harness.row("b").state, harness.row("b").reason) == (State.DELETED, "duplicate of a")
    asked = harness.ask(GetJob, reply_to="me", id="q", job_id="b", until_ended=True)
    assert harness.apply(asked).messages == []
    answer = harness.apply(harness.succeeded("a", result="7")).messages[-1]
    assert Reply.model_validate_json(answer.body).detail["result"] == "7"
    assert ids(harness.apply(harness.child("c", "b")).releases) == ["c"]


def test_what_waits_for_an_alias_waits_for_the_job_it_stands_for(harness: EngineHarness) -> None:
    harness.apply(unique(harness, "a"), harness.child("early", "b"), unique(harness, "b"), harness.child("late", "b"))
    assert harness.row("early").state is harness.row("late").state is State.AWAITING
    assert sorted(ids(harness.apply(harness.succeeded("a")).releases)) == ["early", "late"]


def test_what_is_enqueued_after_the_start_is_not_swallowed(harness: EngineHarness) -> None:
    released = harness.apply(unique(harness, "a")).releases[0]
    assert codec.decode(release(released).body).careful, "its start must be confirmed before it runs"
    harness.apply(harness.started("a"))
    assert ids(harness.apply(unique(harness, "b")).releases) == ["b"]


def test_unique_while_running_holds_until_the_end(harness: EngineHarness) -> None:
    harness.apply(unique(harness, "a", scope="running"), harness.started("a"))
    assert harness.apply(unique(harness, "b", scope="running")).releases == []
    harness.apply(harness.succeeded("a"))
    assert ids(harness.apply(unique(harness, "c", scope="running")).releases) == ["c"]


def test_unique_in_a_window_holds_for_its_time(harness: EngineHarness) -> None:
    harness.apply(unique(harness, "a", scope="window", seconds=60.0), harness.succeeded("a"))
    assert harness.apply(unique(harness, "b", scope="window", seconds=60.0)).releases == []
    harness.now += 60.0
    assert ids(harness.apply(unique(harness, "c", scope="window", seconds=60.0)).releases) == ["c"]


@pytest.mark.parametrize("later", ["queued", "running", "window"])
@pytest.mark.parametrize("scope", ["queued", "running", "window"])
def test_where_scopes_differ_that_of_the_job_which_has_the_key_counts(
    harness: EngineHarness, scope: str, later: str
) -> None:
    seconds = {"window": 60.0}
    first = unique(harness, "a", scope=scope, seconds=seconds.get(scope))
    keeps = {"while it waits": True, "while it runs": scope != "queued", "when it has ended": scope == "window"}
    harness.apply(first)
    for number, (when, is_kept) in enumerate(keeps.items()):
        if when == "while it runs":
            harness.apply(harness.started("a", harness.row("a").epoch))
        elif when == "when it has ended":
            harness.apply(harness.succeeded("a", harness.row("a").epoch))
        harness.apply(unique(harness, f"b{number}", scope=later, seconds=seconds.get(later)))
        assert (harness.row(f"b{number}").reason == "duplicate of a") is is_kept, when
        if not is_kept:
            return


def test_who_asks_for_limits_sees_the_numbers_that_jobs_carry(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=2, per=60.0)
    slots = LimitKey(kind="concurrency", key="smtp", limit=3)
    harness.apply(*(harness.held(id, limits=[rate, slots]) for id in "abc"))
    found = {limit.key: (limit.most, limit.per, limit.is_set) for limit in harness.store.reader.limits.all()}
    assert found == {"concurrency:smtp": (3, None, False), "rate:api": (2, 60.0, False)}
    harness.apply(harness.ask(SetLimit, key="api", limit=9))
    found = {limit.key: (limit.most, limit.per, limit.is_set) for limit in harness.store.reader.limits.all()}
    assert found["rate:api"] == (9, 60.0, True)


def test_a_later_job_replaces_one_that_only_waits(harness: EngineHarness) -> None:
    old = harness.held("a", delay=60.0, unique=UniqueKey(key="user:1"))
    harness.apply(old)
    assert ids(harness.apply(unique(harness, "b", replace=True)).releases) == ["b"]
    assert (harness.row("a").state, harness.row("a").reason) == (State.DELETED, "replaced by b")
    assert harness.apply(unique(harness, "c", replace=True)).releases == []
    assert harness.row("c").reason == "duplicate of b"


def test_the_same_job_again_is_no_duplicate_of_itself(harness: EngineHarness) -> None:
    job = unique(harness, "a")
    harness.apply(job)
    harness.apply(job)
    assert harness.row("a").state is State.ENQUEUED


def test_keys_count_for_members_of_batches_and_for_recurring_jobs_too(harness: EngineHarness) -> None:
    key = UniqueKey(key="user:1")
    harness.apply(harness.chunk("b", ["1", "2"], unique=key), harness.commit("b"))
    assert harness.row("2").reason == "duplicate of 1"
    assert (harness.batch("b").open, harness.batch("b").deleted) == (2, 0), "a duplicate ends with its original"
    line = LimitKey(kind="ordered", key="o")
    harness.apply(harness.chunk("c", ["3", "4"], limits=[line]), harness.commit("c"))
    assert [harness.row(id).state for id in "34"] == [State.ENQUEUED, State.AWAITING]
    call = codec.encode(harness.envelope("t", epoch=0, unique=key)).decode()
    harness.apply(harness.ask(PutRecurring, schedule=Schedule(name="s", cron="0 * * * *", call=call)))
    harness.apply(harness.ask(TriggerRecurring, name="s", job_id="by-hand"))
    assert harness.row("by-hand").reason == "duplicate of 1"


def test_a_job_deleted_and_requeued_while_its_message_is_out_takes_a_slot_when_it_is_released_again(
    harness: EngineHarness,
) -> None:
    slot = LimitKey(kind="concurrency", key="x", limit=1)
    harness.apply(limited(harness, "a", slot))
    harness.apply(harness.ask(DeleteJob, job_id="a"))
    assert harness.apply(limited(harness, "b", slot)).releases == [], "a may be running still"
    assert harness.apply(harness.ask(RequeueJob, job_id="a")).releases == []
    assert ids(harness.apply(harness.returned("fenced", "a")).releases) == ["a"], "it keeps its place"
    assert ids(harness.apply(harness.succeeded("a", 2)).releases) == ["b"]


# ---- whatever happens


def limits_of(row: Row) -> set[str]:
    return {f"{limit.kind}:{limit.key}" for limit in codec.decode(row.envelope).limits} if row.envelope else set()


class Slots(RuleBasedStateMachine):
    """Jobs under limits, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.harness = EngineHarness()
        self.made = 0

    @rule(
        keys=st.sets(st.sampled_from(["x", "y"]), min_size=1), ordered=st.booleans(), delay=st.sampled_from([0.0, 3.0])
    )
    def enqueue(self, keys: set[str], ordered: bool, delay: float) -> None:
        limits = [LimitKey(kind="concurrency", key=key, limit=2) for key in sorted(keys)]
        if ordered:
            limits.append(LimitKey(kind="ordered", key="o"))
        self.made += 1
        policy = Policy(retries=1, backoff=(2.0,))
        self.harness.apply(limited(self.harness, f"j{self.made}", *limits, delay=delay, policy=policy))

    @rule(
        n=st.integers(1, 8),
        what=st.sampled_from(["ok", "fail", "started", "back", "handed", "lease", "delete", "requeue", "unsure"]),
    )
    def happens(self, n: int, what: str) -> None:
        row = self.harness.store.reader.jobs.get(f"j{n}")
        if row is None:
            return
        harness, id, epoch = self.harness, row.id, row.epoch
        out = row.publication is not Publication.NONE
        match what:
            case "ok" if out:
                harness.apply(Released(id, epoch), harness.succeeded(id, epoch))
            case "fail" if out:
                harness.apply(Released(id, epoch), harness.failed(id, epoch))
            case "started" if out:
                harness.apply(Released(id, epoch), harness.started(id, epoch))
            case "back" if out:
                harness.apply(Released(id, epoch), harness.returned("redelivered", id, epoch))
            case "handed" if out:
                harness.apply(Released(id, epoch), harness.returned("shutdown", id, epoch))
            case "lease":
                harness.apply(LeaseOver(id, "w1", "gone"))
            case "delete":
                harness.apply(harness.ask(DeleteJob, job_id=id))
            case "requeue":
                harness.apply(harness.ask(RequeueJob, job_id=id))
            case "unsure":
                harness.apply(ReleaseUnknown(id, epoch))
            case _:
                pass

    @rule(seconds=st.integers(1, 12))
    def time_passes(self, seconds: int) -> None:
        self.harness.ticks(seconds)
        self.harness.apply(*(TimerDue(f"j{n}") for n in range(1, self.made + 1)))

    def rows(self) -> list[Row]:
        return self.harness.store.reader.jobs.newest(limit=500)

    @invariant()
    def the_store_is_sound(self) -> None:
        assert broken(self.harness.store) == []

    @invariant()
    def never_more_than_the_limit_are_out(self) -> None:
        # What is fenced must not run: its job takes a slot when it is released again.
        out = [
            r
            for r in self.rows()
            if not r.state.is_final and r.publication is not Publication.NONE and r.fence < r.epoch
        ]
        for key in ("x", "y"):
            using = [row.id for row in out if f"concurrency:{key}" in limits_of(row)]
            assert len(using) <= 2, f"{using} are out under {key}"
        line = [row.id for row in out if "ordered:o" in limits_of(row)]
        assert len(line) <= 1, f"{line} are out in one line"

    @invariant()
    def nobody_waits_before_a_free_slot(self) -> None:
        with self.harness.store.transaction() as tx:
            for line in tx.lines.lines(["concurrency:x", "concurrency:y", "ordered:o"]):
                waiting = tx.lines.waiting(line.key, 0, 1)
                assert not waiting or line.taken + line.turns >= line.capacity, f"{line.key} is free"


TestSlots = Slots.TestCase
TestSlots.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_the_limit_of_a_job_counts_once_that_of_a_person_is_cleared_though_the_person_made_the_line(
    harness: EngineHarness,
) -> None:
    harness.apply(harness.child("1", "parent", limits=(SMTP,)), harness.child("2", "parent", limits=(SMTP,)))
    harness.apply(harness.ask(SetLimit, key="smtp", limit=1))
    effects = harness.apply(harness.held("parent"))
    harness.apply(harness.succeeded("parent"))
    assert harness.row("2").reason == "waits for one of 1 slots of 'smtp'"
    effects = harness.apply(harness.ask(SetLimit, key="smtp", limit=None))
    assert ids(effects.releases) == ["2"]
    assert not broken(harness.store)


def test_a_job_that_must_wait_again_as_the_clock_was_set_back_keeps_no_turn(harness: EngineHarness) -> None:
    first, then = LimitKey(kind="ordered", key="first"), LimitKey(kind="ordered", key="then")
    harness.apply(limited(harness, "1", then), limited(harness, "2", first, then))
    assert harness.row("2").reason == "waits for its turn of 'then'"
    harness.now -= 3600.0
    effects = harness.apply(harness.succeeded("1"), limited(harness, "3", first))
    assert ids(effects.releases) == ["3"]


@pytest.mark.parametrize("kind", ["ordered", "concurrency", "rate"])
def test_a_job_that_came_while_nothing_could_be_released_keeps_no_turn_when_the_clock_was_set_back(
    harness: EngineHarness, kind: Any
) -> None:
    limit = one_of(kind, 1e5)
    harness.apply(limited(harness, "1", limit), may_release=False)
    harness.now -= 3600.0
    released = ids(harness.apply(*due(harness), limited(harness, "2", limit)).releases)
    assert released + ids(harness.apply(*due(harness)).releases) == ["2"]
    harness.now += 3601.0
    effects = harness.apply(harness.succeeded("2"), *due(harness))
    assert ids(effects.releases) == ([] if kind == "rate" else ["1"])


@pytest.mark.parametrize("kind", ["ordered", "concurrency", "rate"])
def test_lines_go_on_when_jobs_may_be_released_again(harness: EngineHarness, kind: Any) -> None:
    limit = one_of(kind, 1.0)
    harness.apply(*(limited(harness, id, limit) for id in "12"))
    harness.now += 2.0
    effects = harness.apply(harness.succeeded("1"), limited(harness, "3", limit), may_release=False)
    assert ("#" + f"{kind}:k", harness.now) in effects.timers
    assert ids(harness.apply(*due(harness)).releases) == ["2"]
    harness.now += 2.0
    assert ids(harness.apply(harness.succeeded("2"), *due(harness)).releases) == ["3"]
    assert due(harness) == []


def test_a_line_whose_slot_came_back_while_nothing_could_be_released_is_called_later(harness: EngineHarness) -> None:
    harness.apply(*(limited(harness, id, one_of("concurrency", 1.0)) for id in "12"))
    harness.apply(harness.succeeded("1"), may_release=False)
    assert ids(harness.apply(*due(harness)).releases) == ["2"]
    assert due(harness) == []


def one_of(kind: Any, per: float) -> LimitKey:
    """A limit of one."""
    number = None if kind == "ordered" else 1
    return LimitKey(kind=kind, key="k", limit=number or 1, per=per if kind == "rate" else None)


def due(harness: EngineHarness) -> list[TimerDue]:
    """What a coordinator finds due now."""
    with harness.store.transaction() as tx:
        return [TimerDue(id) for _, id in tx.due.jobs(harness.now, limit=10)]


def test_a_unique_key_is_free_again_though_its_job_was_never_admitted_before_a_person_ran_it(
    harness: EngineHarness,
) -> None:
    key = UniqueKey(key="k", scope="running")
    harness.apply(harness.chunk("b", ["1"], unique=key), harness.commit("b", abandoned=True))
    harness.work()
    assert ids(harness.apply(harness.ask(RequeueJob, job_id="1")).releases) == ["1"]
    harness.apply(harness.succeeded("1"))
    assert broken(harness.store) == []
    assert ids(harness.apply(harness.held("2", unique=key)).releases) == ["2"]


def test_a_closed_limit_takes_turns_back_behind_a_page_of_which_a_job_has_gone(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_jobs.coordinator.consequences.PAGE", 2)
    one = LimitKey(kind="concurrency", key="smtp", limit=1)
    keys = [LimitKey(kind="ordered", key=f"k{n}") for n in range(4)]
    harness.apply(limited(harness, "out", one), *(limited(harness, f"w{n}", keys[n], one) for n in range(4)))
    harness.apply(harness.ask(SetLimit, key="smtp", limit=0), harness.ask(DeleteJob, job_id="w0"))
    harness.work()
    effects = harness.apply(*(limited(harness, f"x{n}", keys[n]) for n in range(1, 4)))
    assert ids(effects.releases) == ["x1", "x2", "x3"]


# ---- lines that close, turns that are checked again, starts that are given back


def slots(key: str, limit: int) -> LimitKey:
    return LimitKey(kind="concurrency", key=key, limit=limit)


def test_a_job_that_comes_to_a_closed_line_waits_there_and_lets_others_go(harness: EngineHarness) -> None:
    line, narrow, wide = LimitKey(kind="ordered", key="o"), slots("narrow", 1), slots("wide", 2)
    harness.apply(limited(harness, "out", narrow), limited(harness, "both", line, narrow, wide))
    harness.apply(limited(harness, "behind", narrow), limited(harness, "ordered", line))
    assert [harness.row(id).state for id in ("both", "behind", "ordered")] == [State.AWAITING] * 3
    harness.apply(harness.ask(SetLimit, key="wide", limit=0))
    assert harness.row("both").reason == "waits for one of 1 slots of 'narrow'"
    assert ids(harness.apply(harness.succeeded("out")).releases) == ["behind", "ordered"]
    assert harness.row("both").reason == "waits: the limit 'wide' is 0"
    assert broken(harness.store) == []
    harness.apply(harness.succeeded("behind"), harness.succeeded("ordered"))
    assert harness.row("both").state is State.AWAITING
    assert ids(harness.apply(harness.ask(SetLimit, key="wide", limit=None)).releases) == ["both"]


def test_a_job_that_a_person_runs_now_keeps_no_turn_while_a_line_of_it_is_closed(harness: EngineHarness) -> None:
    narrow, wide = slots("narrow", 1), slots("wide", 2)
    harness.apply(*(limited(harness, f"out{n}", wide) for n in range(2)), limited(harness, "both", narrow, wide))
    harness.apply(harness.ask(SetLimit, key="wide", limit=0))
    harness.apply(harness.ask(RequeueJob, job_id="both"))
    assert harness.row("both").reason == "waits: the limit 'wide' is 0"
    assert ids(harness.apply(limited(harness, "other", narrow)).releases) == ["other"]


def test_an_ordered_job_that_comes_to_a_closed_line_at_its_retry_keeps_its_slot(harness: EngineHarness) -> None:
    line = LimitKey(kind="ordered", key="o")
    harness.apply(limited(harness, "a", line, SMTP), limited(harness, "b", line))
    harness.apply(harness.failed("a"), harness.ask(SetLimit, key="smtp", limit=0))
    harness.now += 5.0
    assert harness.apply(TimerDue("a")).releases == []
    assert harness.row("a").reason == "waits: the limit 'smtp' is 0"
    assert ids(harness.apply(harness.ask(SetLimit, key="smtp", limit=None)).releases) == ["a"]
    assert ids(harness.apply(harness.succeeded("a", 2)).releases) == ["b"]


def test_lines_are_asked_in_the_order_of_the_limits_with_which_they_began(harness: EngineHarness) -> None:
    first, then = slots("b", 3), slots("a", 2)
    harness.apply(limited(harness, "b0", slots("b", 1)), *(limited(harness, f"b{n}", first) for n in (1, 2)))
    harness.apply(*(limited(harness, f"a{n}", then) for n in range(2)), limited(harness, "both", then, first))
    assert harness.row("both").reason == "waits for one of 3 slots of 'b'"


def test_the_limit_of_a_job_that_is_not_due_counts_for_those_that_come_due_before_it(harness: EngineHarness) -> None:
    harness.apply(limited(harness, "a", slots("k", 1)), limited(harness, "b", slots("k", 1), delay=10.0))
    harness.apply(limited(harness, "c", slots("k", 2), delay=60.0))
    harness.now += 10.0
    assert ids(harness.apply(TimerDue("b")).releases) == ["b"]


def test_a_line_goes_on_behind_a_job_that_is_not_known_any_more(harness: EngineHarness) -> None:
    one = slots("k", 1)
    harness.apply(limited(harness, "a", one), limited(harness, "b", one))
    with harness.store.transaction() as tx:
        tx.lines.save((), (), [LineEntry("concurrency:k", "gone", 1, Stage.WAITS)], ())
    assert ids(harness.apply(harness.succeeded("a")).releases) == ["b"]
    assert broken(harness.store) == []


def test_a_limit_that_a_person_closed_before_any_job_had_it_counts_for_the_first(harness: EngineHarness) -> None:
    harness.apply(harness.ask(SetLimit, key="smtp", limit=None))
    harness.apply(harness.ask(SetLimit, key="smtp", limit=0))
    rate = LimitKey(kind="rate", key="smtp", limit=5, per=10.0)
    assert harness.apply(limited(harness, "a", SMTP), limited(harness, "b", rate)).releases == []
    assert [harness.row(id).reason for id in "ab"] == ["waits: the limit 'smtp' is 0"] * 2
    assert ids(harness.apply(harness.ask(SetLimit, key="smtp", limit=None)).releases) == ["a", "b"]


def test_a_line_with_much_capacity_is_called_page_by_page(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("cascade", "consequences"):
        monkeypatch.setattr(f"broker_jobs.coordinator.{module}.PAGE", 2)
    names = [str(n) for n in range(7)]
    harness.apply(*(limited(harness, name, slots("k", 1)) for name in names))
    effects = harness.apply(harness.ask(SetLimit, key="k", limit=7))
    assert (ids(effects.releases), effects.more) == (["1", "2"], True)
    assert ids(harness.work()) == names[3:]


def test_a_line_is_closed_page_by_page(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("cascade", "consequences"):
        monkeypatch.setattr(f"broker_jobs.coordinator.{module}.PAGE", 2)
    line = LimitKey(kind="ordered", key="o")
    harness.apply(limited(harness, "out", slots("k", 1)), *(limited(harness, str(n), slots("k", 1)) for n in range(4)))
    harness.apply(limited(harness, "last", line, slots("k", 1)))
    effects = harness.apply(harness.ask(SetLimit, key="k", limit=0), limited(harness, "next", line))
    assert (effects.releases, effects.more) == ([], True)
    assert ids(harness.work()) == ["next"]


def test_more_work_than_one_transaction_takes_up_is_told_of(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_jobs.coordinator.consequences.WORK_ITEMS", 2)
    with harness.store.transaction() as tx:
        tx.work_items.add([Task(Kind.CALL, f"concurrency:k{n}").item for n in range(3)])
    assert [harness.apply_work().more for _ in range(2)] == [True, False]


@pytest.mark.parametrize("kind", [Kind.CALL, Kind.CLOSE, Kind.JOB, Kind.BATCH, Kind.GROUP, Kind.DELETE_MEMBERS])
def test_work_that_was_kept_about_what_is_gone_is_done_with(harness: EngineHarness, kind: Kind) -> None:
    with harness.store.transaction() as tx:
        tx.work_items.add([Task(kind, "concurrency:gone").item])
    assert harness.work() == []
    with harness.store.transaction() as tx:
        assert list(tx.work_items.oldest(limit=10)) == []


def test_a_limit_that_is_closed_and_opened_at_once_takes_no_turn_back(harness: EngineHarness) -> None:
    one, line = slots("smtp", 1), LimitKey(kind="ordered", key="o")
    harness.apply(limited(harness, "out", one), limited(harness, "w", line, one))
    commands = [harness.ask(SetLimit, key="smtp", limit=limit) for limit in (0, None)]
    assert harness.apply(*commands, limited(harness, "x", line)).releases == []
    assert ids(harness.apply(harness.succeeded("out")).releases) == ["w"]


def test_a_limit_that_is_opened_again_while_it_is_being_closed_keeps_the_order(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_jobs.coordinator.consequences.PAGE", 1)
    one, names = slots("smtp", 1), [f"w{n}" for n in range(4)]
    keys = [LimitKey(kind="ordered", key=name) for name in names]
    harness.apply(
        limited(harness, "out", one), *(limited(harness, n, k, one) for n, k in zip(names, keys, strict=True))
    )
    harness.apply(harness.ask(SetLimit, key="smtp", limit=0))
    harness.apply(harness.ask(SetLimit, key="smtp", limit=None))
    harness.work()
    gone = []
    ended = "out"
    for _ in names:
        (row,) = harness.apply(harness.succeeded(ended)).releases or harness.work()
        gone.append(ended := row.id)
    assert gone == names


def test_a_turn_is_checked_at_the_release_against_the_limit_of_now(harness: EngineHarness) -> None:
    narrow, wide = slots("narrow", 2), slots("wide", 3)
    harness.apply(*(limited(harness, f"out{n}", wide) for n in range(3)))
    harness.apply(limited(harness, "a", narrow, wide), limited(harness, "b", narrow, wide), limited(harness, "c", wide))
    assert {harness.row(id).reason for id in "abc"} == {"waits for one of 3 slots of 'wide'"}
    harness.apply(harness.ask(SetLimit, key="narrow", limit=1))
    assert ids(harness.apply(harness.succeeded("out0"), harness.succeeded("out1")).releases) == ["a", "c"]
    assert harness.row("b").reason == "waits for one of 1 slots of 'narrow'"
    assert ids(harness.apply(harness.succeeded("a")).releases) == ["b"]


def test_the_limit_of_the_job_that_was_accepted_last_counts_for_those_before_it(harness: EngineHarness) -> None:
    harness.apply(*(limited(harness, id, slots("k", 1)) for id in "abc"))
    assert ids(harness.apply(limited(harness, "d", slots("k", 3))).releases) == ["b", "c"]
    assert harness.row("d").reason == "waits for one of 3 slots of 'k'"
    harness.apply(limited(harness, "e", slots("k", 1)))
    assert harness.apply(harness.succeeded("a"), harness.succeeded("b")).releases == []
    assert ids(harness.apply(harness.succeeded("c")).releases) == ["d"]


def test_a_run_that_is_reported_late_leaves_the_line_in_which_its_job_waits(harness: EngineHarness) -> None:
    one = slots("k", 1)
    harness.apply(limited(harness, "a", one))
    harness.apply(harness.returned("redelivered", "a"), harness.ask(SetLimit, key="k", limit=0))
    harness.ticks(11)
    harness.apply(TimerDue("a"), limited(harness, "b", one))
    assert harness.row("a").reason == "waits: the limit 'k' is 0"
    harness.apply(harness.started("a"))
    assert harness.row("a").state is State.PROCESSING
    assert ids(harness.apply(harness.ask(SetLimit, key="k", limit=None)).releases) == ["b"]
    assert harness.apply(harness.succeeded("a")).releases == []
    assert broken(harness.store) == []


def test_a_start_of_a_rate_whose_release_was_not_published_is_given_to_the_next(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    names = ["a", "b", "c"]
    assert ids(harness.apply(*(limited(harness, name, rate) for name in names)).releases) == ["a"]
    assert ids(harness.apply(ReleaseFailed("a", 1, "RabbitMQ is away")).releases) == ["b"]
    assert harness.apply(ReleaseFailed("a", 1, "RabbitMQ is away")).releases == [], "told twice"
    assert run_out(harness, ["a", "c"]) == [("c", 10.0), ("a", 20.0)]


def test_a_start_of_a_rate_that_is_given_back_is_that_of_its_job_alone(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=2, per=10.0)
    harness.apply(*(limited(harness, name, rate) for name in "abcd"))
    assert ids(harness.apply(ReleaseFailed("b", 1, "RabbitMQ is away"), limited(harness, "e", rate)).releases) == ["c"]
    assert run_out(harness, ["b", "d", "e"]) == [("d", 10.0), ("e", 10.0), ("b", 20.0)]


def test_a_slot_whose_release_was_not_published_goes_to_the_next_until_the_job_is_due_again(
    harness: EngineHarness,
) -> None:
    harness.apply(*(limited(harness, id, slots("k", 1)) for id in "ab"))
    assert ids(harness.apply(ReleaseFailed("a", 1, "RabbitMQ is away")).releases) == ["b"]
    harness.now += 1.0
    assert harness.apply(TimerDue("a")).releases == []
    assert ids(harness.apply(harness.succeeded("b")).releases) == ["a"]


def test_a_rate_waits_on_though_its_clock_was_ahead_when_it_last_started_jobs(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=2, per=10.0)
    harness.apply(limited(harness, "a", rate))
    harness.now -= 3_600.0
    harness.apply(limited(harness, "b", rate), limited(harness, "c", rate))
    assert [harness.row(id).state for id in "bc"] == [State.ENQUEUED, State.AWAITING]
    assert run_out(harness, ["c"]) == [("c", 10.0)]


# ---- unique keys of jobs that may be running still


def test_a_job_waits_for_its_key_until_the_deleted_one_that_had_it_runs_nowhere(harness: EngineHarness) -> None:
    harness.apply(unique(harness, "a", scope="running"))
    harness.apply(harness.ask(DeleteJob, job_id="a"))
    assert harness.apply(unique(harness, "b", scope="running")).releases == []
    assert harness.row("b").reason == "waits until a, which had its unique key and was deleted, runs nowhere any more"
    harness.apply(unique(harness, "c", scope="running"))
    assert harness.row("c").reason == "duplicate of b"
    assert ids(harness.apply(harness.returned("fenced", "a")).releases) == ["b"]
    harness.apply(harness.succeeded("b"))
    assert ids(harness.apply(unique(harness, "d", scope="running")).releases) == ["d"]


def test_the_key_of_a_job_that_ends_while_it_waits_for_it_is_that_of_the_one_before_again(
    harness: EngineHarness,
) -> None:
    harness.apply(unique(harness, "a", scope="running"))
    harness.apply(harness.ask(DeleteJob, job_id="a"))
    harness.apply(unique(harness, "b", scope="running"))
    harness.apply(harness.ask(DeleteJob, job_id="b"))
    assert harness.apply(unique(harness, "c", scope="running")).releases == []
    assert harness.row("c").reason.startswith("waits until a,")
    assert ids(harness.apply(harness.returned("fenced", "a")).releases) == ["c"]


def test_a_window_does_not_end_while_the_job_before_may_be_running(harness: EngineHarness) -> None:
    window: dict[str, Any] = {"scope": "window", "seconds": 60.0}
    harness.apply(unique(harness, "a", **window))
    harness.apply(harness.ask(DeleteJob, job_id="a"))
    harness.apply(unique(harness, "b", **window))
    harness.now += 61.0
    assert harness.apply(unique(harness, "c", **window)).releases == []
    assert harness.row("c").reason == "duplicate of b"
    assert ids(harness.apply(harness.returned("fenced", "a")).releases) == ["b"]
    assert ids(harness.apply(unique(harness, "d", **window)).releases) == ["d"], "the window of b is over"


def test_a_key_that_a_restored_store_kept_of_an_ended_job_is_free(harness: EngineHarness) -> None:
    harness.apply(harness.ready("a"), harness.succeeded("a"))
    with harness.store.transaction() as tx:
        tx.unique_keys.save(UniqueKeyRow("user:1", "a", "running"))
    assert ids(harness.apply(unique(harness, "b", scope="running")).releases) == ["b"]
    harness.apply(harness.succeeded("b"))
    assert ids(harness.apply(unique(harness, "c", scope="running")).releases) == ["c"]


@pytest.mark.parametrize("kind", [RequeueJob, RescheduleJob])
def test_a_job_whose_key_another_has_is_not_run_again(harness: EngineHarness, kind: Any) -> None:
    more: dict[str, Any] = {"due_at": harness.now} if kind is RescheduleJob else {}
    harness.apply(unique(harness, "a", scope="running"), harness.succeeded("a"))
    harness.apply(unique(harness, "b", scope="running"))
    answer = harness.apply(harness.ask(kind, reply_to="me", job_id="a", **more)).messages[-1]
    assert Reply.model_validate_json(answer.body).refused == (
        "job b has its unique key: requeue it when that has ended, or delete that"
    )
    assert harness.row("a").state is State.SUCCEEDED
    harness.apply(harness.succeeded("b"))
    assert ids(harness.apply(harness.ask(kind, job_id="a", **more)).releases) == ["a"]
    harness.apply(unique(harness, "c", scope="running"))
    assert harness.row("c").reason == "duplicate of a", "it has its key again"


def test_a_job_runs_again_though_its_key_was_taken_by_one_that_is_not_known_any_more(harness: EngineHarness) -> None:
    harness.apply(unique(harness, "a", scope="running"))
    harness.apply(harness.failed("a", final=True))
    with harness.store.transaction() as tx:
        tx.unique_keys.save(UniqueKeyRow("user:1", "gone", "running"))
    assert ids(harness.apply(harness.ask(RequeueJob, job_id="a")).releases) == ["a"]
    harness.apply(unique(harness, "b", scope="running"))
    assert harness.row("b").reason == "duplicate of a"


def test_a_child_whose_key_another_took_while_it_was_unsatisfied_stays_deleted(harness: EngineHarness) -> None:
    key = UniqueKey(key="user:1", scope="running")
    harness.apply(harness.ready("p"), harness.child("a", "p", unique=key), harness.failed("p", final=True))
    harness.apply(unique(harness, "b", scope="running"))
    assert harness.row("b").state is State.ENQUEUED
    harness.apply(harness.ask(RequeueJob, job_id="p"))
    harness.apply(harness.succeeded("p", 2))
    assert harness.row("a").state is State.DELETED


def test_a_child_that_comes_back_takes_its_key_again(harness: EngineHarness) -> None:
    key = UniqueKey(key="user:1", scope="running")
    harness.apply(harness.ready("p"), harness.child("a", "p", unique=key), harness.failed("p", final=True))
    harness.apply(harness.ask(RequeueJob, job_id="p"))
    assert harness.row("a").state is State.AWAITING
    harness.apply(unique(harness, "b", scope="running"))
    assert harness.row("b").reason == "duplicate of a"
    assert ids(harness.apply(harness.succeeded("p", 2)).releases) == ["a"]


@pytest.mark.parametrize("before", ["runs", "ran and is to be retried", "waits for a grace"])
def test_a_job_that_was_released_once_is_not_replaced(harness: EngineHarness, before: str) -> None:
    harness.apply(unique(harness, "a", scope="running"))
    told = {
        "runs": harness.started("a"),
        "ran and is to be retried": harness.failed("a"),
        "waits for a grace": harness.returned("redelivered", "a"),
    }
    harness.apply(told[before])
    assert harness.apply(unique(harness, "b", scope="running", replace=True)).releases == []
    assert harness.row("b").reason == "duplicate of a"


def test_a_job_that_may_be_running_though_the_coordinator_never_released_it_is_not_replaced(
    harness: EngineHarness,
) -> None:
    harness.apply(harness.ready("a", unique=UniqueKey(key="user:1", scope="running")))
    harness.apply(harness.returned("redelivered", "a"))
    assert harness.apply(unique(harness, "b", scope="running", replace=True)).releases == []
    assert harness.row("b").reason == "duplicate of a"


def test_a_job_that_replaces_one_which_waits_for_their_key_waits_for_it_too(harness: EngineHarness) -> None:
    harness.apply(unique(harness, "a", scope="running"))
    harness.apply(harness.ask(DeleteJob, job_id="a"))
    harness.apply(unique(harness, "b", scope="running"))
    assert harness.apply(unique(harness, "c", scope="running", replace=True)).releases == []
    assert harness.row("b").reason == "replaced by c"
    assert ids(harness.apply(harness.returned("fenced", "a")).releases) == ["c"]


def test_a_job_that_replaces_another_has_its_place_and_its_aliases(harness: EngineHarness) -> None:
    line = LimitKey(kind="ordered", key="o")
    harness.apply(limited(harness, "out", line))
    harness.apply(harness.held("a", unique=UniqueKey(key="user:1"), limits=[line]))
    harness.apply(unique(harness, "alias"), harness.child("child", "alias"), limited(harness, "z", line))
    assert ids(harness.apply(unique(harness, "b", replace=True)).releases) == ["b"]
    assert harness.row("a").reason == "replaced by b"
    assert broken(harness.store) == []
    assert ids(harness.apply(harness.succeeded("out")).releases) == ["z"], "a has left its line"
    assert ids(harness.apply(harness.succeeded("b")).releases) == ["child"]


def test_an_ordered_job_that_is_deleted_and_rescheduled_with_its_message_out_holds_nobody_up(
    harness: EngineHarness,
) -> None:
    line = LimitKey(kind="ordered", key="k")
    harness.apply(*(limited(harness, id, line) for id in "ab"))
    harness.apply(harness.ask(DeleteJob, job_id="a"))
    harness.apply(harness.ask(RescheduleJob, job_id="a", due_at=harness.now + 3600.0))
    assert harness.row("b").state is State.AWAITING, "a may be running still"
    assert ids(harness.apply(harness.returned("fenced", "a")).releases) == ["b"]


def test_the_line_of_a_rate_is_kept_while_its_starts_count_and_no_longer(harness: EngineHarness) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    harness.apply(harness.ask(SetLimit, key="api", limit=1), limited(harness, "a", rate))
    harness.apply(harness.succeeded("a"), harness.ask(SetLimit, key="api", limit=None))
    with harness.store.transaction() as tx:
        assert [line.key for line in tx.lines.lines(["rate:api", "concurrency:api"])] == ["rate:api"]
    assert harness.apply(limited(harness, "b", rate)).releases == []
    assert run_out(harness, ["b"]) == [("b", 10.0)]
    harness.apply(harness.succeeded("b"))
    harness.now += 25.0
    harness.apply(harness.ask(SetLimit, key="api", limit=2))
    harness.apply(harness.ask(SetLimit, key="api", limit=None))
    with harness.store.transaction() as tx:
        assert tx.lines.lines(["rate:api", "concurrency:api"]) == []


def test_jobs_that_died_twice_wait_for_each_other_and_say_so(harness: EngineHarness) -> None:
    harness.apply(harness.ready("a"), harness.ready("b"))
    for epoch in (1, 2):
        for id in "ab":
            harness.apply(harness.started(id, epoch, owned=True), LeaseOver(id, "w1", "its worker vanished"))
        harness.now += 5.0
        harness.apply(TimerDue("a"), TimerDue("b"))
    assert [harness.row(id).state for id in "ab"] == [State.ENQUEUED, State.AWAITING]
    assert harness.row("b").reason == "waits to run alone: its worker died twice"
    assert ids(harness.apply(harness.succeeded("a", 3)).releases) == ["b"]


def test_a_start_and_the_next_job_of_its_key_may_be_read_together(harness: EngineHarness) -> None:
    harness.apply(unique(harness, "a"))
    effects = harness.apply(harness.started("a"), unique(harness, "b"))
    assert ids(effects.releases) == ["b"]


def test_a_member_whose_key_is_that_of_a_job_which_waits_for_its_batch_fails(harness: EngineHarness) -> None:
    key = UniqueKey(key="user:1", scope="running")
    harness.apply(harness.child("a", batches=("b",), on="finished", unique=key))
    harness.apply(harness.chunk("b", ["m"], unique=key), harness.commit("b"))
    assert harness.row("m").state is State.FAILED
    assert harness.row("m").reason.startswith("it has the unique key of a, which waits for it")
    assert harness.row("a").state is State.ENQUEUED, "its batch has ended"


@pytest.mark.parametrize("page", [1, 2, 400])
def test_all_duplicates_of_a_job_end_with_it(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("broker_jobs.coordinator.consequences.PAGE", page)
    harness.apply(unique(harness, "a"))
    for id in "bcd":
        harness.apply(unique(harness, id), harness.child(f"after-{id}", id))
    released = [*harness.apply(harness.succeeded("a")).releases, *harness.work()]
    assert ids(released) == ["after-b", "after-c", "after-d"]


def test_a_job_that_failed_before_it_ran_keeps_its_window_and_is_not_replaced(harness: EngineHarness) -> None:
    key = UniqueKey(key="user:1", scope="window", seconds=60.0)
    harness.apply(harness.child("a", "a", unique=key))
    assert harness.row("a").state is State.FAILED
    assert harness.apply(unique(harness, "b", scope="window", seconds=60.0, replace=True)).releases == []
    assert harness.row("b").reason == "duplicate of a"


def test_a_window_outlasts_the_success_of_its_job_and_ends_with_its_deletion(harness: EngineHarness) -> None:
    window: dict[str, Any] = {"scope": "window", "seconds": 60.0}
    harness.apply(unique(harness, "a", **window))
    harness.apply(harness.succeeded("a"))
    harness.apply(unique(harness, "b", **window))
    assert harness.row("b").reason == "duplicate of a"
    harness.apply(harness.ask(DeleteJob, job_id="a"))
    assert ids(harness.apply(unique(harness, "c", **window)).releases) == ["c"]


def test_a_job_that_was_replaced_is_shown_as_the_one_that_replaced_it(harness: EngineHarness) -> None:
    harness.apply(harness.held("a", delay=60.0, unique=UniqueKey(key="user:1")))
    harness.apply(harness.child("child", "a"))
    assert ids(harness.apply(unique(harness, "b", replace=True)).releases) == ["b"]
    assert harness.row("child").state is State.AWAITING
    answer = harness.apply(harness.ask(RequeueJob, reply_to="me", job_id="a")).messages[-1]
    assert Reply.model_validate_json(answer.body).refused == "it is already on its way: enqueued"
    assert ids(harness.apply(harness.succeeded("b")).releases) == ["child"]


def test_a_job_that_is_run_again_later_may_be_replaced_until_its_next_release(harness: EngineHarness) -> None:
    harness.apply(unique(harness, "a", scope="running"))
    harness.apply(harness.succeeded("a"))
    harness.apply(harness.ask(RescheduleJob, job_id="a", due_at=harness.now + 60.0))
    assert ids(harness.apply(unique(harness, "b", scope="running", replace=True)).releases) == ["b"]
    assert harness.row("a").reason == "replaced by b"


def test_a_job_that_a_restored_store_takes_for_new_is_not_replaced_once_a_run_of_it_was_reported(
    harness: EngineHarness,
) -> None:
    harness.apply(harness.held("a", delay=60.0, unique=UniqueKey(key="user:1", scope="running")))
    harness.apply(harness.started("a"), harness.failed("a"))
    assert harness.apply(unique(harness, "b", scope="running", replace=True)).releases == []
    assert harness.row("b").reason == "duplicate of a"

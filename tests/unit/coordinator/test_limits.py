"""Limits hold whatever happens to workers; unique keys keep one job and lose no update."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker_jobs.coordinator import engine, state_machine
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.limits import LimitRules
from broker_jobs.coordinator.records import DueNotice, LeaseOver, Released, ReleaseUnknown, TimerDue
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
from broker_jobs.store.row import Publication, Row
from tests.support.invariants import broken
from tests.unit.coordinator.engine_desk import Desk

SMTP = LimitKey(kind="concurrency", key="smtp", limit=2)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def ids(rows: list[Row]) -> list[str]:
    return [row.id for row in rows]


def limited(desk: Desk, id: str, *limits: LimitKey, **fields: Any) -> Any:
    return desk.held(id, limits=limits, **fields)


# ---- concurrency


def test_no_more_than_the_limit_are_out_and_the_others_stand_in_line(desk: Desk) -> None:
    effects = desk.apply(*(limited(desk, str(n), SMTP) for n in range(5)))
    assert ids(effects.releases) == ["0", "1"]
    assert desk.row("2").reason == "waits for one of 2 slots of 'smtp'"
    assert ids(desk.apply(desk.succeeded("1")).releases) == ["2"]
    assert ids(desk.apply(desk.succeeded("0"), desk.succeeded("2")).releases) == ["3", "4"]


def test_who_comes_later_does_not_overtake(desk: Desk) -> None:
    desk.apply(*(limited(desk, str(n), SMTP) for n in range(3)))
    effects = desk.apply(limited(desk, "late", SMTP), desk.succeeded("0"))
    assert ids(effects.releases) == ["2"]


def test_a_retry_gives_its_slot_back_and_takes_another_when_due(desk: Desk) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    desk.apply(limited(desk, "a", one), limited(desk, "b", one))
    assert ids(desk.apply(desk.failed("a")).releases) == ["b"]
    desk.now += 5.0
    assert desk.apply(TimerDue("a")).releases == []
    effects = desk.apply(desk.succeeded("b"))
    assert [(row.id, row.attempt) for row in effects.releases] == [("a", 2)]


def test_a_crashed_worker_s_slot_comes_back_after_the_grace(desk: Desk) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    desk.apply(limited(desk, "a", one), limited(desk, "b", one))
    desk.apply(desk.started("a"), LeaseOver("a", "w1", "gone"))
    assert desk.apply(desk.returned("redelivered", "a")).releases == []
    assert desk.row("b").state is State.AWAITING
    desk.ticks(11)
    assert ids(desk.apply(TimerDue("a")).releases) == ["a"]
    assert ids(desk.apply(desk.succeeded("a", 2)).releases) == ["b"]


def test_a_release_that_may_have_been_published_keeps_its_slot(desk: Desk) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    desk.apply(limited(desk, "a", one), limited(desk, "b", one))
    assert desk.apply(ReleaseUnknown("a", 1)).releases == []
    desk.ticks(11)
    assert ids(desk.apply(TimerDue("a"), TimerDue("b")).releases) == ["a"]


def test_deleting_who_waits_or_who_is_out_lets_the_next_go(desk: Desk) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    desk.apply(*(limited(desk, id, one) for id in "abcd"))
    assert desk.apply(desk.ask(DeleteJob, job_id="b")).releases == []
    assert ids(desk.apply(desk.ask(DeleteJob, job_id="a")).releases) == ["c"]
    assert ids(desk.apply(desk.succeeded("c")).releases) == ["d"]


def test_a_limit_changes_at_run_time(desk: Desk) -> None:
    desk.apply(*(limited(desk, str(n), SMTP) for n in range(6)))
    assert ids(desk.apply(desk.ask(SetLimit, key="smtp", limit=4)).releases) == ["2", "3"]
    desk.apply(desk.ask(SetLimit, key="smtp", limit=1))
    assert desk.apply(desk.succeeded("0"), desk.succeeded("1"), desk.succeeded("2")).releases == []
    assert ids(desk.apply(desk.succeeded("3")).releases) == ["4"]


def test_two_limits_on_one_job_are_both_kept(desk: Desk) -> None:
    host = LimitKey(kind="concurrency", key="host", limit=1)
    desk.apply(limited(desk, "a", SMTP, host), limited(desk, "b", SMTP, host), limited(desk, "c", SMTP))
    assert [desk.row(id).state for id in "abc"] == [State.ENQUEUED, State.AWAITING, State.ENQUEUED]
    assert ids(desk.apply(desk.succeeded("a")).releases) == ["b"]


def test_a_person_s_run_now_still_waits_for_a_slot(desk: Desk) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    desk.apply(limited(desk, "a", one), limited(desk, "b", one))
    assert desk.apply(desk.ask(RequeueJob, job_id="b")).releases == []
    assert ids(desk.apply(desk.succeeded("a")).releases) == ["b"]


def test_a_job_that_is_returned_and_released_again_keeps_its_slot(desk: Desk) -> None:
    one = LimitKey(kind="concurrency", key="k", limit=1)
    desk.apply(limited(desk, "a", one), limited(desk, "b", one))
    assert ids(desk.apply(desk.returned("no queue", "a")).releases) == ["a"]
    assert desk.row("b").state is State.AWAITING
    assert ids(desk.apply(desk.succeeded("a", 2)).releases) == ["b"]


# ---- order


def test_ordered_jobs_run_one_at_a_time_in_order_of_acceptance_through_retries(desk: Desk) -> None:
    line = LimitKey(kind="ordered", key="account-7")
    desk.apply(*(limited(desk, id, line) for id in "abc"))
    assert [desk.row(id).state for id in "abc"] == [State.ENQUEUED, State.AWAITING, State.AWAITING]
    assert desk.apply(desk.failed("a")).releases == []
    desk.now += 5.0
    assert ids(desk.apply(TimerDue("a")).releases) == ["a"]
    assert ids(desk.apply(desk.succeeded("a", 2)).releases) == ["b"]
    assert ids(desk.apply(desk.failed("b", final=True)).releases) == ["c"]


def test_an_ordered_job_that_is_not_due_lets_others_go_and_keeps_its_place(desk: Desk) -> None:
    line = LimitKey(kind="ordered", key="k")
    desk.apply(limited(desk, "a", line, delay=60.0), *(limited(desk, id, line) for id in "bc"))
    assert [desk.row(id).state for id in "abc"] == [State.SCHEDULED, State.ENQUEUED, State.AWAITING]
    desk.now += 60.0
    assert desk.apply(TimerDue("a")).releases == []
    assert ids(desk.apply(desk.succeeded("b")).releases) == ["a"]
    assert ids(desk.apply(desk.succeeded("a")).releases) == ["c"]


@pytest.mark.parametrize("waits", ["parent", "batch", "time"])
def test_a_free_place_does_not_move_an_ordered_job_that_waits_for_something_else(desk: Desk, waits: str) -> None:
    line = LimitKey(kind="ordered", key="k")
    waiting: dict[str, Input] = {
        "parent": desk.child("w", "p", limits=[line]),
        "batch": desk.chunk("b", ["w"], limits=[line]),
        "time": desk.held("w", delay=60.0, limits=[line]),
    }
    come: dict[str, Input] = {"parent": desk.succeeded("p"), "batch": desk.commit("b"), "time": TimerDue("w")}
    desk.apply(desk.ready("p"), limited(desk, "a", line), waiting[waits], limited(desk, "z", line))
    assert ids(desk.apply(desk.succeeded("a")).releases) == ["z"]
    assert ids(desk.apply(desk.ask(DeleteJob, job_id="z")).releases) == []
    desk.apply(limited(desk, "y", line), limited(desk, "x", line))
    desk.now += 60.0
    desk.apply(come[waits])
    assert ids(desk.apply(desk.succeeded("y")).releases) == ["w"]
    assert ids(desk.apply(desk.succeeded("w")).releases) == ["x"]


def test_an_ordered_job_that_is_rescheduled_gives_the_place_back_and_keeps_its_rank(desk: Desk) -> None:
    line = LimitKey(kind="ordered", key="k")
    desk.apply(*(limited(desk, id, line) for id in "abc"))
    desk.apply(desk.failed("a"))  # a retry holds the line
    assert desk.row("b").state is State.AWAITING
    effects = desk.apply(desk.ask(RescheduleJob, job_id="a", due_at=desk.now + 3600.0))
    assert ids(effects.releases) == ["b"]
    desk.now += 3600.0
    assert desk.apply(TimerDue("a")).releases == []
    assert ids(desk.apply(desk.succeeded("b")).releases) == ["a"]


def test_an_ordered_job_rescheduled_with_its_message_out_gives_the_place_back_when_it_is_clear(desk: Desk) -> None:
    line = LimitKey(kind="ordered", key="k")
    desk.apply(*(limited(desk, id, line) for id in "ab"))
    desk.apply(desk.ask(RescheduleJob, job_id="a", due_at=desk.now + 3600.0))
    assert desk.row("b").state is State.AWAITING
    assert ids(desk.apply(desk.returned("fenced", "a")).releases) == ["b"]


@pytest.mark.parametrize("kind", ["ordered", "concurrency"])
def test_a_job_rescheduled_within_its_grace_gives_its_slot_back_when_that_is_over(desk: Desk, kind: Any) -> None:
    limit = LimitKey(kind=kind, key="k")
    desk.apply(*(limited(desk, id, limit) for id in "ab"))
    desk.apply(desk.returned("redelivered", "a"))
    desk.apply(desk.ask(RescheduleJob, job_id="a", due_at=desk.now + 3600.0))
    assert desk.row("b").state is State.AWAITING, "a may be running still"
    desk.ticks(11)
    with desk.store.transaction() as tx:
        over = tx.grace_over(tx.meta.log_time, limit=10, due_before=desk.now)
    assert over == ["a"]
    assert ids(desk.apply(*map(TimerDue, over)).releases) == ["b"]
    with desk.store.transaction() as tx:
        assert tx.grace_over(tx.meta.log_time, limit=10, due_before=desk.now) == []


def test_order_is_asked_before_slots(desk: Desk) -> None:
    line, slot = LimitKey(kind="ordered", key="o"), LimitKey(kind="concurrency", key="k", limit=1)
    desk.apply(limited(desk, "other", slot), *(limited(desk, id, slot, line) for id in "ab"))
    assert ids(desk.apply(desk.succeeded("other")).releases) == ["a"]
    assert ids(desk.apply(desk.succeeded("a")).releases) == ["b"]


@pytest.mark.parametrize("kind", ["ordered", "concurrency", "rate"])
def test_a_person_does_not_run_a_member_of_a_batch_that_is_not_complete(desk: Desk, kind: Any) -> None:
    limit = LimitKey(kind=kind, key="k", per=1.0 if kind == "rate" else None)
    desk.apply(desk.chunk("b", ["m", "d"], limits=[limit]))
    desk.apply(desk.ask(DeleteJob, job_id="d"))
    for id in "md":
        refused = desk.ask(RequeueJob, reply_to="me", job_id=id)
        answer = desk.apply(refused).messages[-1]
        assert "its batch is not complete" in (Reply.model_validate_json(answer.body).refused or "")
    assert ids(desk.apply(desk.commit("b")).releases) == ["m"]


@pytest.mark.parametrize("copy_comes", [True, False])
def test_a_due_notice_that_is_read_before_the_copy_of_its_job_takes_key_and_place(desk: Desk, copy_comes: bool) -> None:
    line = LimitKey(kind="ordered", key="k")
    held = desk.held("late", unique=UniqueKey(key="user:1", scope="running"), limits=[line])
    desk.apply(limited(desk, "a", line))
    desk.apply(DueNotice(held.envelope, held.body), *([held] if copy_comes else []), limited(desk, "b", line))
    desk.apply(unique(desk, "other"))
    assert desk.row("other").reason == "duplicate of late"
    assert ids(desk.apply(desk.succeeded("a")).releases) == ["late"]


# ---- rates


def run_out(desk: Desk, names: list[str], seconds: float = 200.0) -> list[tuple[str, float]]:
    """Let time pass to whenever something comes due, with the look-ahead of a coordinator; (job, moment) of starts."""
    begun, ahead = desk.now, 0.02
    starts: list[tuple[str, float]] = []
    desk.apply()
    while len(starts) < len(names) and desk.now < begun + seconds:
        with desk.store.transaction() as tx:
            due = tx.due(desk.now + seconds, limit=1)
        if due:
            desk.now = max(desk.now, due[0][0] - ahead * 0.9)
        effects = desk.engine.apply([TimerDue(name) for name in names], desk.now, ahead=ahead)
        starts += [(row.id, round((row.released_at or 0.0) - begun, 3)) for row in effects.releases]
    return starts


def test_a_sliding_rate_starts_so_many_in_any_span_and_in_order(desk: Desk) -> None:
    rate = LimitKey(kind="rate", key="api", limit=2, per=10.0)
    names = [str(n) for n in range(5)]
    effects = desk.apply(*(limited(desk, name, rate) for name in names))
    assert ids(effects.releases) == ["0", "1"]
    assert [desk.row(name).state for name in names[2:]] == [State.SCHEDULED, State.AWAITING, State.AWAITING]
    assert run_out(desk, names[2:]) == [("2", 10.0), ("3", 10.0), ("4", 20.0)]


def test_a_fixed_rate_starts_anew_with_each_window(desk: Desk) -> None:
    desk.now = desk.now // 60.0 * 60.0 + 50.0
    rate = LimitKey(kind="rate", key="api", limit=2, per=60.0, window="fixed")
    effects = desk.apply(*(limited(desk, str(n), rate) for n in range(5)))
    assert ids(effects.releases) == ["0", "1"]
    assert run_out(desk, ["2", "3", "4"]) == [("2", 10.0), ("3", 10.0), ("4", 70.0)]


def test_after_an_outage_a_rate_holds_still(desk: Desk) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    names = [str(n) for n in range(5)]
    desk.apply(*(limited(desk, name, rate) for name in names))
    desk.now += 3600.0
    assert run_out(desk, names[1:]) == [("1", 0.0), ("2", 10.0), ("3", 20.0), ("4", 30.0)]


def test_delayed_jobs_of_one_time_keep_their_rate(desk: Desk) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    names = [str(n) for n in range(3)]
    desk.apply(*(limited(desk, name, rate, delay=30.0) for name in names))
    assert [at for _, at in run_out(desk, names)] == [30.0, 40.0, 50.0]


def test_the_next_start_of_a_rate_passes_on_when_its_job_is_deleted_or_rescheduled(desk: Desk) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    names = [str(n) for n in range(5)]
    desk.apply(*(limited(desk, name, rate) for name in names))
    desk.apply(desk.ask(DeleteJob, job_id="1"))
    desk.apply(desk.ask(RescheduleJob, job_id="2", due_at=desk.now + 15.0))
    assert run_out(desk, ["2", "3", "4"]) == [("3", 10.0), ("4", 20.0), ("2", 30.0)]


def test_a_rate_changes_at_run_time(desk: Desk) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    desk.apply(*(limited(desk, str(n), rate) for n in range(6)))
    assert ids(desk.apply(desk.ask(SetLimit, key="api", limit=3)).releases) == ["1", "2"]
    desk.apply(desk.ask(SetLimit, key="api", limit=1))
    assert run_out(desk, ["3", "4", "5"]) == [("3", 10.0), ("4", 20.0), ("5", 30.0)]


def test_who_waits_for_a_rate_keeps_no_slot_from_others(desk: Desk) -> None:
    slot, rate = LimitKey(kind="concurrency", key="k", limit=1), LimitKey(kind="rate", key="r", limit=1, per=60.0)
    desk.apply(*(limited(desk, id, slot, rate) for id in "ab"))
    assert ids(desk.apply(desk.succeeded("a"), limited(desk, "c", slot)).releases) == ["c"]
    desk.now += 60.0
    assert desk.apply(TimerDue("b")).releases == []
    assert ids(desk.apply(desk.succeeded("c")).releases) == ["b"]


def test_two_rates_on_one_job_are_both_kept(desk: Desk) -> None:
    fast, slow = LimitKey(kind="rate", key="a", limit=1, per=3.0), LimitKey(kind="rate", key="b", limit=1, per=10.0)
    names = [str(n) for n in range(3)]
    effects = desk.apply(*(limited(desk, name, fast, slow) for name in names), limited(desk, "f", fast))
    assert ids(effects.releases) == ["0"]
    assert run_out(desk, ["1", "2", "f"]) == [("1", 10.0), ("2", 20.0), ("f", 23.0)]


def test_a_job_whose_conditions_never_settle_is_set_aside_and_its_neighbours_go(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = LimitKey(kind="rate", key="api", limit=1, per=10.0)
    moments = iter(range(10**9))
    monkeypatch.setattr(LimitRules, "_next_moment", lambda *_: desk.now + 5.0 + next(moments))
    monkeypatch.setattr(LimitRules, "_is_later", lambda *_: False)
    monkeypatch.setattr(state_machine, "is_due", lambda row, _: row.state is State.SCHEDULED)
    monkeypatch.setattr(engine, "is_due", lambda row, _: row.state is State.SCHEDULED)
    effects = desk.apply(limited(desk, "a", rate), desk.ready("n"), limited(desk, "s", SMTP))
    assert ids(effects.releases) == ["s"]
    assert (desk.row("a").state, desk.row("n").state) == (State.FAILED, State.ENQUEUED)
    assert "requeue it" in desk.row("a").reason
    assert [row.message_id for row in desk.store.reader.dead_letters()] == ["a"]


# ---- unique keys


def unique(desk: Desk, id: str, **rules: Any) -> Any:
    return desk.held(id, unique=UniqueKey(key="user:1", **rules))


def test_a_second_job_of_a_key_becomes_an_alias_whose_result_is_the_first_s(desk: Desk) -> None:
    desk.apply(unique(desk, "a"))
    assert desk.apply(unique(desk, "b")).releases == []
    assert (desk.row("b").state, desk.row("b").reason) == (State.DELETED, "duplicate of a")
    asked = desk.ask(GetJob, reply_to="me", id="q", job_id="b", until_ended=True)
    assert desk.apply(asked).messages == []
    answer = desk.apply(desk.succeeded("a", result="7")).messages[-1]
    assert Reply.model_validate_json(answer.body).detail["result"] == "7"
    assert ids(desk.apply(desk.child("c", "b")).releases) == ["c"]


def test_what_waits_for_an_alias_waits_for_the_job_it_stands_for(desk: Desk) -> None:
    desk.apply(unique(desk, "a"), desk.child("early", "b"), unique(desk, "b"), desk.child("late", "b"))
    assert desk.row("early").state is desk.row("late").state is State.AWAITING
    assert sorted(ids(desk.apply(desk.succeeded("a")).releases)) == ["early", "late"]


def test_what_is_enqueued_after_the_start_is_not_swallowed(desk: Desk) -> None:
    released = desk.apply(unique(desk, "a")).releases[0]
    assert codec.decode(release(released).body).careful, "its start must be confirmed before it runs"
    desk.apply(desk.started("a"))
    assert ids(desk.apply(unique(desk, "b")).releases) == ["b"]


def test_unique_while_running_holds_until_the_end(desk: Desk) -> None:
    desk.apply(unique(desk, "a", scope="running"), desk.started("a"))
    assert desk.apply(unique(desk, "b", scope="running")).releases == []
    desk.apply(desk.succeeded("a"))
    assert ids(desk.apply(unique(desk, "c", scope="running")).releases) == ["c"]


def test_unique_in_a_window_holds_for_its_time(desk: Desk) -> None:
    desk.apply(unique(desk, "a", scope="window", seconds=60.0), desk.succeeded("a"))
    assert desk.apply(unique(desk, "b", scope="window", seconds=60.0)).releases == []
    desk.now += 60.0
    assert ids(desk.apply(unique(desk, "c", scope="window", seconds=60.0)).releases) == ["c"]


@pytest.mark.parametrize("later", ["queued", "running", "window"])
@pytest.mark.parametrize("scope", ["queued", "running", "window"])
def test_where_scopes_differ_that_of_the_job_which_has_the_key_counts(desk: Desk, scope: str, later: str) -> None:
    seconds = {"window": 60.0}
    first = unique(desk, "a", scope=scope, seconds=seconds.get(scope))
    keeps = {"while it waits": True, "while it runs": scope != "queued", "when it has ended": scope == "window"}
    desk.apply(first)
    for number, (when, is_kept) in enumerate(keeps.items()):
        if when == "while it runs":
            desk.apply(desk.started("a", desk.row("a").epoch))
        elif when == "when it has ended":
            desk.apply(desk.succeeded("a", desk.row("a").epoch))
        desk.apply(unique(desk, f"b{number}", scope=later, seconds=seconds.get(later)))
        assert (desk.row(f"b{number}").reason == "duplicate of a") is is_kept, when
        if not is_kept:
            return


def test_who_asks_for_limits_sees_the_numbers_that_jobs_carry(desk: Desk) -> None:
    rate = LimitKey(kind="rate", key="api", limit=2, per=60.0)
    slots = LimitKey(kind="concurrency", key="smtp", limit=3)
    desk.apply(*(desk.held(id, limits=[rate, slots]) for id in "abc"))
    found = {limit.key: (limit.most, limit.per, limit.is_set) for limit in desk.store.reader.limits()}
    assert found == {"concurrency:smtp": (3, None, False), "rate:api": (2, 60.0, False)}
    desk.apply(desk.ask(SetLimit, key="api", limit=9))
    found = {limit.key: (limit.most, limit.per, limit.is_set) for limit in desk.store.reader.limits()}
    assert found["rate:api"] == (9, 60.0, True)


def test_a_later_job_replaces_one_that_only_waits(desk: Desk) -> None:
    old = desk.held("a", delay=60.0, unique=UniqueKey(key="user:1"))
    desk.apply(old)
    assert ids(desk.apply(unique(desk, "b", replace=True)).releases) == ["b"]
    assert (desk.row("a").state, desk.row("a").reason) == (State.DELETED, "replaced by b")
    assert desk.apply(unique(desk, "c", replace=True)).releases == []
    assert desk.row("c").reason == "duplicate of b"


def test_the_same_job_again_is_no_duplicate_of_itself(desk: Desk) -> None:
    job = unique(desk, "a")
    desk.apply(job)
    desk.apply(job)
    assert desk.row("a").state is State.ENQUEUED


def test_keys_count_for_members_of_batches_and_for_recurring_jobs_too(desk: Desk) -> None:
    key = UniqueKey(key="user:1")
    desk.apply(desk.chunk("b", ["1", "2"], unique=key), desk.commit("b"))
    assert desk.row("2").reason == "duplicate of 1"
    assert (desk.batch("b").open, desk.batch("b").deleted) == (1, 1)
    line = LimitKey(kind="ordered", key="o")
    desk.apply(desk.chunk("c", ["3", "4"], limits=[line]), desk.commit("c"))
    assert [desk.row(id).state for id in "34"] == [State.ENQUEUED, State.AWAITING]
    call = codec.encode(desk.envelope("t", epoch=0, unique=key)).decode()
    desk.apply(desk.ask(PutRecurring, schedule=Schedule(name="s", cron="0 * * * *", call=call)))
    desk.apply(desk.ask(TriggerRecurring, name="s", job_id="by-hand"))
    assert desk.row("by-hand").reason == "duplicate of 1"


def test_a_job_deleted_and_requeued_while_its_message_is_out_takes_a_slot_when_it_is_released_again(desk: Desk) -> None:
    slot = LimitKey(kind="concurrency", key="x", limit=1)
    desk.apply(limited(desk, "a", slot))
    desk.apply(desk.ask(DeleteJob, job_id="a"))
    assert ids(desk.apply(limited(desk, "b", slot)).releases) == ["b"]
    desk.apply(desk.ask(RequeueJob, job_id="a"))
    desk.apply(desk.returned("fenced", "a"))
    assert desk.row("a").state is State.AWAITING
    assert ids(desk.apply(desk.succeeded("b")).releases) == ["a"]


# ---- whatever happens


def limits_of(row: Row) -> set[str]:
    return {f"{limit.kind}:{limit.key}" for limit in codec.decode(row.envelope).limits} if row.envelope else set()


class Slots(RuleBasedStateMachine):
    """Jobs under limits, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
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
        self.desk.apply(limited(self.desk, f"j{self.made}", *limits, delay=delay, policy=policy))

    @rule(
        n=st.integers(1, 8),
        what=st.sampled_from(["ok", "fail", "started", "back", "handed", "lease", "delete", "requeue", "unsure"]),
    )
    def happens(self, n: int, what: str) -> None:
        row = self.desk.store.reader.job(f"j{n}")
        if row is None:
            return
        desk, id, epoch = self.desk, row.id, row.epoch
        out = row.publication is not Publication.NONE
        match what:
            case "ok" if out:
                desk.apply(Released(id, epoch), desk.succeeded(id, epoch))
            case "fail" if out:
                desk.apply(Released(id, epoch), desk.failed(id, epoch))
            case "started" if out:
                desk.apply(Released(id, epoch), desk.started(id, epoch))
            case "back" if out:
                desk.apply(Released(id, epoch), desk.returned("redelivered", id, epoch))
            case "handed" if out:
                desk.apply(Released(id, epoch), desk.returned("shutdown", id, epoch))
            case "lease":
                desk.apply(LeaseOver(id, "w1", "gone"))
            case "delete":
                desk.apply(desk.ask(DeleteJob, job_id=id))
            case "requeue":
                desk.apply(desk.ask(RequeueJob, job_id=id))
            case "unsure":
                desk.apply(ReleaseUnknown(id, epoch))
            case _:
                pass

    @rule(seconds=st.integers(1, 12))
    def time_passes(self, seconds: int) -> None:
        self.desk.ticks(seconds)
        self.desk.apply(*(TimerDue(f"j{n}") for n in range(1, self.made + 1)))

    def rows(self) -> list[Row]:
        return self.desk.store.reader.jobs(limit=500)

    @invariant()
    def the_store_is_sound(self) -> None:
        assert broken(self.desk.store) == []

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
        with self.desk.store.transaction() as tx:
            for key in ("concurrency:x", "concurrency:y"):
                assert tx.first_in_line(key) is None or tx.slots_taken(key) >= 2, f"a slot of {key} is free"
            first = tx.first_in_line("ordered:o")
            waits = first is not None and tx.load([first[0]])[first[0]].state is State.AWAITING
            elsewhere = first is not None and False in (tx.has_slot(f"concurrency:{key}", first[0]) for key in "xy")
            free = tx.slots_taken("ordered:o") == 0
            assert not (waits and free) or elsewhere, f"{first} stands before a free place"


TestSlots = Slots.TestCase
TestSlots.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

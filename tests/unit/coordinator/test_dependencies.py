"""What waits for jobs and batches goes on once, by how they ended; what cannot come any more says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise, permutations
from typing import Literal

import pytest

from broker_jobs.coordinator import cascade, consequences
from broker_jobs.coordinator.conditions.batches import ChunkTooLateError
from broker_jobs.coordinator.inputs import ChunkReceived, Input
from broker_jobs.coordinator.records import Released, TimerDue
from broker_jobs.errors import StoreError
from broker_jobs.messages import codec
from broker_jobs.messages.commands import DeleteBatch, DeleteJob, GetBatch, GetJob, ListFailures, Reply, RequeueJob
from broker_jobs.messages.envelope import Dependencies, End, Parent, ResultArgument, UniqueKey
from broker_jobs.messages.state import State
from broker_jobs.store import dependency_graph
from broker_jobs.store.records import SubmissionRow
from broker_jobs.store.row import Row
from broker_jobs.store.write import Transaction
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness


def a_day_passes(harness: EngineHarness) -> None:
    """A day of log time and a second."""
    with harness.store.transaction() as tx:
        tx.meta.log_time += 86_401.0


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def released(rows: list[Row]) -> list[str]:
    return sorted(row.id for row in rows)


def run(harness: EngineHarness, *ids: str, fail: bool = False) -> list[str]:
    """Let released jobs end; what that released."""
    out: list[Row] = []
    for id in ids:
        epoch = harness.row(id).epoch
        told = harness.failed(id, epoch, final=True) if fail else harness.succeeded(id, epoch, result="1")
        effects = harness.apply(Released(id, epoch), told)
        out += effects.releases
        while effects.more:
            effects = harness.apply_work()
            out += effects.releases
    return released(out)


# ---- continuations


def test_a_child_is_released_in_the_transaction_of_its_parent_s_end(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"))
    assert harness.apply(harness.child("c", "p")).releases == []
    assert harness.row("c").state is State.AWAITING
    assert harness.row("c").reason == "waits for p to have succeeded"
    assert released(harness.apply(harness.succeeded("p")).releases) == ["c"]


def test_a_child_of_a_parent_that_ended_long_ago_goes_at_once(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.succeeded("p"))
    assert released(harness.apply(harness.child("c", "p")).releases) == ["c"]


def test_a_child_and_its_parent_s_end_in_one_batch_of_records(harness: EngineHarness) -> None:
    assert released(harness.apply(harness.ready("p"), harness.child("c", "p"), harness.succeeded("p")).releases) == [
        "c"
    ]
    other = EngineHarness()
    assert released(other.apply(other.ready("p"), other.succeeded("p"), other.child("c", "p")).releases) == ["c"]


def test_a_child_that_comes_twice_is_released_once(harness: EngineHarness) -> None:
    child = harness.child("c", "p")
    harness.apply(harness.ready("p"), child, child)
    assert released(harness.apply(harness.succeeded("p"), child).releases) == ["c"]
    assert harness.apply(child, harness.succeeded("p")).releases == []


def test_several_parents_are_all_waited_for(harness: EngineHarness) -> None:
    harness.apply(harness.ready("a"), harness.ready("b"), harness.ready("c"), harness.succeeded("b"))
    harness.apply(harness.child("x", "a", "b", "c"))
    assert harness.apply(harness.succeeded("a")).releases == []
    assert released(harness.apply(harness.succeeded("c")).releases) == ["x"]


@pytest.mark.parametrize(
    ("on", "fails", "state"),
    [
        ("succeeded", False, State.ENQUEUED),
        ("succeeded", True, State.DELETED),
        ("failed", False, State.DELETED),
        ("failed", True, State.ENQUEUED),
        ("finished", False, State.ENQUEUED),
        ("finished", True, State.ENQUEUED),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_how_the_parent_ended_decides(harness: EngineHarness, on: End, fails: bool, state: State, late: bool) -> None:
    end = harness.failed("p", final=True) if fails else harness.succeeded("p")
    child = harness.child("c", "p", on=on)
    records: list[Input] = [end, child] if late else [child, end]
    harness.apply(harness.ready("p"), *records)
    assert harness.row("c").state is state
    assert broken(harness.store) == []


def test_a_retry_of_the_parent_is_no_end(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("c", "p", on="finished"), harness.failed("p"))
    assert harness.row("c").state is State.AWAITING


def test_a_child_whose_parent_failed_says_so_and_comes_back_when_the_parent_does(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("c", "p"), harness.child("d", "c"), harness.failed("p", final=True))
    assert (harness.row("c").state, harness.row("c").reason) == (
        State.DELETED,
        "unsatisfied: p did not end as succeeded",
    )
    assert harness.row("d").state is State.DELETED
    harness.apply(harness.ask(RequeueJob, job_id="p"))
    assert [harness.row(id).state for id in "cd"] == [State.AWAITING] * 2
    assert run(harness, "p") == ["c"]
    assert run(harness, "c") == ["d"]


def test_a_child_that_a_person_deleted_does_not_come_back(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("c", "p"), harness.ask(DeleteJob, job_id="c"))
    with harness.store.transaction() as tx:
        assert tx.dependencies.of(["c"]) == []
    assert harness.apply(harness.succeeded("p")).releases == []
    assert harness.row("c").state is State.DELETED


def test_a_child_that_waited_in_vain_and_was_deleted_by_a_person_does_not_come_back(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("c", "p"), harness.failed("p", final=True))
    harness.apply(harness.ask(DeleteJob, job_id="c"))
    assert harness.row("c").reason == "deleted"
    harness.apply(harness.ask(RequeueJob, job_id="p"))
    assert run(harness, "p") == []
    assert harness.row("c").state is State.DELETED


@pytest.mark.parametrize("batch", ["", "b"])
def test_a_child_that_waited_in_vain_runs_when_a_person_wants_it_and_only_then(
    harness: EngineHarness, batch: str
) -> None:
    child = harness.child("c", "p", batch=batch or None)
    chunk = harness.chunk("b", ["c"])
    chunk.members[:] = [child]
    harness.apply(harness.ready("p"), *([chunk, harness.commit("b")] if batch else [child]), harness.child("d", "c"))
    run(harness, "p", fail=True)
    assert {harness.row(id).state for id in "cd"} == {State.DELETED}
    assert released(harness.apply(harness.ask(RequeueJob, job_id="c")).releases) == ["c"]
    assert harness.row("d").state is State.AWAITING, "its parent may end as it should now"
    assert run(harness, "c") == ["d"]
    harness.apply(harness.ask(RequeueJob, job_id="p"))
    assert run(harness, "p") == []
    assert harness.row("c").epoch == 1
    if batch:
        assert (harness.batch("b").state, harness.batch("b").succeeded) == ("succeeded", 1)


def test_a_child_that_needs_a_result_its_parent_has_not_fails_when_a_person_runs_it(harness: EngineHarness) -> None:
    result_args = (ResultArgument(place=0, parents=("p",)),)
    harness.apply(
        harness.ready("p"),
        harness.child("c", "p", args=[None], result_args=result_args),
        harness.failed("p", final=True),
    )
    harness.apply(harness.ask(RequeueJob, job_id="c"))
    assert (harness.row("c").state, harness.row("c").reason) == (State.FAILED, "work p has no result: it is failed")


def test_the_result_of_a_parent_that_was_deleted_after_it_had_succeeded_is_taken(harness: EngineHarness) -> None:
    taken = (ResultArgument(place=0, parents=("p",)),)
    harness.apply(harness.ready("p"), harness.ready("q"), harness.child("c", "p", "q", args=[None], result_args=taken))
    run(harness, "p")
    harness.apply(harness.ask(DeleteJob, job_id="p"))
    assert run(harness, "q") == ["c"]
    assert codec.decode(harness.row("c").envelope).args == [1]


def test_a_person_may_run_a_waiting_child_now(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("c", "p"))
    assert released(harness.apply(harness.ask(RequeueJob, job_id="c")).releases) == ["c"]
    assert harness.apply(harness.succeeded("p")).releases == []


def test_deleting_the_parent_ends_the_wait(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("c", "p"), harness.child("f", "p", on="finished"))
    effects = harness.apply(harness.ask(DeleteJob, job_id="p"))
    assert released(effects.releases) == ["f"]
    assert harness.row("c").state is State.DELETED


def test_a_delay_after_the_parent_begins_with_its_end(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("c", "p", after_delay=60.0))
    harness.now += 100.0
    assert harness.apply(harness.succeeded("p")).releases == []
    assert harness.row("c").due_at == harness.now + 60.0
    harness.now += 60.0
    assert released(harness.apply(TimerDue("c")).releases) == ["c"]


def test_a_long_chain_and_a_wide_tree(harness: EngineHarness) -> None:
    harness.apply(harness.ready("0"), *(harness.child(str(n), str(n - 1)) for n in range(1, 200)))
    harness.apply(*(harness.child(f"leaf-{n}", "199") for n in range(2_500)))
    for n in range(199):
        assert run(harness, str(n)) == [str(n + 1)]
    assert len(run(harness, "199")) == 2_500


def test_a_job_that_waits_for_itself_fails(harness: EngineHarness) -> None:
    harness.apply(harness.child("a", "b"))
    harness.apply(harness.child("b", "a"))
    states = {harness.row("a").state, harness.row("b").state}
    assert State.FAILED in states
    assert harness.row("b").reason == "it waits for itself, by way of its parents: enqueue it without one of them"
    assert harness.row("a").state is State.DELETED


def test_a_child_takes_its_parents_results(harness: EngineHarness) -> None:
    harness.apply(
        harness.ready("p"),
        harness.succeeded("p", result='{"x":1}'),
        harness.ready("q"),
        harness.succeeded("q", result="2"),
    )
    result_args = (ResultArgument(place=0, parents=("p",)), ResultArgument(place="all", parents=("p", "q"), many=True))
    effects = harness.apply(harness.child("c", "p", "q", args=[None, 5], kwargs={"all": None}, result_args=result_args))
    envelope = codec.decode(effects.releases[0].envelope)
    assert (envelope.args, envelope.kwargs) == ([{"x": 1}, 5], {"all": [{"x": 1}, 2]})


def test_a_child_whose_parent_s_result_was_not_kept_fails_with_the_reason(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.succeeded("p"))
    harness.apply(harness.child("c", "p", args=[None], result_args=(ResultArgument(place=0, parents=("p",)),)))
    assert (harness.row("c").state, harness.row("c").reason) == (
        State.FAILED,
        "the result of work p was not kept: none came",
    )


# ---- batches


def test_nothing_of_a_batch_starts_before_its_commit(harness: EngineHarness) -> None:
    assert harness.apply(harness.chunk("b", ["1", "2"])).releases == []
    assert harness.work() == []
    assert {harness.row(id).state for id in "12"} == {State.AWAITING}
    assert released(harness.apply(harness.commit("b")).releases) == ["1", "2"]


@pytest.mark.parametrize("commit_first", [False, True])
def test_a_batch_was_created_when_its_producer_said_so(harness: EngineHarness, commit_first: bool) -> None:
    parts: list[Input] = [harness.chunk("b", ["1"]), harness.commit("b")]
    created_at = harness.now
    harness.now += 60.0
    harness.apply(*(reversed(parts) if commit_first else parts))
    assert harness.batch("b").created_at == created_at


def test_chunks_and_commit_may_come_twice_and_in_any_order(harness: EngineHarness) -> None:
    first, second, commit = harness.chunk("b", ["1"], 0), harness.chunk("b", ["2"], 1), harness.commit("b", 2)
    assert harness.apply(commit, second, second).releases == []
    assert released(harness.apply(first, first, commit).releases) == ["1", "2"]
    assert harness.apply(first, second, commit).releases == []
    assert (harness.batch("b").total, harness.batch("b").open) == (2, 2)


def test_a_batch_ends_once_when_its_last_member_does(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1", "2"]), harness.commit("b"), harness.child("then", batches=("b",)))
    assert run(harness, "1") == []
    assert harness.batch("b").state == "processing"
    assert run(harness, "2") == ["then"]
    assert (harness.batch("b").state, harness.batch("b").succeeded, harness.batch("b").open) == ("succeeded", 2, 0)
    assert harness.apply(harness.succeeded("2")).releases == []


def test_a_batch_with_a_failed_member_has_failed_and_still_ends(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1", "2"]), harness.commit("b"))
    harness.apply(harness.child("ok", batches=("b",)), harness.child("bad", batches=("b",), on="failed"))
    run(harness, "1", fail=True)
    assert run(harness, "2") == ["bad"]
    assert harness.batch("b").state == "failed"
    assert harness.row("ok").state is State.DELETED


def test_a_requeued_member_reopens_its_batch_and_what_it_set_free_is_not_set_free_again(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"]), harness.commit("b"))
    harness.apply(harness.child("ok", batches=("b",)), harness.child("any", batches=("b",), on="finished"))
    assert run(harness, "1", fail=True) == ["any"]
    harness.apply(harness.ask(RequeueJob, job_id="1"))
    assert (harness.batch("b").state, harness.batch("b").open, harness.batch("b").failed) == ("processing", 1, 0)
    assert run(harness, "1") == ["ok"]
    assert harness.batch("b").state == "succeeded"


def test_an_empty_batch_ends_when_it_is_committed(harness: EngineHarness) -> None:
    harness.apply(harness.child("then", batches=("b",)))
    assert released(harness.apply(harness.commit("b", 0)).releases) == ["then"]
    assert harness.batch("b").state == "succeeded"


def test_members_that_wait_on_each_other_let_the_batch_end(harness: EngineHarness) -> None:
    first = harness.chunk("b", ["1"])
    second = harness.chunk("b", ["2"], 1)
    second.members[:] = [harness.child("2", "1", batch="b")]
    harness.apply(first, second, harness.commit("b", 2))
    assert harness.row("2").state is State.AWAITING
    run(harness, "1", fail=True)
    assert harness.row("2").state is State.DELETED
    assert (harness.batch("b").state, harness.batch("b").failed, harness.batch("b").deleted) == ("failed", 1, 1)


def test_nested_batches_open_with_their_parent_and_end_before_it(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("inner", ["i"]), harness.commit("inner", parent="outer", parent_submission="outer.1"))
    assert harness.work() == []
    harness.apply(harness.chunk("outer", ["o"]), harness.child("then", batches=("outer",)))
    assert released(harness.apply(harness.commit("outer", batches=["inner"])).releases) == ["i", "o"]
    assert run(harness, "o") == []
    assert run(harness, "i") == ["then"]
    assert (harness.batch("inner").state, harness.batch("outer").state) == ("succeeded", "succeeded")


def test_a_batch_may_wait_for_a_job_and_a_batch(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.chunk("a", ["1"]), harness.commit("a"))
    parents = [{"id": "p"}, {"id": "a", "batch": True}]
    harness.apply(harness.chunk("b", ["2"]), harness.commit("b", parents=parents))
    assert run(harness, "1") == []
    assert run(harness, "p") == ["2"]


def test_a_batch_that_waits_in_vain_ends_as_deleted(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.chunk("b", ["1"]), harness.commit("b", parents=[{"id": "p"}]))
    harness.apply(harness.child("then", batches=("b",), on="finished"))
    assert run(harness, "p", fail=True) == ["then"]
    assert (harness.row("1").state, harness.batch("b").state) == (State.DELETED, "deleted")


def test_a_running_member_adds_to_its_batch(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"]), harness.commit("b"), harness.child("then", batches=("b",)))
    harness.apply(harness.chunk("b", ["2"], submission="more"), harness.commit("b", submission="more"))
    assert run(harness, "1") == []
    assert run(harness, "2") == ["then"]


def test_what_is_added_after_the_end_runs_and_reopens_the_batch(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"]), harness.commit("b"), harness.child("then", batches=("b",)))
    assert run(harness, "1") == ["then"]
    effects = harness.apply(harness.chunk("b", ["2"], submission="more"), harness.commit("b", submission="more"))
    assert released(effects.releases) == ["2"]
    assert harness.batch("b").state == "processing"
    assert run(harness, "2") == []
    assert (harness.batch("b").state, harness.batch("b").total) == ("succeeded", 2)


def test_deleting_a_batch_deletes_what_has_not_ended_and_asks_what_runs_to_stop(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1", "2", "3"]), harness.commit("b"))
    harness.apply(harness.started("2", harness.row("2").epoch))
    run(harness, "1")
    effects = harness.apply(harness.ask(DeleteBatch, reply_to="me", batch_id="b"))
    answer = Reply.model_validate_json(effects.messages[-1].body)
    assert (answer.refused, answer.detail["ended"]) == (None, False)
    assert effects.control is not None
    assert effects.control.cancel == ["2"]
    assert (harness.row("1").state, harness.row("3").state) == (State.SUCCEEDED, State.DELETED)
    harness.apply(harness.failed("2", harness.row("2").epoch, ended="cancelled"))
    assert (harness.batch("b").state, harness.batch("b").succeeded, harness.batch("b").deleted) == ("succeeded", 1, 2)
    reply = Reply.model_validate_json(
        harness.apply(harness.ask(DeleteBatch, reply_to="me", batch_id="b")).messages[-1].body
    )
    assert reply.detail["ended"] is True


def test_a_batch_that_is_given_up_ends_in_pages(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consequences, "PAGE", 2)
    names = [f"m{n}" for n in range(5)]
    harness.apply(harness.chunk("b", names))
    a_day_passes(harness)
    harness.work()
    assert {harness.row(name).state for name in names} == {State.DELETED}
    assert (harness.batch("b").state, harness.batch("b").deleted) == ("deleted", 5)


def test_a_batch_is_deleted_in_pages(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consequences, "PAGE", 2)
    names = [f"m{n}" for n in range(5)]
    harness.apply(harness.chunk("b", names), harness.commit("b"))
    harness.work()
    assert {harness.row(name).state for name in names} == {State.ENQUEUED}
    harness.apply(harness.ask(DeleteBatch, batch_id="b"))
    harness.work()
    assert {harness.row(name).state for name in names} == {State.DELETED}


def test_a_batch_whose_producer_died_is_given_up_after_a_day(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1", "2"]))
    a_day_passes(harness)
    harness.work()
    assert (harness.row("1").state, harness.row("1").reason) == (State.DELETED, "its batch was never completed")
    assert harness.batch("b").state == "deleted"


def test_a_large_batch_is_worked_off_page_by_page(harness: EngineHarness) -> None:
    ids = [f"m{n:05}" for n in range(5_000)]
    for number in range(10):
        harness.apply(harness.chunk("b", ids[number * 500 : number * 500 + 500], number))
    effects = harness.apply(harness.commit("b", 10))
    assert effects.more
    assert len(effects.releases) <= 1_000
    assert len(effects.releases) + len(harness.work()) == 5_000
    harness.apply(*(harness.succeeded(id) for id in ids))
    assert (harness.batch("b").state, harness.batch("b").succeeded) == ("succeeded", 5_000)


def test_a_delayed_member_waits_for_its_time_too(harness: EngineHarness) -> None:
    due_at = datetime.fromtimestamp(harness.now, UTC) + timedelta(seconds=60)
    effects = harness.apply(harness.chunk("b", ["1"], due_at=due_at), harness.commit("b"))
    assert effects.releases == []
    harness.now += 60.0
    assert released(harness.apply(TimerDue("1")).releases) == ["1"]


def test_a_batch_s_state_and_failures_can_be_asked_for(harness: EngineHarness) -> None:
    asked = harness.ask(GetBatch, reply_to="me", id="q", batch_id="b", until_ended=True)
    assert harness.apply(asked).messages == []
    harness.apply(harness.chunk("b", ["1", "2"], args=[7]), harness.commit("b"), asked)
    run(harness, "1", fail=True)
    effects = harness.apply(harness.succeeded("2", harness.row("2").epoch))
    reply = Reply.model_validate_json(effects.messages[-1].body)
    assert (reply.detail["state"], reply.detail["failed"], reply.detail["total"]) == ("failed", 1, 2)
    page = harness.apply(harness.ask(ListFailures, reply_to="me", batch_id="b")).messages[-1]
    failures = Reply.model_validate_json(page.body).detail["failures"]
    assert [(f["id"], f["args"], f["error"]["message"]) for f in failures] == [("1", [7], "boom")]


# ---- what comes after its batch was given up: a command's queue may overtake the log


def test_what_is_added_to_a_batch_that_waited_in_vain_is_deleted(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.chunk("b", ["1"]), harness.commit("b", parents=[{"id": "p"}]))
    run(harness, "p", fail=True)
    harness.apply(harness.chunk("b", ["2"], submission="more"), harness.commit("b", submission="more"))
    harness.work()
    assert (harness.row("2").state, harness.row("2").reason) == (
        State.DELETED,
        "unsatisfied: p did not end as succeeded",
    )
    assert (harness.batch("b").state, harness.batch("b").open, harness.batch("b").deleted) == ("deleted", 0, 2)
    assert broken(harness.store) == []


def test_chunks_that_come_after_their_batch_was_deleted_are_deleted_too(harness: EngineHarness) -> None:
    first, second = harness.chunk("b", ["1"], 0), harness.chunk("b", ["2"], 1)
    harness.apply(first, harness.ask(DeleteBatch, batch_id="b"))
    assert harness.work() == []
    effects = harness.apply(second, second, harness.commit("b", 2), second, harness.child("c", "2", on="finished"))
    assert released(effects.releases) == ["c"]
    assert (harness.row("2").state, harness.row("2").reason) == (State.DELETED, "its batch had been abandoned")
    assert (harness.batch("b").state, harness.batch("b").total, harness.batch("b").deleted) == ("deleted", 2, 2)
    assert broken(harness.store) == []


def test_a_batch_that_is_committed_inside_a_deleted_one_does_not_begin(harness: EngineHarness) -> None:
    harness.apply(
        harness.chunk("outer", ["o"]), harness.chunk("inner", ["i"]), harness.ask(DeleteBatch, batch_id="outer")
    )
    assert harness.work() == []
    harness.apply(
        harness.commit("inner", parent="outer", parent_submission="outer.1"), harness.commit("outer", batches=["inner"])
    )
    assert harness.work() == []
    assert harness.row("i").state is State.DELETED
    assert [(harness.batch(id).state, harness.batch(id).open) for id in ("outer", "inner")] == [("deleted", 0)] * 2
    assert broken(harness.store) == []


def test_what_becomes_free_while_nothing_may_be_released_is_found_by_its_time(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("c", "p"), may_release=False)
    harness.apply(harness.chunk("b", ["m"]), harness.commit("b"), harness.succeeded("p"), may_release=False)
    with harness.store.transaction() as tx:
        due = [id for _, id in tx.due.jobs(harness.now, limit=10)]
    assert sorted(due) == ["c", "m"]
    assert sorted(row.id for row in harness.apply(*map(TimerDue, due)).releases) == ["c", "m"]


# ---- who waits for itself by way of a batch

INSIDE, SIDE = "018bcfe5-6800-7000-8000-000000000001", "018bcfe5-6800-7000-8000-000000000002"
"""Ids as they are made for a job: those given by hand are looked at more often."""


def member(harness: EngineHarness, batch: str, id: str, *parents: str, batches: tuple[str, ...] = ()) -> ChunkReceived:
    """A chunk of one member that waits."""
    chunk = harness.chunk(batch, [id], submission=f"{batch}.{id}")
    chunk.members[:] = [harness.child(id, *parents, batches=batches, batch=batch)]
    return chunk


def _inner(harness: EngineHarness, order: tuple[str, ...]) -> list[Input]:
    """The batch waits for a job that waits for the batch inside it, which begins with it."""
    records: dict[str, Input] = {
        "inner": harness.commit("inner", parent="b", parent_submission="b.1"),
        "outer": harness.commit("b", batches=["inner"], parents=[{"id": SIDE}]),
        "side": harness.child(SIDE, batches=("inner",)),
    }
    return [harness.chunk("b", ["1"]), harness.chunk("inner", ["i"]), *(records[name] for name in order)]


LOOPS: dict[str, Callable[[EngineHarness], list[Input]]] = {
    "a member waits for what waits for its batch": lambda harness: [
        harness.child(SIDE, batches=("b",)), member(harness, "b", INSIDE, SIDE),
        harness.commit("b", submission=f"b.{INSIDE}"),
    ],
    "what waits for the batch comes last": lambda harness: [
        member(harness, "b", INSIDE, SIDE), harness.commit("b", submission=f"b.{INSIDE}"),
        harness.child(SIDE, batches=("b",)),
    ],
    "two batches, each with a member that waits for the other": lambda harness: [
        member(harness, "b", INSIDE, batches=("c",)), harness.commit("b", submission=f"b.{INSIDE}"),
        member(harness, "c", SIDE, batches=("b",)), harness.commit("c", submission=f"c.{SIDE}"),
    ],
    "a member of an inner batch waits for the outer one": lambda harness: [
        harness.chunk("b", ["o"]),
        member(harness, "inner", INSIDE, batches=("b",)),
        harness.commit("inner", submission=f"inner.{INSIDE}", parent="b", parent_submission="b.1"),
        harness.commit("b", batches=["inner"]),
    ],
    "two members wait for each other": lambda harness: [
        member(harness, "b", "x", "y"), harness.commit("b", submission="b.x"),
        member(harness, "b", "y", "x"), harness.commit("b", submission="b.y"),
    ],
    "a batch waits for what waits for it": lambda harness: [
        harness.child(SIDE, batches=("b",)), harness.chunk("b", ["1"]), harness.commit("b", parents=[{"id": SIDE}]),
    ],
    "a batch waits for itself": lambda harness: [
        harness.chunk("b", ["1"]), harness.commit("b", parents=[{"id": "b", "batch": True}]),
    ],
    "a batch waits for a member of it that comes last": lambda harness: [
        harness.commit("b", parents=[{"id": "1"}]), harness.chunk("b", ["1"]),
    ],
    "a batch waits for a member of a batch inside it that comes last, and waits for another job": lambda harness: [
        harness.ready("p"), harness.chunk("b", ["o"]), harness.commit("b", batches=["inner"], parents=[{"id": "i"}]),
        harness.commit("inner", submission="inner.i", parent="b", parent_submission="b.1"),
        member(harness, "inner", "i", "p"),
    ],
    "an inner batch waits for the outer one": lambda harness: [
        harness.chunk("b", ["o"]), harness.chunk("inner", ["i"]),
        harness.commit("inner", parent="b", parent_submission="b.1", parents=[{"id": "b", "batch": True}]),
        harness.commit("b", batches=["inner"]),
    ],
    **{
        f"a batch waits for what waits for a batch inside it: {', '.join(order)}": partial(_inner, order=order)
        for order in permutations(("inner", "outer", "side"))
    },
}  # fmt: skip


@pytest.mark.parametrize("page", [1, dependency_graph.PAGE])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", LOOPS)
def test_nothing_waits_for_itself_by_way_of_a_batch(
    harness: EngineHarness, name: str, together: bool, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependency_graph, "PAGE", page)
    records = LOOPS[name](harness)
    for transaction in [records] if together else [[record] for record in records]:
        harness.apply(*transaction)
        harness.work()
    for _ in range(5):
        out = [row.id for row in harness.store.reader.jobs.newest() if row.state is State.ENQUEUED]
        run(harness, *out)
    rows = harness.store.reader.jobs.newest()
    assert [row.id for row in rows if not row.state.is_final] == []
    assert any("waits for itself" in row.reason for row in rows)
    assert {batch.state for batch in harness.store.reader.batches.newest()} <= {"succeeded", "failed", "deleted"}
    assert broken(harness.store) == []


@pytest.mark.parametrize("most", [5, 1_000])
def test_the_way_up_is_followed_through_so_many_members_of_a_batch(
    harness: EngineHarness, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependency_graph, "PAGE", 2)
    monkeypatch.setattr(dependency_graph, "MOST_FOUND", most)
    read: list[int] = []
    inside = dependency_graph.DependencyGraph._inside

    def counted(graph: dependency_graph.DependencyGraph, batch: str) -> Iterator[tuple[int, set[tuple[str, str]]]]:
        for count, found in inside(graph, batch):
            read.append(count)
            yield count, found

    monkeypatch.setattr(dependency_graph.DependencyGraph, "_inside", counted)
    ids = [f"{n:02}" for n in range(20)]
    for id in ids:
        parent = "late" if id == ids[-1] else "typo"
        harness.apply(member(harness, "b", id, parent), harness.commit("b", submission=f"b.{id}"))
    harness.apply(harness.child("late", batches=("b",)))
    assert sum(read) <= most + 1
    assert (harness.row("late").state is State.FAILED) == (most > 20), "it waits for itself: found, or not looked for"


def test_a_member_may_wait_for_another_member_of_its_batch(harness: EngineHarness) -> None:
    first, then = harness.chunk("b", ["z"], 0), harness.chunk("b", ["a"], 1)  # the one that waits is admitted first
    then.members[:] = [harness.child("a", "z", batch="b")]
    harness.apply(then)
    harness.apply(first, harness.commit("b", 2, parents=[{"id": "p"}]), harness.ready("p"))
    for id in ("p", "z", "a"):
        harness.work()
        run(harness, id)
    harness.work()
    assert harness.batch("b").state == "succeeded"


def test_a_member_does_not_take_the_place_of_a_job_that_its_batch_waits_for(harness: EngineHarness) -> None:
    first, later = UniqueKey(key="u", scope="running"), UniqueKey(key="u", scope="running", replace=True)
    harness.apply(harness.ready("p"), harness.child("first", "p", unique=first), harness.held("same", unique=first))
    harness.apply(harness.chunk("b", ["m"], unique=later), harness.commit("b", parents=[{"id": "same"}]))
    harness.work()
    assert harness.row("m").reason == "duplicate of first"
    run(harness, "p")
    run(harness, "first")
    harness.work()
    assert harness.batch("b").state == "succeeded"
    assert broken(harness.store) == []


def test_a_long_chain_inside_a_batch_that_is_waited_for_early_is_not_walked_for_each(harness: EngineHarness) -> None:
    ids = [f"018bcfe5-6800-7000-8000-{n:012}" for n in range(2_000)]
    harness.apply(harness.child("then", batches=("b",)))
    chunk = harness.chunk("b", ids)
    chunk.members[1:] = [harness.child(id, before, batch="b") for before, id in pairwise(ids)]
    before = time.process_time()
    harness.apply(chunk, harness.commit("b"))
    assert time.process_time() - before < 5.0
    assert harness.row(ids[-1]).state is State.AWAITING


def test_a_chunk_that_its_commit_did_not_count_is_not_dropped(harness: EngineHarness) -> None:
    first, other = harness.chunk("b", ["1"], 0), harness.chunk("b", ["2"], 0)
    harness.apply(first)
    with pytest.raises(ChunkTooLateError, match=r"submission b\.1 has begun, or has another chunk 0"):
        harness.apply(other)
    harness.apply(harness.commit("b", 1))
    with pytest.raises(ChunkTooLateError, match="without these jobs: enqueue them anew"):
        harness.apply(harness.chunk("b", ["3"], 1))
    assert harness.apply(first).releases == []
    assert run(harness, "1") == []
    assert harness.apply(first).releases == []
    assert (harness.batch("b").state, harness.batch("b").total) == ("succeeded", 1)


DEEP = 1_100
"""More than a function may call itself."""


@pytest.mark.parametrize("abandoned", [None, True])
def test_submissions_inside_submissions_a_thousand_deep_begin_or_are_abandoned(
    harness: EngineHarness, abandoned: Literal[True] | None
) -> None:
    last = f"b{DEEP}"
    harness.apply(harness.chunk(last, ["j"]), harness.commit(last, parent_submission=f"b{DEEP - 1}.1"))
    with harness.store.transaction() as tx:
        for n in range(1, DEEP):
            tx.submissions.save(SubmissionRow(f"b{n}.1", f"b{n}", parent_submission=f"b{n - 1}.1", chunks=0, since=0.0))
    harness.apply(harness.commit("b0", 0, abandoned=abandoned))
    harness.work()
    assert harness.row("j").state is (State.DELETED if abandoned else State.ENQUEUED)


def test_batches_inside_batches_a_thousand_deep_end_go_on_and_are_deleted(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b0", ["j"]), harness.commit("b0"))
    with harness.store.transaction() as tx:
        inner = tx.batches.load(["b0"])["b0"]
        tx.batches.save(replace(inner, id=f"b{n}", parent=f"b{n + 1}") for n in range(DEEP))
    run(harness, "j")
    assert harness.batch(f"b{DEEP - 1}").state == "succeeded"
    harness.apply(harness.ask(RequeueJob, job_id="j"))
    assert harness.batch(f"b{DEEP - 1}").state == "processing"
    harness.apply(harness.ask(DeleteBatch, batch_id=f"b{DEEP - 1}"))
    harness.work()
    assert (harness.row("j").state, harness.batch(f"b{DEEP - 1}").state) == (State.DELETED, "deleted")


# ---- a block that raised


def test_a_batch_whose_block_raised_is_deleted_at_once(harness: EngineHarness) -> None:
    first, second = harness.chunk("b", ["1"], 0), harness.chunk("b", ["2"], 1)
    harness.apply(first, harness.commit("b", 2, abandoned=True), harness.child("then", batches=("b",), on="finished"))
    harness.work()
    harness.apply(second, harness.commit("b", 2, abandoned=True))
    harness.work()
    assert (harness.row("1").state, harness.row("1").reason) == (State.DELETED, "its batch was never completed")
    assert (harness.row("2").state, harness.row("2").reason) == (State.DELETED, "its batch had been abandoned")
    assert (harness.batch("b").state, harness.batch("b").open, harness.batch("b").deleted) == ("deleted", 0, 2)
    assert harness.row("then").state is State.ENQUEUED


def test_a_batch_whose_jobs_come_after_it_was_given_up_ends(harness: EngineHarness) -> None:
    harness.apply(harness.commit("b", 1, abandoned=True), harness.child("then", batches=("b",), on="finished"))
    harness.work()
    harness.apply(harness.chunk("b", ["1"]))
    harness.work()
    assert (harness.row("1").state, harness.batch("b").state, harness.batch("b").deleted) == (
        State.DELETED,
        "deleted",
        1,
    )
    assert harness.row("then").state is State.ENQUEUED


def test_an_submission_that_is_given_up_leaves_the_others_alone(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"]), harness.commit("b"))
    harness.apply(harness.chunk("b", ["2"], submission="more"), harness.commit("b", submission="more", abandoned=True))
    run(harness, "1")
    assert (harness.row("1").state, harness.row("2").state) == (State.SUCCEEDED, State.DELETED)
    assert (harness.batch("b").state, harness.batch("b").total) == ("succeeded", 2)


def test_a_committed_submission_cannot_be_given_up(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"]), harness.commit("b"), harness.commit("b", abandoned=True))
    assert harness.row("1").state is State.ENQUEUED


def test_a_block_that_raised_after_a_sub_batch_was_committed_takes_that_along(harness: EngineHarness) -> None:
    harness.apply(*inner_sealed(harness), harness.commit("outer", 0, abandoned=True))
    harness.work()
    assert harness.row("i").state is State.DELETED
    assert {harness.batch(id).state for id in ("inner", "outer")} == {"deleted"}


# ---- batches inside batches whose outer block is not committed yet


def inner_sealed(harness: EngineHarness, id: str = "i", batch: str = "inner") -> list[Input]:
    return [harness.chunk(batch, [id]), harness.commit(batch, parent="outer", parent_submission="outer.1")]


@pytest.mark.parametrize("together", [False, True])
def test_an_outer_batch_that_is_deleted_before_its_commit_counts_its_inner_ones_once(
    harness: EngineHarness, together: bool
) -> None:
    outer, inner = harness.chunk("outer", ["o"]), inner_sealed(harness)
    delete = harness.ask(DeleteBatch, batch_id="outer")
    if together:
        harness.apply(outer, *inner, delete)
    else:
        harness.apply(outer, *inner)
        harness.apply(delete)
    harness.work()
    assert {harness.row(id).state for id in "oi"} == {State.DELETED}
    assert (harness.batch("outer").state, harness.batch("outer").open, harness.batch("outer").total) == (
        "deleted",
        0,
        2,
    )
    harness.apply(harness.commit("outer", batches=["inner"]))
    assert (harness.batch("outer").state, harness.batch("outer").open, harness.batch("outer").total) == (
        "deleted",
        0,
        2,
    )
    assert broken(harness.store) == []


def test_an_inner_batch_that_is_deleted_before_the_outer_commit_is_counted_once(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("outer", ["o"]), *inner_sealed(harness))
    harness.apply(harness.ask(DeleteBatch, batch_id="inner"))
    harness.work()
    assert (harness.batch("outer").state, harness.batch("outer").open) == ("awaiting", 1)
    assert released(harness.apply(harness.commit("outer", batches=["inner"])).releases) == ["o"]
    run(harness, "o")
    assert (harness.batch("outer").state, harness.batch("outer").total, harness.batch("outer").open) == (
        "succeeded",
        2,
        0,
    )
    assert broken(harness.store) == []


def test_an_outer_commit_that_comes_after_a_day_counts_inner_batches_once(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("outer", ["o"]), *inner_sealed(harness))
    a_day_passes(harness)
    harness.work()
    assert (harness.batch("outer").state, harness.batch("outer").total, harness.batch("outer").open) == (
        "deleted",
        2,
        0,
    )
    harness.apply(harness.commit("outer", batches=["inner"]))
    harness.work()
    assert (harness.batch("outer").state, harness.batch("outer").total, harness.batch("outer").open) == (
        "deleted",
        2,
        0,
    )
    assert broken(harness.store) == []


def test_a_batch_has_a_day_from_when_its_first_chunk_came(harness: EngineHarness) -> None:
    a_day_passes(harness)
    harness.apply(harness.chunk("b", ["1"]))
    harness.ticks(60)
    harness.work()
    assert harness.row("1").state is State.AWAITING
    a_day_passes(harness)
    harness.work()
    assert harness.row("1").state is State.DELETED


@pytest.mark.parametrize("page", [1, 2, 400])
def test_all_that_wait_for_a_job_are_told_in_pages(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    for module in (cascade, consequences):
        monkeypatch.setattr(module, "PAGE", page)
    names = [f"c{n}" for n in range(4)]
    harness.apply(harness.ready("p"), *(harness.child(name, "p") for name in names))
    first = harness.apply(harness.succeeded("p")).releases
    assert len(first) == min(page, 4)
    assert released([*first, *harness.work()]) == names


def test_what_comes_of_a_batch_that_was_deleted_before_its_commit_is_deleted_too(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"]), harness.ask(DeleteBatch, batch_id="b"))
    harness.work()
    harness.apply(harness.chunk("b", ["2"], 1), harness.commit("b", 2))
    assert harness.work() == []
    assert [harness.row(id).state for id in "12"] == [State.DELETED] * 2
    assert (harness.batch("b").state, harness.batch("b").total) == ("deleted", 2)


def test_a_member_whose_parent_ended_before_it_came_waits_its_delay_from_the_commit(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.succeeded("p"))
    after = Dependencies(parents=(Parent(id="p"),), delay=10.0)
    harness.apply(harness.chunk("b", ["m"], after=after))
    harness.now += 5.0
    assert harness.apply(harness.commit("b")).releases == []
    assert (harness.row("m").state, harness.row("m").due_at) == (State.SCHEDULED, harness.now + 10.0)


@pytest.mark.parametrize("outer_first", [True, False])
def test_a_batch_inside_one_that_waits_for_it_would_wait_for_itself(harness: EngineHarness, outer_first: bool) -> None:
    outer: list[Input] = [harness.chunk("outer", ["o"])]
    outer.append(harness.commit("outer", parents=[Parent(id="inner", batch=True)]))
    inner: list[Input] = [harness.chunk("inner", ["i"])]
    inner.append(harness.commit("inner", parent="outer", parent_submission="outer.1"))
    for part in (outer, inner) if outer_first else (inner, outer):
        harness.apply(*part)
    assert harness.work() == []
    assert [harness.row(id).state for id in "io"] == [State.DELETED] * 2
    assert broken(harness.store) == []


def test_a_batch_of_batches_alone_whose_producer_died_is_given_up_after_a_day(harness: EngineHarness) -> None:
    harness.apply(*inner_sealed(harness), *inner_sealed(harness, "j", "second"))
    assert harness.work() == []
    a_day_passes(harness)
    harness.work()
    assert {harness.row(id).state for id in "ij"} == {State.DELETED}
    assert {harness.batch(id).state for id in ("inner", "second", "outer")} == {"deleted"}
    assert broken(harness.store) == []


def test_an_inner_commit_may_come_after_the_outer_one(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("outer", ["o"]), harness.commit("outer", batches=["inner"]))
    assert run(harness, "o") == []
    assert (harness.batch("outer").state, harness.batch("outer").open) == ("processing", 1)
    assert released(harness.apply(*inner_sealed(harness)).releases) == ["i"]
    run(harness, "i")
    assert (harness.batch("outer").state, harness.batch("outer").total) == ("succeeded", 2)
    assert broken(harness.store) == []


def test_a_batch_is_no_part_of_itself(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("a", ["1"]), harness.commit("a", parent="a", parent_submission="a.1"))
    harness.apply(harness.chunk("b", ["2"]), harness.commit("b", parent="c", parent_submission="c.1"))
    harness.apply(harness.chunk("c", ["3"]), harness.commit("c", parent="b", parent_submission="b.1", batches=["b"]))
    harness.apply(harness.ask(DeleteBatch, batch_id="a"), harness.ask(DeleteBatch, batch_id="c"))
    harness.work()
    assert {harness.row(id).state for id in "123"} == {State.DELETED}
    assert {harness.batch(id).state for id in "abc"} == {"deleted"}


def test_who_waits_for_an_end_is_answered_though_its_transaction_failed_first(harness: EngineHarness) -> None:
    asked = [
        harness.ask(GetJob, reply_to="me", id="q", job_id="1", until_ended=True),
        harness.ask(GetBatch, reply_to="me", id="r", batch_id="b", until_ended=True),
    ]
    harness.apply(harness.chunk("b", ["1"]), harness.commit("b"), *asked)
    finish = harness.store.transaction

    @contextmanager
    def fails() -> Iterator[Transaction]:
        with finish() as tx:
            yield tx
            raise StoreError("the disk is full")

    harness.store.transaction = fails  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        harness.apply(harness.succeeded("1"))
    harness.store.transaction = finish  # type: ignore[method-assign]
    answered = [Reply.model_validate_json(m.body).id for m in harness.apply(harness.succeeded("1")).messages]
    assert sorted(answered) == ["q", "r"]
    assert [m for m in harness.apply(harness.succeeded("1")).messages if m.type == "reply"] == []


def test_a_member_goes_whose_batch_was_committed_while_nobody_might_release(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"]), harness.commit("b"), may_release=False)
    assert not broken(harness.store)
    assert [row.id for row in harness.release("1").releases] == ["1"]


@pytest.mark.parametrize("parent", ["member", "child"])
def test_a_batch_that_waits_for_one_of_its_own_members_ends(harness: EngineHarness, parent: str) -> None:
    harness.apply(harness.chunk("b", ["member"]), harness.child("child", "member"))
    harness.apply(harness.commit("b", parents=[Parent(id=parent)]))
    harness.work()
    assert harness.row("member").state is State.DELETED
    assert harness.batch("b").ended_at is not None
    assert broken(harness.store) == []


def test_a_batch_that_waits_for_a_member_of_a_batch_that_begins_with_it_ends(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("inner", ["member"]))
    harness.apply(harness.commit("inner", parent="outer", parent_submission="outer.1"))
    harness.apply(harness.commit("outer", chunks=0, parents=[Parent(id="member")]))
    harness.work()
    assert harness.row("member").state is State.DELETED
    assert harness.batch("outer").ended_at is not None


def test_no_job_becomes_the_duplicate_of_a_member_whose_batch_waits_for_it(harness: EngineHarness) -> None:
    key = UniqueKey(key="k", scope="running")
    harness.apply(harness.child("first", "twin"))
    harness.apply(harness.chunk("b", ["member"], unique=key), harness.commit("b", parents=[Parent(id="first")]))
    harness.apply(harness.held("twin", unique=key))
    assert harness.row("twin").state is State.FAILED
    assert "which waits for it" in harness.row("twin").reason


def test_what_is_added_to_a_batch_may_wait_for_a_member_that_has_begun(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"]), harness.commit("b"))
    harness.apply(harness.chunk("b", ["2"], submission="b.2"))
    harness.apply(harness.commit("b", submission="b.2", parents=[Parent(id="1")]))
    assert harness.row("2").state is State.AWAITING
    assert [row.id for row in harness.apply(harness.succeeded("1")).releases] == ["2"]


def test_a_batch_inside_one_that_was_abandoned_while_it_waited_does_not_begin(harness: EngineHarness) -> None:
    harness.apply(harness.held("p"), harness.chunk("outer", ["1"]))
    harness.apply(harness.commit("outer", parents=[Parent(id="p")], batches=["inner"]))
    harness.apply(harness.failed("p", final=True))
    harness.apply(harness.chunk("inner", ["2"]))
    harness.apply(harness.commit("inner", parent="outer", parent_submission="outer.1"))
    harness.work()
    assert harness.row("2").state is State.DELETED
    assert harness.batch("outer").ended_at is not None
    assert broken(harness.store) == []

"""What waits for jobs and batches goes on once, by how they ended; what cannot come any more says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from broker_jobs.coordinator.inputs import ChunkReceived, Input
from broker_jobs.coordinator.records import Released, TimerDue
from broker_jobs.errors import StoreError
from broker_jobs.messages import codec
from broker_jobs.messages.commands import DeleteBatch, DeleteJob, GetBatch, GetJob, ListFailures, Reply, RequeueJob
from broker_jobs.messages.envelope import End, ResultArgument
from broker_jobs.messages.state import State
from broker_jobs.store.row import Row
from broker_jobs.store.write import Transaction
from tests.support.invariants import broken
from tests.unit.coordinator.engine_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def released(rows: list[Row]) -> list[str]:
    return sorted(row.id for row in rows)


def run(desk: Desk, *ids: str, fail: bool = False) -> list[str]:
    """Let released jobs end; what that released."""
    out: list[Row] = []
    for id in ids:
        epoch = desk.row(id).epoch
        told = desk.failed(id, epoch, final=True) if fail else desk.succeeded(id, epoch, result="1")
        effects = desk.apply(Released(id, epoch), told)
        out += effects.releases
        while effects.more:
            effects = desk.apply_work()
            out += effects.releases
    return released(out)


# ---- continuations


def test_a_child_is_released_in_the_transaction_of_its_parent_s_end(desk: Desk) -> None:
    desk.apply(desk.ready("p"))
    assert desk.apply(desk.child("c", "p")).releases == []
    assert desk.row("c").state is State.AWAITING
    assert desk.row("c").reason == "waits for p to have succeeded"
    assert released(desk.apply(desk.succeeded("p")).releases) == ["c"]


def test_a_child_of_a_parent_that_ended_long_ago_goes_at_once(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.succeeded("p"))
    assert released(desk.apply(desk.child("c", "p")).releases) == ["c"]


def test_a_child_and_its_parent_s_end_in_one_batch_of_records(desk: Desk) -> None:
    assert released(desk.apply(desk.ready("p"), desk.child("c", "p"), desk.succeeded("p")).releases) == ["c"]
    other = Desk()
    assert released(other.apply(other.ready("p"), other.succeeded("p"), other.child("c", "p")).releases) == ["c"]


def test_a_child_that_comes_twice_is_released_once(desk: Desk) -> None:
    child = desk.child("c", "p")
    desk.apply(desk.ready("p"), child, child)
    assert released(desk.apply(desk.succeeded("p"), child).releases) == ["c"]
    assert desk.apply(child, desk.succeeded("p")).releases == []


def test_several_parents_are_all_waited_for(desk: Desk) -> None:
    desk.apply(desk.ready("a"), desk.ready("b"), desk.ready("c"), desk.succeeded("b"))
    desk.apply(desk.child("x", "a", "b", "c"))
    assert desk.apply(desk.succeeded("a")).releases == []
    assert released(desk.apply(desk.succeeded("c")).releases) == ["x"]


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
def test_how_the_parent_ended_decides(desk: Desk, on: End, fails: bool, state: State, late: bool) -> None:
    end = desk.failed("p", final=True) if fails else desk.succeeded("p")
    child = desk.child("c", "p", on=on)
    records: list[Input] = [end, child] if late else [child, end]
    desk.apply(desk.ready("p"), *records)
    assert desk.row("c").state is state
    assert broken(desk.store) == []


def test_a_retry_of_the_parent_is_no_end(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.child("c", "p", on="finished"), desk.failed("p"))
    assert desk.row("c").state is State.AWAITING


def test_a_child_whose_parent_failed_says_so_and_comes_back_when_the_parent_does(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.child("c", "p"), desk.child("d", "c"), desk.failed("p", final=True))
    assert (desk.row("c").state, desk.row("c").reason) == (State.DELETED, "unsatisfied: p did not end as succeeded")
    assert desk.row("d").state is State.DELETED
    desk.apply(desk.ask(RequeueJob, job_id="p"))
    assert run(desk, "p") == ["c"]
    assert run(desk, "c") == ["d"]


def test_a_child_that_a_person_deleted_does_not_come_back(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.child("c", "p"), desk.ask(DeleteJob, job_id="c"))
    assert desk.apply(desk.succeeded("p")).releases == []
    assert desk.row("c").state is State.DELETED


def test_a_child_that_waited_in_vain_and_was_deleted_by_a_person_does_not_come_back(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.child("c", "p"), desk.failed("p", final=True))
    desk.apply(desk.ask(DeleteJob, job_id="c"))
    assert desk.row("c").reason == "deleted"
    desk.apply(desk.ask(RequeueJob, job_id="p"))
    assert run(desk, "p") == []
    assert desk.row("c").state is State.DELETED


@pytest.mark.parametrize("batch", ["", "b"])
def test_a_child_that_waited_in_vain_runs_when_a_person_wants_it_and_only_then(desk: Desk, batch: str) -> None:
    child = desk.child("c", "p", batch=batch or None)
    chunk = desk.chunk("b", ["c"])
    chunk.members[:] = [child]
    desk.apply(desk.ready("p"), *([chunk, desk.commit("b")] if batch else [child]), desk.child("d", "c"))
    run(desk, "p", fail=True)
    assert {desk.row(id).state for id in "cd"} == {State.DELETED}
    assert released(desk.apply(desk.ask(RequeueJob, job_id="c")).releases) == ["c"]
    assert run(desk, "c") == ["d"]
    desk.apply(desk.ask(RequeueJob, job_id="p"))
    assert run(desk, "p") == []
    assert desk.row("c").epoch == 1
    if batch:
        assert (desk.batch("b").state, desk.batch("b").succeeded) == ("succeeded", 1)


def test_a_child_that_needs_a_result_its_parent_has_not_fails_when_a_person_runs_it(desk: Desk) -> None:
    result_args = (ResultArgument(place=0, parents=("p",)),)
    desk.apply(
        desk.ready("p"), desk.child("c", "p", args=[None], result_args=result_args), desk.failed("p", final=True)
    )
    desk.apply(desk.ask(RequeueJob, job_id="c"))
    assert (desk.row("c").state, desk.row("c").reason) == (State.FAILED, "work p has no result: it is failed")


def test_a_person_may_run_a_waiting_child_now(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.child("c", "p"))
    assert released(desk.apply(desk.ask(RequeueJob, job_id="c")).releases) == ["c"]
    assert desk.apply(desk.succeeded("p")).releases == []


def test_deleting_the_parent_ends_the_wait(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.child("c", "p"), desk.child("f", "p", on="finished"))
    effects = desk.apply(desk.ask(DeleteJob, job_id="p"))
    assert released(effects.releases) == ["f"]
    assert desk.row("c").state is State.DELETED


def test_a_delay_after_the_parent_begins_with_its_end(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.child("c", "p", after_delay=60.0))
    desk.now += 100.0
    assert desk.apply(desk.succeeded("p")).releases == []
    assert desk.row("c").due_at == desk.now + 60.0
    desk.now += 60.0
    assert released(desk.apply(TimerDue("c")).releases) == ["c"]


def test_a_long_chain_and_a_wide_tree(desk: Desk) -> None:
    desk.apply(desk.ready("0"), *(desk.child(str(n), str(n - 1)) for n in range(1, 200)))
    desk.apply(*(desk.child(f"leaf-{n}", "199") for n in range(2_500)))
    for n in range(199):
        assert run(desk, str(n)) == [str(n + 1)]
    assert len(run(desk, "199")) == 2_500


def test_a_job_that_waits_for_itself_fails(desk: Desk) -> None:
    desk.apply(desk.child("a", "b"))
    desk.apply(desk.child("b", "a"))
    states = {desk.row("a").state, desk.row("b").state}
    assert State.FAILED in states
    assert desk.row("b").reason == "it waits for itself, by way of its parents: enqueue it without one of them"
    assert desk.row("a").state is State.DELETED


def test_a_child_takes_its_parents_results(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.succeeded("p", result='{"x":1}'), desk.ready("q"), desk.succeeded("q", result="2"))
    result_args = (ResultArgument(place=0, parents=("p",)), ResultArgument(place="all", parents=("p", "q"), many=True))
    effects = desk.apply(desk.child("c", "p", "q", args=[None, 5], kwargs={"all": None}, result_args=result_args))
    envelope = codec.decode(effects.releases[0].envelope)
    assert (envelope.args, envelope.kwargs) == ([{"x": 1}, 5], {"all": [{"x": 1}, 2]})


def test_a_child_whose_parent_s_result_was_not_kept_fails_with_the_reason(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.succeeded("p"))
    desk.apply(desk.child("c", "p", args=[None], result_args=(ResultArgument(place=0, parents=("p",)),)))
    assert (desk.row("c").state, desk.row("c").reason) == (State.FAILED, "the result of work p was not kept: none came")


# ---- batches


def test_nothing_of_a_batch_starts_before_its_commit(desk: Desk) -> None:
    assert desk.apply(desk.chunk("b", ["1", "2"])).releases == []
    assert desk.work() == []
    assert {desk.row(id).state for id in "12"} == {State.AWAITING}
    assert released(desk.apply(desk.commit("b")).releases) == ["1", "2"]


def test_chunks_and_commit_may_come_twice_and_in_any_order(desk: Desk) -> None:
    first, second, commit = desk.chunk("b", ["1"], 0), desk.chunk("b", ["2"], 1), desk.commit("b", 2)
    assert desk.apply(commit, second, second).releases == []
    assert released(desk.apply(first, first, commit).releases) == ["1", "2"]
    assert desk.apply(first, second, commit).releases == []
    assert (desk.batch("b").total, desk.batch("b").open) == (2, 2)


def test_a_batch_ends_once_when_its_last_member_does(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1", "2"]), desk.commit("b"), desk.child("then", batches=("b",)))
    assert run(desk, "1") == []
    assert desk.batch("b").state == "processing"
    assert run(desk, "2") == ["then"]
    assert (desk.batch("b").state, desk.batch("b").succeeded, desk.batch("b").open) == ("succeeded", 2, 0)
    assert desk.apply(desk.succeeded("2")).releases == []


def test_a_batch_with_a_failed_member_has_failed_and_still_ends(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1", "2"]), desk.commit("b"))
    desk.apply(desk.child("ok", batches=("b",)), desk.child("bad", batches=("b",), on="failed"))
    run(desk, "1", fail=True)
    assert run(desk, "2") == ["bad"]
    assert desk.batch("b").state == "failed"
    assert desk.row("ok").state is State.DELETED


def test_a_requeued_member_reopens_its_batch_and_what_it_set_free_is_not_set_free_again(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1"]), desk.commit("b"))
    desk.apply(desk.child("ok", batches=("b",)), desk.child("any", batches=("b",), on="finished"))
    assert run(desk, "1", fail=True) == ["any"]
    desk.apply(desk.ask(RequeueJob, job_id="1"))
    assert (desk.batch("b").state, desk.batch("b").open, desk.batch("b").failed) == ("processing", 1, 0)
    assert run(desk, "1") == ["ok"]
    assert desk.batch("b").state == "succeeded"


def test_an_empty_batch_ends_when_it_is_committed(desk: Desk) -> None:
    desk.apply(desk.child("then", batches=("b",)))
    assert released(desk.apply(desk.commit("b", 0)).releases) == ["then"]
    assert desk.batch("b").state == "succeeded"


def test_members_that_wait_on_each_other_let_the_batch_end(desk: Desk) -> None:
    first = desk.chunk("b", ["1"])
    second = desk.chunk("b", ["2"], 1)
    second.members[:] = [desk.child("2", "1", batch="b")]
    desk.apply(first, second, desk.commit("b", 2))
    assert desk.row("2").state is State.AWAITING
    run(desk, "1", fail=True)
    assert desk.row("2").state is State.DELETED
    assert (desk.batch("b").state, desk.batch("b").failed, desk.batch("b").deleted) == ("failed", 1, 1)


def test_nested_batches_open_with_their_parent_and_end_before_it(desk: Desk) -> None:
    desk.apply(desk.chunk("inner", ["i"]), desk.commit("inner", parent="outer", parent_submission="outer.1"))
    assert desk.work() == []
    desk.apply(desk.chunk("outer", ["o"]), desk.child("then", batches=("outer",)))
    assert released(desk.apply(desk.commit("outer", batches=["inner"])).releases) == ["i", "o"]
    assert run(desk, "o") == []
    assert run(desk, "i") == ["then"]
    assert (desk.batch("inner").state, desk.batch("outer").state) == ("succeeded", "succeeded")


def test_a_batch_may_wait_for_a_job_and_a_batch(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.chunk("a", ["1"]), desk.commit("a"))
    parents = [{"id": "p"}, {"id": "a", "batch": True}]
    desk.apply(desk.chunk("b", ["2"]), desk.commit("b", parents=parents))
    assert run(desk, "1") == []
    assert run(desk, "p") == ["2"]


def test_a_batch_that_waits_in_vain_ends_as_deleted(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.chunk("b", ["1"]), desk.commit("b", parents=[{"id": "p"}]))
    desk.apply(desk.child("then", batches=("b",), on="finished"))
    assert run(desk, "p", fail=True) == ["then"]
    assert (desk.row("1").state, desk.batch("b").state) == (State.DELETED, "deleted")


def test_a_running_member_adds_to_its_batch(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1"]), desk.commit("b"), desk.child("then", batches=("b",)))
    desk.apply(desk.chunk("b", ["2"], submission="more"), desk.commit("b", submission="more"))
    assert run(desk, "1") == []
    assert run(desk, "2") == ["then"]


def test_what_is_added_after_the_end_runs_and_reopens_the_batch(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1"]), desk.commit("b"), desk.child("then", batches=("b",)))
    assert run(desk, "1") == ["then"]
    effects = desk.apply(desk.chunk("b", ["2"], submission="more"), desk.commit("b", submission="more"))
    assert released(effects.releases) == ["2"]
    assert desk.batch("b").state == "processing"
    assert run(desk, "2") == []
    assert (desk.batch("b").state, desk.batch("b").total) == ("succeeded", 2)


def test_deleting_a_batch_deletes_what_has_not_ended_and_asks_what_runs_to_stop(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1", "2", "3"]), desk.commit("b"))
    desk.apply(desk.started("2", desk.row("2").epoch))
    run(desk, "1")
    effects = desk.apply(desk.ask(DeleteBatch, reply_to="me", batch_id="b"))
    assert effects.control is not None
    assert effects.control.cancel == ["2"]
    assert (desk.row("1").state, desk.row("3").state) == (State.SUCCEEDED, State.DELETED)
    desk.apply(desk.failed("2", desk.row("2").epoch, cancelled=True))
    assert (desk.batch("b").state, desk.batch("b").succeeded, desk.batch("b").deleted) == ("succeeded", 1, 2)
    reply = Reply.model_validate_json(desk.apply(desk.ask(DeleteBatch, reply_to="me", batch_id="b")).messages[-1].body)
    assert reply.detail["ended"] is True


def test_a_batch_whose_producer_died_is_given_up_after_a_day(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1", "2"]))
    desk.now += 86_401.0
    desk.work()
    assert (desk.row("1").state, desk.row("1").reason) == (State.DELETED, "its batch was never completed")
    assert desk.batch("b").state == "deleted"


def test_a_large_batch_is_worked_off_page_by_page(desk: Desk) -> None:
    ids = [f"m{n:05}" for n in range(5_000)]
    for number in range(10):
        desk.apply(desk.chunk("b", ids[number * 500 : number * 500 + 500], number))
    effects = desk.apply(desk.commit("b", 10))
    assert effects.more
    assert len(effects.releases) <= 1_000
    assert len(effects.releases) + len(desk.work()) == 5_000
    desk.apply(*(desk.succeeded(id) for id in ids))
    assert (desk.batch("b").state, desk.batch("b").succeeded) == ("succeeded", 5_000)


def test_a_delayed_member_waits_for_its_time_too(desk: Desk) -> None:
    due_at = datetime.fromtimestamp(desk.now, UTC) + timedelta(seconds=60)
    effects = desk.apply(desk.chunk("b", ["1"], due_at=due_at), desk.commit("b"))
    assert effects.releases == []
    desk.now += 60.0
    assert released(desk.apply(TimerDue("1")).releases) == ["1"]


def test_a_batch_s_state_and_failures_can_be_asked_for(desk: Desk) -> None:
    asked = desk.ask(GetBatch, reply_to="me", id="q", batch_id="b", until_ended=True)
    assert desk.apply(asked).messages == []
    desk.apply(desk.chunk("b", ["1", "2"], args=[7]), desk.commit("b"), asked)
    run(desk, "1", fail=True)
    effects = desk.apply(desk.succeeded("2", desk.row("2").epoch))
    reply = Reply.model_validate_json(effects.messages[-1].body)
    assert (reply.detail["state"], reply.detail["failed"], reply.detail["total"]) == ("failed", 1, 2)
    page = desk.apply(desk.ask(ListFailures, reply_to="me", batch_id="b")).messages[-1]
    failures = Reply.model_validate_json(page.body).detail["failures"]
    assert [(f["id"], f["args"], f["error"]["message"]) for f in failures] == [("1", [7], "boom")]


# ---- what comes after its batch was given up: a command's queue may overtake the log


def test_what_is_added_to_a_batch_that_waited_in_vain_is_deleted(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.chunk("b", ["1"]), desk.commit("b", parents=[{"id": "p"}]))
    run(desk, "p", fail=True)
    desk.apply(desk.chunk("b", ["2"], submission="more"), desk.commit("b", submission="more"))
    desk.work()
    assert (desk.row("2").state, desk.row("2").reason) == (State.DELETED, "unsatisfied: p did not end as succeeded")
    assert (desk.batch("b").state, desk.batch("b").open, desk.batch("b").deleted) == ("deleted", 0, 2)
    assert broken(desk.store) == []


def test_chunks_that_come_after_their_batch_was_deleted_are_deleted_too(desk: Desk) -> None:
    first, second = desk.chunk("b", ["1"], 0), desk.chunk("b", ["2"], 1)
    desk.apply(first, desk.ask(DeleteBatch, batch_id="b"))
    assert desk.work() == []
    effects = desk.apply(second, second, desk.commit("b", 2), second, desk.child("c", "2", on="finished"))
    assert released(effects.releases) == ["c"]
    assert (desk.row("2").state, desk.row("2").reason) == (State.DELETED, "its batch had been given up")
    assert (desk.batch("b").state, desk.batch("b").total, desk.batch("b").deleted) == ("deleted", 2, 2)
    assert broken(desk.store) == []


def test_a_batch_that_is_committed_inside_a_deleted_one_does_not_begin(desk: Desk) -> None:
    desk.apply(desk.chunk("outer", ["o"]), desk.chunk("inner", ["i"]), desk.ask(DeleteBatch, batch_id="outer"))
    assert desk.work() == []
    desk.apply(
        desk.commit("inner", parent="outer", parent_submission="outer.1"), desk.commit("outer", batches=["inner"])
    )
    assert desk.work() == []
    assert desk.row("i").state is State.DELETED
    assert [(desk.batch(id).state, desk.batch(id).open) for id in ("outer", "inner")] == [("deleted", 0)] * 2
    assert broken(desk.store) == []


# ---- who waits for itself by way of a batch

INSIDE, SIDE = "018bcfe5-6800-7000-8000-000000000001", "018bcfe5-6800-7000-8000-000000000002"
"""Ids as they are made for a job: those given by hand are looked at more often."""


def member(desk: Desk, batch: str, id: str, *parents: str, batches: tuple[str, ...] = ()) -> ChunkReceived:
    """A chunk of one member that waits."""
    chunk = desk.chunk(batch, [id], submission=f"{batch}.{id}")
    chunk.members[:] = [desk.child(id, *parents, batches=batches, batch=batch)]
    return chunk


LOOPS: dict[str, Callable[[Desk], list[Input]]] = {
    "a member waits for what waits for its batch": lambda desk: [
        desk.child(SIDE, batches=("b",)), member(desk, "b", INSIDE, SIDE), desk.commit("b", submission=f"b.{INSIDE}"),
    ],
    "what waits for the batch comes last": lambda desk: [
        member(desk, "b", INSIDE, SIDE), desk.commit("b", submission=f"b.{INSIDE}"), desk.child(SIDE, batches=("b",)),
    ],
    "two batches, each with a member that waits for the other": lambda desk: [
        member(desk, "b", INSIDE, batches=("c",)), desk.commit("b", submission=f"b.{INSIDE}"),
        member(desk, "c", SIDE, batches=("b",)), desk.commit("c", submission=f"c.{SIDE}"),
    ],
    "a member of an inner batch waits for the outer one": lambda desk: [
        desk.chunk("b", ["o"]),
        member(desk, "inner", INSIDE, batches=("b",)),
        desk.commit("inner", submission=f"inner.{INSIDE}", parent="b", parent_submission="b.1"),
        desk.commit("b", batches=["inner"]),
    ],
    "two members wait for each other": lambda desk: [
        member(desk, "b", "x", "y"), desk.commit("b", submission="b.x"),
        member(desk, "b", "y", "x"), desk.commit("b", submission="b.y"),
    ],
    "a batch waits for what waits for it": lambda desk: [
        desk.child(SIDE, batches=("b",)), desk.chunk("b", ["1"]), desk.commit("b", parents=[{"id": SIDE}]),
    ],
    "a batch waits for itself": lambda desk: [
        desk.chunk("b", ["1"]), desk.commit("b", parents=[{"id": "b", "batch": True}]),
    ],
    "an inner batch waits for the outer one": lambda desk: [
        desk.chunk("b", ["o"]), desk.chunk("inner", ["i"]),
        desk.commit("inner", parent="b", parent_submission="b.1", parents=[{"id": "b", "batch": True}]),
        desk.commit("b", batches=["inner"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", LOOPS)
def test_nothing_waits_for_itself_by_way_of_a_batch(desk: Desk, name: str, together: bool) -> None:
    desk.engine.keep = float("inf")
    records = LOOPS[name](desk)
    for transaction in [records] if together else [[record] for record in records]:
        desk.apply(*transaction)
        desk.work()
    for _ in range(5):
        out = [row.id for row in desk.store.reader.jobs() if row.state is State.ENQUEUED]
        run(desk, *out)
    rows = desk.store.reader.jobs()
    assert [row.id for row in rows if not row.state.is_final] == []
    assert any("waits for itself" in row.reason for row in rows)
    assert {batch.state for batch in desk.store.reader.batches()} <= {"succeeded", "failed", "deleted"}
    assert broken(desk.store) == []


def test_a_long_chain_inside_a_batch_that_is_waited_for_early_is_not_walked_for_each(desk: Desk) -> None:
    ids = [f"018bcfe5-6800-7000-8000-{n:012}" for n in range(2_000)]
    desk.engine.keep = float("inf")
    desk.apply(desk.child("then", batches=("b",)))
    chunk = desk.chunk("b", ids)
    chunk.members[1:] = [desk.child(id, before, batch="b") for before, id in pairwise(ids)]
    before = time.monotonic()
    desk.apply(chunk, desk.commit("b"))
    assert time.monotonic() - before < 5.0
    assert desk.row(ids[-1]).state is State.AWAITING


# ---- a block that raised


def test_a_batch_whose_block_raised_is_deleted_at_once(desk: Desk) -> None:
    first, second = desk.chunk("b", ["1"], 0), desk.chunk("b", ["2"], 1)
    desk.apply(first, desk.commit("b", 2, abandoned=True), desk.child("then", batches=("b",), on="finished"))
    desk.work()
    desk.apply(second, desk.commit("b", 2, abandoned=True))
    desk.work()
    assert (desk.row("1").state, desk.row("1").reason) == (State.DELETED, "its batch was never completed")
    assert (desk.row("2").state, desk.row("2").reason) == (State.DELETED, "its batch had been given up")
    assert (desk.batch("b").state, desk.batch("b").open, desk.batch("b").deleted) == ("deleted", 0, 2)
    assert desk.row("then").state is State.ENQUEUED


def test_a_batch_whose_jobs_come_after_it_was_given_up_ends(desk: Desk) -> None:
    desk.apply(desk.commit("b", 1, abandoned=True), desk.child("then", batches=("b",), on="finished"))
    desk.work()
    desk.apply(desk.chunk("b", ["1"]))
    desk.work()
    assert (desk.row("1").state, desk.batch("b").state, desk.batch("b").deleted) == (State.DELETED, "deleted", 1)
    assert desk.row("then").state is State.ENQUEUED


def test_an_submission_that_is_given_up_leaves_the_others_alone(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1"]), desk.commit("b"))
    desk.apply(desk.chunk("b", ["2"], submission="more"), desk.commit("b", submission="more", abandoned=True))
    run(desk, "1")
    assert (desk.row("1").state, desk.row("2").state) == (State.SUCCEEDED, State.DELETED)
    assert (desk.batch("b").state, desk.batch("b").total) == ("succeeded", 2)


def test_a_committed_submission_cannot_be_given_up(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1"]), desk.commit("b"), desk.commit("b", abandoned=True))
    assert desk.row("1").state is State.ENQUEUED


def test_a_block_that_raised_after_a_sub_batch_was_committed_takes_that_along(desk: Desk) -> None:
    desk.apply(*inner_sealed(desk), desk.commit("outer", 0, abandoned=True))
    desk.work()
    assert desk.row("i").state is State.DELETED
    assert {desk.batch(id).state for id in ("inner", "outer")} == {"deleted"}


# ---- batches inside batches whose outer block is not committed yet


def inner_sealed(desk: Desk, id: str = "i", batch: str = "inner") -> list[Input]:
    return [desk.chunk(batch, [id]), desk.commit(batch, parent="outer", parent_submission="outer.1")]


@pytest.mark.parametrize("together", [False, True])
def test_an_outer_batch_that_is_deleted_before_its_commit_counts_its_inner_ones_once(
    desk: Desk, together: bool
) -> None:
    outer, inner = desk.chunk("outer", ["o"]), inner_sealed(desk)
    delete = desk.ask(DeleteBatch, batch_id="outer")
    if together:
        desk.apply(outer, *inner, delete)
    else:
        desk.apply(outer, *inner)
        desk.apply(delete)
    desk.work()
    assert {desk.row(id).state for id in "oi"} == {State.DELETED}
    assert (desk.batch("outer").state, desk.batch("outer").open, desk.batch("outer").total) == ("deleted", 0, 2)
    desk.apply(desk.commit("outer", batches=["inner"]))
    assert (desk.batch("outer").state, desk.batch("outer").open, desk.batch("outer").total) == ("deleted", 0, 2)
    assert broken(desk.store) == []


def test_an_inner_batch_that_is_deleted_before_the_outer_commit_is_counted_once(desk: Desk) -> None:
    desk.apply(desk.chunk("outer", ["o"]), *inner_sealed(desk))
    desk.apply(desk.ask(DeleteBatch, batch_id="inner"))
    desk.work()
    assert (desk.batch("outer").state, desk.batch("outer").open) == ("awaiting", 1)
    assert released(desk.apply(desk.commit("outer", batches=["inner"])).releases) == ["o"]
    run(desk, "o")
    assert (desk.batch("outer").state, desk.batch("outer").total, desk.batch("outer").open) == ("succeeded", 2, 0)
    assert broken(desk.store) == []


def test_an_outer_commit_that_comes_after_a_day_counts_inner_batches_once(desk: Desk) -> None:
    desk.apply(desk.chunk("outer", ["o"]), *inner_sealed(desk))
    desk.now += 86_401.0
    desk.work()
    assert (desk.batch("outer").state, desk.batch("outer").total, desk.batch("outer").open) == ("deleted", 2, 0)
    desk.apply(desk.commit("outer", batches=["inner"]))
    desk.work()
    assert (desk.batch("outer").state, desk.batch("outer").total, desk.batch("outer").open) == ("deleted", 2, 0)
    assert broken(desk.store) == []


def test_a_batch_of_batches_alone_whose_producer_died_is_given_up_after_a_day(desk: Desk) -> None:
    desk.apply(*inner_sealed(desk), *inner_sealed(desk, "j", "second"))
    assert desk.work() == []
    desk.now += 86_401.0
    desk.work()
    assert {desk.row(id).state for id in "ij"} == {State.DELETED}
    assert {desk.batch(id).state for id in ("inner", "second", "outer")} == {"deleted"}
    assert broken(desk.store) == []


def test_an_inner_commit_may_come_after_the_outer_one(desk: Desk) -> None:
    desk.apply(desk.chunk("outer", ["o"]), desk.commit("outer", batches=["inner"]))
    assert run(desk, "o") == []
    assert (desk.batch("outer").state, desk.batch("outer").open) == ("processing", 1)
    assert released(desk.apply(*inner_sealed(desk)).releases) == ["i"]
    run(desk, "i")
    assert (desk.batch("outer").state, desk.batch("outer").total) == ("succeeded", 2)
    assert broken(desk.store) == []


def test_a_batch_is_no_part_of_itself(desk: Desk) -> None:
    desk.apply(desk.chunk("a", ["1"]), desk.commit("a", parent="a", parent_submission="a.1"))
    desk.apply(desk.chunk("b", ["2"]), desk.commit("b", parent="c", parent_submission="c.1"))
    desk.apply(desk.chunk("c", ["3"]), desk.commit("c", parent="b", parent_submission="b.1", batches=["b"]))
    desk.apply(desk.ask(DeleteBatch, batch_id="a"), desk.ask(DeleteBatch, batch_id="c"))
    desk.work()
    assert {desk.row(id).state for id in "123"} == {State.DELETED}
    assert {desk.batch(id).state for id in "abc"} == {"deleted"}


def test_who_waits_for_an_end_is_answered_though_its_transaction_failed_first(desk: Desk) -> None:
    asked = [
        desk.ask(GetJob, reply_to="me", id="q", job_id="1", until_ended=True),
        desk.ask(GetBatch, reply_to="me", id="r", batch_id="b", until_ended=True),
    ]
    desk.apply(desk.chunk("b", ["1"]), desk.commit("b"), *asked)
    finish = desk.store.transaction

    @contextmanager
    def fails() -> Iterator[Transaction]:
        with finish() as tx:
            yield tx
            raise StoreError("the disk is full")

    desk.store.transaction = fails  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        desk.apply(desk.succeeded("1"))
    desk.store.transaction = finish  # type: ignore[method-assign]
    answered = [Reply.model_validate_json(m.body).id for m in desk.apply(desk.succeeded("1")).messages]
    assert sorted(answered) == ["q", "r"]
    assert [m for m in desk.apply(desk.succeeded("1")).messages if m.type == "reply"] == []

"""One command changes all jobs that it means, a page a transaction, each once, and none that comes later."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker_jobs.coordinator.records import Released
from broker_jobs.messages.commands import BulkDelete, BulkRequeue, DeleteJob, JobFilter, Reply, RequeueJob
from broker_jobs.messages.state import State
from broker_jobs.store import selection
from tests.support.invariants import broken
from tests.unit.coordinator.engine_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def fail(desk: Desk, *ids: str, **fields: Any) -> None:
    """Jobs that have failed for good."""
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        desk.apply(*(desk.ready(id, **fields) for id in some), *(desk.failed(id, final=True) for id in some))


def states(desk: Desk) -> dict[str, int]:
    return {state.value: n for state, n in desk.store.reader.counts().items() if n}


def progress(desk: Desk, id: str) -> dict[str, Any]:
    """What the audit says of a command."""
    (row,) = (row for row in desk.store.reader.audit() if row.id == id)
    return dict(json.loads(row.detail)["detail"])


def requeue(desk: Desk, id: str = "bulk", **given: Any) -> Any:
    return desk.ask(BulkRequeue, reply_to="me", id=id, by="ann", filter=JobFilter(**given))


def delete(desk: Desk, id: str = "bulk", **given: Any) -> Any:
    return desk.ask(BulkDelete, reply_to="me", id=id, by="ann", filter=JobFilter(**given))


def test_2500_failed_jobs_are_requeued_by_one_command_in_pages(desk: Desk) -> None:
    fail(desk, *(f"j{n:05}" for n in range(2_500)))
    effects = desk.apply(requeue(desk))
    assert Reply.model_validate_json(effects.messages[-1].body).detail["started"] is True
    assert len(effects.releases) == 1_000
    assert effects.more
    assert progress(desk, "bulk") == {"started": True, "finished": False, "done": 1_000, "refused": 0}
    assert [len(desk.apply_work().releases), len(desk.apply_work().releases)] == [1_000, 500]
    assert progress(desk, "bulk") == {"started": True, "finished": True, "done": 2_500, "refused": 0}
    assert not desk.apply_work().more
    assert states(desk) == {"enqueued": 2_500}
    assert broken(desk.store) == []


def test_jobs_that_come_later_are_not_touched(desk: Desk) -> None:
    fail(desk, *(f"j{n:05}" for n in range(1_500)))
    desk.apply(requeue(desk))
    desk.now += 1.0
    fail(desk, "j00700-late", "j01200-late", "z-late")
    desk.work()
    assert states(desk) == {"failed": 3, "enqueued": 1_500}


def test_a_job_that_fails_again_meanwhile_is_not_requeued_twice(desk: Desk) -> None:
    fail(desk, *(f"j{n:05}" for n in range(1_200)))
    desk.apply(requeue(desk))
    desk.apply(Released("j00000", 2), desk.failed("j00000", 2, final=True))
    desk.work()
    assert desk.row("j00000").state is State.FAILED
    assert progress(desk, "bulk")["done"] == 1_200


def test_the_same_command_twice_is_applied_once_and_says_how_far_it_is(desk: Desk) -> None:
    fail(desk, *(f"j{n:05}" for n in range(1_200)))
    desk.apply(requeue(desk))
    again = desk.apply(requeue(desk))
    detail = Reply.model_validate_json(again.messages[-1].body).detail
    assert (detail["finished"], detail["done"]) == (False, 1_000)
    desk.work()
    desk.apply(desk.failed("j00000", 2, final=True))
    detail = Reply.model_validate_json(desk.apply(requeue(desk)).messages[-1].body).detail
    assert (detail["finished"], detail["done"]) == (True, 1_200)
    assert desk.row("j00000").state is State.FAILED


def test_a_command_that_is_half_done_goes_on_with_another_coordinator(desk: Desk) -> None:
    fail(desk, *(f"j{n:05}" for n in range(1_200)))
    desk.apply(requeue(desk))
    other = Desk(desk.store, id="c2")
    assert len(other.work()) == 200


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, ["a", "b", "c"]),
        ({"queue": "mail"}, ["b"]),
        ({"job": "work"}, ["a", "b", "c"]),
        ({"job": "other"}, []),
        ({"tag": "red"}, ["c"]),
        ({"tag": "re"}, []),
        ({"tag": "r%d"}, []),
        ({"error_text": "BOOM"}, ["a", "b", "c"]),
        ({"error_text": "bo_m"}, []),
        ({"ids": ["a", "c", "nobody"]}, ["a", "c"]),
        ({"state": "deleted"}, ["gone"]),
        ({"recurring": "weekly"}, []),
    ],
)
def test_only_what_the_filter_means_is_requeued(desk: Desk, given: dict[str, Any], meant: list[str]) -> None:
    fail(desk, "a")
    fail(desk, "b", queue="mail")
    fail(desk, "c", tags=("blue", "red"))
    desk.apply(desk.ready("runs"), desk.ready("done"), desk.succeeded("done"))
    desk.apply(desk.held("gone", 60.0), desk.ask(DeleteJob, job_id="gone"))
    effects = desk.apply(requeue(desk, **given))
    assert sorted(row.id for row in effects.releases) == meant
    assert progress(desk, "bulk") == {"started": True, "finished": True, "done": len(meant), "refused": 0}


def test_a_text_in_the_error_or_the_reason(desk: Desk) -> None:
    fail(desk, "a")
    error = desk.failed("b", final=True)
    told = error.event.model_copy(update={"error": error.event.error.model_copy(update={"message": 'said "421 busy"'})})  # type: ignore[union-attr]
    desk.apply(desk.ready("b"), type(error)("w1", told))
    assert [row.id for row in desk.apply(requeue(desk, error_text='said "421')).releases] == ["b"]
    assert [row.id for row in desk.apply(requeue(desk, "2", error_text="ValueError: BOOM")).releases] == ["a"]


def test_the_time_a_job_was_made_may_bound_it(desk: Desk) -> None:
    fail(desk, "a")
    desk.now += 10.0
    fail(desk, "b")
    desk.now += 10.0
    fail(desk, "c")
    effects = desk.apply(requeue(desk, created_after=desk.now - 10.0, created_before=desk.now))
    assert [row.id for row in effects.releases] == ["b"]


def test_waiting_members_of_a_batch_and_of_those_inside_it_are_deleted(desk: Desk) -> None:
    desk.apply(desk.chunk("in", ["i"]), desk.commit("in", parent="out", parent_submission="out.1"))
    desk.apply(desk.chunk("out", ["1", "2"]), desk.commit("out", batches=["in"]), desk.ready("other"))
    desk.apply(desk.succeeded("1"), desk.started("2"))
    effects = desk.apply(delete(desk, batch="out"))
    assert effects.control is not None
    assert effects.control.cancel == ["2"]
    assert [desk.row(id).state.value for id in ("1", "i", "other")] == ["succeeded", "deleted", "enqueued"]
    desk.apply(desk.failed("2", cancelled=True))
    assert (desk.batch("out").state, desk.batch("in").state) == ("succeeded", "deleted")
    assert broken(desk.store) == []


def test_ended_jobs_are_deleted_only_where_the_filter_names_their_state(desk: Desk) -> None:
    fail(desk, "a")
    desk.apply(desk.held("b", 60.0), desk.child("c", "b"), delete(desk))
    assert [desk.row(id).state.value for id in "abc"] == ["failed", "deleted", "deleted"]
    desk.apply(delete(desk, "again", state="failed"))
    assert desk.row("a").state is State.DELETED


def test_only_ended_jobs_can_be_requeued_together(desk: Desk) -> None:
    reply = Reply.model_validate_json(desk.apply(requeue(desk, state="processing")).messages[-1].body)
    assert reply.refused == (
        "only ended jobs can be requeued together, not processing ones: failed, deleted or succeeded"
    )


def test_a_duplicate_is_not_requeued(desk: Desk) -> None:
    key = {"key": "user:1"}
    desk.apply(desk.held("a", 60.0, unique=key), desk.held("b", unique=key))
    assert desk.apply(requeue(desk, state="deleted")).releases == []
    assert desk.row("b").state is State.DELETED


def test_a_page_looks_at_so_many_jobs_however_few_match(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SCAN", 100)
    fail(desk, *(f"j{n:05}" for n in range(250)))
    fail(desk, "k", queue="mail")
    assert [row.id for row in desk.apply(requeue(desk, queue="mail")).releases] == []
    assert not progress(desk, "bulk")["finished"]
    assert [row.id for row in desk.work()] == ["k"]
    assert progress(desk, "bulk")["finished"]


def test_a_large_batch_goes_on_while_a_bulk_command_is_worked_off(desk: Desk) -> None:
    fail(desk, *(f"j{n:05}" for n in range(3_000)))
    desk.apply(requeue(desk, "0-first"))
    desk.apply(desk.chunk("b", [f"m{n:05}" for n in range(1_500)]), desk.commit("b"))
    desk.apply_work()
    assert all(desk.row(f"m{n:05}").state is State.ENQUEUED for n in range(1_500))
    desk.work()
    assert states(desk) == {"enqueued": 4_500}


# ---- what came to light beside it


def test_more_ends_than_one_transaction_takes_up_are_all_worked_off(desk: Desk) -> None:
    desk.apply(*(desk.ready(f"p{n}") for n in range(1_200)), *(desk.child(f"c{n}", f"p{n}") for n in range(1_200)))
    effects = desk.apply(*(desk.succeeded(f"p{n}") for n in range(1_200)))
    assert len(effects.releases) + len(desk.work()) == 1_200


def test_a_sub_batch_whose_outer_block_never_ended_is_given_up_too(desk: Desk) -> None:
    desk.apply(
        desk.chunk("in", ["i"]), desk.commit("in", parent="out", parent_submission="out.1"), desk.chunk("out", ["o"])
    )
    desk.now += 86_401.0
    desk.work()
    assert (desk.row("i").state, desk.batch("in").state) == (State.DELETED, "deleted")
    assert (desk.batch("out").state, desk.batch("out").total, desk.batch("out").open) == ("deleted", 2, 0)
    assert broken(desk.store) == []


def test_what_a_person_runs_now_waits_for_its_parent_no_more(desk: Desk) -> None:
    one = {"kind": "concurrency", "key": "k", "limit": 1}
    desk.apply(desk.held("first", limits=(one,)), desk.ready("p"), desk.child("c", "p", limits=(one,)))
    desk.apply(desk.ask(RequeueJob, job_id="c"))
    assert desk.row("c").state is State.AWAITING, "in the line now"
    desk.apply(desk.failed("p", final=True))
    assert desk.row("c").state is State.AWAITING
    assert [row.id for row in desk.apply(desk.succeeded("first")).releases] == ["c"]


def test_named_jobs_are_meant_whatever_their_state(desk: Desk) -> None:
    fail(desk, "failed")
    desk.apply(desk.ready("done"), desk.succeeded("done"), desk.held("later", delay=60.0), desk.ready("on-its-way"))
    desk.apply(requeue(desk, ids=["failed", "done", "later", "on-its-way"]))
    desk.work()
    assert progress(desk, "bulk") == {"started": True, "finished": True, "done": 3, "refused": 1}
    assert states(desk) == {"enqueued": 4}
    desk.apply(desk.succeeded("failed", 2))
    desk.apply(delete(desk, id="gone", ids=["failed", "later"]))
    desk.work()
    assert desk.row("failed").state is State.DELETED
    assert desk.row("later").state is State.DELETED

"""One command changes all jobs that it means, a page a transaction, each once, and none that comes later."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker_jobs.coordinator import cascade, consequences
from broker_jobs.coordinator.records import Released
from broker_jobs.messages.commands import BulkDelete, BulkRequeue, DeleteJob, JobFilter, Reply, RequeueJob
from broker_jobs.messages.state import State
from broker_jobs.store import selection
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def fail(harness: EngineHarness, *ids: str, **fields: Any) -> None:
    """Jobs that have failed for good."""
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        harness.apply(*(harness.ready(id, **fields) for id in some), *(harness.failed(id, final=True) for id in some))


def states(harness: EngineHarness) -> dict[str, int]:
    return {state.value: n for state, n in harness.store.reader.statistics.counts().items() if n}


def progress(harness: EngineHarness, id: str) -> dict[str, Any]:
    """What the audit says of a command."""
    (row,) = (row for row in harness.store.reader.audit.newest() if row.id == id)
    return dict(json.loads(row.detail)["detail"])


def requeue(harness: EngineHarness, id: str = "bulk", **given: Any) -> Any:
    return harness.ask(BulkRequeue, reply_to="me", id=id, by="ann", filter=JobFilter(**given))


def delete(harness: EngineHarness, id: str = "bulk", **given: Any) -> Any:
    return harness.ask(BulkDelete, reply_to="me", id=id, by="ann", filter=JobFilter(**given))


@pytest.fixture(autouse=True)
def _pages_of_1000(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cascade, consequences):
        monkeypatch.setattr(module, "PAGE", 1_000)


def test_2500_failed_jobs_are_requeued_by_one_command_in_pages(harness: EngineHarness) -> None:
    fail(harness, *(f"j{n:05}" for n in range(2_500)))
    effects = harness.apply(requeue(harness))
    assert Reply.model_validate_json(effects.messages[-1].body).detail["started"] is True
    assert len(effects.releases) == 1_000
    assert effects.more
    assert progress(harness, "bulk") == {"started": True, "finished": False, "done": 1_000, "refused": 0}
    assert [len(harness.apply_work().releases), len(harness.apply_work().releases)] == [1_000, 500]
    assert progress(harness, "bulk") == {"started": True, "finished": True, "done": 2_500, "refused": 0}
    assert not harness.apply_work().more
    assert states(harness) == {"enqueued": 2_500}
    assert broken(harness.store) == []


def test_jobs_that_come_later_are_not_touched(harness: EngineHarness) -> None:
    fail(harness, *(f"j{n:05}" for n in range(1_500)))
    harness.apply(requeue(harness))
    harness.now += 1.0
    fail(harness, "j00700-late", "j01200-late", "z-late")
    harness.work()
    assert states(harness) == {"failed": 3, "enqueued": 1_500}


def test_a_job_that_fails_again_meanwhile_is_not_requeued_twice(harness: EngineHarness) -> None:
    fail(harness, *(f"j{n:05}" for n in range(1_200)))
    harness.apply(requeue(harness))
    harness.apply(Released("j00000", 2), harness.failed("j00000", 2, final=True))
    harness.work()
    assert harness.row("j00000").state is State.FAILED
    assert progress(harness, "bulk")["done"] == 1_200


def test_the_same_command_twice_is_applied_once_and_says_how_far_it_is(harness: EngineHarness) -> None:
    fail(harness, *(f"j{n:05}" for n in range(1_200)))
    harness.apply(requeue(harness))
    again = harness.apply(requeue(harness))
    detail = Reply.model_validate_json(again.messages[-1].body).detail
    assert (detail["finished"], detail["done"]) == (False, 1_000)
    harness.work()
    harness.apply(harness.failed("j00000", 2, final=True))
    detail = Reply.model_validate_json(harness.apply(requeue(harness)).messages[-1].body).detail
    assert (detail["finished"], detail["done"]) == (True, 1_200)
    assert harness.row("j00000").state is State.FAILED


def test_a_command_that_is_half_done_goes_on_with_another_coordinator(harness: EngineHarness) -> None:
    fail(harness, *(f"j{n:05}" for n in range(1_200)))
    harness.apply(requeue(harness))
    other = EngineHarness(harness.store, id="c2")
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
def test_only_what_the_filter_means_is_requeued(
    harness: EngineHarness, given: dict[str, Any], meant: list[str]
) -> None:
    fail(harness, "a")
    fail(harness, "b", queue="mail")
    fail(harness, "c", tags=("blue", "red"))
    harness.apply(harness.ready("runs"), harness.ready("done"), harness.succeeded("done"))
    harness.apply(harness.held("gone", 60.0), harness.ask(DeleteJob, job_id="gone"))
    effects = harness.apply(requeue(harness, **given))
    assert sorted(row.id for row in effects.releases) == meant
    assert progress(harness, "bulk") == {"started": True, "finished": True, "done": len(meant), "refused": 0}


def test_a_text_in_the_error_or_the_reason(harness: EngineHarness) -> None:
    fail(harness, "a")
    error = harness.failed("b", final=True)
    told = error.event.model_copy(update={"error": error.event.error.model_copy(update={"message": 'said "421 busy"'})})  # type: ignore[union-attr]
    harness.apply(harness.ready("b"), type(error)("w1", told))
    assert [row.id for row in harness.apply(requeue(harness, error_text='said "421')).releases] == ["b"]
    assert [row.id for row in harness.apply(requeue(harness, "2", error_text="ValueError: BOOM")).releases] == ["a"]


def test_the_time_a_job_was_made_may_bound_it(harness: EngineHarness) -> None:
    fail(harness, "a")
    harness.now += 10.0
    fail(harness, "b")
    harness.now += 10.0
    fail(harness, "c")
    effects = harness.apply(requeue(harness, created_after=harness.now - 10.0, created_before=harness.now))
    assert [row.id for row in effects.releases] == ["b"]


def test_waiting_members_of_a_batch_and_of_those_inside_it_are_deleted(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("in", ["i"]), harness.commit("in", parent="out", parent_submission="out.1"))
    harness.apply(harness.chunk("out", ["1", "2"]), harness.commit("out", batches=["in"]), harness.ready("other"))
    harness.apply(harness.succeeded("1"), harness.started("2"))
    effects = harness.apply(delete(harness, batch="out"))
    assert effects.control is not None
    assert effects.control.cancel == ["2"]
    assert [harness.row(id).state.value for id in ("1", "i", "other")] == ["succeeded", "deleted", "enqueued"]
    harness.apply(harness.failed("2", ended="cancelled"))
    assert (harness.batch("out").state, harness.batch("in").state) == ("succeeded", "deleted")
    assert broken(harness.store) == []


def test_ended_jobs_are_deleted_only_where_the_filter_names_their_state(harness: EngineHarness) -> None:
    fail(harness, "a")
    harness.apply(harness.held("b", 60.0), harness.child("c", "b"), delete(harness))
    assert [harness.row(id).state.value for id in "abc"] == ["failed", "deleted", "deleted"]
    harness.apply(delete(harness, "again", state="failed"))
    assert harness.row("a").state is State.DELETED


def test_only_ended_jobs_can_be_requeued_together(harness: EngineHarness) -> None:
    reply = Reply.model_validate_json(harness.apply(requeue(harness, state="processing")).messages[-1].body)
    assert reply.refused == (
        "only ended jobs can be requeued together, not processing ones: failed, deleted or succeeded"
    )


def test_a_duplicate_is_not_requeued(harness: EngineHarness) -> None:
    key = {"key": "user:1"}
    harness.apply(harness.held("a", 60.0, unique=key), harness.held("b", unique=key))
    assert harness.apply(requeue(harness, state="deleted")).releases == []
    assert harness.row("b").state is State.DELETED


def test_a_page_looks_at_so_many_jobs_however_few_match(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "SCAN", 100)
    fail(harness, *(f"j{n:05}" for n in range(250)))
    fail(harness, "k", queue="mail")
    assert [row.id for row in harness.apply(requeue(harness, queue="mail")).releases] == []
    assert not progress(harness, "bulk")["finished"]
    assert [row.id for row in harness.work()] == ["k"]
    assert progress(harness, "bulk")["finished"]


def test_a_large_batch_goes_on_while_a_bulk_command_is_worked_off(harness: EngineHarness) -> None:
    fail(harness, *(f"j{n:05}" for n in range(3_000)))
    harness.apply(requeue(harness, "0-first"))
    harness.apply(harness.chunk("b", [f"m{n:05}" for n in range(1_500)]), harness.commit("b"))
    harness.apply_work()
    assert all(harness.row(f"m{n:05}").state is State.ENQUEUED for n in range(1_500))
    harness.work()
    assert states(harness) == {"enqueued": 4_500}


# ---- what came to light beside it


def test_more_ends_than_one_transaction_takes_up_are_all_worked_off(harness: EngineHarness) -> None:
    harness.apply(
        *(harness.ready(f"p{n}") for n in range(1_200)), *(harness.child(f"c{n}", f"p{n}") for n in range(1_200))
    )
    effects = harness.apply(*(harness.succeeded(f"p{n}") for n in range(1_200)))
    assert len(effects.releases) + len(harness.work()) == 1_200


def test_a_sub_batch_whose_outer_block_never_ended_is_given_up_too(harness: EngineHarness) -> None:
    harness.apply(
        harness.chunk("in", ["i"]),
        harness.commit("in", parent="out", parent_submission="out.1"),
        harness.chunk("out", ["o"]),
    )
    with harness.store.transaction() as tx:
        tx.meta.log_time += 86_401.0
    harness.work()
    assert (harness.row("i").state, harness.batch("in").state) == (State.DELETED, "deleted")
    assert (harness.batch("out").state, harness.batch("out").total, harness.batch("out").open) == ("deleted", 2, 0)
    assert broken(harness.store) == []


def test_what_a_person_runs_now_waits_for_its_parent_no_more(harness: EngineHarness) -> None:
    one = {"kind": "concurrency", "key": "k", "limit": 1}
    harness.apply(harness.held("first", limits=(one,)), harness.ready("p"), harness.child("c", "p", limits=(one,)))
    harness.apply(harness.ask(RequeueJob, job_id="c"))
    assert harness.row("c").state is State.AWAITING, "in the line now"
    harness.apply(harness.failed("p", final=True))
    assert harness.row("c").state is State.AWAITING
    assert [row.id for row in harness.apply(harness.succeeded("first")).releases] == ["c"]


def test_named_jobs_are_meant_whatever_their_state(harness: EngineHarness) -> None:
    fail(harness, "failed")
    harness.apply(
        harness.ready("done"), harness.succeeded("done"), harness.held("later", delay=60.0), harness.ready("on-its-way")
    )
    harness.apply(requeue(harness, ids=["failed", "done", "later", "on-its-way"]))
    harness.work()
    assert progress(harness, "bulk") == {"started": True, "finished": True, "done": 3, "refused": 1}
    assert states(harness) == {"enqueued": 4}
    harness.apply(harness.succeeded("failed", 2))
    harness.apply(delete(harness, id="gone", ids=["failed", "later"]))
    harness.work()
    assert harness.row("failed").state is State.DELETED
    assert harness.row("later").state is State.DELETED

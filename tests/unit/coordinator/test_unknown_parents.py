"""A parent that never came is not waited for for ever; one that is merely late, or ended, is."""

from __future__ import annotations

import pytest

from broker_jobs.clock import LogTime
from broker_jobs.coordinator.inputs import UnknownParents
from broker_jobs.messages.envelope import id_created_at, new_id
from broker_jobs.messages.state import State
from broker_jobs.store.records import DependencyRow
from tests.unit.coordinator.engine_harness import EngineHarness

DAY = 86_400.0


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def generated(at: float) -> str:
    """An id as it was made at an instant."""
    fresh = new_id()
    digits = f"{int(at * 1_000):012x}"
    return f"{digits[:8]}-{digits[8:]}-{fresh[14:]}"


def found(harness: EngineHarness) -> list[DependencyRow]:
    """What a coordinator finds now."""
    since = LogTime(harness.store.reader.meta().log_time - DAY)
    return harness.store.reader.dependencies.unknown_parents(since=since, after=("", "", ""), limit=100)[0]


def wait(harness: EngineHarness, seconds: float) -> None:
    """Let wall time and log time pass."""
    harness.now += seconds
    with harness.store.transaction() as tx:
        tx.meta.log_time += seconds


def look(harness: EngineHarness) -> list[str]:
    """Look as a coordinator does; the jobs and batches it found."""
    dependencies = found(harness)
    harness.apply(UnknownParents(dependencies))
    return sorted(dependency.holder for dependency in dependencies)


def test_the_time_of_an_id_is_told_from_it() -> None:
    assert id_created_at(generated(1_700_000_000.5)) == 1_700_000_000.5
    assert id_created_at("order-7") is None
    assert id_created_at("zzzzzzzz-zzzz-7zzz-zzzz-zzzzzzzzzzzz") is None


def test_a_child_of_a_parent_that_is_unseen_for_a_day_fails_and_says_what_to_do(harness: EngineHarness) -> None:
    harness.apply(harness.child("c", "typo"), harness.child("then", "c", on="failed"))
    wait(harness, DAY - 1)
    assert look(harness) == []
    wait(harness, 2)
    assert look(harness) == ["c"]
    assert harness.row("c").state is State.FAILED
    assert harness.row("c").reason == (
        "parent not known: typo never came, or ended so long ago that it is forgotten; "
        "to run it all the same requeue it"
    )
    assert harness.row("then").state is State.ENQUEUED
    assert look(harness) == []


def test_a_child_of_a_batch_that_is_unseen_for_a_day_fails(harness: EngineHarness) -> None:
    harness.apply(harness.child("c", batches=("typo",)))
    wait(harness, DAY + 1)
    assert look(harness) == ["c"]
    assert harness.row("c").reason.startswith("parent not known: batch typo never came")


def test_a_parent_that_is_only_late_is_waited_for(harness: EngineHarness) -> None:
    harness.apply(
        harness.held("p", delay=30 * DAY), harness.child("c", "p"), harness.chunk("b", ["m"]), harness.commit("b")
    )
    harness.apply(harness.child("d", batches=("b",)))
    wait(harness, 20 * DAY)
    assert look(harness) == []
    assert {harness.row(id).state for id in "cd"} == {State.AWAITING}


def test_a_parent_that_comes_between_the_look_and_the_decision_is_waited_for(harness: EngineHarness) -> None:
    harness.apply(harness.child("c", "p"), harness.child("d", batches=("b",)))
    wait(harness, DAY + 1)
    dependencies = found(harness)
    harness.apply(harness.ready("p"), harness.chunk("b", ["m"]))
    harness.apply(UnknownParents(dependencies))
    assert {harness.row(id).state for id in "cd"} == {State.AWAITING}


def test_a_child_whose_wait_ended_between_the_look_and_the_decision_keeps_its_end(harness: EngineHarness) -> None:
    harness.apply(harness.child("c", "p"))
    wait(harness, DAY + 1)
    dependencies = found(harness)
    harness.apply(harness.ready("p"), harness.succeeded("p"))
    harness.apply(harness.succeeded("c", 1))
    harness.apply(UnknownParents(dependencies))
    assert harness.row("c").state is State.SUCCEEDED


@pytest.mark.parametrize("off", [-400 * DAY, -DAY, DAY, 400 * DAY])
def test_the_clock_of_a_producer_ends_no_wait_and_lengthens_none(harness: EngineHarness, off: float) -> None:
    parent = generated(harness.now + off)
    harness.apply(harness.child("c", parent), harness.child("d", generated(harness.now + off)))
    assert look(harness) == []
    wait(harness, DAY - 1)
    assert look(harness) == []
    harness.apply(harness.ready(parent), harness.succeeded(parent))
    assert harness.row("c").state is State.ENQUEUED
    wait(harness, 2)
    assert look(harness) == ["d"]
    assert harness.row("d").state is State.FAILED


def test_an_old_parent_that_is_known_is_waited_for(harness: EngineHarness) -> None:
    old = generated(harness.now - 100 * DAY)
    harness.apply(harness.ready(old), harness.child("c", old))
    assert harness.row("c").state is State.AWAITING
    harness.apply(harness.succeeded(old))
    assert harness.row("c").state is State.ENQUEUED


def test_a_young_parent_may_still_come(harness: EngineHarness) -> None:
    young = generated(harness.now - 60)
    harness.apply(harness.child("c", young))
    assert look(harness) == []
    harness.apply(harness.ready(young), harness.succeeded(young))
    assert harness.row("c").state is State.ENQUEUED


def test_a_parent_that_ended_and_was_purged_set_its_children_free_before(harness: EngineHarness) -> None:
    """Only who comes after the purge is asked about a parent that nobody remembers."""
    old = generated(harness.now)
    harness.apply(harness.ready(old), harness.child("c", old), harness.succeeded(old))
    wait(harness, 100 * DAY)
    with harness.store.transaction() as tx:
        assert tx.purge(now=harness.now, keep_succeeded=1, keep_deleted=1, keep_failed=1, limit=10) == 0, "c needs it"
    assert look(harness) == []
    assert harness.row("c").state is State.ENQUEUED
    harness.apply(harness.succeeded("c"))
    with harness.store.transaction() as tx:
        assert tx.purge(now=harness.now, keep_succeeded=1, keep_deleted=1, keep_failed=1, limit=10) == 1
    harness.apply(harness.child("late", old))
    wait(harness, DAY + 1)
    assert look(harness) == ["late"]
    assert harness.row("late").state is State.FAILED


def test_a_batch_that_waits_for_an_unseen_parent_ends(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1", "2"]), harness.commit("b", parents=[{"id": "typo"}]))
    harness.apply(harness.child("then", batches=("b",), on="finished"))
    wait(harness, DAY + 1)
    assert look(harness) == ["batch:b"]
    harness.work()
    assert harness.batch("b").state == "deleted"
    assert {harness.row(id).state for id in "12"} == {State.DELETED}
    assert harness.row("1").reason.startswith("parent not known: typo never came")
    assert harness.row("then").state is State.ENQUEUED
    assert look(harness) == []


def test_a_member_of_a_batch_whose_parent_never_came_fails_a_day_after_the_commit(harness: EngineHarness) -> None:
    chunk = harness.chunk("b", ["1"])
    chunk.members[:] = [harness.child("1", "typo", batch="b")]
    harness.apply(chunk)
    wait(harness, DAY / 2)
    harness.apply(harness.commit("b"))
    wait(harness, DAY - 1)
    assert look(harness) == []
    wait(harness, 2)
    assert look(harness) == ["1"]
    assert harness.row("1").reason.startswith("parent not known")
    assert harness.batch("b").state == "failed"


def test_a_child_that_waits_in_vain_already_is_not_looked_at_again(harness: EngineHarness) -> None:
    harness.apply(harness.ready("p"), harness.child("c", "p", "typo"), harness.failed("p", final=True))
    assert harness.row("c").state is State.DELETED
    wait(harness, DAY + 1)
    assert look(harness) == ["c"]
    assert harness.row("c").reason == "unsatisfied: p did not end as succeeded"
    assert look(harness) == []

"""A parent that never came is not waited for for ever; one that is merely late, or ended, is."""

from __future__ import annotations

import pytest

from broker_jobs.coordinator.inputs import UnknownParents
from broker_jobs.messages.envelope import made_at, new_id
from broker_jobs.messages.state import State
from broker_jobs.store.records import DependencyRow
from tests.unit.coordinator.engine_desk import Desk

DAY = 86_400.0


@pytest.fixture
def desk() -> Desk:
    return Desk()


def generated(at: float) -> str:
    """An id as it was made at an instant."""
    fresh = new_id()
    digits = f"{int(at * 1_000):012x}"
    return f"{digits[:8]}-{digits[8:]}-{fresh[14:]}"


def found(desk: Desk) -> list[DependencyRow]:
    """What a coordinator finds now."""
    return desk.store.reader.unknown_parents(since=desk.now - DAY, made=desk.now - desk.engine.keep, limit=100)


def look(desk: Desk) -> list[str]:
    """Look as a coordinator does; the jobs and batches it found."""
    dependencies = found(desk)
    desk.apply(UnknownParents(dependencies))
    return sorted(dependency.holder for dependency in dependencies)


def test_the_time_of_an_id_is_told_from_it() -> None:
    assert made_at(generated(1_700_000_000.5)) == 1_700_000_000.5
    assert made_at("order-7") is None
    assert made_at("zzzzzzzz-zzzz-7zzz-zzzz-zzzzzzzzzzzz") is None


def test_a_child_of_a_parent_that_is_unseen_for_a_day_fails_and_says_what_to_do(desk: Desk) -> None:
    desk.apply(desk.child("c", "typo"), desk.child("then", "c", on="failed"))
    desk.now += DAY - 1
    assert look(desk) == []
    desk.now += 2
    assert look(desk) == ["c"]
    assert desk.row("c").state is State.FAILED
    assert desk.row("c").reason == (
        "parent not known: typo never came, or ended so long ago that it is forgotten; "
        "to run it all the same requeue it"
    )
    assert desk.row("then").state is State.ENQUEUED
    assert look(desk) == []


def test_a_child_of_a_batch_that_is_unseen_for_a_day_fails(desk: Desk) -> None:
    desk.apply(desk.child("c", batches=("typo",)))
    desk.now += DAY + 1
    assert look(desk) == ["c"]
    assert desk.row("c").reason.startswith("parent not known: batch typo never came")


def test_a_parent_that_is_only_late_is_waited_for(desk: Desk) -> None:
    desk.apply(desk.held("p", delay=30 * DAY), desk.child("c", "p"), desk.chunk("b", ["m"]), desk.commit("b"))
    desk.apply(desk.child("d", batches=("b",)))
    desk.now += 20 * DAY
    assert look(desk) == []
    assert {desk.row(id).state for id in "cd"} == {State.AWAITING}


def test_a_parent_that_comes_between_the_look_and_the_decision_is_waited_for(desk: Desk) -> None:
    desk.apply(desk.child("c", "p"), desk.child("d", batches=("b",)))
    desk.now += DAY + 1
    dependencies = found(desk)
    desk.apply(desk.ready("p"), desk.chunk("b", ["m"]))
    desk.apply(UnknownParents(dependencies))
    assert {desk.row(id).state for id in "cd"} == {State.AWAITING}


def test_a_child_whose_wait_ended_between_the_look_and_the_decision_keeps_its_end(desk: Desk) -> None:
    desk.apply(desk.child("c", "p"))
    desk.now += DAY + 1
    dependencies = found(desk)
    desk.apply(desk.ready("p"), desk.succeeded("p"))
    desk.apply(desk.succeeded("c", 1))
    desk.apply(UnknownParents(dependencies))
    assert desk.row("c").state is State.SUCCEEDED


def test_a_child_of_a_parent_so_old_that_it_is_forgotten_fails_at_once(desk: Desk) -> None:
    old = generated(desk.now - desk.engine.keep - 1)
    desk.apply(desk.child("c", old))
    assert desk.row("c").state is State.FAILED
    assert old in desk.row("c").reason


def test_an_old_parent_that_is_known_is_waited_for(desk: Desk) -> None:
    old = generated(desk.now - desk.engine.keep - 1)
    desk.apply(desk.ready(old), desk.child("c", old))
    assert desk.row("c").state is State.AWAITING
    desk.apply(desk.succeeded(old))
    assert desk.row("c").state is State.ENQUEUED


def test_a_young_parent_may_still_come(desk: Desk) -> None:
    young = generated(desk.now - 60)
    desk.apply(desk.child("c", young))
    assert look(desk) == []
    desk.apply(desk.ready(young), desk.succeeded(young))
    assert desk.row("c").state is State.ENQUEUED


def test_a_parent_that_ended_and_was_purged_set_its_children_free_before(desk: Desk) -> None:
    """Only who comes after the purge is asked about a parent that nobody remembers."""
    old = generated(desk.now)
    desk.apply(desk.ready(old), desk.child("c", old), desk.succeeded(old))
    desk.now += desk.engine.keep + 1
    with desk.store.transaction() as tx:
        assert tx.purge(now=desk.now, keep_succeeded=1, keep_deleted=1, keep_failed=1, limit=10) == 1
    assert look(desk) == []
    assert desk.row("c").state is State.ENQUEUED
    desk.apply(desk.child("late", old))
    assert desk.row("late").state is State.FAILED


def test_a_batch_that_waits_for_an_unseen_parent_ends(desk: Desk) -> None:
    desk.apply(desk.chunk("b", ["1", "2"]), desk.commit("b", parents=[{"id": "typo"}]))
    desk.apply(desk.child("then", batches=("b",), on="finished"))
    desk.now += DAY + 1
    assert look(desk) == ["batch:b"]
    desk.work()
    assert desk.batch("b").state == "deleted"
    assert {desk.row(id).state for id in "12"} == {State.DELETED}
    assert desk.row("1").reason.startswith("parent not known: typo never came")
    assert desk.row("then").state is State.ENQUEUED
    assert look(desk) == []


def test_a_member_of_a_batch_whose_parent_is_old_and_unknown_ends_with_the_next_look(desk: Desk) -> None:
    old = generated(desk.now - desk.engine.keep - 1)
    chunk = desk.chunk("b", ["1"])
    chunk.members[:] = [desk.child("1", old, batch="b")]
    desk.apply(chunk, desk.commit("b"))
    assert look(desk) == ["1"]
    assert desk.batch("b").state == "failed"


def test_a_child_that_waits_in_vain_already_is_not_looked_at_again(desk: Desk) -> None:
    desk.apply(desk.ready("p"), desk.child("c", "p", "typo"), desk.failed("p", final=True))
    assert desk.row("c").state is State.DELETED
    desk.now += DAY + 1
    assert look(desk) == ["c"]
    assert desk.row("c").reason == "unsatisfied: p did not end as succeeded"
    assert look(desk) == []

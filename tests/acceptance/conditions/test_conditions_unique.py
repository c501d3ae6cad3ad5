"""Unique keys in each scope: who runs, whose result callers, children and batches see, and what a requeue is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import pytest

from broker_jobs import (
    Concurrency,
    JobDeleted,
    JobFailed,
    Ordered,
    Receipt,
    State,
    Unique,
    result_of,
    results_of,
)
from tests.acceptance.conditions.conftest import everywhere
from tests.support.observed import NEVER, SECONDS, Desk, refused
from tests.support.wait import eventually

Scope = Literal["queued", "running"] | timedelta
HOUR = timedelta(hours=1)
SCOPES: list[Scope] = ["queued", "running", HOUR]
scopes = pytest.mark.parametrize("scope", SCOPES, ids=["queued", "running", "window"])


def keyed(desk: Desk, scope: Scope = "running", conflict: Literal["keep", "replace"] = "keep") -> dict[str, Any]:
    """The options of the jobs of one key."""
    return {"unique": Unique(desk.key("key"), scope=scope, conflict=conflict)}


def is_known(receipt: Receipt[Any]) -> State:
    """Wait until the coordinator knows a job; its state."""
    return receipt.state()


# ---- how long a key is taken


@everywhere
@scopes
def test_a_duplicate_of_a_job_that_waits_shows_its_end_and_does_not_run(desk: Desk, scope: Scope) -> None:
    desk.hold("parent")
    parent = desk.go("parent")
    first = desk.go("first", desk.program.work.after(parent), **keyed(desk, scope))
    twins = desk.go_all(["second", "third"], **keyed(desk, scope))
    desk.barrier()
    assert [is_known(twin) for twin in twins] == [State.AWAITING] * 2, "they are shown as the first"
    desk.restart()
    desk.let("parent")
    assert desk.results([first, *twins]) == ["first"] * 3
    assert desk.order == ["parent", "first"]


@scopes
def test_a_key_is_free_when_its_scope_is_over(desk: Desk, scope: Scope) -> None:
    desk.hold("first")
    first = desk.go("first", **keyed(desk, scope))
    desk.is_in(State.PROCESSING, first)
    desk.restart()
    second = desk.go("second", **keyed(desk, scope))
    if scope == "queued":
        assert second.result(timeout=SECONDS) == "second"
    desk.barrier()
    desk.let("first")
    third_runs = scope != HOUR
    assert first.result(timeout=SECONDS) == "first"
    third = desk.go("third", **keyed(desk, scope))
    assert third.result(timeout=SECONDS) == ("third" if third_runs else "first")
    assert second.result(timeout=SECONDS) == ("second" if scope == "queued" else "first")
    assert desk.order == ["first", *(["second"] if scope == "queued" else []), *(["third"] if third_runs else [])]


def test_a_window_ends_at_its_time_or_when_its_job_is_deleted(desk: Desk) -> None:
    short: dict[str, Any] = {"unique": Unique(desk.key("short"), scope=timedelta(seconds=1.5))}
    begun = time.time()
    first = desk.go("first", **short)
    assert first.result(timeout=SECONDS) == "first"
    desk.restart()
    last = eventually(lambda: _runs(desk.go("again", **short)), SECONDS, "the window ends")
    assert last == "again"
    assert desk.runs[-1].start >= begun + 1.5

    long: dict[str, Any] = {"unique": Unique(desk.key("long"), scope=HOUR)}
    one = desk.go("one", **long)
    one.result(timeout=SECONDS)
    assert desk.go("two", **long).result(timeout=SECONDS) == "one"
    assert one.delete() is False
    assert desk.go("three", **long).result(timeout=SECONDS) == "three"


def _runs(receipt: Receipt[str]) -> str:
    result = receipt.result(timeout=SECONDS)
    return result if result == "again" else ""


@scopes
def test_a_job_that_waits_for_its_retry_keeps_its_key_unless_it_was_only_for_the_start(
    desk: Desk, scope: Scope
) -> None:
    desk.fails("first", 1)
    first = desk.go("first", retries=1, backoff=[3600.0], **keyed(desk, scope))
    desk.is_in(State.SCHEDULED, first)
    second = desk.go("second", **keyed(desk, scope))
    if scope == "queued":
        assert second.result(timeout=SECONDS) == "second"
    desk.barrier()
    desk.restart()
    first.requeue()
    assert first.result(timeout=SECONDS) == "first"
    assert second.result(timeout=SECONDS) == ("second" if scope == "queued" else "first")


# ---- by every way in


def all_at_once(desk: Desk, kind: str) -> None:
    job = desk.program.declared[kind]
    for receipt in desk.jobs.enqueue_many(job.bind(desk.name(f"n{n}"), desk.key("key")) for n in range(4)):
        desk.watch(receipt)


def in_a_batch(desk: Desk, kind: str) -> None:
    with desk.jobs.batch() as batch:
        for n in range(4):
            batch.enqueue(desk.program.declared[kind], desk.name(f"n{n}"), desk.key("key"))


def at_a_time(desk: Desk, kind: str) -> None:
    for n in range(4):
        job = desk.program.declared[kind]
        desk.watch(job.schedule(timedelta(seconds=0.4 + n / 100), desk.name(f"n{n}"), desk.key("key")))


def by_events(desk: Desk, kind: str) -> None:
    for n in range(4):
        desk.jobs.publish(f"event_{kind}", desk.name(f"n{n}"))


def by_triggers(desk: Desk, kind: str) -> None:
    call = desk.program.declared[kind].bind(desk.name("n0"), desk.key("key"))
    desk.jobs.recurring.put(desk.key("schedule"), NEVER, call)
    for _ in range(4):
        desk.trigger(desk.key("schedule"))


@pytest.mark.parametrize("way", [all_at_once, in_a_batch, at_a_time, by_events, by_triggers])
def test_of_the_jobs_of_one_key_one_runs_by_every_way_in(desk: Desk, way: Callable[[Desk, str], None]) -> None:
    desk.hold(*[f"n{n}" for n in range(4)])
    way(desk, "running")
    desk.started("n0")
    desk.barrier()
    if way is at_a_time:
        time.sleep(0.5)
        desk.barrier()
    assert desk.order == ["n0"]
    desk.let("n0")
    eventually(lambda: desk.runs[0].end, what="it ends")
    desk.barrier()
    assert desk.order == ["n0"]


# ---- replace


@everywhere
@scopes
def test_a_replacing_job_takes_the_place_of_one_that_waits(desk: Desk, scope: Scope) -> None:
    first = desk.program.work.using(**keyed(desk, scope)).schedule(HOUR, desk.name("first"))
    alias = desk.go("alias", **keyed(desk, scope))
    child = desk.go("child", desk.program.work.after(alias))
    taker = desk.program.take.after(first).enqueue(desk.name("taker"), result_of(first))
    desk.wait(child)
    desk.restart()
    last = desk.go("last", **keyed(desk, scope, "replace"))
    assert desk.results([last, first, alias, child]) == ["last"] * 3 + ["child"]
    assert taker.result(timeout=SECONDS) == "takerlast"
    assert sorted(desk.order) == ["child", "last", "taker"]


@pytest.mark.parametrize("scope", ["running", HOUR], ids=["running", "window"])
def test_a_replacing_job_becomes_an_alias_of_one_that_has_begun(desk: Desk, scope: Scope) -> None:
    desk.hold("first")
    first = desk.go("first", **keyed(desk, scope))
    desk.started("first")
    desk.restart()
    last = desk.go("last", **keyed(desk, scope, "replace"))
    desk.barrier()
    desk.let("first")
    assert desk.results([first, last]) == ["first", "first"]
    assert desk.order == ["first"]


def test_a_replaced_job_gives_back_its_places(desk: Desk) -> None:
    limits = [Ordered(desk.key("line")), Concurrency(desk.key("slots"), 1)]
    desk.hold("busy")
    busy = desk.go("busy", limit=limits)
    desk.started("busy")
    old = desk.go("old", limit=limits, **keyed(desk))
    between = desk.go("between", limit=limits)
    desk.wait(old, between)
    desk.restart()
    new = desk.go("new", limit=limits, **keyed(desk, conflict="replace"))
    desk.wait(new)
    desk.let("busy")
    assert desk.results([busy, old, between, new]) == ["busy", "new", "between", "new"]
    assert desk.order == ["busy", "between", "new"]


def test_a_replacing_job_that_waits_for_the_one_with_the_key_becomes_its_alias(desk: Desk) -> None:
    first = desk.program.work.using(**keyed(desk)).schedule(HOUR, desk.name("first"))
    last = desk.go("last", desk.program.work.after(first), **keyed(desk, conflict="replace"))
    desk.barrier()
    first.requeue()
    assert desk.results([first, last]) == ["first", "first"]
    assert desk.order == ["first"]


# ---- requeue


@everywhere
@pytest.mark.parametrize("end", ["succeeded", "failed", "deleted"])
def test_an_ended_job_is_not_requeued_while_another_has_its_key(desk: Desk, end: str) -> None:
    if end == "failed":
        desk.fails("first", 1)
    if end == "deleted":
        first = desk.program.work.using(**keyed(desk)).schedule(HOUR, desk.name("first"))
        desk.is_in(State.SCHEDULED, first)
        first.delete()
    else:
        first = desk.go("first", **keyed(desk))
    desk.is_in(State(end), first)
    desk.hold("second")
    second = desk.go("second", **keyed(desk))
    alias = desk.go("alias", **keyed(desk))
    desk.started("second")
    desk.barrier()
    desk.restart()
    assert second.id in refused(first.requeue)
    assert second.id in refused(lambda: first.reschedule(HOUR))
    desk.let("second")
    assert desk.results([second, alias]) == ["second", "second"]
    first.requeue()
    assert first.result(timeout=SECONDS) == "first"
    assert second.result(timeout=SECONDS) == "second"


def test_a_requeue_of_an_alias_is_one_of_its_original(desk: Desk) -> None:
    desk.hold("first")
    first = desk.go("first", **keyed(desk))
    alias = desk.go("alias", **keyed(desk))
    desk.started("first")
    desk.barrier()
    desk.let("first")
    desk.results([first, alias])
    desk.restart()
    alias.requeue()
    eventually(lambda: desk.order == ["first", "first"], SECONDS, "the original runs again")
    assert desk.results([first, alias]) == ["first", "first"]
    desk.hold("other")
    other = desk.go("other", **keyed(desk))
    desk.started("other")
    desk.barrier()
    assert other.id in refused(alias.requeue)
    desk.let("other")
    assert other.result(timeout=SECONDS) == "other"
    assert alias.result(timeout=SECONDS) == "first", "it stays an alias of the first"


def test_a_newcomer_is_an_alias_of_a_requeued_job(desk: Desk) -> None:
    first = desk.go("first", **keyed(desk))
    first.result(timeout=SECONDS)
    desk.hold("first")
    first.requeue()
    eventually(lambda: desk.order == ["first", "first"], SECONDS, "it runs again")
    desk.restart()
    second = desk.go("second", **keyed(desk))
    desk.barrier()
    desk.let("first")
    assert second.result(timeout=SECONDS) == "first"


# ---- deletions


@everywhere
@pytest.mark.parametrize("conflict", ["keep", "replace"])
def test_a_newcomer_waits_until_a_deleted_job_runs_nowhere(desk: Desk, conflict: Literal["keep", "replace"]) -> None:
    desk.hold("first")
    first = desk.go("first", **keyed(desk))
    desk.started("first")
    first.delete()  # before or after its start was read
    second = desk.go("second", **keyed(desk, conflict=conflict))
    third = desk.go("third", **keyed(desk))
    desk.barrier()
    desk.restart()
    desk.let("first")
    results = desk.results([second, third])
    runs = desk.times()
    if first.state() is State.DELETED:
        assert results in (["second", "second"], ["second", "third"])
    assert desk.most_at_once() == 1
    assert len(runs["first"]) == 1


def test_a_deleted_job_is_not_requeued_while_a_newcomer_waits_for_its_key(desk: Desk) -> None:
    desk.hold("first")
    first = desk.go("first", **keyed(desk))
    desk.started("first")
    first.delete()
    if first.state() is not State.DELETED:  # its start had been read: it was asked to stop, and that decides
        desk.is_in(State.DELETED, first)
        return
    second = desk.go("second", **keyed(desk))
    desk.wait(second)
    desk.restart()
    assert second.id in refused(first.requeue)
    assert desk.order == ["first"]
    desk.let("first")
    assert second.result(timeout=SECONDS) == "second"
    first.requeue()
    assert first.result(timeout=SECONDS) == "first"
    assert desk.most_at_once() == 1


def test_a_newcomer_that_is_deleted_gives_the_key_back_to_the_one_before_it(desk: Desk) -> None:
    desk.hold("first")
    first = desk.go("first", **keyed(desk))
    desk.started("first")
    first.delete()
    if first.state() is not State.DELETED:
        return
    second = desk.go("second", **keyed(desk))
    desk.wait(second)
    second.delete()
    third = desk.go("third", **keyed(desk))
    desk.wait(third)
    desk.restart()
    desk.let("first")
    assert third.result(timeout=SECONDS) == "third"
    assert desk.order == ["first", "third"]
    assert desk.most_at_once() == 1


def test_a_deleted_alias_leaves_alone_and_a_deleted_original_takes_its_aliases_along(desk: Desk) -> None:
    desk.hold("parent")
    parent = desk.go("parent")
    first = desk.go("first", desk.program.work.after(parent), **keyed(desk))
    left, stays = desk.go_all(["left", "stays"], **keyed(desk))
    desk.barrier()
    assert left.delete()
    assert first.state() is State.AWAITING
    desk.restart()
    with pytest.raises(JobDeleted):
        left.result(timeout=SECONDS)
    assert first.id in refused(left.requeue)
    assert first.delete()
    with pytest.raises(JobDeleted):
        stays.result(timeout=SECONDS)
    left.requeue()
    assert left.result(timeout=SECONDS) == "left"
    desk.let("parent")
    parent.result(timeout=SECONDS)
    assert desk.order == ["parent", "left"]


# ---- what depends on aliases


@pytest.mark.parametrize("on", ["succeeded", "failed", "finished"])
@pytest.mark.parametrize("fails", [False, True])
def test_children_of_an_alias_wait_for_its_original(
    desk: Desk, on: Literal["succeeded", "failed", "finished"], fails: bool
) -> None:
    desk.hold("first")
    if fails:
        desk.fails("first", 1)
    first = desk.go("first", **keyed(desk))
    desk.started("first")
    alias = desk.go("alias", **keyed(desk))
    child = desk.go("child", desk.program.work.after(alias, on=on))
    desk.wait(child)
    desk.restart()
    desk.let("first")
    if on == "finished" or (on == "failed") == fails:
        assert child.result(timeout=SECONDS) == "child"
    else:
        with pytest.raises(JobDeleted, match="unsatisfied"):
            child.result(timeout=SECONDS)
        if fails:  # and it comes when the original has run as it should
            alias.requeue()
            assert first.result(timeout=SECONDS) == "first"
            eventually(lambda: child.state() is State.SUCCEEDED, SECONDS, "the child runs after all")
    if fails and on != "succeeded":
        with pytest.raises(JobFailed, match="first fails"):
            alias.result(timeout=SECONDS)


def test_results_come_from_originals_by_way_of_aliases(desk: Desk) -> None:
    desk.hold("first")
    first = desk.go("first", **keyed(desk))
    desk.started("first")
    alias = desk.go("alias", **keyed(desk))
    took = desk.watch(desk.program.take.enqueue(desk.name("took-"), result_of(alias)))
    twice = desk.program.take.after(first, alias).enqueue(desk.name("twice-"), result_of(first))
    desk.wait(took, twice)
    desk.restart()
    desk.let("first")
    assert desk.results([took, twice]) == ["took-first", "twice-first"]
    late = desk.program.take.enqueue(desk.name("late-"), result_of(alias))
    assert late.result(timeout=SECONDS) == "late-first"
    assert results_of([first, alias]) is not None


# ---- batches


@everywhere
def test_a_batch_of_duplicates_ends_with_their_original_and_opens_with_it(desk: Desk) -> None:
    desk.hold("first")
    desk.fails("first", 1)
    first = desk.go("first", **keyed(desk))
    desk.started("first")
    with desk.jobs.batch() as batch:
        members = [batch.enqueue(desk.program.work.using(**keyed(desk)), desk.name(f"m{n}")) for n in range(3)]
        batch.enqueue(desk.program.work, desk.name("plain"))
    after = desk.go("after", desk.program.work.after(batch))
    desk.started("plain")
    desk.barrier()
    eventually(lambda: (batch.counts().open, batch.counts().succeeded) == (3, 1), SECONDS, "three are open")
    desk.restart()
    desk.let("first")
    assert batch.wait(SECONDS) is State.FAILED
    assert batch.counts().failed == 3
    desk.is_in(State.DELETED, after)
    desk.hold("first")
    members[1].requeue()
    desk.wait(after)
    eventually(lambda: batch.counts().open == 3, SECONDS, "the batch is open again")
    desk.restart()
    desk.let("first")
    assert batch.wait(SECONDS) is State.SUCCEEDED
    assert desk.results([first, *members, after]) == ["first"] * 4 + ["after"]
    assert desk.order == ["first", "plain", "first", "after"]


def test_duplicates_within_a_batch_count_as_the_first(desk: Desk) -> None:
    desk.hold("m0")
    with desk.jobs.batch() as batch:
        members = [batch.enqueue(desk.program.work.using(**keyed(desk)), desk.name(f"m{n}")) for n in range(4)]
    desk.started("m0")
    eventually(lambda: batch.counts().open == 4, SECONDS, "all are open")
    desk.restart()
    outside = desk.go("outside", **keyed(desk))
    desk.barrier()
    desk.let("m0")
    assert batch.wait(SECONDS) is State.SUCCEEDED
    assert batch.counts().succeeded == 4
    assert desk.results([*members, outside]) == ["m0"] * 5
    assert desk.order == ["m0"]


@scopes
def test_a_member_takes_its_key_when_its_batch_is_complete_and_not_before(desk: Desk, scope: Scope) -> None:
    entered = desk.jobs.batch()
    batch = entered.__enter__()
    member = desk.jobs.receipt(batch.enqueue(desk.program.work.using(**keyed(desk, scope)), desk.name("member")).id)
    batch.enqueue_many(desk.program.work.bind("-:filler") for _ in range(600))
    desk.wait(member)
    desk.restart()
    outside = desk.go("outside", **keyed(desk, scope))
    assert outside.result(timeout=SECONDS) == "outside"
    entered.__exit__(None, None, None)
    assert member.result(timeout=SECONDS) == ("outside" if scope == HOUR else "member")
    assert batch.wait(SECONDS) is State.SUCCEEDED


def test_a_batch_whose_block_raises_takes_no_key(desk: Desk) -> None:
    entered = desk.jobs.batch()
    batch = entered.__enter__()
    member = desk.jobs.receipt(batch.enqueue(desk.program.work.using(**keyed(desk, HOUR)), desk.name("member")).id)
    batch.enqueue_many(desk.program.work.bind("-:filler") for _ in range(600))
    desk.wait(member)
    error = ValueError("in the block")
    entered.__exit__(ValueError, error, None)
    desk.is_in(State.DELETED, member)
    desk.restart()
    assert desk.go("outside", **keyed(desk, HOUR)).result(timeout=SECONDS) == "outside"
    assert desk.order == ["outside"]


# ---- with limits


@everywhere
def test_an_alias_takes_no_place_and_no_slot(desk: Desk) -> None:
    limits = [Ordered(desk.key("line")), Concurrency(desk.key("slots"), 1)]
    desk.hold("first")
    first = desk.go("first", limit=limits, **keyed(desk))
    desk.started("first")
    aliases = desk.go_all(["a0", "a1"], limit=limits, **keyed(desk))
    following = desk.go("following", limit=limits)
    desk.wait(following)
    desk.restart()
    desk.let("first")
    assert desk.results([first, *aliases, following]) == ["first", "first", "first", "following"]
    assert desk.order == ["first", "following"]


def test_a_key_for_the_start_is_taken_while_its_job_waits_in_a_line(desk: Desk) -> None:
    limit = Concurrency(desk.key("slots"), 1)
    desk.hold("busy", "first")
    busy = desk.go("busy", limit=limit)
    desk.started("busy")
    first = desk.go("first", limit=limit, **keyed(desk, "queued"))
    second = desk.go("second", limit=limit, **keyed(desk, "queued"))
    desk.wait(first)
    desk.restart()
    desk.let("busy")
    desk.is_in(State.PROCESSING, first)
    third = desk.go("third", limit=limit, **keyed(desk, "queued"))
    desk.wait(third)
    desk.let("first")
    assert desk.results([busy, first, second, third]) == ["busy", "first", "first", "third"]

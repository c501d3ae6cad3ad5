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
from tests.support.observed import NEVER, SECONDS, Watcher, refused
from tests.support.wait import eventually

Scope = Literal["queued", "running"] | timedelta
HOUR = timedelta(hours=1)
SCOPES: list[Scope] = ["queued", "running", HOUR]
scopes = pytest.mark.parametrize("scope", SCOPES, ids=["queued", "running", "window"])


def keyed(watcher: Watcher, scope: Scope = "running", conflict: Literal["keep", "replace"] = "keep") -> dict[str, Any]:
    """The options of the jobs of one key."""
    return {"unique": Unique(watcher.key("key"), scope=scope, conflict=conflict)}


def is_known(receipt: Receipt[Any]) -> State:
    """Wait until the coordinator knows a job; its state."""
    return receipt.state()


# ---- how long a key is taken


@everywhere
@scopes
def test_a_duplicate_of_a_job_that_waits_shows_its_end_and_does_not_run(watcher: Watcher, scope: Scope) -> None:
    watcher.hold("parent")
    parent = watcher.go("parent")
    first = watcher.go("first", watcher.program.work.after(parent), **keyed(watcher, scope))
    twins = watcher.go_all(["second", "third"], **keyed(watcher, scope))
    watcher.barrier()
    assert [is_known(twin) for twin in twins] == [State.AWAITING] * 2, "they are shown as the first"
    watcher.restart()
    watcher.let("parent")
    assert watcher.results([first, *twins]) == ["first"] * 3
    assert watcher.order == ["parent", "first"]


@scopes
def test_a_key_is_free_when_its_scope_is_over(watcher: Watcher, scope: Scope) -> None:
    watcher.hold("first")
    first = watcher.go("first", **keyed(watcher, scope))
    watcher.is_in(State.PROCESSING, first)
    watcher.restart()
    second = watcher.go("second", **keyed(watcher, scope))
    if scope == "queued":
        assert second.result(timeout=SECONDS) == "second"
    watcher.barrier()
    watcher.let("first")
    third_runs = scope != HOUR
    assert first.result(timeout=SECONDS) == "first"
    third = watcher.go("third", **keyed(watcher, scope))
    assert third.result(timeout=SECONDS) == ("third" if third_runs else "first")
    assert second.result(timeout=SECONDS) == ("second" if scope == "queued" else "first")
    assert watcher.order == ["first", *(["second"] if scope == "queued" else []), *(["third"] if third_runs else [])]


def test_a_window_ends_at_its_time_or_when_its_job_is_deleted(watcher: Watcher) -> None:
    short: dict[str, Any] = {"unique": Unique(watcher.key("short"), scope=timedelta(seconds=1.5))}
    begun = time.time()
    first = watcher.go("first", **short)
    assert first.result(timeout=SECONDS) == "first"
    watcher.restart()
    last = eventually(lambda: _runs(watcher.go("again", **short)), SECONDS, "the window ends")
    assert last == "again"
    assert watcher.runs[-1].start >= begun + 1.5

    long: dict[str, Any] = {"unique": Unique(watcher.key("long"), scope=HOUR)}
    one = watcher.go("one", **long)
    one.result(timeout=SECONDS)
    assert watcher.go("two", **long).result(timeout=SECONDS) == "one"
    assert one.delete() is False
    assert watcher.go("three", **long).result(timeout=SECONDS) == "three"


def _runs(receipt: Receipt[str]) -> str:
    result = receipt.result(timeout=SECONDS)
    return result if result == "again" else ""


@scopes
def test_a_job_that_waits_for_its_retry_keeps_its_key_unless_it_was_only_for_the_start(
    watcher: Watcher, scope: Scope
) -> None:
    watcher.fails("first", 1)
    first = watcher.go("first", retries=1, backoff=[3600.0], **keyed(watcher, scope))
    watcher.is_in(State.SCHEDULED, first)
    second = watcher.go("second", **keyed(watcher, scope))
    if scope == "queued":
        assert second.result(timeout=SECONDS) == "second"
    watcher.barrier()
    watcher.restart()
    first.requeue()
    assert first.result(timeout=SECONDS) == "first"
    assert second.result(timeout=SECONDS) == ("second" if scope == "queued" else "first")


# ---- by every way in


def all_at_once(watcher: Watcher, kind: str) -> None:
    job = watcher.program.declared[kind]
    for receipt in watcher.jobs.enqueue_many(job.bind(watcher.name(f"n{n}"), watcher.key("key")) for n in range(4)):
        watcher.watch(receipt)


def in_a_batch(watcher: Watcher, kind: str) -> None:
    with watcher.jobs.batch() as batch:
        for n in range(4):
            batch.enqueue(watcher.program.declared[kind], watcher.name(f"n{n}"), watcher.key("key"))


def at_a_time(watcher: Watcher, kind: str) -> None:
    for n in range(4):
        job = watcher.program.declared[kind]
        watcher.watch(job.schedule(timedelta(seconds=0.4 + n / 100), watcher.name(f"n{n}"), watcher.key("key")))


def by_events(watcher: Watcher, kind: str) -> None:
    for n in range(4):
        watcher.jobs.publish(f"event_{kind}", watcher.name(f"n{n}"))


def by_triggers(watcher: Watcher, kind: str) -> None:
    call = watcher.program.declared[kind].bind(watcher.name("n0"), watcher.key("key"))
    watcher.jobs.recurring.put(watcher.key("schedule"), NEVER, call)
    for _ in range(4):
        watcher.trigger(watcher.key("schedule"))


@pytest.mark.parametrize("way", [all_at_once, in_a_batch, at_a_time, by_events, by_triggers])
def test_of_the_jobs_of_one_key_one_runs_by_every_way_in(watcher: Watcher, way: Callable[[Watcher, str], None]) -> None:
    watcher.hold(*[f"n{n}" for n in range(4)])
    way(watcher, "running")
    watcher.started("n0")
    watcher.barrier()
    if way is at_a_time:
        time.sleep(0.5)
        watcher.barrier()
    assert watcher.order == ["n0"]
    watcher.let("n0")
    eventually(lambda: watcher.runs[0].end, what="it ends")
    watcher.barrier()
    assert watcher.order == ["n0"]


# ---- replace


@everywhere
@scopes
def test_a_replacing_job_takes_the_place_of_one_that_waits(watcher: Watcher, scope: Scope) -> None:
    first = watcher.program.work.using(**keyed(watcher, scope)).schedule(HOUR, watcher.name("first"))
    alias = watcher.go("alias", **keyed(watcher, scope))
    child = watcher.go("child", watcher.program.work.after(alias))
    taker = watcher.program.take.after(first).enqueue(watcher.name("taker"), result_of(first))
    watcher.wait(child)
    watcher.restart()
    last = watcher.go("last", **keyed(watcher, scope, "replace"))
    assert watcher.results([last, first, alias, child]) == ["last"] * 3 + ["child"]
    assert taker.result(timeout=SECONDS) == "takerlast"
    assert sorted(watcher.order) == ["child", "last", "taker"]


@pytest.mark.parametrize("scope", ["running", HOUR], ids=["running", "window"])
def test_a_replacing_job_becomes_an_alias_of_one_that_has_begun(watcher: Watcher, scope: Scope) -> None:
    watcher.hold("first")
    first = watcher.go("first", **keyed(watcher, scope))
    watcher.started("first")
    watcher.restart()
    last = watcher.go("last", **keyed(watcher, scope, "replace"))
    watcher.barrier()
    watcher.let("first")
    assert watcher.results([first, last]) == ["first", "first"]
    assert watcher.order == ["first"]


def test_a_replaced_job_gives_back_its_places(watcher: Watcher) -> None:
    limits = [Ordered(watcher.key("line")), Concurrency(watcher.key("slots"), 1)]
    watcher.hold("busy")
    busy = watcher.go("busy", limit=limits)
    watcher.started("busy")
    old = watcher.go("old", limit=limits, **keyed(watcher))
    between = watcher.go("between", limit=limits)
    watcher.wait(old, between)
    watcher.restart()
    new = watcher.go("new", limit=limits, **keyed(watcher, conflict="replace"))
    watcher.wait(new)
    watcher.let("busy")
    assert watcher.results([busy, old, between, new]) == ["busy", "new", "between", "new"]
    assert watcher.order == ["busy", "between", "new"]


def test_a_replacing_job_that_waits_for_the_one_with_the_key_becomes_its_alias(watcher: Watcher) -> None:
    first = watcher.program.work.using(**keyed(watcher)).schedule(HOUR, watcher.name("first"))
    last = watcher.go("last", watcher.program.work.after(first), **keyed(watcher, conflict="replace"))
    watcher.barrier()
    first.requeue()
    assert watcher.results([first, last]) == ["first", "first"]
    assert watcher.order == ["first"]


# ---- requeue


@everywhere
@pytest.mark.parametrize("end", ["succeeded", "failed", "deleted"])
def test_an_ended_job_is_not_requeued_while_another_has_its_key(watcher: Watcher, end: str) -> None:
    if end == "failed":
        watcher.fails("first", 1)
    if end == "deleted":
        first = watcher.program.work.using(**keyed(watcher)).schedule(HOUR, watcher.name("first"))
        watcher.is_in(State.SCHEDULED, first)
        first.delete()
    else:
        first = watcher.go("first", **keyed(watcher))
    watcher.is_in(State(end), first)
    watcher.hold("second")
    second = watcher.go("second", **keyed(watcher))
    alias = watcher.go("alias", **keyed(watcher))
    watcher.started("second")
    watcher.barrier()
    watcher.restart()
    assert second.id in refused(first.requeue)
    assert second.id in refused(lambda: first.reschedule(HOUR))
    watcher.let("second")
    assert watcher.results([second, alias]) == ["second", "second"]
    first.requeue()
    assert first.result(timeout=SECONDS) == "first"
    assert second.result(timeout=SECONDS) == "second"


def test_a_requeue_of_an_alias_is_one_of_its_original(watcher: Watcher) -> None:
    watcher.hold("first")
    first = watcher.go("first", **keyed(watcher))
    alias = watcher.go("alias", **keyed(watcher))
    watcher.started("first")
    watcher.barrier()
    watcher.let("first")
    watcher.results([first, alias])
    watcher.restart()
    alias.requeue()
    eventually(lambda: watcher.order == ["first", "first"], SECONDS, "the original runs again")
    assert watcher.results([first, alias]) == ["first", "first"]
    watcher.hold("other")
    other = watcher.go("other", **keyed(watcher))
    watcher.started("other")
    watcher.barrier()
    assert other.id in refused(alias.requeue)
    watcher.let("other")
    assert other.result(timeout=SECONDS) == "other"
    assert alias.result(timeout=SECONDS) == "first", "it stays an alias of the first"


def test_a_newcomer_is_an_alias_of_a_requeued_job(watcher: Watcher) -> None:
    first = watcher.go("first", **keyed(watcher))
    first.result(timeout=SECONDS)
    watcher.hold("first")
    first.requeue()
    eventually(lambda: watcher.order == ["first", "first"], SECONDS, "it runs again")
    watcher.restart()
    second = watcher.go("second", **keyed(watcher))
    watcher.barrier()
    watcher.let("first")
    assert second.result(timeout=SECONDS) == "first"


# ---- deletions


@everywhere
@pytest.mark.parametrize("conflict", ["keep", "replace"])
def test_a_newcomer_waits_until_a_deleted_job_runs_nowhere(
    watcher: Watcher, conflict: Literal["keep", "replace"]
) -> None:
    watcher.hold("first")
    first = watcher.go("first", **keyed(watcher))
    watcher.started("first")
    first.delete()  # before or after its start was read
    second = watcher.go("second", **keyed(watcher, conflict=conflict))
    third = watcher.go("third", **keyed(watcher))
    watcher.barrier()
    watcher.restart()
    watcher.let("first")
    results = watcher.results([second, third])
    runs = watcher.times()
    if first.state() is State.DELETED:
        assert results in (["second", "second"], ["second", "third"])
    assert watcher.most_at_once() == 1
    assert len(runs["first"]) == 1


def test_a_deleted_job_is_not_requeued_while_a_newcomer_waits_for_its_key(watcher: Watcher) -> None:
    watcher.hold("first")
    first = watcher.go("first", **keyed(watcher))
    watcher.started("first")
    first.delete()
    if first.state() is not State.DELETED:  # its start had been read: it was asked to stop, and that decides
        watcher.is_in(State.DELETED, first)
        return
    second = watcher.go("second", **keyed(watcher))
    watcher.wait(second)
    watcher.restart()
    assert second.id in refused(first.requeue)
    assert watcher.order == ["first"]
    watcher.let("first")
    assert second.result(timeout=SECONDS) == "second"
    first.requeue()
    assert first.result(timeout=SECONDS) == "first"
    assert watcher.most_at_once() == 1


def test_a_newcomer_that_is_deleted_gives_the_key_back_to_the_one_before_it(watcher: Watcher) -> None:
    watcher.hold("first")
    first = watcher.go("first", **keyed(watcher))
    watcher.started("first")
    first.delete()
    if first.state() is not State.DELETED:
        return
    second = watcher.go("second", **keyed(watcher))
    watcher.wait(second)
    second.delete()
    third = watcher.go("third", **keyed(watcher))
    watcher.wait(third)
    watcher.restart()
    watcher.let("first")
    assert third.result(timeout=SECONDS) == "third"
    assert watcher.order == ["first", "third"]
    assert watcher.most_at_once() == 1


def test_a_deleted_alias_leaves_alone_and_a_deleted_original_takes_its_aliases_along(watcher: Watcher) -> None:
    watcher.hold("parent")
    parent = watcher.go("parent")
    first = watcher.go("first", watcher.program.work.after(parent), **keyed(watcher))
    left, stays = watcher.go_all(["left", "stays"], **keyed(watcher))
    watcher.barrier()
    assert left.delete()
    assert first.state() is State.AWAITING
    watcher.restart()
    with pytest.raises(JobDeleted):
        left.result(timeout=SECONDS)
    assert first.id in refused(left.requeue)
    assert first.delete()
    with pytest.raises(JobDeleted):
        stays.result(timeout=SECONDS)
    left.requeue()
    assert left.result(timeout=SECONDS) == "left"
    watcher.let("parent")
    parent.result(timeout=SECONDS)
    assert watcher.order == ["parent", "left"]


# ---- what depends on aliases


@pytest.mark.parametrize("on", ["succeeded", "failed", "finished"])
@pytest.mark.parametrize("fails", [False, True])
def test_children_of_an_alias_wait_for_its_original(
    watcher: Watcher, on: Literal["succeeded", "failed", "finished"], fails: bool
) -> None:
    watcher.hold("first")
    if fails:
        watcher.fails("first", 1)
    first = watcher.go("first", **keyed(watcher))
    watcher.started("first")
    alias = watcher.go("alias", **keyed(watcher))
    child = watcher.go("child", watcher.program.work.after(alias, on=on))
    watcher.wait(child)
    watcher.restart()
    watcher.let("first")
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


def test_results_come_from_originals_by_way_of_aliases(watcher: Watcher) -> None:
    watcher.hold("first")
    first = watcher.go("first", **keyed(watcher))
    watcher.started("first")
    alias = watcher.go("alias", **keyed(watcher))
    took = watcher.watch(watcher.program.take.enqueue(watcher.name("took-"), result_of(alias)))
    twice = watcher.program.take.after(first, alias).enqueue(watcher.name("twice-"), result_of(first))
    watcher.wait(took, twice)
    watcher.restart()
    watcher.let("first")
    assert watcher.results([took, twice]) == ["took-first", "twice-first"]
    late = watcher.program.take.enqueue(watcher.name("late-"), result_of(alias))
    assert late.result(timeout=SECONDS) == "late-first"
    assert results_of([first, alias]) is not None


# ---- batches


@everywhere
def test_a_batch_of_duplicates_ends_with_their_original_and_opens_with_it(watcher: Watcher) -> None:
    watcher.hold("first")
    watcher.fails("first", 1)
    first = watcher.go("first", **keyed(watcher))
    watcher.started("first")
    with watcher.jobs.batch() as batch:
        members = [batch.enqueue(watcher.program.work.using(**keyed(watcher)), watcher.name(f"m{n}")) for n in range(3)]
        batch.enqueue(watcher.program.work, watcher.name("plain"))
    after = watcher.go("after", watcher.program.work.after(batch))
    watcher.started("plain")
    watcher.barrier()
    eventually(lambda: (batch.counts().open, batch.counts().succeeded) == (3, 1), SECONDS, "three are open")
    watcher.restart()
    watcher.let("first")
    assert batch.wait(SECONDS) is State.FAILED
    assert batch.counts().failed == 3
    watcher.is_in(State.DELETED, after)
    watcher.hold("first")
    members[1].requeue()
    watcher.wait(after)
    eventually(lambda: batch.counts().open == 3, SECONDS, "the batch is open again")
    watcher.restart()
    watcher.let("first")
    assert batch.wait(SECONDS) is State.SUCCEEDED
    assert watcher.results([first, *members, after]) == ["first"] * 4 + ["after"]
    assert watcher.order == ["first", "plain", "first", "after"]


def test_duplicates_within_a_batch_count_as_the_first(watcher: Watcher) -> None:
    watcher.hold("m0")
    with watcher.jobs.batch() as batch:
        members = [batch.enqueue(watcher.program.work.using(**keyed(watcher)), watcher.name(f"m{n}")) for n in range(4)]
    watcher.started("m0")
    eventually(lambda: batch.counts().open == 4, SECONDS, "all are open")
    watcher.restart()
    outside = watcher.go("outside", **keyed(watcher))
    watcher.barrier()
    watcher.let("m0")
    assert batch.wait(SECONDS) is State.SUCCEEDED
    assert batch.counts().succeeded == 4
    assert watcher.results([*members, outside]) == ["m0"] * 5
    assert watcher.order == ["m0"]


@scopes
def test_a_member_takes_its_key_when_its_batch_is_complete_and_not_before(watcher: Watcher, scope: Scope) -> None:
    entered = watcher.jobs.batch()
    batch = entered.__enter__()
    member = watcher.jobs.receipt(
        batch.enqueue(watcher.program.work.using(**keyed(watcher, scope)), watcher.name("member")).id
    )
    batch.enqueue_many(watcher.program.work.bind("-:filler") for _ in range(600))
    watcher.wait(member)
    watcher.restart()
    outside = watcher.go("outside", **keyed(watcher, scope))
    assert outside.result(timeout=SECONDS) == "outside"
    entered.__exit__(None, None, None)
    assert member.result(timeout=SECONDS) == ("outside" if scope == HOUR else "member")
    assert batch.wait(SECONDS) is State.SUCCEEDED


def test_a_batch_whose_block_raises_takes_no_key(watcher: Watcher) -> None:
    entered = watcher.jobs.batch()
    batch = entered.__enter__()
    member = watcher.jobs.receipt(
        batch.enqueue(watcher.program.work.using(**keyed(watcher, HOUR)), watcher.name("member")).id
    )
    batch.enqueue_many(watcher.program.work.bind("-:filler") for _ in range(600))
    watcher.wait(member)
    error = ValueError("in the block")
    entered.__exit__(ValueError, error, None)
    watcher.is_in(State.DELETED, member)
    watcher.restart()
    assert watcher.go("outside", **keyed(watcher, HOUR)).result(timeout=SECONDS) == "outside"
    assert watcher.order == ["outside"]


# ---- with limits


@everywhere
def test_an_alias_takes_no_place_and_no_slot(watcher: Watcher) -> None:
    limits = [Ordered(watcher.key("line")), Concurrency(watcher.key("slots"), 1)]
    watcher.hold("first")
    first = watcher.go("first", limit=limits, **keyed(watcher))
    watcher.started("first")
    aliases = watcher.go_all(["a0", "a1"], limit=limits, **keyed(watcher))
    following = watcher.go("following", limit=limits)
    watcher.wait(following)
    watcher.restart()
    watcher.let("first")
    assert watcher.results([first, *aliases, following]) == ["first", "first", "first", "following"]
    assert watcher.order == ["first", "following"]


def test_a_key_for_the_start_is_taken_while_its_job_waits_in_a_line(watcher: Watcher) -> None:
    limit = Concurrency(watcher.key("slots"), 1)
    watcher.hold("busy", "first")
    busy = watcher.go("busy", limit=limit)
    watcher.started("busy")
    first = watcher.go("first", limit=limit, **keyed(watcher, "queued"))
    second = watcher.go("second", limit=limit, **keyed(watcher, "queued"))
    watcher.wait(first)
    watcher.restart()
    watcher.let("busy")
    watcher.is_in(State.PROCESSING, first)
    third = watcher.go("third", limit=limit, **keyed(watcher, "queued"))
    watcher.wait(third)
    watcher.let("first")
    assert watcher.results([busy, first, second, third]) == ["busy", "first", "first", "third"]

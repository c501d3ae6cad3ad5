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
from tests.support.observed import NEVER, SECONDS, View, refused
from tests.support.wait import eventually

Scope = Literal["queued", "running"] | timedelta
HOUR = timedelta(hours=1)
SCOPES: list[Scope] = ["queued", "running", HOUR]
scopes = pytest.mark.parametrize("scope", SCOPES, ids=["queued", "running", "window"])


def keyed(view: View, scope: Scope = "running", conflict: Literal["keep", "replace"] = "keep") -> dict[str, Any]:
    """The options of the jobs of one key."""
    return {"unique": Unique(view.key("key"), scope=scope, conflict=conflict)}


def is_known(receipt: Receipt[Any]) -> State:
    """Wait until the coordinator knows a job; its state."""
    return receipt.state()


# ---- how long a key is taken


@everywhere
@scopes
def test_a_duplicate_of_a_job_that_waits_shows_its_end_and_does_not_run(view: View, scope: Scope) -> None:
    view.hold("parent")
    parent = view.go("parent")
    first = view.go("first", view.program.work.after(parent), **keyed(view, scope))
    twins = view.go_all(["second", "third"], **keyed(view, scope))
    view.barrier()
    assert [is_known(twin) for twin in twins] == [State.AWAITING] * 2, "they are shown as the first"
    view.restart()
    view.let("parent")
    assert view.results([first, *twins]) == ["first"] * 3
    assert view.order == ["parent", "first"]


@scopes
def test_a_key_is_free_when_its_scope_is_over(view: View, scope: Scope) -> None:
    view.hold("first")
    first = view.go("first", **keyed(view, scope))
    view.is_in(State.PROCESSING, first)
    view.restart()
    second = view.go("second", **keyed(view, scope))
    if scope == "queued":
        assert second.result(timeout=SECONDS) == "second"
    view.barrier()
    view.let("first")
    third_runs = scope != HOUR
    assert first.result(timeout=SECONDS) == "first"
    third = view.go("third", **keyed(view, scope))
    assert third.result(timeout=SECONDS) == ("third" if third_runs else "first")
    assert second.result(timeout=SECONDS) == ("second" if scope == "queued" else "first")
    assert view.order == ["first", *(["second"] if scope == "queued" else []), *(["third"] if third_runs else [])]


def test_a_window_ends_at_its_time_or_when_its_job_is_deleted(view: View) -> None:
    short: dict[str, Any] = {"unique": Unique(view.key("short"), scope=timedelta(seconds=1.5))}
    begun = time.time()
    first = view.go("first", **short)
    assert first.result(timeout=SECONDS) == "first"
    view.restart()
    last = eventually(lambda: _runs(view.go("again", **short)), SECONDS, "the window ends")
    assert last == "again"
    assert view.runs[-1].start >= begun + 1.5

    long: dict[str, Any] = {"unique": Unique(view.key("long"), scope=HOUR)}
    one = view.go("one", **long)
    one.result(timeout=SECONDS)
    assert view.go("two", **long).result(timeout=SECONDS) == "one"
    assert one.delete() is False
    assert view.go("three", **long).result(timeout=SECONDS) == "three"


def _runs(receipt: Receipt[str]) -> str:
    result = receipt.result(timeout=SECONDS)
    return result if result == "again" else ""


@scopes
def test_a_job_that_waits_for_its_retry_keeps_its_key_unless_it_was_only_for_the_start(
    view: View, scope: Scope
) -> None:
    view.fails("first", 1)
    first = view.go("first", retries=1, backoff=[3600.0], **keyed(view, scope))
    view.is_in(State.SCHEDULED, first)
    second = view.go("second", **keyed(view, scope))
    if scope == "queued":
        assert second.result(timeout=SECONDS) == "second"
    view.barrier()
    view.restart()
    first.requeue()
    assert first.result(timeout=SECONDS) == "first"
    assert second.result(timeout=SECONDS) == ("second" if scope == "queued" else "first")


# ---- by every way in


def all_at_once(view: View, kind: str) -> None:
    job = view.program.declared[kind]
    for receipt in view.jobs.enqueue_many(job.bind(view.name(f"n{n}"), view.key("key")) for n in range(4)):
        view.watch(receipt)


def in_a_batch(view: View, kind: str) -> None:
    with view.jobs.batch() as batch:
        for n in range(4):
            batch.enqueue(view.program.declared[kind], view.name(f"n{n}"), view.key("key"))


def at_a_time(view: View, kind: str) -> None:
    for n in range(4):
        job = view.program.declared[kind]
        view.watch(job.schedule(timedelta(seconds=0.4 + n / 100), view.name(f"n{n}"), view.key("key")))


def by_events(view: View, kind: str) -> None:
    for n in range(4):
        view.jobs.publish(f"event_{kind}", view.name(f"n{n}"))


def by_triggers(view: View, kind: str) -> None:
    call = view.program.declared[kind].bind(view.name("n0"), view.key("key"))
    view.jobs.recurring.put(view.key("schedule"), NEVER, call)
    for _ in range(4):
        view.trigger(view.key("schedule"))


@pytest.mark.parametrize("way", [all_at_once, in_a_batch, at_a_time, by_events, by_triggers])
def test_of_the_jobs_of_one_key_one_runs_by_every_way_in(view: View, way: Callable[[View, str], None]) -> None:
    view.hold(*[f"n{n}" for n in range(4)])
    way(view, "running")
    view.started("n0")
    view.barrier()
    if way is at_a_time:
        time.sleep(0.5)
        view.barrier()
    assert view.order == ["n0"]
    view.let("n0")
    eventually(lambda: view.runs[0].end, what="it ends")
    view.barrier()
    assert view.order == ["n0"]


# ---- replace


@everywhere
@scopes
def test_a_replacing_job_takes_the_place_of_one_that_waits(view: View, scope: Scope) -> None:
    first = view.program.work.using(**keyed(view, scope)).schedule(HOUR, view.name("first"))
    alias = view.go("alias", **keyed(view, scope))
    child = view.go("child", view.program.work.after(alias))
    taker = view.program.take.after(first).enqueue(view.name("taker"), result_of(first))
    view.wait(child)
    view.restart()
    last = view.go("last", **keyed(view, scope, "replace"))
    assert view.results([last, first, alias, child]) == ["last"] * 3 + ["child"]
    assert taker.result(timeout=SECONDS) == "takerlast"
    assert sorted(view.order) == ["child", "last", "taker"]


@pytest.mark.parametrize("scope", ["running", HOUR], ids=["running", "window"])
def test_a_replacing_job_becomes_an_alias_of_one_that_has_begun(view: View, scope: Scope) -> None:
    view.hold("first")
    first = view.go("first", **keyed(view, scope))
    view.started("first")
    view.restart()
    last = view.go("last", **keyed(view, scope, "replace"))
    view.barrier()
    view.let("first")
    assert view.results([first, last]) == ["first", "first"]
    assert view.order == ["first"]


def test_a_replaced_job_gives_back_its_places(view: View) -> None:
    limits = [Ordered(view.key("line")), Concurrency(view.key("slots"), 1)]
    view.hold("busy")
    busy = view.go("busy", limit=limits)
    view.started("busy")
    old = view.go("old", limit=limits, **keyed(view))
    between = view.go("between", limit=limits)
    view.wait(old, between)
    view.restart()
    new = view.go("new", limit=limits, **keyed(view, conflict="replace"))
    view.wait(new)
    view.let("busy")
    assert view.results([busy, old, between, new]) == ["busy", "new", "between", "new"]
    assert view.order == ["busy", "between", "new"]


def test_a_replacing_job_that_waits_for_the_one_with_the_key_becomes_its_alias(view: View) -> None:
    first = view.program.work.using(**keyed(view)).schedule(HOUR, view.name("first"))
    last = view.go("last", view.program.work.after(first), **keyed(view, conflict="replace"))
    view.barrier()
    first.requeue()
    assert view.results([first, last]) == ["first", "first"]
    assert view.order == ["first"]


# ---- requeue


@everywhere
@pytest.mark.parametrize("end", ["succeeded", "failed", "deleted"])
def test_an_ended_job_is_not_requeued_while_another_has_its_key(view: View, end: str) -> None:
    if end == "failed":
        view.fails("first", 1)
    if end == "deleted":
        first = view.program.work.using(**keyed(view)).schedule(HOUR, view.name("first"))
        view.is_in(State.SCHEDULED, first)
        first.delete()
    else:
        first = view.go("first", **keyed(view))
    view.is_in(State(end), first)
    view.hold("second")
    second = view.go("second", **keyed(view))
    alias = view.go("alias", **keyed(view))
    view.started("second")
    view.barrier()
    view.restart()
    assert second.id in refused(first.requeue)
    assert second.id in refused(lambda: first.reschedule(HOUR))
    view.let("second")
    assert view.results([second, alias]) == ["second", "second"]
    first.requeue()
    assert first.result(timeout=SECONDS) == "first"
    assert second.result(timeout=SECONDS) == "second"


def test_a_requeue_of_an_alias_is_one_of_its_original(view: View) -> None:
    view.hold("first")
    first = view.go("first", **keyed(view))
    alias = view.go("alias", **keyed(view))
    view.started("first")
    view.barrier()
    view.let("first")
    view.results([first, alias])
    view.restart()
    alias.requeue()
    eventually(lambda: view.order == ["first", "first"], SECONDS, "the original runs again")
    assert view.results([first, alias]) == ["first", "first"]
    view.hold("other")
    other = view.go("other", **keyed(view))
    view.started("other")
    view.barrier()
    assert other.id in refused(alias.requeue)
    view.let("other")
    assert other.result(timeout=SECONDS) == "other"
    assert alias.result(timeout=SECONDS) == "first", "it stays an alias of the first"


def test_a_newcomer_is_an_alias_of_a_requeued_job(view: View) -> None:
    first = view.go("first", **keyed(view))
    first.result(timeout=SECONDS)
    view.hold("first")
    first.requeue()
    eventually(lambda: view.order == ["first", "first"], SECONDS, "it runs again")
    view.restart()
    second = view.go("second", **keyed(view))
    view.barrier()
    view.let("first")
    assert second.result(timeout=SECONDS) == "first"


# ---- deletions


@everywhere
@pytest.mark.parametrize("conflict", ["keep", "replace"])
def test_a_newcomer_waits_until_a_deleted_job_runs_nowhere(view: View, conflict: Literal["keep", "replace"]) -> None:
    view.hold("first")
    first = view.go("first", **keyed(view))
    view.started("first")
    first.delete()  # before or after its start was read
    second = view.go("second", **keyed(view, conflict=conflict))
    third = view.go("third", **keyed(view))
    view.barrier()
    view.restart()
    view.let("first")
    results = view.results([second, third])
    runs = view.times()
    if first.state() is State.DELETED:
        assert results in (["second", "second"], ["second", "third"])
    assert view.most_at_once() == 1
    assert len(runs["first"]) == 1


def test_a_deleted_job_is_not_requeued_while_a_newcomer_waits_for_its_key(view: View) -> None:
    view.hold("first")
    first = view.go("first", **keyed(view))
    view.started("first")
    first.delete()
    if first.state() is not State.DELETED:  # its start had been read: it was asked to stop, and that decides
        view.is_in(State.DELETED, first)
        return
    second = view.go("second", **keyed(view))
    view.wait(second)
    view.restart()
    assert second.id in refused(first.requeue)
    assert view.order == ["first"]
    view.let("first")
    assert second.result(timeout=SECONDS) == "second"
    first.requeue()
    assert first.result(timeout=SECONDS) == "first"
    assert view.most_at_once() == 1


def test_a_newcomer_that_is_deleted_gives_the_key_back_to_the_one_before_it(view: View) -> None:
    view.hold("first")
    first = view.go("first", **keyed(view))
    view.started("first")
    first.delete()
    if first.state() is not State.DELETED:
        return
    second = view.go("second", **keyed(view))
    view.wait(second)
    second.delete()
    third = view.go("third", **keyed(view))
    view.wait(third)
    view.restart()
    view.let("first")
    assert third.result(timeout=SECONDS) == "third"
    assert view.order == ["first", "third"]
    assert view.most_at_once() == 1


def test_a_deleted_alias_leaves_alone_and_a_deleted_original_takes_its_aliases_along(view: View) -> None:
    view.hold("parent")
    parent = view.go("parent")
    first = view.go("first", view.program.work.after(parent), **keyed(view))
    left, stays = view.go_all(["left", "stays"], **keyed(view))
    view.barrier()
    assert left.delete()
    assert first.state() is State.AWAITING
    view.restart()
    with pytest.raises(JobDeleted):
        left.result(timeout=SECONDS)
    assert first.id in refused(left.requeue)
    assert first.delete()
    with pytest.raises(JobDeleted):
        stays.result(timeout=SECONDS)
    left.requeue()
    assert left.result(timeout=SECONDS) == "left"
    view.let("parent")
    parent.result(timeout=SECONDS)
    assert view.order == ["parent", "left"]


# ---- what depends on aliases


@pytest.mark.parametrize("on", ["succeeded", "failed", "finished"])
@pytest.mark.parametrize("fails", [False, True])
def test_children_of_an_alias_wait_for_its_original(
    view: View, on: Literal["succeeded", "failed", "finished"], fails: bool
) -> None:
    view.hold("first")
    if fails:
        view.fails("first", 1)
    first = view.go("first", **keyed(view))
    view.started("first")
    alias = view.go("alias", **keyed(view))
    child = view.go("child", view.program.work.after(alias, on=on))
    view.wait(child)
    view.restart()
    view.let("first")
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


def test_results_come_from_originals_by_way_of_aliases(view: View) -> None:
    view.hold("first")
    first = view.go("first", **keyed(view))
    view.started("first")
    alias = view.go("alias", **keyed(view))
    took = view.watch(view.program.take.enqueue(view.name("took-"), result_of(alias)))
    twice = view.program.take.after(first, alias).enqueue(view.name("twice-"), result_of(first))
    view.wait(took, twice)
    view.restart()
    view.let("first")
    assert view.results([took, twice]) == ["took-first", "twice-first"]
    late = view.program.take.enqueue(view.name("late-"), result_of(alias))
    assert late.result(timeout=SECONDS) == "late-first"
    assert results_of([first, alias]) is not None


# ---- batches


@everywhere
def test_a_batch_of_duplicates_ends_with_their_original_and_opens_with_it(view: View) -> None:
    view.hold("first")
    view.fails("first", 1)
    first = view.go("first", **keyed(view))
    view.started("first")
    with view.jobs.batch() as batch:
        members = [batch.enqueue(view.program.work.using(**keyed(view)), view.name(f"m{n}")) for n in range(3)]
        batch.enqueue(view.program.work, view.name("plain"))
    after = view.go("after", view.program.work.after(batch))
    view.started("plain")
    view.barrier()
    eventually(lambda: (batch.counts().open, batch.counts().succeeded) == (3, 1), SECONDS, "three are open")
    view.restart()
    view.let("first")
    assert batch.wait(SECONDS) is State.FAILED
    assert batch.counts().failed == 3
    view.is_in(State.DELETED, after)
    view.hold("first")
    members[1].requeue()
    view.wait(after)
    eventually(lambda: batch.counts().open == 3, SECONDS, "the batch is open again")
    view.restart()
    view.let("first")
    assert batch.wait(SECONDS) is State.SUCCEEDED
    assert view.results([first, *members, after]) == ["first"] * 4 + ["after"]
    assert view.order == ["first", "plain", "first", "after"]


def test_duplicates_within_a_batch_count_as_the_first(view: View) -> None:
    view.hold("m0")
    with view.jobs.batch() as batch:
        members = [batch.enqueue(view.program.work.using(**keyed(view)), view.name(f"m{n}")) for n in range(4)]
    view.started("m0")
    eventually(lambda: batch.counts().open == 4, SECONDS, "all are open")
    view.restart()
    outside = view.go("outside", **keyed(view))
    view.barrier()
    view.let("m0")
    assert batch.wait(SECONDS) is State.SUCCEEDED
    assert batch.counts().succeeded == 4
    assert view.results([*members, outside]) == ["m0"] * 5
    assert view.order == ["m0"]


@scopes
def test_a_member_takes_its_key_when_its_batch_is_complete_and_not_before(view: View, scope: Scope) -> None:
    entered = view.jobs.batch()
    batch = entered.__enter__()
    member = view.jobs.receipt(batch.enqueue(view.program.work.using(**keyed(view, scope)), view.name("member")).id)
    batch.enqueue_many(view.program.work.bind("-:filler") for _ in range(600))
    view.wait(member)
    view.restart()
    outside = view.go("outside", **keyed(view, scope))
    assert outside.result(timeout=SECONDS) == "outside"
    entered.__exit__(None, None, None)
    assert member.result(timeout=SECONDS) == ("outside" if scope == HOUR else "member")
    assert batch.wait(SECONDS) is State.SUCCEEDED


def test_a_batch_whose_block_raises_takes_no_key(view: View) -> None:
    entered = view.jobs.batch()
    batch = entered.__enter__()
    member = view.jobs.receipt(batch.enqueue(view.program.work.using(**keyed(view, HOUR)), view.name("member")).id)
    batch.enqueue_many(view.program.work.bind("-:filler") for _ in range(600))
    view.wait(member)
    error = ValueError("in the block")
    entered.__exit__(ValueError, error, None)
    view.is_in(State.DELETED, member)
    view.restart()
    assert view.go("outside", **keyed(view, HOUR)).result(timeout=SECONDS) == "outside"
    assert view.order == ["outside"]


# ---- with limits


@everywhere
def test_an_alias_takes_no_place_and_no_slot(view: View) -> None:
    limits = [Ordered(view.key("line")), Concurrency(view.key("slots"), 1)]
    view.hold("first")
    first = view.go("first", limit=limits, **keyed(view))
    view.started("first")
    aliases = view.go_all(["a0", "a1"], limit=limits, **keyed(view))
    following = view.go("following", limit=limits)
    view.wait(following)
    view.restart()
    view.let("first")
    assert view.results([first, *aliases, following]) == ["first", "first", "first", "following"]
    assert view.order == ["first", "following"]


def test_a_key_for_the_start_is_taken_while_its_job_waits_in_a_line(view: View) -> None:
    limit = Concurrency(view.key("slots"), 1)
    view.hold("busy", "first")
    busy = view.go("busy", limit=limit)
    view.started("busy")
    first = view.go("first", limit=limit, **keyed(view, "queued"))
    second = view.go("second", limit=limit, **keyed(view, "queued"))
    view.wait(first)
    view.restart()
    view.let("busy")
    view.is_in(State.PROCESSING, first)
    third = view.go("third", limit=limit, **keyed(view, "queued"))
    view.wait(third)
    view.let("first")
    assert view.results([busy, first, second, third]) == ["busy", "first", "first", "third"]


@everywhere
def test_a_batch_lists_a_duplicate_whose_original_failed_outside_of_it_and_requeues_that(view: View) -> None:
    view.hold("outside")
    view.fails("outside", 1)
    view.fails("member", 1)
    original = view.go("outside", **keyed(view))
    view.started("outside")
    with view.jobs.batch("with duplicates") as batch:
        twins = [view.watch(batch.enqueue(view.program.work.using(**keyed(view)), view.name(n))) for n in ("x", "y")]
        member = view.watch(batch.enqueue(view.program.work, view.name("member")))
    view.is_in(State.PROCESSING, *twins)  # they are shown as the original
    view.let("outside")
    assert batch.wait(SECONDS) is State.FAILED
    assert batch.counts().failed == 3
    found = {failure.id: failure for failure in batch.failures()}
    assert set(found) == {min(twin.id for twin in twins), member.id}, "one of each original"
    (twin,) = (failure for failure in found.values() if failure.id != member.id)
    assert twin.message == f"{view.name('outside')} fails"
    assert twin.args == (view.name("x"),)
    groups = {failure.message for failure in found.values()}
    shown = view.dashboard().get(f"/api/v1/batches/{batch.id}").json()
    assert groups == {group["error"].removeprefix("ValueError: ") for group in shown["failures"]}
    for failure in batch.failures():
        failure.requeue()
    assert batch.wait(SECONDS) is State.SUCCEEDED
    assert original.result(timeout=SECONDS) == "outside"
    assert list(batch.failures()) == []


def run_from_the_dashboard(view: View, job: str, name: str, key: str) -> Receipt[Any]:
    """Run a declared job by the API of the dashboard, which its form uses too."""
    browser = view.dashboard()
    eventually(lambda: browser.get(f"/run/{job}").status_code == 200, SECONDS, "the functions are declared")
    made = browser.post("/api/v1/jobs", json={"job": job, "kwargs": {"name": view.name(name), "key": key}})
    assert made.status_code == 201, made.text
    return view.watch(view.jobs.receipt(made.json()["id"]))


def test_a_job_that_is_run_from_the_dashboard_has_the_unique_key_of_its_function(view: View) -> None:
    key = view.key("declared")
    view.hold("code")
    first = view.watch(view.program.declared["running"].enqueue(view.name("code"), key))
    view.started("code")
    twin = run_from_the_dashboard(view, "running", "form", key)
    view.is_in(State.PROCESSING, twin)  # it is shown as the first
    view.let("code")
    assert view.results([first, twin]) == ["code", "code"]
    assert view.order == ["code"]
    assert run_from_the_dashboard(view, "running", "again", key).result(timeout=SECONDS) == "again"


def test_a_job_that_is_run_from_the_dashboard_has_the_limits_of_its_function(view: View) -> None:
    key = view.key("declared")
    view.hold("code")
    view.watch(view.program.declared["ordered"].enqueue(view.name("code"), key))
    view.started("code")
    behind = run_from_the_dashboard(view, "ordered", "form", key)
    view.wait(behind)
    view.let("code")
    assert behind.result(timeout=SECONDS) == "form"
    assert view.order == ["code", "form"]

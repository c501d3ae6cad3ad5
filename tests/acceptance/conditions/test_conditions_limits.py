"""Each kind of limit, alone and with another, however its jobs come: order, counts and moments are as the law says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker_jobs import Concurrency, Ordered, RateLimit, Receipt, State
from tests.acceptance.conditions.conftest import everywhere
from tests.support.observed import NEVER, PER, SECONDS, View
from tests.support.wait import eventually

Limit = Concurrency | Ordered | RateLimit


@dataclass(frozen=True)
class Kind:
    """A kind of limit: how it is written, how many it lets go at once, and what must be true of runs under it."""

    make: Callable[[str], Limit]
    width: int
    per: float = 0.0
    fixed: bool = False

    def check(self, view: View, names: list[str], begun: float) -> None:
        """Each of these jobs, accepted in this order, ran once, and under the limit."""
        runs = [run for run in view.runs if run.name in names]
        assert sorted(run.name for run in runs) == sorted(names)
        if not self.per:
            assert view.most_at_once(*names) <= self.width
        else:
            self.check_rate([run.start for run in runs], begun)
        # those that may start at once are started by threads, in any order
        apart = {run.name: number - names.index(run.name) for number, run in enumerate(runs)}
        assert {name: by for name, by in apart.items() if abs(by) >= self.width} == {}

    def check_rate(self, starts: list[float], begun: float) -> None:
        """No start of a rate is before its moment; one is never released early, and may be noted late."""
        first = begun // self.per * self.per if self.fixed else begun
        earliest = [first + number // self.width * self.per for number in range(len(starts))]
        assert [start - least for start, least in zip(starts, earliest, strict=True) if start < least - 0.001] == []


KINDS = {
    "ordered": Kind(Ordered, 1),
    "concurrency": Kind(lambda key: Concurrency(key, 2), 2),
    "sliding": Kind(lambda key: RateLimit(key, 2, per=PER), 2, PER),
    "fixed": Kind(lambda key: RateLimit(key, 2, per=PER, window="fixed"), 2, PER, fixed=True),
}
NAMES = [f"n{number}" for number in range(6)]


def all_ran(view: View, names: list[str]) -> None:
    """Wait until jobs of these names have run to their end."""
    eventually(lambda: {run.name for run in view.runs if run.end is not None} >= set(names), SECONDS, "all have run")


# ---- alone, by every way in


def by_enqueue(view: View, kind: str, key: str) -> None:
    for name in NAMES:
        view.go(name, limit=KINDS[kind].make(key))


def by_enqueue_many(view: View, kind: str, key: str) -> None:
    job = view.program.declared[kind]
    for receipt in view.jobs.enqueue_many(job.bind(view.name(name), key) for name in NAMES):
        view.watch(receipt)


def by_batch(view: View, kind: str, key: str) -> None:
    with view.jobs.batch() as batch:
        for name in NAMES:
            batch.enqueue(view.program.declared[kind], view.name(name), key)
    assert batch.wait(SECONDS) is State.SUCCEEDED


def by_schedule(view: View, kind: str, key: str) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.4)
    for number, name in enumerate(NAMES):
        moment = due + timedelta(milliseconds=number)
        view.watch(view.program.declared[kind].schedule(moment, view.name(name), key))


def by_event(view: View, kind: str, _key: str) -> None:
    for name in NAMES:
        view.jobs.publish(f"event_{kind}", view.name(name))


def by_trigger(view: View, kind: str, key: str) -> None:
    for name in NAMES:
        call = view.program.declared[kind].bind(view.name(name), key)
        view.jobs.recurring.put(view.key(name), NEVER, call)
        view.trigger(view.key(name))


WAYS_IN = [by_enqueue, by_enqueue_many, by_batch, by_schedule, by_event, by_trigger]


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_holds_by_every_way_in(view: View, kind: str, way: Callable[[View, str, str], None]) -> None:
    if way is by_event:
        time.sleep(PER if KINDS[kind].per else 0.0)  # all tests share the key of events: its last starts are over
    begun = time.time()
    way(view, kind, view.key(kind))
    all_ran(view, NAMES)
    KINDS[kind].check(view, NAMES, begun)


# ---- two together

PAIRS = [
    ("ordered", "concurrency"),
    ("ordered", "sliding"),
    ("ordered", "fixed"),
    ("concurrency", "sliding"),
    ("concurrency", "fixed"),
    ("sliding", "fixed"),
    ("ordered", "ordered"),
    ("concurrency", "concurrency"),
]


@everywhere
@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_two_limits_hold_together(view: View, pair: tuple[str, str]) -> None:
    """Each job has one limit or both, in either order; all run, and each limit holds for those that have it."""
    one, other = (KINDS[kind].make(view.key(f"{place}-{kind}")) for place, kind in enumerate(pair))
    both = ["b0", "b1", "b2", "b3"]
    view.hold("b0")
    begun = time.time()
    for number in range(4):
        view.go(f"b{number}", limit=[one, other] if number % 2 else [other, one])
        if number < 2:
            view.go(f"o{number}", limit=one)
            view.go(f"p{number}", limit=other)
    view.restart()
    view.let("b0")
    names = [*both, "o0", "o1", "p0", "p1"]
    all_ran(view, names)
    assert sorted(view.order) == sorted(names), "each ran once"
    for kind, more in zip(pair, (["o0", "o1"], ["p0", "p1"]), strict=True):
        runs = [run for run in view.runs if run.name in [*both, *more]]
        if KINDS[kind].per:
            KINDS[kind].check_rate([run.start for run in runs], begun)
        else:
            assert view.most_at_once(*both, *more) <= KINDS[kind].width
        if kind == "ordered":
            accepted: list[str] = [
                name for name in ("b0", "o0", "p0", "b1", "o1", "p1", "b2", "b3") if name in [*both, *more]
            ]
            order = [run.name for run in runs]
            if pair == ("ordered", "ordered"):  # while the first of a key waits for another key, others may go
                order = [name for name in order if name in both]
                accepted = both
            assert order == accepted


def test_two_ordered_keys_that_cross_keep_their_orders(view: View) -> None:
    one, other = Ordered(view.key("one")), Ordered(view.key("other"))
    view.hold("a0")
    view.go("a0", limit=one)
    view.go("x", limit=[one, other])
    view.go("b0", limit=other)
    view.go("y", limit=[other, one])
    view.go("a1", limit=one)
    view.restart()
    view.let("a0")
    all_ran(view, ["a0", "x", "b0", "y", "a1"])
    assert [name for name in view.order if name != "b0"] == ["a0", "x", "y", "a1"]
    assert view.order.index("b0") < view.order.index("y"), "while the first of a key waits for another key, others go"


def test_a_job_that_waits_in_a_narrow_line_keeps_none_out_of_a_wide_one(view: View) -> None:
    tenant, everybody = Concurrency(view.key("tenant"), 1), Concurrency(view.key("all"), 3)
    view.hold("t0")
    first, *waiting = view.go_all([f"t{n}" for n in range(5)], limit=[everybody, tenant])
    view.started("t0")
    view.wait(*waiting)
    view.restart()
    others = view.go_all([f"o{n}" for n in range(4)], limit=everybody)
    view.results(others)
    assert [name for name in view.order if name[0] == "t"] == ["t0"]
    view.let("t0")
    view.results([first, *waiting])
    assert view.most_at_once(*[f"t{n}" for n in range(5)]) == 1
    assert view.most_at_once() <= 3


# ---- with parents, batches, times

Holder = Callable[[View, dict[str, Any]], tuple[Receipt[str], Callable[[], object]]]


def behind_a_parent(view: View, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    view.hold("parent")
    parent = view.go("parent")
    late = view.go("late", view.program.work.after(parent), **options)
    return late, lambda: view.let("parent")


def in_an_open_batch(view: View, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    entered = view.jobs.batch()
    batch = entered.__enter__()
    late = view.jobs.receipt(batch.enqueue(view.program.work.using(**options), view.name("late")).id)
    batch.enqueue_many(view.program.work.bind("-:filler") for _ in range(600))
    view.wait(late)
    return late, lambda: entered.__exit__(None, None, None)


def in_a_batch_after_a_job(view: View, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    view.hold("before")
    with view.jobs.batch(after=view.go("before")) as batch:
        late = batch.enqueue(view.program.work.using(**options), view.name("late"))
    return late, lambda: view.let("before")


def at_a_time(view: View, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    late = view.program.work.using(**options).schedule(timedelta(hours=1), view.name("late"))
    view.is_in(State.SCHEDULED, late)
    return late, lambda: late.reschedule(timedelta(0))


@pytest.mark.parametrize("holder", [behind_a_parent, in_an_open_batch, in_a_batch_after_a_job, at_a_time])
@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_waits_for_something_else_keeps_no_other_back(view: View, kind: str, holder: Holder) -> None:
    options: dict[str, Any] = {"limit": KINDS[kind].make(view.key(kind))}
    late, come = holder(view, options)
    begun = time.time()
    view.results(view.go_all(["o0", "o1", "o2"], **options))
    assert "late" not in view.order
    view.restart()
    assert not late.state().is_final
    come()
    assert late.result(timeout=SECONDS) == "late"
    if KINDS[kind].per:
        starts = [run.start for run in view.runs if run.name in ("o0", "o1", "o2", "late")]
        KINDS[kind].check_rate(starts, begun)


@everywhere
@pytest.mark.parametrize("holder", [behind_a_parent, in_a_batch_after_a_job, at_a_time])
def test_an_ordered_job_that_waits_keeps_its_place(view: View, holder: Holder) -> None:
    options: dict[str, Any] = {"limit": Ordered(view.key("line"))}
    view.hold("first")
    late, come = holder(view, options)
    view.barrier()
    first, second = view.go_all(["first", "second"], **options)
    view.started("first")
    view.restart()
    come()
    if holder is not at_a_time:
        parent = "parent" if holder is behind_a_parent else "before"
        eventually(lambda: [run for run in view.runs if run.name == parent and run.end], what="what it waits for ended")
        view.barrier()
    eventually(lambda: late.state() is State.AWAITING, what="it waits for its turn")
    view.let("first")
    view.results([first, late, second])
    assert [name for name in view.order if name in ("first", "late", "second")] == ["first", "late", "second"]


def test_a_member_of_a_batch_takes_its_place_when_the_batch_is_complete(view: View) -> None:
    options: dict[str, Any] = {"limit": Ordered(view.key("line"))}
    late, complete = in_an_open_batch(view, options)
    view.hold("first")
    receipts = view.go_all(["first", "second"], **options)
    view.started("first")
    view.wait(receipts[1])
    complete()
    view.barrier()
    third = view.go("third", **options)
    view.wait(third)
    view.let("first")
    view.results([*receipts, late, third])
    assert view.order == ["first", "second", "late", "third"]


# ---- retries


@everywhere
def test_an_ordered_job_keeps_its_turn_through_its_retries(view: View) -> None:
    options: dict[str, Any] = {"limit": Ordered(view.key("line")), "retries": 2, "backoff": [0.3]}
    view.fails("a", 2)
    a, b = view.go_all(["a", "b"], **options)
    view.started("a")
    view.restart()
    assert view.results([a, b]) == ["a", "b"]
    assert view.order == ["a", "a", "a", "b"]


def test_a_job_that_waits_for_its_retry_gives_its_slot_to_others(view: View) -> None:
    options: dict[str, Any] = {"limit": Concurrency(view.key("one"), 1), "retries": 1, "backoff": [3600.0]}
    view.fails("a", 1)
    a, b, c = view.go_all(["a", "b", "c"], **options)
    assert view.results([b, c]) == ["b", "c"]
    view.restart()
    a.requeue()
    assert a.result(timeout=SECONDS) == "a"
    assert view.order == ["a", "b", "c", "a"]
    assert view.most_at_once() == 1


@everywhere
@pytest.mark.parametrize("kind", ["sliding", "fixed"])
def test_a_retry_is_a_start_of_its_rate(view: View, kind: str) -> None:
    options: dict[str, Any] = {"limit": KINDS[kind].make(view.key(kind)), "retries": 3, "backoff": [0.01]}
    view.fails("a", 3)
    begun = time.time()
    a, b = view.go_all(["a", "b"], **options)
    view.restart()
    view.results([a, b])
    assert sorted(view.order) == ["a", "a", "a", "a", "b"]
    KINDS[kind].check_rate([run.start for run in view.runs], begun)


# ---- reschedule, delete, requeue


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_is_rescheduled_or_deleted_in_its_line_lets_the_next_go(view: View, kind: str) -> None:
    width = KINDS[kind].width
    options: dict[str, Any] = {"limit": KINDS[kind].make(view.key(kind))}
    if KINDS[kind].per:
        options = {"limit": RateLimit(view.key(kind), 2, per=5.0, window="fixed" if KINDS[kind].fixed else "sliding")}
    firsts = [f"f{number}" for number in range(width)]
    view.hold(*firsts)
    first = view.go_all(firsts, **options)
    view.started(*firsts)
    moved, deleted, third = view.go_all(["moved", "deleted", "third"], **options)
    if KINDS[kind].per:
        view.jobs.limits.set(view.key(kind), width)  # also where a window has just begun
    view.wait(third) if not KINDS[kind].fixed else view.barrier()
    moved.reschedule(timedelta(hours=1))
    assert deleted.delete()
    view.restart()
    view.let(*firsts)
    if KINDS[kind].per:
        view.jobs.limits.set(view.key(kind), width + 1)
    assert view.results([*first, third])[-1] == "third"
    if not KINDS[kind].fixed:
        assert not {"moved", "deleted"} & set(view.order)
        view.jobs.limits.set(view.key(kind), width + 3)
        moved.requeue()
        deleted.requeue()
        assert view.results([moved, deleted]) == ["moved", "deleted"]


def test_an_ordered_job_that_is_rescheduled_keeps_its_place_and_one_that_is_requeued_takes_a_new_one(
    view: View,
) -> None:
    options: dict[str, Any] = {"limit": Ordered(view.key("line"))}
    view.hold("a")
    a, b, c, d = view.go_all(["a", "b", "c", "d"], **options)
    view.started("a")
    view.wait(d)
    b.reschedule(timedelta(hours=1))
    assert c.delete()
    c.requeue()
    view.wait(c)
    view.restart()
    b.requeue()
    view.wait(b)
    view.let("a")
    view.results([a, b, c, d])
    assert view.order == ["a", "b", "d", "c"]


@pytest.mark.parametrize("known_to_run", [True, False])
@pytest.mark.parametrize("kind", ["ordered", "concurrency"])
def test_a_deleted_job_that_runs_keeps_its_slot_until_it_has_stopped(view: View, kind: str, known_to_run: bool) -> None:
    width = KINDS[kind].width
    options: dict[str, Any] = {"limit": KINDS[kind].make(view.key(kind))}
    firsts = [f"f{number}" for number in range(width)]
    view.hold(*firsts, "n0")
    receipts = view.go_all(firsts, **options)
    view.started(*firsts)
    following = view.go_all(["n0", "n1", "n2"], **options)
    view.wait(*following)
    view.restart()
    if known_to_run:
        view.is_in(State.PROCESSING, receipts[0])
    receipts[0].delete()
    view.barrier()
    view.started("n0")
    view.let(*firsts, "n0")
    view.results(following)
    view.is_in(State.DELETED, receipts[0])
    assert view.most_at_once() <= width
    receipts[0].requeue()
    assert receipts[0].result(timeout=SECONDS) == "f0"


# ---- another limit at run time


@everywhere
def test_a_concurrency_limit_is_raised_lowered_closed_and_cleared(view: View) -> None:
    key = view.key("slots")
    names = [f"n{number}" for number in range(9)]
    view.hold(*names)
    receipts = view.go_all(names, limit=Concurrency(key, 2))
    view.started("n0", "n1")
    view.wait(*receipts[2:])
    assert sorted(view.order) == names[:2]
    view.jobs.limits.set(key, 4)
    view.started_count(4)
    view.jobs.limits.set(key, 1)
    view.restart()
    view.let("n0", "n1", "n2")
    view.results(receipts[:3])
    view.barrier()
    assert sorted(view.order) == names[:4], "one still runs, and one is allowed"
    view.let("n3")
    view.started("n4")
    view.jobs.limits.set(key, 0)
    view.let("n4")
    view.results(receipts[3:5])
    late = view.go("late", limit=Concurrency(key, 2))
    view.wait(late)
    view.restart()
    assert sorted(view.order) == names[:5], "the key is closed"
    view.jobs.limits.clear(key)
    view.started("n5", "n6")
    view.wait(*receipts[7:], late)
    assert sorted(view.order) == names[:7], "what the code says counts again"
    view.let("n5", "n6")
    view.started("n7", "n8")
    view.wait(late)
    view.let("n7", "n8")
    view.results([*receipts[5:], late])


@everywhere
def test_a_rate_is_raised_lowered_closed_and_cleared(view: View) -> None:
    key = view.key("rate")
    names = [f"n{number}" for number in range(8)]
    receipts = view.go_all(names, limit=RateLimit(key, 1, per=3600))
    view.results(receipts[:1])
    view.wait(*receipts[1:])
    view.jobs.limits.set(key, 3)
    view.results(receipts[1:3])
    view.barrier()
    assert sorted(view.order) == names[:3]
    view.jobs.limits.set(key, 2)
    view.jobs.limits.set(key, 0)
    view.restart()
    late = view.go("late", limit=RateLimit(key, 1, per=3600))
    view.wait(late)
    view.jobs.limits.set(key, 4)
    view.results(receipts[3:4])
    view.barrier()
    assert sorted(view.order) == names[:4]
    view.jobs.limits.clear(key)
    view.barrier()
    assert len(view.order) == 4
    view.jobs.limits.set(key, 8)
    view.results(receipts)
    view.wait(late)
    view.jobs.limits.set(key, 9)
    view.results([late])


@pytest.mark.parametrize("other", ["ordered", "concurrency", "sliding"])
def test_a_job_that_waits_at_a_closed_key_keeps_nothing_of_its_other_limit(view: View, other: str) -> None:
    shut = Concurrency(view.key("shut"), 5)
    limit = KINDS[other].make(view.key(other))
    view.jobs.limits.set(view.key("shut"), 0)
    waiting = view.go_all(["w0", "w1", "w2"], limit=[limit, shut])
    view.wait(*waiting)
    view.restart()
    open_ones = view.go_all(["o0", "o1", "o2"], limit=limit)
    if other == "ordered":  # its line keeps the order of acceptance: a closed key of the first stops all
        view.barrier()
    view.results(open_ones)
    assert sorted(view.order) == ["o0", "o1", "o2"]
    view.jobs.limits.clear(view.key("shut"))
    view.results(waiting)
    if KINDS[other].per == 0.0:
        assert view.most_at_once() <= KINDS[other].width


def test_a_limit_that_is_set_before_the_first_job_counts(view: View) -> None:
    key = view.key("early")
    view.jobs.limits.set(key, 1)
    view.restart()
    view.hold("a")
    a, b = view.go_all(["a", "b"], limit=Concurrency(key, 5))
    view.started("a")
    view.wait(b)
    view.let("a")
    view.results([a, b])
    assert view.most_at_once() == 1


# ---- batches


@everywhere
def test_a_batch_with_limits_ends_once_and_deleting_it_gives_everything_back(view: View) -> None:
    limits: list[Limit] = [Concurrency(view.key("slots"), 2), Ordered(view.key("line"))]
    view.hold("m0")
    with view.jobs.batch() as batch:
        members = [batch.enqueue(view.program.work.using(limit=limits[n % 2]), view.name(f"m{n}")) for n in range(6)]
    view.started("m0")
    outside = view.go("outside", limit=limits)
    view.wait(outside) if "m1" not in view.order else None
    view.restart()
    assert batch.delete()
    assert batch.wait(SECONDS) in (State.DELETED, State.SUCCEEDED)
    assert outside.result(timeout=SECONDS) == "outside"
    assert batch.counts().total == len(members)
    assert batch.counts().open == 0

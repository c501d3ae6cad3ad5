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
from tests.support.observed import NEVER, PER, SECONDS, Desk
from tests.support.wait import eventually

Limit = Concurrency | Ordered | RateLimit


@dataclass(frozen=True)
class Kind:
    """A kind of limit: how it is written, how many it lets go at once, and what must be true of runs under it."""

    make: Callable[[str], Limit]
    width: int
    per: float = 0.0
    fixed: bool = False

    def check(self, desk: Desk, names: list[str], begun: float) -> None:
        """Each of these jobs, accepted in this order, ran once, and under the limit."""
        runs = [run for run in desk.runs if run.name in names]
        assert sorted(run.name for run in runs) == sorted(names)
        if not self.per:
            assert desk.most_at_once(*names) <= self.width
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


def all_ran(desk: Desk, names: list[str]) -> None:
    """Wait until jobs of these names have run to their end."""
    eventually(lambda: {run.name for run in desk.runs if run.end is not None} >= set(names), SECONDS, "all have run")


# ---- alone, by every way in


def by_enqueue(desk: Desk, kind: str, key: str) -> None:
    for name in NAMES:
        desk.go(name, limit=KINDS[kind].make(key))


def by_enqueue_many(desk: Desk, kind: str, key: str) -> None:
    job = desk.program.declared[kind]
    for receipt in desk.jobs.enqueue_many(job.bind(desk.name(name), key) for name in NAMES):
        desk.watch(receipt)


def by_batch(desk: Desk, kind: str, key: str) -> None:
    with desk.jobs.batch() as batch:
        for name in NAMES:
            batch.enqueue(desk.program.declared[kind], desk.name(name), key)
    assert batch.wait(SECONDS) is State.SUCCEEDED


def by_schedule(desk: Desk, kind: str, key: str) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.4)
    for number, name in enumerate(NAMES):
        moment = due + timedelta(milliseconds=number)
        desk.watch(desk.program.declared[kind].schedule(moment, desk.name(name), key))


def by_event(desk: Desk, kind: str, _key: str) -> None:
    for name in NAMES:
        desk.jobs.publish(f"event_{kind}", desk.name(name))


def by_trigger(desk: Desk, kind: str, key: str) -> None:
    for name in NAMES:
        call = desk.program.declared[kind].bind(desk.name(name), key)
        desk.jobs.recurring.put(desk.key(name), NEVER, call)
        desk.trigger(desk.key(name))


WAYS_IN = [by_enqueue, by_enqueue_many, by_batch, by_schedule, by_event, by_trigger]


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_holds_by_every_way_in(desk: Desk, kind: str, way: Callable[[Desk, str, str], None]) -> None:
    if way is by_event:
        time.sleep(PER if KINDS[kind].per else 0.0)  # all tests share the key of events: its last starts are over
    begun = time.time()
    way(desk, kind, desk.key(kind))
    all_ran(desk, NAMES)
    KINDS[kind].check(desk, NAMES, begun)


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
def test_two_limits_hold_together(desk: Desk, pair: tuple[str, str]) -> None:
    """Each job has one limit or both, in either order; all run, and each limit holds for those that have it."""
    one, other = (KINDS[kind].make(desk.key(f"{place}-{kind}")) for place, kind in enumerate(pair))
    both = ["b0", "b1", "b2", "b3"]
    desk.hold("b0")
    begun = time.time()
    for number in range(4):
        desk.go(f"b{number}", limit=[one, other] if number % 2 else [other, one])
        if number < 2:
            desk.go(f"o{number}", limit=one)
            desk.go(f"p{number}", limit=other)
    desk.restart()
    desk.let("b0")
    names = [*both, "o0", "o1", "p0", "p1"]
    all_ran(desk, names)
    assert sorted(desk.order) == sorted(names), "each ran once"
    for kind, more in zip(pair, (["o0", "o1"], ["p0", "p1"]), strict=True):
        runs = [run for run in desk.runs if run.name in [*both, *more]]
        if KINDS[kind].per:
            KINDS[kind].check_rate([run.start for run in runs], begun)
        else:
            assert desk.most_at_once(*both, *more) <= KINDS[kind].width
        if kind == "ordered":
            accepted: list[str] = [
                name for name in ("b0", "o0", "p0", "b1", "o1", "p1", "b2", "b3") if name in [*both, *more]
            ]
            order = [run.name for run in runs]
            if pair == ("ordered", "ordered"):  # while the first of a key waits for another key, others may go
                order = [name for name in order if name in both]
                accepted = both
            assert order == accepted


def test_two_ordered_keys_that_cross_keep_their_orders(desk: Desk) -> None:
    one, other = Ordered(desk.key("one")), Ordered(desk.key("other"))
    desk.hold("a0")
    desk.go("a0", limit=one)
    desk.go("x", limit=[one, other])
    desk.go("b0", limit=other)
    desk.go("y", limit=[other, one])
    desk.go("a1", limit=one)
    desk.restart()
    desk.let("a0")
    all_ran(desk, ["a0", "x", "b0", "y", "a1"])
    assert [name for name in desk.order if name != "b0"] == ["a0", "x", "y", "a1"]
    assert desk.order.index("b0") < desk.order.index("y"), "while the first of a key waits for another key, others go"


def test_a_job_that_waits_in_a_narrow_line_keeps_none_out_of_a_wide_one(desk: Desk) -> None:
    tenant, everybody = Concurrency(desk.key("tenant"), 1), Concurrency(desk.key("all"), 3)
    desk.hold("t0")
    first, *waiting = desk.go_all([f"t{n}" for n in range(5)], limit=[everybody, tenant])
    desk.started("t0")
    desk.wait(*waiting)
    desk.restart()
    others = desk.go_all([f"o{n}" for n in range(4)], limit=everybody)
    desk.results(others)
    assert [name for name in desk.order if name[0] == "t"] == ["t0"]
    desk.let("t0")
    desk.results([first, *waiting])
    assert desk.most_at_once(*[f"t{n}" for n in range(5)]) == 1
    assert desk.most_at_once() <= 3


# ---- with parents, batches, times

Holder = Callable[[Desk, dict[str, Any]], tuple[Receipt[str], Callable[[], object]]]


def behind_a_parent(desk: Desk, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    desk.hold("parent")
    parent = desk.go("parent")
    late = desk.go("late", desk.program.work.after(parent), **options)
    return late, lambda: desk.let("parent")


def in_an_open_batch(desk: Desk, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    entered = desk.jobs.batch()
    batch = entered.__enter__()
    late = desk.jobs.receipt(batch.enqueue(desk.program.work.using(**options), desk.name("late")).id)
    batch.enqueue_many(desk.program.work.bind("-:filler") for _ in range(600))
    desk.wait(late)
    return late, lambda: entered.__exit__(None, None, None)


def in_a_batch_after_a_job(desk: Desk, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    desk.hold("before")
    with desk.jobs.batch(after=desk.go("before")) as batch:
        late = batch.enqueue(desk.program.work.using(**options), desk.name("late"))
    return late, lambda: desk.let("before")


def at_a_time(desk: Desk, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    late = desk.program.work.using(**options).schedule(timedelta(hours=1), desk.name("late"))
    desk.is_in(State.SCHEDULED, late)
    return late, lambda: late.reschedule(timedelta(0))


@pytest.mark.parametrize("holder", [behind_a_parent, in_an_open_batch, in_a_batch_after_a_job, at_a_time])
@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_waits_for_something_else_keeps_no_other_back(desk: Desk, kind: str, holder: Holder) -> None:
    options: dict[str, Any] = {"limit": KINDS[kind].make(desk.key(kind))}
    late, come = holder(desk, options)
    begun = time.time()
    desk.results(desk.go_all(["o0", "o1", "o2"], **options))
    assert "late" not in desk.order
    desk.restart()
    assert not late.state().is_final
    come()
    assert late.result(timeout=SECONDS) == "late"
    if KINDS[kind].per:
        starts = [run.start for run in desk.runs if run.name in ("o0", "o1", "o2", "late")]
        KINDS[kind].check_rate(starts, begun)


@everywhere
@pytest.mark.parametrize("holder", [behind_a_parent, in_a_batch_after_a_job, at_a_time])
def test_an_ordered_job_that_waits_keeps_its_place(desk: Desk, holder: Holder) -> None:
    options: dict[str, Any] = {"limit": Ordered(desk.key("line"))}
    desk.hold("first")
    late, come = holder(desk, options)
    desk.barrier()
    first, second = desk.go_all(["first", "second"], **options)
    desk.started("first")
    desk.restart()
    come()
    if holder is not at_a_time:
        parent = "parent" if holder is behind_a_parent else "before"
        eventually(lambda: [run for run in desk.runs if run.name == parent and run.end], what="what it waits for ended")
        desk.barrier()
    eventually(lambda: late.state() is State.AWAITING, what="it waits for its turn")
    desk.let("first")
    desk.results([first, late, second])
    assert [name for name in desk.order if name in ("first", "late", "second")] == ["first", "late", "second"]


def test_a_member_of_a_batch_takes_its_place_when_the_batch_is_complete(desk: Desk) -> None:
    options: dict[str, Any] = {"limit": Ordered(desk.key("line"))}
    late, complete = in_an_open_batch(desk, options)
    desk.hold("first")
    receipts = desk.go_all(["first", "second"], **options)
    desk.started("first")
    desk.wait(receipts[1])
    complete()
    desk.barrier()
    third = desk.go("third", **options)
    desk.wait(third)
    desk.let("first")
    desk.results([*receipts, late, third])
    assert desk.order == ["first", "second", "late", "third"]


# ---- retries


@everywhere
def test_an_ordered_job_keeps_its_turn_through_its_retries(desk: Desk) -> None:
    options: dict[str, Any] = {"limit": Ordered(desk.key("line")), "retries": 2, "backoff": [0.3]}
    desk.fails("a", 2)
    a, b = desk.go_all(["a", "b"], **options)
    desk.started("a")
    desk.restart()
    assert desk.results([a, b]) == ["a", "b"]
    assert desk.order == ["a", "a", "a", "b"]


def test_a_job_that_waits_for_its_retry_gives_its_slot_to_others(desk: Desk) -> None:
    options: dict[str, Any] = {"limit": Concurrency(desk.key("one"), 1), "retries": 1, "backoff": [3600.0]}
    desk.fails("a", 1)
    a, b, c = desk.go_all(["a", "b", "c"], **options)
    assert desk.results([b, c]) == ["b", "c"]
    desk.restart()
    a.requeue()
    assert a.result(timeout=SECONDS) == "a"
    assert desk.order == ["a", "b", "c", "a"]
    assert desk.most_at_once() == 1


@everywhere
@pytest.mark.parametrize("kind", ["sliding", "fixed"])
def test_a_retry_is_a_start_of_its_rate(desk: Desk, kind: str) -> None:
    options: dict[str, Any] = {"limit": KINDS[kind].make(desk.key(kind)), "retries": 3, "backoff": [0.01]}
    desk.fails("a", 3)
    begun = time.time()
    a, b = desk.go_all(["a", "b"], **options)
    desk.restart()
    desk.results([a, b])
    assert sorted(desk.order) == ["a", "a", "a", "a", "b"]
    KINDS[kind].check_rate([run.start for run in desk.runs], begun)


# ---- reschedule, delete, requeue


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_is_rescheduled_or_deleted_in_its_line_lets_the_next_go(desk: Desk, kind: str) -> None:
    width = KINDS[kind].width
    options: dict[str, Any] = {"limit": KINDS[kind].make(desk.key(kind))}
    if KINDS[kind].per:
        options = {"limit": RateLimit(desk.key(kind), 2, per=5.0, window="fixed" if KINDS[kind].fixed else "sliding")}
    firsts = [f"f{number}" for number in range(width)]
    desk.hold(*firsts)
    first = desk.go_all(firsts, **options)
    desk.started(*firsts)
    moved, deleted, third = desk.go_all(["moved", "deleted", "third"], **options)
    if KINDS[kind].per:
        desk.jobs.limits.set(desk.key(kind), width)  # also where a window has just begun
    desk.wait(third) if not KINDS[kind].fixed else desk.barrier()
    moved.reschedule(timedelta(hours=1))
    assert deleted.delete()
    desk.restart()
    desk.let(*firsts)
    if KINDS[kind].per:
        desk.jobs.limits.set(desk.key(kind), width + 1)
    assert desk.results([*first, third])[-1] == "third"
    if not KINDS[kind].fixed:
        assert not {"moved", "deleted"} & set(desk.order)
        desk.jobs.limits.set(desk.key(kind), width + 3)
        moved.requeue()
        deleted.requeue()
        assert desk.results([moved, deleted]) == ["moved", "deleted"]


def test_an_ordered_job_that_is_rescheduled_keeps_its_place_and_one_that_is_requeued_takes_a_new_one(
    desk: Desk,
) -> None:
    options: dict[str, Any] = {"limit": Ordered(desk.key("line"))}
    desk.hold("a")
    a, b, c, d = desk.go_all(["a", "b", "c", "d"], **options)
    desk.started("a")
    desk.wait(d)
    b.reschedule(timedelta(hours=1))
    assert c.delete()
    c.requeue()
    desk.wait(c)
    desk.restart()
    b.requeue()
    desk.wait(b)
    desk.let("a")
    desk.results([a, b, c, d])
    assert desk.order == ["a", "b", "d", "c"]


@pytest.mark.parametrize("known_to_run", [True, False])
@pytest.mark.parametrize("kind", ["ordered", "concurrency"])
def test_a_deleted_job_that_runs_keeps_its_slot_until_it_has_stopped(desk: Desk, kind: str, known_to_run: bool) -> None:
    width = KINDS[kind].width
    options: dict[str, Any] = {"limit": KINDS[kind].make(desk.key(kind))}
    firsts = [f"f{number}" for number in range(width)]
    desk.hold(*firsts, "n0")
    receipts = desk.go_all(firsts, **options)
    desk.started(*firsts)
    following = desk.go_all(["n0", "n1", "n2"], **options)
    desk.wait(*following)
    desk.restart()
    if known_to_run:
        desk.is_in(State.PROCESSING, receipts[0])
    receipts[0].delete()
    desk.barrier()
    desk.started("n0")
    desk.let(*firsts, "n0")
    desk.results(following)
    desk.is_in(State.DELETED, receipts[0])
    assert desk.most_at_once() <= width
    receipts[0].requeue()
    assert receipts[0].result(timeout=SECONDS) == "f0"


# ---- another limit at run time


@everywhere
def test_a_concurrency_limit_is_raised_lowered_closed_and_cleared(desk: Desk) -> None:
    key = desk.key("slots")
    names = [f"n{number}" for number in range(9)]
    desk.hold(*names)
    receipts = desk.go_all(names, limit=Concurrency(key, 2))
    desk.started("n0", "n1")
    desk.wait(*receipts[2:])
    assert sorted(desk.order) == names[:2]
    desk.jobs.limits.set(key, 4)
    desk.started_count(4)
    desk.jobs.limits.set(key, 1)
    desk.restart()
    desk.let("n0", "n1", "n2")
    desk.results(receipts[:3])
    desk.barrier()
    assert sorted(desk.order) == names[:4], "one still runs, and one is allowed"
    desk.let("n3")
    desk.started("n4")
    desk.jobs.limits.set(key, 0)
    desk.let("n4")
    desk.results(receipts[3:5])
    late = desk.go("late", limit=Concurrency(key, 2))
    desk.wait(late)
    desk.restart()
    assert sorted(desk.order) == names[:5], "the key is closed"
    desk.jobs.limits.clear(key)
    desk.started("n5", "n6")
    desk.wait(*receipts[7:], late)
    assert sorted(desk.order) == names[:7], "what the code says counts again"
    desk.let(*names)
    desk.results([*receipts[5:], late])
    assert desk.order[-1] == "late"


@everywhere
def test_a_rate_is_raised_lowered_closed_and_cleared(desk: Desk) -> None:
    key = desk.key("rate")
    receipts = desk.go_all([f"n{number}" for number in range(8)], limit=RateLimit(key, 1, per=3600))
    desk.results(receipts[:1])
    desk.wait(*receipts[1:])
    desk.jobs.limits.set(key, 3)
    desk.results(receipts[1:3])
    desk.barrier()
    assert desk.order == ["n0", "n1", "n2"]
    desk.jobs.limits.set(key, 2)
    desk.jobs.limits.set(key, 0)
    desk.restart()
    late = desk.go("late", limit=RateLimit(key, 1, per=3600))
    desk.wait(late)
    desk.jobs.limits.set(key, 4)
    desk.results(receipts[3:4])
    desk.barrier()
    assert desk.order == ["n0", "n1", "n2", "n3"]
    desk.jobs.limits.clear(key)
    desk.barrier()
    assert len(desk.order) == 4
    desk.jobs.limits.set(key, 100)
    desk.results([*receipts, late])
    assert desk.order[-1] == "late"


@pytest.mark.parametrize("other", ["ordered", "concurrency", "sliding"])
def test_a_job_that_waits_at_a_closed_key_keeps_nothing_of_its_other_limit(desk: Desk, other: str) -> None:
    shut = Concurrency(desk.key("shut"), 5)
    limit = KINDS[other].make(desk.key(other))
    desk.jobs.limits.set(desk.key("shut"), 0)
    waiting = desk.go_all(["w0", "w1", "w2"], limit=[limit, shut])
    desk.wait(*waiting)
    desk.restart()
    open_ones = desk.go_all(["o0", "o1", "o2"], limit=limit)
    if other == "ordered":  # its line keeps the order of acceptance: a closed key of the first stops all
        desk.barrier()
    desk.results(open_ones)
    assert sorted(desk.order) == ["o0", "o1", "o2"]
    desk.jobs.limits.clear(desk.key("shut"))
    desk.results(waiting)
    if KINDS[other].per == 0.0:
        assert desk.most_at_once() <= KINDS[other].width


def test_a_limit_that_is_set_before_the_first_job_counts(desk: Desk) -> None:
    key = desk.key("early")
    desk.jobs.limits.set(key, 1)
    desk.restart()
    desk.hold("a")
    a, b = desk.go_all(["a", "b"], limit=Concurrency(key, 5))
    desk.started("a")
    desk.wait(b)
    desk.let("a")
    desk.results([a, b])
    assert desk.most_at_once() == 1


# ---- batches


@everywhere
def test_a_batch_with_limits_ends_once_and_deleting_it_gives_everything_back(desk: Desk) -> None:
    limits: list[Limit] = [Concurrency(desk.key("slots"), 2), Ordered(desk.key("line"))]
    desk.hold("m0")
    with desk.jobs.batch() as batch:
        members = [batch.enqueue(desk.program.work.using(limit=limits[n % 2]), desk.name(f"m{n}")) for n in range(6)]
    desk.started("m0")
    outside = desk.go("outside", limit=limits)
    desk.wait(outside) if "m1" not in desk.order else None
    desk.restart()
    assert batch.delete()
    assert batch.wait(SECONDS) in (State.DELETED, State.SUCCEEDED)
    assert outside.result(timeout=SECONDS) == "outside"
    assert batch.counts().total == len(members)
    assert batch.counts().open == 0

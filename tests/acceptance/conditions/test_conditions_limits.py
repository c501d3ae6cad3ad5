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
from tests.support.observed import NEVER, PER, SECONDS, Watcher
from tests.support.wait import eventually

Limit = Concurrency | Ordered | RateLimit


@dataclass(frozen=True)
class Kind:
    """A kind of limit: how it is written, how many it lets go at once, and what must be true of runs under it."""

    make: Callable[[str], Limit]
    width: int
    per: float = 0.0
    fixed: bool = False

    def check(self, watcher: Watcher, names: list[str], begun: float) -> None:
        """Each of these jobs, accepted in this order, ran once, and under the limit."""
        runs = [run for run in watcher.runs if run.name in names]
        assert sorted(run.name for run in runs) == sorted(names)
        if not self.per:
            assert watcher.most_at_once(*names) <= self.width
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


def all_ran(watcher: Watcher, names: list[str]) -> None:
    """Wait until jobs of these names have run to their end."""
    eventually(lambda: {run.name for run in watcher.runs if run.end is not None} >= set(names), SECONDS, "all have run")


# ---- alone, by every way in


def by_enqueue(watcher: Watcher, kind: str, key: str) -> None:
    for name in NAMES:
        watcher.go(name, limit=KINDS[kind].make(key))


def by_enqueue_many(watcher: Watcher, kind: str, key: str) -> None:
    job = watcher.program.declared[kind]
    for receipt in watcher.jobs.enqueue_many(job.bind(watcher.name(name), key) for name in NAMES):
        watcher.watch(receipt)


def by_batch(watcher: Watcher, kind: str, key: str) -> None:
    with watcher.jobs.batch() as batch:
        for name in NAMES:
            batch.enqueue(watcher.program.declared[kind], watcher.name(name), key)
    assert batch.wait(SECONDS) is State.SUCCEEDED


def by_schedule(watcher: Watcher, kind: str, key: str) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.4)
    for number, name in enumerate(NAMES):
        moment = due + timedelta(milliseconds=number)
        watcher.watch(watcher.program.declared[kind].schedule(moment, watcher.name(name), key))


def by_event(watcher: Watcher, kind: str, _key: str) -> None:
    for name in NAMES:
        watcher.jobs.publish(f"event_{kind}", watcher.name(name))


def by_trigger(watcher: Watcher, kind: str, key: str) -> None:
    for name in NAMES:
        call = watcher.program.declared[kind].bind(watcher.name(name), key)
        watcher.jobs.recurring.put(watcher.key(name), NEVER, call)
        watcher.trigger(watcher.key(name))


WAYS_IN = [by_enqueue, by_enqueue_many, by_batch, by_schedule, by_event, by_trigger]


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_holds_by_every_way_in(watcher: Watcher, kind: str, way: Callable[[Watcher, str, str], None]) -> None:
    if way is by_event:
        time.sleep(PER if KINDS[kind].per else 0.0)  # all tests share the key of events: its last starts are over
    begun = time.time()
    way(watcher, kind, watcher.key(kind))
    all_ran(watcher, NAMES)
    KINDS[kind].check(watcher, NAMES, begun)


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
def test_two_limits_hold_together(watcher: Watcher, pair: tuple[str, str]) -> None:
    """Each job has one limit or both, in either order; all run, and each limit holds for those that have it."""
    one, other = (KINDS[kind].make(watcher.key(f"{place}-{kind}")) for place, kind in enumerate(pair))
    both = ["b0", "b1", "b2", "b3"]
    watcher.hold("b0")
    begun = time.time()
    for number in range(4):
        watcher.go(f"b{number}", limit=[one, other] if number % 2 else [other, one])
        if number < 2:
            watcher.go(f"o{number}", limit=one)
            watcher.go(f"p{number}", limit=other)
    watcher.restart()
    watcher.let("b0")
    names = [*both, "o0", "o1", "p0", "p1"]
    all_ran(watcher, names)
    assert sorted(watcher.order) == sorted(names), "each ran once"
    for kind, more in zip(pair, (["o0", "o1"], ["p0", "p1"]), strict=True):
        runs = [run for run in watcher.runs if run.name in [*both, *more]]
        if KINDS[kind].per:
            KINDS[kind].check_rate([run.start for run in runs], begun)
        else:
            assert watcher.most_at_once(*both, *more) <= KINDS[kind].width
        if kind == "ordered":
            accepted: list[str] = [
                name for name in ("b0", "o0", "p0", "b1", "o1", "p1", "b2", "b3") if name in [*both, *more]
            ]
            order = [run.name for run in runs]
            if pair == ("ordered", "ordered"):  # while the first of a key waits for another key, others may go
                order = [name for name in order if name in both]
                accepted = both
            assert order == accepted


def test_two_ordered_keys_that_cross_keep_their_orders(watcher: Watcher) -> None:
    one, other = Ordered(watcher.key("one")), Ordered(watcher.key("other"))
    watcher.hold("a0")
    watcher.go("a0", limit=one)
    watcher.go("x", limit=[one, other])
    watcher.go("b0", limit=other)
    watcher.go("y", limit=[other, one])
    watcher.go("a1", limit=one)
    watcher.restart()
    watcher.let("a0")
    all_ran(watcher, ["a0", "x", "b0", "y", "a1"])
    assert [name for name in watcher.order if name != "b0"] == ["a0", "x", "y", "a1"]
    assert watcher.order.index("b0") < watcher.order.index("y"), (
        "while the first of a key waits for another key, others go"
    )


def test_a_job_that_waits_in_a_narrow_line_keeps_none_out_of_a_wide_one(watcher: Watcher) -> None:
    tenant, everybody = Concurrency(watcher.key("tenant"), 1), Concurrency(watcher.key("all"), 3)
    watcher.hold("t0")
    first, *waiting = watcher.go_all([f"t{n}" for n in range(5)], limit=[everybody, tenant])
    watcher.started("t0")
    watcher.wait(*waiting)
    watcher.restart()
    others = watcher.go_all([f"o{n}" for n in range(4)], limit=everybody)
    watcher.results(others)
    assert [name for name in watcher.order if name[0] == "t"] == ["t0"]
    watcher.let("t0")
    watcher.results([first, *waiting])
    assert watcher.most_at_once(*[f"t{n}" for n in range(5)]) == 1
    assert watcher.most_at_once() <= 3


# ---- with parents, batches, times

Holder = Callable[[Watcher, dict[str, Any]], tuple[Receipt[str], Callable[[], object]]]


def behind_a_parent(watcher: Watcher, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    watcher.hold("parent")
    parent = watcher.go("parent")
    late = watcher.go("late", watcher.program.work.after(parent), **options)
    return late, lambda: watcher.let("parent")


def in_an_open_batch(watcher: Watcher, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    entered = watcher.jobs.batch()
    batch = entered.__enter__()
    late = watcher.jobs.receipt(batch.enqueue(watcher.program.work.using(**options), watcher.name("late")).id)
    batch.enqueue_many(watcher.program.work.bind("-:filler") for _ in range(600))
    watcher.wait(late)
    return late, lambda: entered.__exit__(None, None, None)


def in_a_batch_after_a_job(watcher: Watcher, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    watcher.hold("before")
    with watcher.jobs.batch(after=watcher.go("before")) as batch:
        late = batch.enqueue(watcher.program.work.using(**options), watcher.name("late"))
    return late, lambda: watcher.let("before")


def at_a_time(watcher: Watcher, options: dict[str, Any]) -> tuple[Receipt[str], Callable[[], object]]:
    late = watcher.program.work.using(**options).schedule(timedelta(hours=1), watcher.name("late"))
    watcher.is_in(State.SCHEDULED, late)
    return late, lambda: late.reschedule(timedelta(0))


@pytest.mark.parametrize("holder", [behind_a_parent, in_an_open_batch, in_a_batch_after_a_job, at_a_time])
@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_waits_for_something_else_keeps_no_other_back(watcher: Watcher, kind: str, holder: Holder) -> None:
    options: dict[str, Any] = {"limit": KINDS[kind].make(watcher.key(kind))}
    late, come = holder(watcher, options)
    begun = time.time()
    watcher.results(watcher.go_all(["o0", "o1", "o2"], **options))
    assert "late" not in watcher.order
    watcher.restart()
    assert not late.state().is_final
    come()
    assert late.result(timeout=SECONDS) == "late"
    if KINDS[kind].per:
        starts = [run.start for run in watcher.runs if run.name in ("o0", "o1", "o2", "late")]
        KINDS[kind].check_rate(starts, begun)


@everywhere
@pytest.mark.parametrize("holder", [behind_a_parent, in_a_batch_after_a_job, at_a_time])
def test_an_ordered_job_that_waits_keeps_its_place(watcher: Watcher, holder: Holder) -> None:
    options: dict[str, Any] = {"limit": Ordered(watcher.key("line"))}
    watcher.hold("first")
    late, come = holder(watcher, options)
    watcher.barrier()
    first, second = watcher.go_all(["first", "second"], **options)
    watcher.started("first")
    watcher.restart()
    come()
    if holder is not at_a_time:
        parent = "parent" if holder is behind_a_parent else "before"
        eventually(
            lambda: [run for run in watcher.runs if run.name == parent and run.end], what="what it waits for ended"
        )
        watcher.barrier()
    eventually(lambda: late.state() is State.AWAITING, what="it waits for its turn")
    watcher.let("first")
    watcher.results([first, late, second])
    assert [name for name in watcher.order if name in ("first", "late", "second")] == ["first", "late", "second"]


def test_a_member_of_a_batch_takes_its_place_when_the_batch_is_complete(watcher: Watcher) -> None:
    options: dict[str, Any] = {"limit": Ordered(watcher.key("line"))}
    late, complete = in_an_open_batch(watcher, options)
    watcher.hold("first")
    receipts = watcher.go_all(["first", "second"], **options)
    watcher.started("first")
    watcher.wait(receipts[1])
    complete()
    watcher.barrier()
    third = watcher.go("third", **options)
    watcher.wait(third)
    watcher.let("first")
    watcher.results([*receipts, late, third])
    assert watcher.order == ["first", "second", "late", "third"]


# ---- retries


@everywhere
def test_an_ordered_job_keeps_its_turn_through_its_retries(watcher: Watcher) -> None:
    options: dict[str, Any] = {"limit": Ordered(watcher.key("line")), "retries": 2, "backoff": [0.3]}
    watcher.fails("a", 2)
    a, b = watcher.go_all(["a", "b"], **options)
    watcher.started("a")
    watcher.restart()
    assert watcher.results([a, b]) == ["a", "b"]
    assert watcher.order == ["a", "a", "a", "b"]


def test_a_job_that_waits_for_its_retry_gives_its_slot_to_others(watcher: Watcher) -> None:
    options: dict[str, Any] = {"limit": Concurrency(watcher.key("one"), 1), "retries": 1, "backoff": [3600.0]}
    watcher.fails("a", 1)
    a, b, c = watcher.go_all(["a", "b", "c"], **options)
    assert watcher.results([b, c]) == ["b", "c"]
    watcher.restart()
    a.requeue()
    assert a.result(timeout=SECONDS) == "a"
    assert watcher.order == ["a", "b", "c", "a"]
    assert watcher.most_at_once() == 1


@everywhere
@pytest.mark.parametrize("kind", ["sliding", "fixed"])
def test_a_retry_is_a_start_of_its_rate(watcher: Watcher, kind: str) -> None:
    options: dict[str, Any] = {"limit": KINDS[kind].make(watcher.key(kind)), "retries": 3, "backoff": [0.01]}
    watcher.fails("a", 3)
    begun = time.time()
    a, b = watcher.go_all(["a", "b"], **options)
    watcher.restart()
    watcher.results([a, b])
    assert sorted(watcher.order) == ["a", "a", "a", "a", "b"]
    KINDS[kind].check_rate([run.start for run in watcher.runs], begun)


# ---- reschedule, delete, requeue


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_is_rescheduled_or_deleted_in_its_line_lets_the_next_go(watcher: Watcher, kind: str) -> None:
    width = KINDS[kind].width
    options: dict[str, Any] = {"limit": KINDS[kind].make(watcher.key(kind))}
    if KINDS[kind].per:
        options = {
            "limit": RateLimit(watcher.key(kind), 2, per=5.0, window="fixed" if KINDS[kind].fixed else "sliding")
        }
    firsts = [f"f{number}" for number in range(width)]
    watcher.hold(*firsts)
    first = watcher.go_all(firsts, **options)
    watcher.started(*firsts)
    moved, deleted, third = watcher.go_all(["moved", "deleted", "third"], **options)
    if KINDS[kind].per:
        watcher.jobs.limits.set(watcher.key(kind), width)  # also where a window has just begun
    watcher.wait(third) if not KINDS[kind].fixed else watcher.barrier()
    moved.reschedule(timedelta(hours=1))
    assert deleted.delete()
    watcher.restart()
    watcher.let(*firsts)
    if KINDS[kind].per:
        watcher.jobs.limits.set(watcher.key(kind), width + 1)
    assert watcher.results([*first, third])[-1] == "third"
    if not KINDS[kind].fixed:
        assert not {"moved", "deleted"} & set(watcher.order)
        watcher.jobs.limits.set(watcher.key(kind), width + 3)
        moved.requeue()
        deleted.requeue()
        assert watcher.results([moved, deleted]) == ["moved", "deleted"]


def test_an_ordered_job_that_is_rescheduled_keeps_its_place_and_one_that_is_requeued_takes_a_new_one(
    watcher: Watcher,
) -> None:
    options: dict[str, Any] = {"limit": Ordered(watcher.key("line"))}
    watcher.hold("a")
    a, b, c, d = watcher.go_all(["a", "b", "c", "d"], **options)
    watcher.started("a")
    watcher.wait(d)
    b.reschedule(timedelta(hours=1))
    assert c.delete()
    c.requeue()
    watcher.wait(c)
    watcher.restart()
    b.requeue()
    watcher.wait(b)
    watcher.let("a")
    watcher.results([a, b, c, d])
    assert watcher.order == ["a", "b", "d", "c"]


@pytest.mark.parametrize("known_to_run", [True, False])
@pytest.mark.parametrize("kind", ["ordered", "concurrency"])
def test_a_deleted_job_that_runs_keeps_its_slot_until_it_has_stopped(
    watcher: Watcher, kind: str, known_to_run: bool
) -> None:
    width = KINDS[kind].width
    options: dict[str, Any] = {"limit": KINDS[kind].make(watcher.key(kind))}
    firsts = [f"f{number}" for number in range(width)]
    watcher.hold(*firsts, "n0")
    receipts = watcher.go_all(firsts, **options)
    watcher.started(*firsts)
    following = watcher.go_all(["n0", "n1", "n2"], **options)
    watcher.wait(*following)
    watcher.restart()
    if known_to_run:
        watcher.is_in(State.PROCESSING, receipts[0])
    receipts[0].delete()
    watcher.barrier()
    watcher.started("n0")
    watcher.let(*firsts, "n0")
    watcher.results(following)
    watcher.is_in(State.DELETED, receipts[0])
    assert watcher.most_at_once() <= width
    receipts[0].requeue()
    assert receipts[0].result(timeout=SECONDS) == "f0"


# ---- another limit at run time


@everywhere
def test_a_concurrency_limit_is_raised_lowered_closed_and_cleared(watcher: Watcher) -> None:
    key = watcher.key("slots")
    names = [f"n{number}" for number in range(9)]
    watcher.hold(*names)
    receipts = watcher.go_all(names, limit=Concurrency(key, 2))
    watcher.started("n0", "n1")
    watcher.wait(*receipts[2:])
    assert sorted(watcher.order) == names[:2]
    watcher.jobs.limits.set(key, 4)
    watcher.started_count(4)
    watcher.jobs.limits.set(key, 1)
    watcher.restart()
    watcher.let("n0", "n1", "n2")
    watcher.results(receipts[:3])
    watcher.barrier()
    assert sorted(watcher.order) == names[:4], "one still runs, and one is allowed"
    watcher.let("n3")
    watcher.started("n4")
    watcher.jobs.limits.set(key, 0)
    watcher.let("n4")
    watcher.results(receipts[3:5])
    late = watcher.go("late", limit=Concurrency(key, 2))
    watcher.wait(late)
    watcher.restart()
    assert sorted(watcher.order) == names[:5], "the key is closed"
    watcher.jobs.limits.clear(key)
    watcher.started("n5", "n6")
    watcher.wait(*receipts[7:], late)
    assert sorted(watcher.order) == names[:7], "what the code says counts again"
    watcher.let(*names)
    watcher.results([*receipts[5:], late])
    assert watcher.order[-1] == "late"


@everywhere
def test_a_rate_is_raised_lowered_closed_and_cleared(watcher: Watcher) -> None:
    key = watcher.key("rate")
    receipts = watcher.go_all([f"n{number}" for number in range(8)], limit=RateLimit(key, 1, per=3600))
    watcher.results(receipts[:1])
    watcher.wait(*receipts[1:])
    watcher.jobs.limits.set(key, 3)
    watcher.results(receipts[1:3])
    watcher.barrier()
    assert watcher.order == ["n0", "n1", "n2"]
    watcher.jobs.limits.set(key, 2)
    watcher.jobs.limits.set(key, 0)
    watcher.restart()
    late = watcher.go("late", limit=RateLimit(key, 1, per=3600))
    watcher.wait(late)
    watcher.jobs.limits.set(key, 4)
    watcher.results(receipts[3:4])
    watcher.barrier()
    assert watcher.order == ["n0", "n1", "n2", "n3"]
    watcher.jobs.limits.clear(key)
    watcher.barrier()
    assert len(watcher.order) == 4
    watcher.jobs.limits.set(key, 100)
    watcher.results([*receipts, late])
    assert watcher.order[-1] == "late"


@pytest.mark.parametrize("other", ["ordered", "concurrency", "sliding"])
def test_a_job_that_waits_at_a_closed_key_keeps_nothing_of_its_other_limit(watcher: Watcher, other: str) -> None:
    shut = Concurrency(watcher.key("shut"), 5)
    limit = KINDS[other].make(watcher.key(other))
    watcher.jobs.limits.set(watcher.key("shut"), 0)
    waiting = watcher.go_all(["w0", "w1", "w2"], limit=[limit, shut])
    watcher.wait(*waiting)
    watcher.restart()
    open_ones = watcher.go_all(["o0", "o1", "o2"], limit=limit)
    if other == "ordered":  # its line keeps the order of acceptance: a closed key of the first stops all
        watcher.barrier()
    watcher.results(open_ones)
    assert sorted(watcher.order) == ["o0", "o1", "o2"]
    watcher.jobs.limits.clear(watcher.key("shut"))
    watcher.results(waiting)
    if KINDS[other].per == 0.0:
        assert watcher.most_at_once() <= KINDS[other].width


def test_a_limit_that_is_set_before_the_first_job_counts(watcher: Watcher) -> None:
    key = watcher.key("early")
    watcher.jobs.limits.set(key, 1)
    watcher.restart()
    watcher.hold("a")
    a, b = watcher.go_all(["a", "b"], limit=Concurrency(key, 5))
    watcher.started("a")
    watcher.wait(b)
    watcher.let("a")
    watcher.results([a, b])
    assert watcher.most_at_once() == 1


# ---- batches


@everywhere
def test_a_batch_with_limits_ends_once_and_deleting_it_gives_everything_back(watcher: Watcher) -> None:
    limits: list[Limit] = [Concurrency(watcher.key("slots"), 2), Ordered(watcher.key("line"))]
    watcher.hold("m0")
    with watcher.jobs.batch() as batch:
        members = [
            batch.enqueue(watcher.program.work.using(limit=limits[n % 2]), watcher.name(f"m{n}")) for n in range(6)
        ]
    watcher.started("m0")
    outside = watcher.go("outside", limit=limits)
    watcher.wait(outside) if "m1" not in watcher.order else None
    watcher.restart()
    assert batch.delete()
    assert batch.wait(SECONDS) in (State.DELETED, State.SUCCEEDED)
    assert outside.result(timeout=SECONDS) == "outside"
    assert batch.counts().total == len(members)
    assert batch.counts().open == 0

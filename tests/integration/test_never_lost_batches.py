"""Batches of batches, continuations and limits while what decides and what works is killed at random."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_jobs.messages.state import State
from tests.support.rabbitmq import Vhost
from tests.support.system import Lodger, System
from tests.support.system_jobs import NARROW
from tests.support.wait import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

ACTIVE = "is the active one"
TOLD_SECONDS = 0.5
"""A run that ended so long before a kill has told its outcome."""
INNER, MEMBERS = 3, 6


@pytest.fixture
def system(request: pytest.FixtureRequest, vhost: Vhost, tmp_path: Path) -> Iterator[System]:
    store = request.getfixturevalue("postgres_url") if getattr(request, "param", "") == "postgres" else ""
    system = System(vhost, tmp_path, store)
    yield system
    system.close()


class Trees:
    """Batches of batches whose members have continuations, and how each of them must end."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.once: list[str] = []
        """Jobs that run once and succeed."""
        self.twice: list[str] = []
        """Jobs that stumble once and succeed."""
        self.failing: list[str] = []
        self.unsatisfied: list[str] = []
        self.batches: dict[str, tuple[str, int, int, int]] = {}
        """By id: how it ends, and how many members succeed, fail and are deleted."""

    def grow(self, *, fails: bool, seconds: float = 0.01) -> None:
        """An outer batch with inner ones; one member of the last inner one may fail."""
        work, stumble = self.system.jobs.work, self.system.jobs.stumble
        inners, once = [], []
        with self.system.jobs.program.batch("outer") as outer:
            for number in range(INNER):
                bad = fails and number == INNER - 1
                with outer.batch(f"inner {number}") as inner:
                    members = [inner.enqueue(work, seconds) for _ in range(MEMBERS)]
                    once += [*members, inner.enqueue(work.after(members[0], members[1]), seconds)]
                    self.twice.append(inner.enqueue(stumble, 1).id)
                    if bad:
                        self.failing.append(inner.enqueue(stumble.using(retries=0), 99).id)
                self.batches[inner.id] = ("failed" if bad else "succeeded", MEMBERS + 2, int(bad), 0)
                inners.append((inner, bad))
            first = inners[0][0]
            once.append(outer.enqueue(work.after(first), seconds))
        self.batches[outer.id] = ("failed" if fails else "succeeded", INNER + 1 - fails, int(fails), 0)
        for batch, bad in [*inners, (outer, fails)]:
            met = work.after(batch, on="failed" if bad else "succeeded").enqueue(seconds)
            once += [met, work.after(met).enqueue(seconds), work.after(batch, on="finished").enqueue(seconds)]
            self.unsatisfied.append(work.after(batch, on="succeeded" if bad else "failed").enqueue(seconds).id)
        self.once += [receipt.id for receipt in once]

    def settled(self, what: str) -> None:
        """Wait for the end, while log time passes quickly; then look at every job and batch."""
        system, wanted = self.system, dict[str, State]()
        wanted |= dict.fromkeys([*self.once, *self.twice], State.SUCCEEDED)
        wanted |= dict.fromkeys(self.failing, State.FAILED) | dict.fromkeys(self.unsatisfied, State.DELETED)

        def ended() -> bool:
            rows = system.rows(wanted)
            wrong = {id: rows[id].state if id in rows else None for id in wanted}
            wrong = {id: state for id, state in wrong.items() if state is not wanted[id]}
            assert not wrong, f"{what}: {len(wrong)} of {len(wanted)} have not ended as they must: {wrong}"
            return True

        with system.log_time_passes():
            eventually(ended, 40, f"all has ended ({what})", poll=0.1)
        with system.store.transaction() as tx:
            batches = tx.batches.load(list(self.batches))
        found = {id: (row.state, row.succeeded, row.failed, row.deleted) for id, row in batches.items()}
        assert found == self.batches, what
        assert {(row.open, row.total) for row in batches.values()} == {
            (0, sum(counts)) for _, *counts in self.batches.values()
        }, what


def out(system: System) -> bool:
    """Whether nothing runs, and nothing is on its way to a worker."""
    started = {(mark.id, mark.attempt) for mark in system.marks("started")}
    states = system.store.reader.statistics.counts()
    left = states.get(State.ENQUEUED, 0) + states.get(State.PROCESSING, 0)
    assert not left, f"{left} are on their way after {len(started)} runs"
    return True


@pytest.mark.parametrize("system", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)
def test_batches_end_once_while_coordinators_and_beats_are_killed(system: System) -> None:
    seed = random.randrange(10**6)
    what, chance = f"seed {seed}", random.Random(seed)
    parts: list[tuple[str, Lodger]] = [(role, system.start(role)) for role in ("coordinator", "beat") * 2]
    system.here("worker", concurrency=4)
    eventually(lambda: any(ACTIVE in lodger.log for _, lodger in parts), 30)
    trees = Trees(system)
    for number in range(8):
        trees.grow(fails=number % 2 == 1)
        time.sleep(chance.uniform(0.0, 1.0))
        role, lodger = parts.pop(chance.randrange(len(parts)))
        lodger.kill9()
        parts.append((role, system.start(role)))
    eventually(lambda: out(system), 40, f"all runs are acknowledged ({what})", poll=0.1)
    trees.settled(what)
    starts = system.starts()
    assert {id: starts[id] for id in trees.once} == dict.fromkeys(trees.once, 1), what
    assert {id: starts[id] for id in trees.twice} == dict.fromkeys(trees.twice, 2), what
    assert {id: starts[id] for id in trees.failing} == dict.fromkeys(trees.failing, 1), what
    assert not set(trees.unsatisfied) & set(starts), what
    system.nothing_broken()


def test_each_continuation_fires_once_though_a_worker_is_killed(system: System) -> None:
    system.here("coordinator")
    workers = [system.start("worker", concurrency=4, slot=str(number)) for number in range(2)]
    for worker in workers:
        worker.said("serves the queues")
    trees = Trees(system)
    for number in range(3):
        trees.grow(fails=number == 1, seconds=0.04)
    victim = workers[0].pid
    eventually(lambda: sum(mark.pid == victim for mark in system.marks("ended")) > random.randrange(5, 25), 30)
    workers[0].kill9()
    killed_at = time.time()
    assert len(system.ended()) < len(trees.once), "not under load"
    system_settled(system, victim)
    trees.settled("a worker was killed")
    ended_at = {mark.id: mark.at for mark in system.marks("ended") if mark.pid == victim}
    running = {
        mark.id
        for mark in system.marks("started")
        if mark.pid == victim and ended_at.get(mark.id, killed_at) > killed_at - TOLD_SECONDS
    }
    starts = system.starts()
    assert {id for id in trees.once if starts[id] > 1} <= running
    assert {starts[id] for id in trees.once} <= {1, 2}
    assert not set(trees.unsatisfied) & set(starts)
    system.nothing_broken()


def system_settled(system: System, dead: int) -> None:
    """Wait until what the living run is stored, so that log time may pass quickly."""

    def settled() -> bool:
        runs: dict[str, Any] = {"started": set(), "ended": set()}
        for mark in system.jobs.marks():
            if mark.pid != dead:
                runs[mark.kind].add((mark.id, mark.attempt))
        assert system.vhost.ready("jobs.v1.work.default") == 0
        open_runs = {id for id, attempt in runs["started"] - runs["ended"]}
        rows = system.rows(open_runs)
        assert all(row.state is not State.PROCESSING for row in rows.values())
        return True

    eventually(settled, 40, "what the living run is stored", poll=0.1)


def test_a_limit_holds_over_two_workers_and_a_killed_one_s_slots_come_back(system: System) -> None:
    system.here("coordinator")
    workers = [system.start("worker", concurrency=4, slot=str(number)) for number in range(2)]
    for worker in workers:
        worker.said("serves the queues")
    narrow = system.jobs.narrow
    ids = [receipt.id for receipt in system.jobs.program.enqueue_many(narrow.bind(0.1) for _ in range(40))]
    victim = workers[0].pid

    def is_inside() -> bool:
        mine = [mark for mark in system.jobs.marks() if mark.pid == victim]
        return len(mine) > 10 and sum(1 if mark.kind == "started" else -1 for mark in mine) > 0

    eventually(is_inside, 30, "it has run some, and is inside", poll=0.005)
    workers[0].kill9()
    killed_at = time.time()
    taken = {mark.id for mark in system.marks("started") if mark.pid == victim} - system.ended()
    assert len(system.ended()) < len(ids) - 5, "not under load"
    eventually(lambda: len(system.ended()) >= len(ids) - len(taken) - 2 or len(taken) >= NARROW, 30)
    with system.log_time_passes():
        system.succeeded(ids)
    assert most_inside(system, victim, killed_at) == NARROW
    assert all(system.starts()[id] == 2 for id in taken)
    after = [receipt.id for receipt in system.jobs.program.enqueue_many(narrow.bind(0.2) for _ in range(9))]
    system.succeeded(after)
    assert most_inside(system, victim, killed_at, set(after)) == NARROW, "its slots have not come back"
    system.nothing_broken()


def most_inside(system: System, victim: int, killed_at: float, ids: set[str] | None = None) -> int:
    """The most runs that were inside together; what a killed worker ran has left with it."""
    moves: list[tuple[float, int]] = []
    left = {(mark.pid, mark.id, mark.attempt): mark.at for mark in system.marks("ended")}
    for mark in system.marks("started"):
        if ids is None or mark.id in ids:
            end = left.get((mark.pid, mark.id, mark.attempt), killed_at if mark.pid == victim else time.time())
            moves += [(mark.at, 1), (end, -1)]
    inside = most = 0
    for _, step in sorted(moves):
        inside += step
        most = max(most, inside)
    return most

"""The rules of plain jobs: the straight path writes what the general path writes, whatever database is behind it."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from broker_jobs.coordinator import straight_path
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.inputs import CommandReceived, Input
from broker_jobs.coordinator.named_jobs import named
from broker_jobs.coordinator.records import FromWorker, Released, ReleaseFailed, ReleaseUnknown, TimerDue
from broker_jobs.messages.commands import DeleteJob, GetJob, RequeueJob
from broker_jobs.messages.envelope import LimitKey, Parent, ResultArgument
from broker_jobs.messages.events import Succeeded
from broker_jobs.messages.state import State
from broker_jobs.store import Store, schema
from broker_jobs.store.columns import clean_text
from broker_jobs.store.row import Publication
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness

SEEDS = 60
NEVER = 1_000_000
DIFFERENT = {"meta": {"store_id"}, "log_lines": {"n"}}
"""Columns that differ from store to store."""
FIELDS: tuple[dict[str, Any], ...] = (
    {}, {"priority": "high"}, {}, {"queue": "mail"}, {"tags": ("a", "b"), "priority": "low"}, {"parent": "p"},
    {"job": "other"}, {"attempt": 2}, {"due_at": datetime(2026, 2, 28, tzinfo=UTC)},
    {"limits": (LimitKey(kind="ordered", key="k"),)}, {"epoch": 3}, {"recurring": "nightly"},
    {"args": ["\U0001f600", "\x00"]},
)  # fmt: skip
LIMITS = (
    (LimitKey(kind="concurrency", key="c", limit=2),),
    (LimitKey(kind="concurrency", key="d", limit=1), LimitKey(kind="rate", key="r", limit=1, per=20.0)),
    (LimitKey(kind="ordered", key="o"),),
)


class Walk:
    """Inputs about a few jobs in any order, in transactions of any length."""

    def __init__(self, seed: int, maker: EngineHarness) -> None:
        self._random = random.Random(seed)
        self._maker = maker
        self._made = 0
        self._ids: list[str] = []
        self._commits: list[Input] = []
        """Of batches whose members are there."""
        self._delayed: list[str] = []
        self._parents: list[str] = []
        self.children: set[str] = set()

    def transactions(self) -> Iterator[list[Input]]:
        for _ in range(self._random.randrange(4, 12)):
            self._maker.now += self._random.choice((0.0, 0.4, 61.0))
            timers: list[Input] = [TimerDue(id) for id in self._delayed if self._random.random() < 0.5]
            yield timers + [one for _ in range(self._random.randrange(1, 12)) for one in self._inputs()]

    def _inputs(self) -> list[Input]:
        h, pick = self._maker, self._random
        if self._commits and pick.random() < 0.2:
            return [self._commits.pop()]
        if self._parents and pick.random() < 0.2:
            return [self._success(self._parents.pop(0))]
        if not self._ids or pick.random() < 0.45:
            self._made += 1
            self._ids.append(f"j{self._made}")
            if pick.random() < 0.15:
                return self._batch()
            if pick.random() < 0.4:
                return self._waiting(self._ids[-1])
            if pick.random() < 0.3:
                return [self._child(self._ids[-1])]
            copy = h.ready(self._ids[-1], **pick.choice(FIELDS))
            return [copy, self._success()] if pick.random() < 0.3 else [copy]
        id = pick.choice(self._ids[-6:])
        if pick.random() < 0.6:
            return [self._success(id)]
        others: list[Input] = [
            h.started(id), h.failed(id), h.failed(id, final=True), h.returned("redelivered", id), h.ready(id),
            h.interrupted(id), h.tick(), h.beat(running=[(id, 1)]), h.ask(DeleteJob, job_id=id),
            h.ask(RequeueJob, job_id=id), TimerDue(id), TimerDue(id), Released(id, 1), Released(id, 1),
            ReleaseFailed(id, 1, "not routed"), ReleaseUnknown(id, 1),
            h.ask(GetJob, reply_to="r", job_id=id, until_ended=True),
        ]  # fmt: skip
        return [pick.choice(others)]

    def _waiting(self, id: str) -> list[Input]:
        """A job that the coordinator releases, at once or later, with what comes next in some cases."""
        h, pick = self._maker, self._random
        limited = [dict[str, Any](limits=limits) for limits in LIMITS]
        fields: dict[str, Any] = pick.choice(({}, {"priority": "low"}, {"tags": ("a",)}, {"queue": "mail"}, *limited))
        delay = pick.choice((0.0, 0.4, 0.6, 50.0))
        if delay:
            self._delayed.append(id)
        if pick.random() < 0.7:
            return [h.held(id, delay, **fields)]
        return [h.held(id, delay, **fields), *pick.choice(([], [Released(id, 1)], [Released(id, 1), self._success()]))]

    def _child(self, id: str) -> Input:
        """A job that waits for one or two others, also of a batch, and sometimes for more than their ends."""
        pick, fields = self._random, dict[str, Any]()
        # In a line with others its place would tell which path decided the ends of a transaction first.
        own = (LimitKey(kind="concurrency", key=f"of {id}", limit=1),)
        if pick.random() < 0.5:
            more: tuple[dict[str, Any], ...] = (
                {"after_delay": 0.4}, {"limits": own}, {"result_args": ()},
                {"due_at": datetime(2026, 3, 1, 0, 2, tzinfo=UTC)}, {"tags": ("t",)}, {"queue": "mail"},
            )  # fmt: skip
            fields = pick.choice(more)
        parents = {pick.choice(self._ids[-8:-1] or ["p"]) for _ in range(pick.choice((1, 1, 2)))}
        self._parents += sorted(parents)
        self.children.add(id)
        if "result_args" in fields:
            fields = {"result_args": (ResultArgument(place=0, parents=(min(parents),)),), "args": [None]}
        return self._maker.child(id, *sorted(parents), on=pick.choice(("succeeded", "succeeded", "finished")), **fields)

    def _batch(self) -> list[Input]:
        """A batch of a few members, with what comes of them in some cases, and what waits for it."""
        h, pick, batch = self._maker, self._random, f"b{self._made}"
        for _ in range(pick.randrange(3)):
            self._made += 1
            self._ids.append(f"j{self._made}")
        members = self._ids[-pick.randrange(1, 4) :]
        fields: dict[str, Any] = pick.choice(
            ({}, {}, {}, {"limits": pick.choice(LIMITS)}, {"queue": "mail"}, {"tags": ("t",), "priority": "high"})
        )
        made: list[Input] = [h.chunk(batch, [*members, *members[: pick.randrange(2)]], **fields)]
        if pick.random() < 0.3:  # the next chunk has one of these jobs again
            self._made += 1
            self._ids.append(f"j{self._made}")
            made.append(h.chunk(batch, [pick.choice(members), self._ids[-1]], number=1))
            members.append(self._ids[-1])
        if pick.random() < 0.5:
            waits: dict[str, Any] = {"parents": (Parent(id=pick.choice(self._ids)),)} if pick.random() < 0.4 else {}
            self._commits.append(h.commit(batch, len(made), **waits))
            return made
        made.append(h.commit(batch, len(made)))
        if pick.random() < 0.3:
            self._made += 1
            self.children.add(f"j{self._made}")
            made.append(h.child(f"j{self._made}", batches=(batch,)))
        if pick.random() < 0.6:
            made += [one for id in members for one in (Released(id, 1), self._success(id))]
        return made

    def _success(self, id: str | None = None) -> FromWorker:
        pick, now = self._random, self._maker.now
        event = Succeeded(
            id=id or self._ids[-1], epoch=pick.choice((1, 1, 1, 2)), started_at=now - pick.choice((0.0, 0.2, 30.0)),
            ended_at=now + pick.choice((0.0, 1.5)), result=pick.choice((None, "1", '"\x00"')),
            result_lost=pick.choice((None, None, "too large")),
        )  # fmt: skip
        return FromWorker(pick.choice(("w1", "w2")), event, pick.choice(("", "host-1")))


def contents(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    with store.reader._reading() as connection:
        for name, table in schema.metadata.tables.items():
            kept = [column for column in table.columns if column.name not in DIFFERENT.get(name, ())]
            rows = [tuple(map(_as_kept, row)) for row in connection.execute(select(*kept))]
            found[name] = sorted(rows, key=repr)
    return found


def _may_come(one: Input, store: Store, children: set[str]) -> bool:
    """Whether an input may come: no release is confirmed in its own transaction, no child ends before its release.

    The straight path decides ends before all else. So a command for a child may find that its parent has ended, where
    on the general path it does not know it yet; both are right.
    """
    if isinstance(one, Released):
        row = store.reader.jobs.get(one.id)
        return row is not None and row.publication is Publication.PUBLISHING
    if isinstance(one, CommandReceived):
        return not any(id in children for id in named(one))
    if isinstance(one, FromWorker) and one.event.id in children:
        row = store.reader.jobs.get(one.event.id)
        return row is not None and row.epoch > 0
    return True


def _sent(effects: Effects) -> list[tuple[str, bytes, float | None]]:
    pairs = zip(effects.releases, effects.release_messages, strict=True)
    return [(message.key, message.body, row.released_at) for row, message in pairs]


def _as_kept(value: Any) -> Any:
    """PostgreSQL's text cannot hold a NUL."""
    return clean_text(value) if isinstance(value, str) else value


class PlainJobRules:
    """Subclasses give a fixture `url` (a fresh database for each test)."""

    @pytest.fixture
    def straight(self, url: str) -> Iterator[EngineHarness]:
        harness = EngineHarness(Store(url))
        yield harness
        harness.store.close()

    @pytest.fixture
    def seeds(self) -> int:
        return 1

    def test_both_paths_write_the_same(
        self, straight: EngineHarness, seeds: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        general = EngineHarness()
        for seed in range(seeds):
            harness = straight if seeds == 1 else EngineHarness()
            other = general if seeds == 1 else EngineHarness()
            self._compare(harness, other, seed, monkeypatch)

    def _compare(
        self, straight: EngineHarness, general: EngineHarness, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        maker, pick, told = EngineHarness(), random.Random(seed), set[tuple[str, float]]()
        walk = Walk(seed, maker)
        for made in walk.transactions():
            inputs = [one for one in made if _may_come(one, general.store, walk.children)]
            ahead, may_release = pick.choice((0.0, 0.5)), pick.random() < 0.9
            monkeypatch.setattr(straight_path, "LEAST_INPUTS", 1)
            one = straight.engine.apply(inputs, maker.now, may_release=may_release, ahead=ahead)
            monkeypatch.setattr(straight_path, "LEAST_INPUTS", NEVER)
            other = general.engine.apply(inputs, maker.now, may_release=may_release, ahead=ahead)
            assert (one.kinds, sorted(one.notes)) == (other.kinds, sorted(other.notes)), f"seed {seed}"
            assert [message.body for message in one.messages] == [message.body for message in other.messages]
            # The straight path releases first what it releases.
            assert sorted(row.id for row in one.releases) == sorted(row.id for row in other.releases), f"seed {seed}"
            assert sorted(_sent(one)) == sorted(_sent(other)), f"seed {seed}"
            assert sorted(one.late) == sorted(other.late), f"seed {seed}"
            # The general path sets a timer of a rate again when it has read its line, changed or not.
            told.update(one.timers)
            assert set(one.timers) <= set(other.timers) <= told, f"seed {seed}"
            assert contents(straight.store) == contents(general.store), f"seed {seed}: {inputs}"
            # A walk tells of releases that never were, as to a store that was restored: these have no slot.
            assert [one for one in broken(straight.store) if "has no slot of" not in one] == []
        for row in map(general.row, [row.id for row in general.store.reader.jobs.newest()]):
            assert straight.row(row.id).history == row.history

    def test_what_waits_for_a_plain_job_goes_when_that_succeeds(self, straight: EngineHarness) -> None:
        straight.apply(straight.ready("p1"), straight.child("c1", "p1"), straight.succeeded("p1"))
        straight.apply(straight.ready("p2"), straight.child("c2", "p2"))
        straight.apply(straight.ready("p3"), straight.succeeded("p2"))
        assert straight.row("c1").state is straight.row("c2").state is State.ENQUEUED

    def test_a_plain_job_has_its_history(self, straight: EngineHarness) -> None:
        assert straight.apply(straight.ready("a"), straight.ready("b")).rows == 2
        assert [state for _, state, _ in straight.row("a").history] == ["enqueued"]
        straight.now += 1
        assert straight.apply(straight.succeeded("a", result="7"), straight.succeeded("b")).rows == 2
        row = straight.row("a")
        assert [state for _, state, _ in row.history] == ["enqueued", "processing", "succeeded"]
        assert (row.result, row.ran_on, row.publication) == ("7", "w1", 0)

"""The rules of plain jobs: the straight path writes what the general path writes, whatever database is behind it."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from broker_jobs.coordinator import straight_path
from broker_jobs.coordinator.inputs import Input
from broker_jobs.coordinator.records import FromWorker, Released, ReleaseFailed, ReleaseUnknown, TimerDue
from broker_jobs.messages.commands import DeleteJob, GetJob, RequeueJob
from broker_jobs.messages.envelope import LimitKey
from broker_jobs.messages.events import Succeeded
from broker_jobs.messages.state import State
from broker_jobs.store import Store, schema
from broker_jobs.store.columns import clean_text
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness

SEEDS = 40
NEVER = 1_000_000
DIFFERENT = {"meta": {"store_id"}, "log_lines": {"n"}}
"""Columns that differ from store to store."""
FIELDS: tuple[dict[str, Any], ...] = (
    {}, {}, {}, {"queue": "mail"}, {"tags": ("a", "b")}, {"parent": "p"}, {"job": "other"}, {"attempt": 2},
    {"due_at": datetime(2026, 2, 28, tzinfo=UTC)}, {"limits": (LimitKey(kind="ordered", key="k"),)},
    {"epoch": 3}, {"recurring": "nightly"}, {"args": ["\U0001f600", "\x00"]},
)  # fmt: skip


class Walk:
    """Inputs about a few jobs in any order, in transactions of any length."""

    def __init__(self, seed: int, maker: EngineHarness) -> None:
        self._random = random.Random(seed)
        self._maker = maker
        self._made = 0
        self._ids: list[str] = []

    def transactions(self) -> Iterator[list[Input]]:
        for _ in range(self._random.randrange(3, 9)):
            self._maker.now += self._random.choice((0.0, 0.4, 61.0))
            yield [one for _ in range(self._random.randrange(1, 12)) for one in self._inputs()]

    def _inputs(self) -> list[Input]:
        h, pick = self._maker, self._random
        if not self._ids or pick.random() < 0.45:
            self._made += 1
            self._ids.append(f"j{self._made}")
            if pick.random() < 0.4:
                return self._waiting(self._ids[-1])
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
        fields = pick.choice(({}, {}, {"tags": ("a",)}, {"queue": "mail"}))
        delay = pick.choice((0.0, 0.0, 0.4, 50.0))
        return [h.held(id, delay, **fields), *pick.choice(([], [Released(id, 1)], [Released(id, 1), self._success()]))]

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
        maker = EngineHarness()
        for inputs in Walk(seed, maker).transactions():
            straight.now = general.now = maker.now
            monkeypatch.setattr(straight_path, "LEAST_INPUTS", 1)
            one = straight.apply(*inputs)
            monkeypatch.setattr(straight_path, "LEAST_INPUTS", NEVER)
            other = general.apply(*inputs)
            assert (one.kinds, sorted(one.notes)) == (other.kinds, sorted(other.notes)), f"seed {seed}"
            assert [message.body for message in one.messages] == [message.body for message in other.messages]
            assert [row.id for row in one.releases] == [row.id for row in other.releases], f"seed {seed}"
            assert one.timers == other.timers, f"seed {seed}"
            assert contents(straight.store) == contents(general.store), f"seed {seed}: {inputs}"
            assert broken(straight.store) == []
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

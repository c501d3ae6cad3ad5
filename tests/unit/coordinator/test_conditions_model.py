"""Random walks of the engine through conditions: everything holds after each step, and everything ends at last.

`BROKER_JOBS_MODEL_SECONDS` makes the walks longer, `BROKER_JOBS_MODEL_SEED` begins with another seed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from sqlalchemy import select

from broker_jobs.clock import LogTime
from broker_jobs.coordinator import cascade, consequences
from broker_jobs.coordinator.conditions import rates, waiting_jobs
from broker_jobs.coordinator.conditions.batches import ChunkTooLateError
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.inputs import ChunkReceived, Input, UnknownParents, WorkItemsWaiting
from broker_jobs.coordinator.records import (
    LeaseOver,
    Released,
    ReleaseFailed,
    ReleaseUnknown,
    TimerDue,
    WaitingCopy,
)
from broker_jobs.messages import codec
from broker_jobs.messages.batch import Chunk
from broker_jobs.messages.commands import DeleteBatch, DeleteJob, Hello, RequeueJob, RescheduleJob, SetLimit
from broker_jobs.messages.envelope import Dependencies, End, LimitKey, Parent, Policy, UniqueKey
from broker_jobs.messages.events import WorkerRef
from broker_jobs.store import schema
from broker_jobs.store.lines import Stage
from broker_jobs.store.retention import PurgeProgress
from broker_jobs.store.row import Publication, Row, WaitReason
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness

SECONDS = float(os.environ.get("BROKER_JOBS_MODEL_SECONDS", "10"))
SEED = int(os.environ.get("BROKER_JOBS_MODEL_SEED", "1"))
STEPS = 40
LIMITS = (
    LimitKey(kind="ordered", key="a"),
    LimitKey(kind="ordered", key="b"),
    LimitKey(kind="concurrency", key="c", limit=1),
    LimitKey(kind="concurrency", key="d", limit=2),
    LimitKey(kind="concurrency", key="d", limit=3),
    LimitKey(kind="rate", key="r", limit=2, per=10.0),
    LimitKey(kind="rate", key="f", limit=1, per=5.0, window="fixed"),
)
ENDS: tuple[End, ...] = ("succeeded", "failed", "finished")
SCOPES: tuple[Literal["queued", "running", "window"], ...] = ("queued", "running", "running", "window")
Step = tuple[Any, ...]


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, size in (
        (cascade, "PAGE", 2),
        (consequences, "PAGE", 2),
        (consequences, "WORK_ITEMS", 3),
        (waiting_jobs, "HEADS", 2),
        (rates, "STARTS", 2),
    ):
        monkeypatch.setattr(module, name, size)


@pytest.fixture(autouse=True)
def sound_stores() -> None:
    """A walk looks at its store itself."""


class World:
    """One store, the coordinators that come one after the other, and what people and workers do to it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.harness = EngineHarness()
        self.harness.apply(self.harness.tick())
        self.log: list[str] = []
        self.sent: list[Input] = []
        """What may be read again."""
        self.ids: list[str] = []
        self.named: set[str] = set()
        self.batches: dict[str, dict[str, Any]] = {}
        self.generation = 1
        self.progress = PurgeProgress()
        self.purged = self.stepped = False
        self.purges = self.random.random() < 0.3

    # ---- reading

    def table(self, name: str) -> list[Any]:
        with self.harness.store.reader._reading() as connection:
            return list(connection.execute(select(schema.metadata.tables[name])))

    def rows(self) -> dict[str, Row]:
        with self.harness.store.transaction() as tx:
            return tx.jobs.load([job.id for job in self.table("jobs")])

    # ---- applying

    def apply(self, *inputs: Input, may_release: bool = True) -> Effects:
        self.log.append(f"apply {'(standing by) ' * (not may_release)}" + "; ".join(map(_short, inputs)))
        try:
            effects = self.harness.apply(*inputs, may_release=may_release)
        except ChunkTooLateError:
            assert self.purged, "a chunk is too late"  # it comes again, and a member of it is forgotten
            effects = self.harness.apply(
                *(one for one in inputs if not isinstance(one, ChunkReceived)), may_release=may_release
            )
        self.check(effects)
        return effects

    def check(self, effects: Effects | None = None) -> None:
        wrong = [one for one in broken(self.harness.store) if not self.is_expected(one)]
        assert not wrong, wrong
        if effects is not None:
            for row in effects.releases:
                assert row.due_at is None or row.due_at <= self.harness.now, f"{row.id} is early"

    def is_expected(self, sentence: str) -> bool:
        """A batch counts members that are forgotten; a limit was another one before."""
        return (self.purged and " keeps {" in sentence) or (
            " of concurrency:" in sentence and ", which has " in sentence
        )

    # ---- what happens

    def step(self) -> None:
        kinds: list[tuple[int, Callable[[], list[Input]]]] = [
            (20, self.enqueue),
            (8, self.batch),
            (25, self.worker),
            (16, self.command),
            (4, self.programs),
            (5, self.again),
        ]
        roll = self.random.random()
        if roll < 0.06:
            self.crash()
        elif roll < 0.20:
            self.time()
        elif roll < 0.24 and self.purges:
            self.purge()
        elif roll < 0.36:
            self.rest()
        else:
            inputs: list[Input] = []
            for _ in range(self.random.choice((1, 1, 2, 3, 4))):
                (make,) = self.random.choices([make for _, make in kinds], [weight for weight, _ in kinds])
                inputs += make()
            if inputs:
                self.sent += inputs
                if self.random.random() < 0.3:
                    inputs.insert(self.random.randrange(len(inputs) + 1), WorkItemsWaiting())
                self.apply(*inputs, may_release=self.random.random() > 0.15)

    def conditions(self) -> dict[str, Any]:
        pick, fields = self.random, dict[str, Any]()
        if pick.random() < 0.45:
            scope = pick.choice(SCOPES)
            fields["unique"] = UniqueKey(
                key=pick.choice("uv"), scope=scope, seconds=20.0 if scope == "window" else None,
                replace=pick.random() < 0.4,
            )  # fmt: skip
        if pick.random() < 0.6:
            fields["limits"] = tuple(pick.choices(LIMITS, k=pick.choice((1, 1, 2, 3))))
        if pick.random() < 0.4:
            parents: dict[tuple[str, bool], Parent] = {}
            for _ in range(pick.choice((1, 1, 2))):
                batch = pick.random() < 0.3
                jobs = [*self.ids, f"j{pick.randrange(30):02}"]
                name = pick.choice(["B0", "B1", "B2"] if batch else jobs)
                if not batch:
                    self.named.add(name)
                parents[name, batch] = Parent(id=name, batch=batch, on=pick.choice(ENDS))
            fields["after"] = Dependencies(parents=tuple(parents.values()), delay=pick.choice((None, None, 3.0)))
        fields["policy"] = Policy(retries=pick.choice((0, 1, 3)), backoff=(5.0,))
        return fields

    def copy(self, id: str, **fields: Any) -> WaitingCopy:
        envelope = self.harness.envelope(id, epoch=0, **fields)
        return WaitingCopy(envelope, codec.encode(envelope).decode(), member="batch" in fields)

    def new_id(self) -> str | None:
        wanted = [f"j{n:02}" for n in range(30) if f"j{n:02}" not in self.ids]
        if not wanted:
            return None
        id = self.random.choice(wanted[:6])
        self.ids.append(id)
        return id

    def enqueue(self) -> list[Input]:
        id = self.new_id()
        if id is None:
            return []
        fields = self.conditions()
        if self.random.random() < 0.2:
            fields["due_at"] = datetime.fromtimestamp(self.harness.now + self.random.choice((3, 40)), UTC)
        return [self.copy(id, **fields)]

    def batch(self) -> list[Input]:
        name = self.random.choice(("B0", "B1", "B2"))
        batch = self.batches.setdefault(name, {"chunks": 0, "committed": False})
        if batch["committed"]:
            return []
        if batch["chunks"] and self.random.random() < 0.5:
            return self.commit(name)
        members = [id for _ in range(self.random.choice((1, 3, 5))) if (id := self.new_id()) is not None]
        if not members:
            return self.commit(name)
        copies = [self.copy(id, batch=name, **self.conditions()) for id in members]
        chunk = Chunk(
            batch=name, submission=f"{name}.1", created_at=self.harness.now, number=batch["chunks"],
            jobs=[copy.body for copy in copies],
        )  # fmt: skip
        batch["chunks"] += 1
        return [ChunkReceived(chunk, copies)]

    def commit(self, name: str, *, plain: bool = False) -> list[Input]:
        batch = self.batches.setdefault(name, {"chunks": 0, "committed": False})
        if batch["committed"]:
            return []
        batch["committed"] = True
        inside = {"B0": "B1", "B1": "B2", "B2": None}[name]
        first = [] if inside is None else self.commit(inside, plain=plain)  # its block ends before this one
        return first + self.committed(name, batch["chunks"], plain=plain)

    def committed(self, name: str, chunks: int, *, plain: bool) -> list[Input]:
        if not plain and self.random.random() < 0.1:
            return [self.harness.commit(name, chunks=chunks, abandoned=True)]
        around = {"B0": None, "B1": "B0", "B2": "B1"}[name]
        fields: dict[str, Any] = {}
        if around is not None:
            fields = {"parent": around, "parent_submission": f"{around}.1"}
        if not plain and self.random.random() < 0.4:
            id = self.random.choice([*self.ids, f"j{self.random.randrange(30):02}"])
            self.named.add(id)
            fields["parents"] = (Parent(id=id, on=self.random.choice(ENDS)),)
        return [self.harness.commit(name, chunks=chunks, **fields)]

    def worker(self) -> list[Input]:
        rows = [row for row in self.rows().values() if row.publication is not Publication.NONE]
        waiting = [row for row in self.rows().values() if row.is_waiting and row.epoch and row.grace_until]
        rows += waiting
        if not rows:
            return []
        row, h, pick = self.random.choice(rows), self.harness, self.random.random()
        if row.publication is Publication.PUBLISHING and pick < 0.5:
            kind = self.random.random()
            if kind < 0.6:
                return [Released(row.id, row.epoch)]
            if kind < 0.8:
                return [ReleaseFailed(row.id, row.epoch, "not routed")]
            return [ReleaseUnknown(row.id, row.epoch)]
        if pick < 0.25:
            return [h.started(row.id, row.epoch, owned=self.random.random() < 0.3)]
        if pick < 0.45:
            return [h.succeeded(row.id, row.epoch)]
        if pick < 0.65:
            return [h.failed(row.id, row.epoch, final=self.random.random() < 0.3)]
        if pick < 0.75:
            return [h.returned("redelivered", row.id, row.epoch)]
        if pick < 0.82:
            return [h.returned("shutdown", row.id, row.epoch, worker="w1")]
        if pick < 0.88:
            return [h.returned("unknown job", row.id, row.epoch, worker="w1")]
        if pick < 0.93:
            return [h.interrupted(row.id, row.epoch, acknowledged=self.random.random() < 0.5)]
        return [h.started(row.id, row.epoch, owned=True), LeaseOver(row.id, "w1", "its worker is dead")]

    def programs(self) -> list[Input]:
        """A worker that knows all jobs, or none of them, comes or goes."""
        worker, jobs = self.random.choice((("knows", ["work"]), ("other", ["else"]), ("other", ["else"])))
        if self.random.random() < 0.5:
            self.log.append(f"{worker} goes")
            with self.harness.store.transaction() as tx:
                tx.processes.remove_worker(worker)
            return []
        return [self.hello(worker, jobs)]

    def hello(self, worker: str, jobs: list[str]) -> Input:
        ref, code = WorkerRef(id=worker, host="h", slot=worker), jobs[0].encode().hex()
        return self.harness.ask(Hello, worker=ref, queues=["default"], code=code, jobs=jobs)

    def known(self) -> bool:
        """Whether a living worker knows the jobs."""
        return any(worker.id == "knows" for worker in self.table("workers"))

    def command(self) -> list[Input]:
        pick, h = self.random.random(), self.harness
        if pick < 0.3:
            key = self.random.choice("cdrf")
            return [h.ask(SetLimit, key=key, limit=self.random.choice((0, 0, 1, 2, 4, None, None)))]
        if pick < 0.36:
            return [h.ask(DeleteBatch, batch_id=self.random.choice(("B0", "B1", "B2")))]
        if not self.ids:
            return []
        id = self.random.choice(self.ids)
        if pick < 0.6:
            return [h.ask(DeleteJob, job_id=id)]
        if pick < 0.85:
            return [h.ask(RequeueJob, job_id=id)]
        return [h.ask(RescheduleJob, job_id=id, due_at=h.now + self.random.choice((-1, 0, 4, 50)))]

    def again(self) -> list[Input]:
        return [self.random.choice(self.sent[-30:])] if self.sent else []

    def crash(self) -> None:
        """Another coordinator takes over; what the one before it was sending may or may not be out."""
        self.generation += 1
        self.log.append(f"coordinator c{self.generation} takes over")
        h = self.harness
        h.engine = Engine(h.store, f"c{self.generation}", since=h.now, chance=lambda: 0.0)
        h.engine.become_active(h.now)
        h.apply(h.tick())
        sending = [row for row in self.rows().values() if row.publication is Publication.PUBLISHING]
        if sending:
            self.apply(*(ReleaseUnknown(row.id, row.epoch) for row in sending))

    def time(self) -> None:
        h, pick = self.harness, self.random.random()
        if pick < 0.15:
            h.now += self.random.choice((-3600.0, -3600.0, 3600.0))
            self.stepped = True
            self.log.append(f"the clock steps to {h.now}")
        else:
            seconds = self.random.choice((1, 3, 6, 12))
            self.log.append(f"{seconds} seconds")
            for _ in range(seconds):
                h.now += 1.0
                h.apply(h.tick())
        self.due()

    def due(self) -> bool:
        h = self.harness
        with h.store.transaction() as tx:
            found = [id for _, id in tx.due.jobs(h.now, limit=100)]
            found += tx.due.graces(tx.meta.log_time, limit=100)
        if not found:
            return False
        before = self.rows()
        self.apply(*(TimerDue(id) for id in dict.fromkeys(found)), may_release=True)
        return self.rows() != before

    def purge(self) -> None:
        self.log.append("purge")
        self.purged = True  # batches count members that are forgotten
        with self.harness.store.transaction() as tx:
            tx.purge(
                now=self.harness.now, keep_succeeded=5.0, keep_deleted=5.0, keep_failed=200.0, limit=3,
                progress=self.progress,
            )  # fmt: skip
        if self.random.random() < 0.5:
            self.progress.restart()
        self.check()

    # ---- rest

    def rest(self) -> None:
        """Let everything be done that can be done now; then nobody waits for nothing."""
        for _ in range(400):
            more = self.due()
            if not self.apply(WorkItemsWaiting()).more and not more and not self.table("work_items"):
                break
        else:
            raise AssertionError(f"never at rest: {self.table('work_items')}")
        wrong = self.at_rest()
        assert not wrong, wrong

    def at_rest(self) -> list[str]:
        rows = self.rows()
        found, now = [], self.harness.now
        all_lines = {line.key: line for line in self.table("lines")}
        entries = self.table("line_entries")
        waits_in = {entry.job_id: entry.key for entry in entries if entry.stage == Stage.WAITS}
        for entry in entries:
            if entry.stage == Stage.TURN:
                if entry.job_id not in waits_in:
                    found.append(f"{entry.job_id} keeps a turn of {entry.key} and waits in no line")
                else:
                    line = all_lines[waits_in[entry.job_id]]
                    capacity = line.limit_code if line.limit_set is None else line.limit_set
                    if not capacity:
                        found.append(f"{entry.job_id} keeps a turn of {entry.key} and waits in closed {line.key}")
                    if line.kind == "rate" and entry.key.startswith("concurrency:"):
                        found.append(f"{entry.job_id} keeps a turn of {entry.key} and waits for the rate {line.key}")
        for key in set(waits_in.values()):
            line = all_lines[key]
            capacity = line.limit_code if line.limit_set is None else line.limit_set
            if line.limit_set is None and not capacity:
                found.append(f"{key} is closed by nobody")
            if not capacity:
                continue
            if line.kind != "rate":
                if line.taken + line.turns < capacity:
                    found.append(f"{key} has free capacity, and jobs wait in it")
            elif line.turns < capacity:
                longest = max(60.0, 2 * (line.span or 1.0))
                if line.next_at is None or line.next_at <= now:
                    found.append(f"{key} is not called though it has starts: {line.next_at}")
                elif line.next_at > now + longest and not self.stepped:  # a clock that was ahead wrote it
                    found.append(f"{key} is called in {line.next_at - now} s")
        for row in rows.values():
            clear = row.publication is Publication.NONE and row.grace_until is None
            if row.is_waiting and not row.waits and clear and (row.due_at or 0.0) <= now:
                found.append(f"{row.id} may go and is not released: {row}")
            if row.waits & WaitReason.UNKNOWN and self.known():
                found.append(f"{row.id} is held, and a worker knows it")
        found += [
            f"{batch.id} is over" for batch in self.table("batches") if batch.state == "processing" and batch.open <= 0
        ]
        for row in rows.values():
            if row.is_alias and row.counted_as is not None:
                root = rows.get({group.id: group.root for group in self.table("alias_groups")}[row.alias_group or ""])
                shown = root.state.value if root is not None and root.state.is_final else "open"
                if row.counted_as != shown:
                    found.append(f"{row.id} is counted as {row.counted_as}, its root is {shown}")
        return found

    def drain(self) -> None:
        """Faults and commands stop, lines are open, all parents come: every job ends and nothing is left."""
        h = self.harness
        self.log.append("drain")
        self.apply(*(h.ask(SetLimit, key=key, limit=None) for key in "cdrf"))
        self.apply(self.hello("knows", ["work"]))
        self.apply(*(self.copy(id) for id in sorted(self.named - set(self.ids))))
        for name in ("B2", "B1", "B0"):
            commit = self.commit(name, plain=True)
            if commit:
                self.apply(*commit)
        left: list[Row] = []
        for _ in range(400):
            self.rest()
            rows = self.rows()
            out = [row for row in rows.values() if row.publication is not Publication.NONE]
            if out:
                self.apply(*(Released(row.id, row.epoch) for row in out))
                self.apply(*(h.succeeded(row.id, row.epoch) for row in out))
                continue
            left = [row for row in rows.values() if not row.state.is_final or row.grace_until is not None]
            if not left and all(batch.ended_at is not None for batch in self.table("batches")):
                break  # a batch may wait for a parent that is not known, though its members have ended
            h.now += 5.0
            h.apply(h.tick())
            for _ in range(4):
                h.now += 1.0
                h.apply(h.tick())
            if unknown := h.store.reader.dependencies.unknown_parents(
                since=LogTime(1e9), after=("", "", ""), limit=1_000
            )[0]:
                self.apply(UnknownParents(unknown))
            dues = [row.due_at or 0.0 for row in left if row.is_waiting and not row.waits]
            if dues and min(dues) > h.now + 600:
                h.now += 3000.0
        else:
            raise AssertionError(f"never ends: {[(row.id, row.state.value, row.waits, row.reason) for row in left]}")
        wrong = [f"{name}: {row}" for name in ("line_entries", "work_items") for row in self.table(name)]
        wrong += [f"key: {key}" for key in self.table("unique_keys") if key.until is None]
        wrong += [f"batch: {batch}" for batch in self.table("batches") if batch.ended_at is None]
        wrong += [f"line: {line}" for line in self.table("lines") if line.taken or line.turns or line.kind != "rate"]
        wrong += [f"runs: {row}" for row in self.table("open_runs")]
        for dependency in self.table("dependencies"):
            if dependency.holder.startswith("batch:") or dependency.kind == "open":
                continue
            row = self.rows().get(dependency.holder)
            if row is None or row.state.value != "deleted":
                wrong.append(f"dependency: {dependency}")
        assert not wrong, wrong


def _short(one: Input) -> str:
    envelope = getattr(one, "envelope", None)
    if isinstance(one, WaitingCopy) and envelope is not None:
        kept = {
            name: getattr(envelope, name)
            for name in ("unique", "limits", "after", "batch", "due_at")
            if getattr(envelope, name)
        }
        return f"enqueue {envelope.id} {kept}"
    if isinstance(one, ChunkReceived):
        return f"chunk {one.chunk.number} of {one.chunk.batch}: [" + ", ".join(map(_short, one.members)) + "]"
    return str(one)


def seeds() -> Iterator[int]:
    until = time.monotonic() + SECONDS
    seed = SEED
    while time.monotonic() < until:
        yield seed
        seed += 1


def walk(seed: int, steps: int = STEPS) -> int:
    """One world from its beginning to its end; the transactions it took."""
    world = World(seed)
    try:
        for _ in range(steps):
            world.step()
        world.drain()
    except BaseException as error:
        error.add_note(f"seed {seed}, {steps} steps:\n" + "\n".join(world.log))
        raise
    finally:
        world.harness.store.close()
    return len(world.harness.effects)


def test_conditions_hold_in_random_walks() -> None:
    transactions = [walk(seed) for seed in seeds()]
    print(f"{len(transactions)} walks from seed {SEED}, {sum(transactions)} transactions")  # noqa: T201  # for -s
    assert sum(transactions) > 0

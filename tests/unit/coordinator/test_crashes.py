"""Two engines on one store, killed anywhere: what waits goes on once, batches end once with the right counts.

A plan (trees of jobs, batches of batches, several parents, limits) comes in any order through one log. At each step
either engine may take the next records, die before its commit, after it and before the acknowledgement, before or
after its releases are published, or have its transaction fail and go on. Workers honour fences; their words come
through the same log. At the end all is drained, and what came of it is compared with what the plan says.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker_jobs.clock import LogTime, WallTime
from broker_jobs.coordinator import cascade
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.inputs import ChunkReceived, CommandReceived, Input, WorkItemsWaiting
from broker_jobs.coordinator.records import FromWorker, ProvenLost, ReadyCopy, Released, TimerDue, WaitingCopy
from broker_jobs.messages import codec
from broker_jobs.messages.batch import BatchCommit, Chunk
from broker_jobs.messages.commands import Command, DeleteBatch, DeleteJob, RequeueJob
from broker_jobs.messages.envelope import Dependencies, End, Envelope, LimitKey, Parent, Policy
from broker_jobs.messages.events import ErrorInfo, Failed, Returned, ReturnReason, Started, Succeeded, Tick
from broker_jobs.messages.state import State
from broker_jobs.store import Store
from broker_jobs.store.row import Publication, Row
from broker_jobs.store.write import Transaction
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EPOCH, EngineHarness

POLICY = Policy(retries=1, backoff=(1.0,))
LIMIT = LimitKey(kind="concurrency", key="k", limit=1)
ROUNDS = 80
MOST_TAKES = 500
PAGE = 1
"""Holders a transaction works off here: so that there is always a page left when somebody dies."""


# ---- what is to be done


@dataclass
class Job:
    """A job of the plan, and how its runs end: ok, fail, or stumble (fail once, then succeed)."""

    id: str
    batch: str | None
    parents: list[Parent]
    outcome: str
    limited: bool


@dataclass
class Batch:
    """A batch of the plan."""

    id: str
    parent: str | None
    parents: list[Parent]
    jobs: list[Job] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """Jobs and batches, in the order in which a producer makes them."""

    jobs: dict[str, Job] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    """In which order its records come, as far as it goes."""

    def ends(self) -> dict[str, State]:
        """How each job and batch must end."""
        found: dict[str, State] = {}

        def met(parents: list[Parent]) -> bool:
            return all(parent.on in ("finished", end(parent.id)) for parent in parents)

        def dropped(batch: str | None) -> bool:
            return batch is not None and (not met(self.batches[batch].parents) or dropped(self.batches[batch].parent))

        def end(id: str) -> State:
            if id not in found:
                found[id] = of_job(self.jobs[id]) if id in self.jobs else of_batch(self.batches[id])
            return found[id]

        def of_job(job: Job) -> State:
            if dropped(job.batch) or not met(job.parents):
                return State.DELETED
            return State.FAILED if job.outcome == "fail" else State.SUCCEEDED

        def of_batch(batch: Batch) -> State:
            ends = [end(job.id) for job in batch.jobs] + [end(below) for below in batch.batches]
            if State.FAILED in ends:
                return State.FAILED
            return State.DELETED if ends and set(ends) == {State.DELETED} else State.SUCCEEDED

        for id in [*self.jobs, *self.batches]:
            end(id)
        return found


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    plan = Plan()
    closed: list[str] = []

    def parents(most: int = 2) -> list[Parent]:
        known = [*plan.jobs, *closed]
        if not known:
            return []
        ids = draw(st.lists(st.sampled_from(known), max_size=most, unique=True))
        on: End = draw(st.sampled_from(("succeeded", "finished", "failed"))) if ids else "finished"
        return [Parent(id=id, batch=id in plan.batches, on=on) for id in ids]

    def result_arg(batch: Batch | None, depth: int) -> None:
        for kind in draw(st.lists(st.sampled_from(["job", "batch"] if depth else ["job"]), max_size=4)):
            if kind == "job":
                outcome = draw(st.sampled_from(["ok", "fail", "stumble"]))
                id, above = f"j{len(plan.jobs)}", batch.id if batch else None
                job = plan.jobs[id] = Job(id, above, parents(), outcome, draw(st.booleans()))
                if batch:
                    batch.jobs.append(job)
            else:
                id = f"b{len(plan.batches)}"
                waited = parents(1)
                inner = plan.batches[id] = Batch(id, batch.id if batch else None, waited)
                if batch:
                    batch.batches.append(id)
                result_arg(inner, depth - 1)
                closed.append(id)

    result_arg(None, 2)
    plan.order = draw(st.lists(st.integers(0, 5), max_size=8))
    return plan


def records(plan: Plan) -> list[Input]:
    """What a producer sends for a plan, in the order that was drawn."""
    sent: list[Input] = []

    def envelope(job: Job, epoch: int) -> Envelope:
        return Envelope(
            id=job.id, job="work", created_at=EPOCH, policy=POLICY, epoch=epoch, batch=job.batch,
            after=Dependencies(parents=tuple(job.parents)) if job.parents else None,
            limits=(LIMIT,) if job.limited else (),
        )  # fmt: skip

    def held(job: Job) -> WaitingCopy:
        made = envelope(job, 0)
        return WaitingCopy(made, codec.encode(made).decode(), member=job.batch is not None)

    def of_batch(batch: Batch) -> None:
        for below in batch.batches:
            of_batch(plan.batches[below])
        submission = f"{batch.id}.1"
        members = [held(job) for job in batch.jobs]
        pieces = [members[start : start + 2] for start in range(0, len(members), 2)]
        for number, piece in enumerate(pieces):
            chunk = Chunk(
                batch=batch.id, submission=submission, created_at=EPOCH.timestamp(), number=number,
                jobs=[member.body for member in piece],
            )  # fmt: skip
            sent.append(ChunkReceived(chunk, piece))
        sent.append(
            BatchCommit(
                batch=batch.id, submission=submission, created_at=EPOCH.timestamp(), chunks=len(pieces),
                parent=batch.parent, parent_submission=f"{batch.parent}.1" if batch.parent else None,
                batches=batch.batches, parents=tuple(batch.parents),
            )
        )  # fmt: skip

    for batch in plan.batches.values():
        if batch.parent is None:
            of_batch(batch)
    for job in plan.jobs.values():
        if job.batch is None:
            free = not job.parents and not job.limited
            made = envelope(job, 1)
            sent.append(ReadyCopy(made, codec.encode(made).decode()) if free else held(job))
    for place in plan.order:
        if sent:
            sent.append(sent.pop(place % len(sent)))  # each number moves a record to the end
    return _seals_last(sent)


def _seals_last(sent: list[Input]) -> list[Input]:
    """A producer commits when its chunks, and the batches inside, are confirmed; all else comes in any order."""

    def is_early(record: Input, left: list[Input]) -> bool:
        return isinstance(record, BatchCommit) and any(
            (isinstance(other, ChunkReceived) and other.chunk.batch == record.batch)
            or (isinstance(other, BatchCommit) and other.batch in record.batches)
            for other in left
        )

    found: list[Input] = []
    while sent:
        first = next(record for record in sent if not is_early(record, sent))
        sent.remove(first)
        found.append(first)
    return found


# ---- who does it


class PowerCutError(Exception):
    """The end of a process, or of a transaction."""


class Mortal:
    """A store whose transactions can be made to fail right before their commit."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fails = False

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        with self.store.transaction() as tx:
            yield tx
            if self.fails:
                raise PowerCutError


class Coordinator:
    """An engine and what its process knows beside the store: lost when it dies."""

    def __init__(self, store: Store, id: str, now: float) -> None:
        self.mortal = Mortal(store)
        self.engine = Engine(cast(Store, self.mortal), id, since=now, chance=lambda: 0.0)
        self.own: list[Input] = [WorkItemsWaiting()] if self.engine.become_active(now).more else []
        """Confirms, and what it found on the way: part of its next transaction."""


class Sent(NamedTuple):
    """A message in the work queue."""

    id: str
    epoch: int
    attempt: int


STEPS = [
    "arrive", "take", "take", "run", "dies before its commit", "dies before the acknowledgement",
    "dies before it publishes", "dies before the confirms", "a transaction fails", "comes again", "comes back", "time",
    "look",
]  # fmt: skip


PERSON = ["a person deletes a batch", "a person deletes a job", "a person runs a job again"]


class World:
    """Log, work queue, two coordinators on one store, and workers that are one function."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.store = Store("sqlite://")
        self.store.open()
        self.now = EPOCH.timestamp()
        self.coming = deque(records(plan))
        self.log: list[Input] = []
        self.work: list[Sent] = []
        self.runs: Counter[str] = Counter()
        self.published: Counter[tuple[str, int]] = Counter()
        self.ended: Counter[str] = Counter()
        """Batch ends by batch, in transactions that were committed."""
        self._born = 0
        self._asked = 0
        self._repeatable: list[Input] = []
        self.coordinators = [self._new(), self._new()]

    def _new(self) -> Coordinator:
        self._born += 1
        return Coordinator(self.store, f"c{self._born}", self.now)

    def step(self, what: str, which: int, count: int) -> None:
        match what:
            case "arrive":
                self.arrive(count)
            case "run":
                self.run(count)
            case "comes again":
                if self._repeatable:
                    self.log.append(self._repeatable[count % len(self._repeatable)])
            case "comes back":
                if self.work:
                    sent = self.work.pop(count % len(self.work))
                    self._return(sent, "redelivered")
            case "time":
                self.time(count)
            case "look":
                self.look(which)
            case "a person deletes a batch" | "a person deletes a job" | "a person runs a job again":
                self.ask(what, which, count)
            case _:
                self.take(which, count, what)

    # ---- the producer and the broker

    def arrive(self, count: int) -> None:
        for _ in range(min(count, len(self.coming))):
            record = self.coming.popleft()
            self.log.append(record)
            if isinstance(record, ReadyCopy):
                self._publish(Sent(record.envelope.id, 1, 1))
            else:
                self._repeatable.append(record)

    def _publish(self, sent: Sent) -> None:
        self.published[sent.id, sent.epoch] += 1
        assert self.published[sent.id, sent.epoch] == 1, f"{sent} was published twice"
        self.work.append(sent)

    def time(self, seconds: int) -> None:
        """Both tick, once a second."""
        meta = self.store.reader.meta()
        for _ in range(seconds):
            self.now += 1.0
            for one in self.coordinators:
                one.engine.ticks.sent(WallTime(self.now))
                tick = Tick(coordinator=one.engine.id, store=meta.store_id, serial=meta.serial, sent_at=self.now)
                self.log.append(tick)

    # ---- workers

    def run(self, number: int) -> None:
        if not self.work:
            return
        sent = self.work.pop(number % len(self.work))
        row = self.store.reader.jobs.get(sent.id)
        if row is not None and row.fence >= sent.epoch:
            self._return(sent, "fenced")
            return
        job = self.plan.jobs[sent.id]
        self.runs[sent.id] += 1
        self.log.append(FromWorker("w", Started(id=sent.id, epoch=sent.epoch, at=self.now)))
        if job.outcome == "ok" or (job.outcome == "stumble" and sent.attempt > 1):
            end: Succeeded | Failed = Succeeded(
                id=sent.id, epoch=sent.epoch, started_at=self.now, ended_at=self.now, result=None
            )
        else:
            error = ErrorInfo(type="ValueError", message="boom", traceback="…")
            end = Failed(
                id=sent.id, epoch=sent.epoch, started_at=self.now, ended_at=self.now, error=error,
                final=job.outcome == "fail", envelope=self._body(sent),
            )  # fmt: skip
        self.log.append(FromWorker("w", end))

    def _return(self, sent: Sent, reason: ReturnReason) -> None:
        event = Returned(
            id=sent.id, epoch=sent.epoch, at=self.now, reason=reason, redelivered=reason == "redelivered",
            envelope=self._body(sent),
        )  # fmt: skip
        self.log.append(FromWorker("w", event))

    def _body(self, sent: Sent) -> str:
        envelope = Envelope(
            id=sent.id, job="work", created_at=EPOCH, policy=POLICY,
            epoch=sent.epoch, attempt=sent.attempt, batch=self.plan.jobs[sent.id].batch,
        )  # fmt: skip
        return codec.encode(envelope).decode()

    # ---- coordinators

    def take(self, which: int, count: int, fate: str = "take") -> Effects | None:
        """A coordinator takes the first records of the log, and what it knows itself."""
        one = self.coordinators[which]
        taken = self.log[:count]
        inputs, one.own = [*one.own, *taken], []
        one.mortal.fails = fate in ("dies before its commit", "a transaction fails")
        try:
            effects = one.engine.apply(inputs, self.now)
        except PowerCutError:
            one.mortal.fails = False
            if fate == "a transaction fails":  # it tries the same again, later
                one.own = inputs[: len(inputs) - len(taken)]
            else:
                self.coordinators[which] = self._new()
            return None
        if fate != "dies before the acknowledgement":
            del self.log[:count]
        if fate not in ("dies before the acknowledgement", "dies before it publishes"):
            for row in effects.releases:
                self._publish(Sent(row.id, row.epoch, row.attempt))
        if fate != "take":
            self.coordinators[which] = self._new()
            return None
        one.own += [Released(row.id, row.epoch) for row in effects.releases]
        one.own += effects.next
        if effects.more:
            one.own.append(WorkItemsWaiting())
        return effects

    def look(self, which: int) -> None:
        """A coordinator looks at what nobody tells of any more, and at what is due."""
        one = self.coordinators[which]
        with self.store.transaction() as tx:
            one.own += one.engine.liveness.coordinators.unknown_releases(tx, LogTime(tx.meta.log_time))
            one.own += [TimerDue(id) for id in tx.due.graces(tx.meta.log_time, limit=100)]
        one.own += [TimerDue(row.id) for row in self.rows() if row.state is State.SCHEDULED]

    def ask(self, what: str, which: int, number: int) -> None:
        """A person's command: it comes by a queue of its own, so that it may overtake the log."""
        ids = list(self.plan.batches if what == "a person deletes a batch" else self.plan.jobs)
        if not ids:
            return
        self._asked += 1
        id, command = ids[number % len(ids)], f"command-{self._asked}"
        asked: Command
        match what:
            case "a person deletes a batch":
                asked = DeleteBatch(id=command, at=self.now, batch_id=id)
            case "a person deletes a job":
                if self.store.reader.jobs.get(id) is None:  # a tombstone, whatever it was to wait for
                    return
                asked = DeleteJob(id=command, at=self.now, job_id=id)
            case _:
                asked = RequeueJob(id=command, at=self.now, job_id=id)
        self.coordinators[which].own.append(CommandReceived(asked, None, None))

    # ---- the end

    def rows(self) -> list[Row]:
        return self.store.reader.jobs.newest(limit=500)

    def drain(self) -> None:
        """Let all come, be taken, be run, and time pass, until nothing moves any more."""
        self.arrive(len(self.coming))
        quiet = 0
        for number in range(ROUNDS):
            which = number % 2
            taken = 0
            while self.log or self.coordinators[which].own:
                self.take(which, 10)
                taken += 1
                assert taken < MOST_TAKES, f"work is never done: {self.coordinators[which].own}"
            while self.work:
                self.run(0)
            if not self.log and not self.work:  # the sweep's proof: nothing of them is anywhere
                swept = [
                    ProvenLost(row.id, row.epoch) for row in self.rows() if row.publication is Publication.PUBLISHED
                ]
                self.coordinators[which].own += swept
            moving = self.log or any(one.own for one in self.coordinators)
            moving = moving or any(
                row.publication is not Publication.NONE or row.state is State.SCHEDULED or row.grace_until is not None
                for row in self.rows()
            )
            quiet = 0 if moving else quiet + 1
            if quiet == 3:
                return
            self.time(6)
            self.look(which)
        stuck = [
            (row.id, row.state.value, row.publication, row.reason) for row in self.rows() if not row.state.is_final
        ]
        raise AssertionError(f"it never comes to rest: {stuck}, {self.log}")

    def check(self) -> None:
        ends = self.plan.ends()
        rows = {row.id: row for row in self.rows()}
        assert {id: rows[id].state if id in rows else None for id in self.plan.jobs} == {
            id: ends[id] for id in self.plan.jobs
        }
        with self.store.transaction() as tx:
            batches = tx.batches.load(list(self.plan.batches))
            assert list(tx.work_items.oldest(limit=10)) == [], "something is marked and nobody works it off"
        assert {id: batches[id].state if id in batches else None for id in self.plan.batches} == {
            id: ends[id].value for id in self.plan.batches
        }
        for id, batch in self.plan.batches.items():
            of = Counter([ends[job.id].value for job in batch.jobs] + [ends[below].value for below in batch.batches])
            kept = batches[id]
            assert (kept.open, kept.total) == (0, of.total()), f"{id}: {kept}"
            assert (kept.succeeded, kept.failed, kept.deleted) == (of["succeeded"], of["failed"], of["deleted"]), id
        times = {"ok": 1, "fail": 1, "stumble": 2}
        assert dict(self.runs) == {
            id: times[job.outcome] for id, job in self.plan.jobs.items() if ends[id] is not State.DELETED
        }, "runs"
        assert broken(self.store) == []

    def check_sound(self) -> None:
        """Whatever people asked for: everything has ended, and is counted as it has."""
        rows = {row.id: row for row in self.rows()}
        with self.store.transaction() as tx:
            batches = tx.batches.load(list(self.plan.batches))
            assert list(tx.work_items.oldest(limit=10)) == [], "something is marked and nobody works it off"
        assert {
            id: rows[id].reason if id in rows else "unknown"
            for id in self.plan.jobs
            if not (id in rows and rows[id].state.is_final)
        } == {}
        assert [id for id in self.plan.batches if id not in batches or batches[id].ended_at is None] == []
        for id, batch in self.plan.batches.items():
            of = Counter([rows[job.id].state.value for job in batch.jobs] + [batches[b].state for b in batch.batches])
            kept = batches[id]
            assert (kept.open, kept.total) == (0, of.total()), f"{id}: {kept}"
            assert (kept.succeeded, kept.failed, kept.deleted) == (of["succeeded"], of["failed"], of["deleted"]), id
        assert broken(self.store) == []


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "PAGE", PAGE)


ALWAYS = settings(
    max_examples=150, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def steps_of(kinds: list[str]) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 1), st.integers(1, 6)), max_size=50)


@ALWAYS
@given(plans(), steps_of(STEPS))
def test_what_waits_goes_on_once_whoever_dies(plan: Plan, steps: list[tuple[str, int, int]]) -> None:
    world = World(plan)
    for step in steps:
        world.step(*step)
    world.drain()
    world.check()
    world.store.close()


@ALWAYS
@given(plans(), steps_of([*STEPS, "arrive", "take", "take", *PERSON, *PERSON]))
def test_all_ends_whatever_people_ask_and_whoever_dies(plan: Plan, steps: list[tuple[str, int, int]]) -> None:
    world = World(plan)
    for step in steps:
        world.step(*step)
    world.drain()
    world.check_sound()
    world.store.close()


def a_wide_tree(harness: EngineHarness) -> list[Input]:
    children = [harness.child(f"c{n}", "p") for n in range(3)]
    return [harness.ready("p"), harness.started("p"), *children, harness.succeeded("p")]


def test_a_page_that_was_left_is_worked_off_though_a_transaction_failed(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade, "PAGE", 2)
    mortal = Mortal(harness.store)
    engine = Engine(cast(Store, mortal), "c2")
    assert engine.apply(a_wide_tree(harness), harness.now).more
    mortal.fails = True
    with pytest.raises(PowerCutError):
        engine.apply([WorkItemsWaiting()], harness.now)
    mortal.fails = False
    engine.apply([WorkItemsWaiting()], harness.now)
    assert {harness.row(f"c{n}").state for n in range(3)} == {State.ENQUEUED}


def test_a_page_that_another_coordinator_left_is_worked_off(harness: EngineHarness) -> None:
    other = Engine(harness.store, "c2")
    harness.apply(WorkItemsWaiting())
    assert other.apply(a_wide_tree(harness), harness.now).more
    harness.work()
    assert {harness.row(f"c{n}").state for n in range(3)} == {State.ENQUEUED}

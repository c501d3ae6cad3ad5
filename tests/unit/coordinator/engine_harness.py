"""A coordinator's engine at hand: records in, rows and effects out, on a real store in memory, while time stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from broker_jobs.clock import LogTime, WallTime
from broker_jobs.coordinator.effects import Effects
from broker_jobs.coordinator.engine import Engine
from broker_jobs.coordinator.inputs import ChunkReceived, CommandReceived, HeartbeatReceived, Input, WorkItemsWaiting
from broker_jobs.coordinator.records import FromWorker, ReadyCopy, Released, ReleaseUnknown, TimerDue, WaitingCopy
from broker_jobs.messages import codec
from broker_jobs.messages.batch import BatchCommit, Chunk
from broker_jobs.messages.commands import Command
from broker_jobs.messages.envelope import Dependencies, End, Envelope, Parent, Policy
from broker_jobs.messages.events import (
    ErrorInfo,
    Failed,
    FailureKind,
    Heartbeat,
    Interrupted,
    Returned,
    ReturnReason,
    Started,
    Succeeded,
    Tick,
    WorkerRef,
)
from broker_jobs.store import Store
from broker_jobs.store.records import BatchRow
from broker_jobs.store.row import Row

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)


class EngineHarness:
    """One engine, or several on one store."""

    def __init__(self, store: Store | None = None, id: str = "c1") -> None:
        self.now = EPOCH.timestamp()
        self.store = store or Store("sqlite://")
        self.store.open()
        self.engine = Engine(self.store, id, since=self.now, chance=lambda: 0.0)
        self.effects: list[Effects] = []
        self._commands = 0

    def apply(self, *inputs: Input, may_release: bool = True) -> Effects:
        """One transaction."""
        effects = self.engine.apply(list(inputs), self.now, may_release=may_release)
        self.effects.append(effects)
        return effects

    def row(self, id: str = "j") -> Row:
        """The row as it is stored."""
        row = self.store.reader.jobs.get(id)
        assert row is not None, f"no row {id}"
        return row

    def envelope(self, id: str = "j", **fields: object) -> Envelope:
        """An envelope as a producer makes it now."""
        policy = fields.pop("policy", None) or Policy(retries=3, backoff=(5.0,))
        made = {
            "id": id,
            "job": "work",
            "created_at": datetime.fromtimestamp(self.now, UTC),
            "policy": policy,
            **fields,
        }
        return Envelope.model_validate(made)

    def ready(self, id: str = "j", **fields: object) -> ReadyCopy:
        """The log's copy of an enqueued job."""
        envelope = self.envelope(id, **fields)
        return ReadyCopy(envelope, codec.encode(envelope).decode())

    def held(self, id: str = "j", delay: float = 0.0, **fields: object) -> WaitingCopy:
        """A job that is scheduled."""
        due_at = datetime.fromtimestamp(self.now, UTC) + timedelta(seconds=delay)
        envelope = self.envelope(id, epoch=0, due_at=due_at, **fields)
        return WaitingCopy(envelope, codec.encode(envelope).decode())

    def body(self, id: str = "j", **fields: object) -> str:
        """The envelope's text as a worker got it."""
        return codec.encode(self.envelope(id, **fields)).decode()

    def started(self, id: str = "j", epoch: int = 1, worker: str = "w1", *, owned: bool = False) -> FromWorker:
        """A worker's word that it runs a job."""
        return FromWorker(worker, Started(id=id, epoch=epoch, at=self.now, owned=owned))

    def succeeded(self, id: str = "j", epoch: int = 1, worker: str = "w1", result: str | None = None) -> FromWorker:
        """A worker's word that a job returned."""
        return FromWorker(worker, Succeeded(id=id, epoch=epoch, started_at=self.now, ended_at=self.now, result=result))

    def failed(
        self, id: str = "j", epoch: int = 1, worker: str = "w1", *, final: bool = False, ended: FailureKind = "raised",
        runs_on: bool = False,
    ) -> FromWorker:  # fmt: skip
        """A worker's word that a job raised, or how else it ended."""
        error = ErrorInfo(type="ValueError", message="boom", traceback="…")
        event = Failed(
            id=id, epoch=epoch, started_at=self.now, ended_at=self.now, error=error, final=final, ended=ended,
            runs_on=runs_on, envelope=self.body(id),
        )  # fmt: skip
        return FromWorker(worker, event)

    def returned(
        self,
        reason: ReturnReason,
        id: str = "j",
        epoch: int = 1,
        worker: str = "w2",
        *,
        redelivered: bool | None = None,
    ) -> FromWorker:
        """A worker's word that it did not run a job."""
        back = redelivered if redelivered is not None else reason in ("redelivered", "delivery limit")
        event = Returned(id=id, epoch=epoch, at=self.now, reason=reason, redelivered=back, envelope=self.body(id))
        return FromWorker(worker, event)

    def interrupted(
        self, id: str = "j", epoch: int = 1, worker: str = "w1", *, acknowledged: bool = False
    ) -> FromWorker:
        """A worker's word that it has to leave while it runs a job."""
        event = Interrupted(
            id=id,
            epoch=epoch,
            started_at=self.now,
            ended_at=self.now,
            acknowledged=acknowledged,
            envelope=self.body(id),
        )
        return FromWorker(worker, event)

    def beat(
        self, worker: str = "w1", *, running: list[tuple[str, int]] | None = None, host: str = "h", slot: str = "1"
    ) -> HeartbeatReceived:
        """A worker's heartbeat."""
        heartbeat = Heartbeat(at=self.now, running=running or [], queues=["default"])
        return HeartbeatReceived(WorkerRef(id=worker, host=host, slot=slot), heartbeat, self.now)

    def ask(
        self, make: type[Command], reply_to: str | None = None, id: str | None = None, **fields: object
    ) -> CommandReceived:
        """A command of a person."""
        self._commands += 1
        command = make(id=id or f"command-{self._commands}", at=self.now, **fields)  # type: ignore[arg-type]
        return CommandReceived(command, reply_to, id)

    def ticks(self, seconds: int) -> Effects:
        """Let log time pass: a tick a second."""
        effects = Effects(self.store.reader.meta())
        for _ in range(seconds + 1):
            self.now += 1.0
            effects = self.apply(self.tick())
        return effects

    def tick(self, sent_at: float | None = None) -> Tick:
        """The coordinator's own tick, which it has sent."""
        meta, at = self.store.reader.meta(), self.now if sent_at is None else sent_at
        self.engine.ticks.sent(WallTime(at))
        return Tick(coordinator=self.engine.id, store=meta.store_id, serial=meta.serial, sent_at=at)

    def release(self, id: str = "j") -> Effects:
        """Apply the due rule, and confirm what it released."""
        effects = self.apply(TimerDue(id))
        self.apply(*(Released(row.id, row.epoch) for row in effects.releases))
        return effects

    def unknown_releases(self, seconds: float) -> list[ReleaseUnknown]:
        """The releases whose confirm will not arrive any more, so many seconds of log time from now."""
        with self.store.transaction() as tx:
            log_now = LogTime(tx.meta.log_time + seconds)
            return self.engine.liveness.coordinators.unknown_releases(tx, log_now)

    # ---- what waits

    def child(
        self, id: str, *parents: str, on: End = "succeeded", batches: tuple[str, ...] = (), **fields: object
    ) -> WaitingCopy:
        """A job that waits for jobs, and for batches."""
        waited = [Parent(id=parent, on=on) for parent in parents] + [Parent(id=b, batch=True, on=on) for b in batches]
        after = Dependencies(parents=tuple(waited), delay=fields.pop("after_delay", None))  # type: ignore[arg-type]
        envelope = self.envelope(id, epoch=0, after=after, **fields)
        return WaitingCopy(envelope, codec.encode(envelope).decode())

    def chunk(
        self, batch: str, ids: list[str], number: int = 0, submission: str = "", **fields: object
    ) -> ChunkReceived:
        """Members of a batch."""
        members = []
        for id in ids:
            envelope = self.envelope(id, epoch=0, batch=batch, **fields)
            members.append(WaitingCopy(envelope, codec.encode(envelope).decode(), member=True))
        chunk = Chunk(
            batch=batch, submission=submission or f"{batch}.1", created_at=self.now, number=number,
            jobs=[member.body for member in members],
        )  # fmt: skip
        return ChunkReceived(chunk, members)

    def commit(self, batch: str, chunks: int = 1, submission: str = "", **fields: object) -> BatchCommit:
        """The end of a submission."""
        made = {
            "batch": batch,
            "submission": submission or f"{batch}.1",
            "created_at": self.now,
            "chunks": chunks,
            **fields,
        }
        return BatchCommit.model_validate(made)

    def apply_work(self) -> Effects:
        """One page of what is marked."""
        return self.apply(WorkItemsWaiting())

    def work(self) -> list[Row]:
        """Let the engine work off all that is marked; what it released."""
        released: list[Row] = []
        effects = self.apply(WorkItemsWaiting())
        released += effects.releases
        while effects.more:
            effects = self.apply(WorkItemsWaiting())
            released += effects.releases
        return released

    def batch(self, id: str) -> BatchRow:
        """A batch as it is stored."""
        with self.store.transaction() as tx:
            return tx.batches.load([id])[id]

"""A coordinator's engine at hand: records in, rows and effects out, on a real store in memory, while time stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from broker_jobs.coordinator.engine import Effects, Engine
from broker_jobs.coordinator.listen import Asked, Beaten, Chunked, Input, Work
from broker_jobs.coordinator.record import Due, Held, Ready, Released, Told
from broker_jobs.job import codec
from broker_jobs.job.envelope import End, Envelope, Hold, Parent, Policy
from broker_jobs.outcome.batch import Chunk, Seal
from broker_jobs.outcome.command import Command
from broker_jobs.outcome.event import (
    ErrorInfo,
    Failed,
    HandBackReason,
    HandedBack,
    Heartbeat,
    Interrupted,
    Started,
    Succeeded,
    Tick,
    WorkerRef,
)
from broker_jobs.store import Store
from broker_jobs.store.kept import BatchRow
from broker_jobs.store.row import Row

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)


class Desk:
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
        row = self.store.reader.job(id)
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

    def ready(self, id: str = "j", **fields: object) -> Ready:
        """The log's copy of an enqueued job."""
        envelope = self.envelope(id, **fields)
        return Ready(envelope, codec.encode(envelope).decode())

    def held(self, id: str = "j", delay: float = 0.0, **fields: object) -> Held:
        """A job that is scheduled."""
        due_at = datetime.fromtimestamp(self.now, UTC) + timedelta(seconds=delay)
        envelope = self.envelope(id, epoch=0, due_at=due_at, **fields)
        return Held(envelope, codec.encode(envelope).decode())

    def body(self, id: str = "j", **fields: object) -> str:
        """The envelope's text as a worker got it."""
        return codec.encode(self.envelope(id, **fields)).decode()

    def started(self, id: str = "j", epoch: int = 1, worker: str = "w1", *, owned: bool = False) -> Told:
        """A worker's word that it runs a job."""
        return Told(worker, Started(id=id, epoch=epoch, at=self.now, owned=owned))

    def succeeded(self, id: str = "j", epoch: int = 1, worker: str = "w1", result: str | None = None) -> Told:
        """A worker's word that a job returned."""
        return Told(worker, Succeeded(id=id, epoch=epoch, started_at=self.now, ended_at=self.now, result=result))

    def failed(
        self, id: str = "j", epoch: int = 1, worker: str = "w1", *, final: bool = False, cancelled: bool = False
    ) -> Told:
        """A worker's word that a job raised."""
        error = ErrorInfo(type="ValueError", message="boom", traceback="…")
        event = Failed(
            id=id, epoch=epoch, started_at=self.now, ended_at=self.now, error=error, final=final, cancelled=cancelled,
            envelope=self.body(id),
        )  # fmt: skip
        return Told(worker, event)

    def handed_back(
        self,
        reason: HandBackReason,
        id: str = "j",
        epoch: int = 1,
        worker: str = "w2",
        *,
        redelivered: bool | None = None,
    ) -> Told:
        """A worker's word that it did not run a job."""
        back = redelivered if redelivered is not None else reason in ("redelivered", "delivery limit")
        event = HandedBack(id=id, epoch=epoch, at=self.now, reason=reason, redelivered=back, envelope=self.body(id))
        return Told(worker, event)

    def interrupted(self, id: str = "j", epoch: int = 1, worker: str = "w1", *, acknowledged: bool = False) -> Told:
        """A worker's word that it has to leave while it runs a job."""
        event = Interrupted(
            id=id,
            epoch=epoch,
            started_at=self.now,
            ended_at=self.now,
            acknowledged=acknowledged,
            envelope=self.body(id),
        )
        return Told(worker, event)

    def beat(
        self, worker: str = "w1", *, running: list[tuple[str, int]] | None = None, host: str = "h", slot: str = "1"
    ) -> Beaten:
        """A worker's heartbeat."""
        heartbeat = Heartbeat(at=self.now, running=running or [], queues=["default"])
        return Beaten(WorkerRef(id=worker, host=host, slot=slot), heartbeat, self.now)

    def ask(self, make: type[Command], reply_to: str | None = None, id: str | None = None, **fields: object) -> Asked:
        """A command of a person."""
        self._commands += 1
        command = make(id=id or f"command-{self._commands}", at=self.now, **fields)  # type: ignore[arg-type]
        return Asked(command, reply_to, id)

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
        self.engine.tick_sent(at)
        return Tick(coordinator=self.engine.id, store=meta.store_id, serial=meta.serial, sent_at=at)

    def release(self, id: str = "j") -> Effects:
        """Apply the due rule, and confirm what it released."""
        effects = self.apply(Due(id))
        self.apply(*(Released(row.id, row.epoch) for row in effects.releases))
        return effects

    # ---- what waits

    def child(
        self, id: str, *parents: str, on: End = "succeeded", batches: tuple[str, ...] = (), **fields: object
    ) -> Held:
        """A job that waits for jobs, and for batches."""
        waited = [Parent(id=parent, on=on) for parent in parents] + [Parent(id=b, batch=True, on=on) for b in batches]
        hold = Hold(parents=tuple(waited), delay=fields.pop("after_delay", None))  # type: ignore[arg-type]
        envelope = self.envelope(id, epoch=0, hold=hold, **fields)
        return Held(envelope, codec.encode(envelope).decode(), waits=True)

    def chunk(self, batch: str, ids: list[str], number: int = 0, addition: str = "", **fields: object) -> Chunked:
        """Members of a batch."""
        members = []
        for id in ids:
            envelope = self.envelope(id, epoch=0, batch=batch, **fields)
            members.append(Held(envelope, codec.encode(envelope).decode(), waits=True))
        chunk = Chunk(
            batch=batch, addition=addition or f"{batch}.1", created_at=self.now, number=number,
            jobs=[member.body for member in members],
        )  # fmt: skip
        return Chunked(chunk, members)

    def seal(self, batch: str, chunks: int = 1, addition: str = "", **fields: object) -> Seal:
        """The end of an addition."""
        made = {
            "batch": batch,
            "addition": addition or f"{batch}.1",
            "created_at": self.now,
            "chunks": chunks,
            **fields,
        }
        return Seal.model_validate(made)

    def apply_work(self) -> Effects:
        """One page of what is marked."""
        return self.apply(Work())

    def work(self) -> list[Row]:
        """Let the engine work off all that is marked; what it released."""
        released: list[Row] = []
        effects = self.apply(Work())
        released += effects.releases
        while effects.more:
            effects = self.apply(Work())
            released += effects.releases
        return released

    def batch(self, id: str) -> BatchRow:
        """A batch as it is stored."""
        with self.store.transaction() as tx:
            return tx.batches([id])[id]

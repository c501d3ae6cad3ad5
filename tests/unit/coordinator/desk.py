"""A coordinator's engine at hand: records in, rows and effects out, on a real store in memory, while time stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from broker_jobs.coordinator.engine import Effects, Engine
from broker_jobs.coordinator.listen import Asked, Beaten, Input
from broker_jobs.coordinator.record import Due, Held, Ready, Released, Told
from broker_jobs.job import codec
from broker_jobs.job.envelope import Envelope, Policy
from broker_jobs.outcome.command import Command
from broker_jobs.outcome.event import (
    ErrorInfo,
    Failed,
    HandBackReason,
    HandedBack,
    Heartbeat,
    Started,
    Succeeded,
    Tick,
    WorkerRef,
)
from broker_jobs.store import Store
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
            meta = self.store.reader.meta()
            self.now += 1.0
            effects = self.apply(
                Tick(coordinator=self.engine.id, store=meta.store_id, serial=meta.serial, sent_at=self.now)
            )
        return effects

    def release(self, id: str = "j") -> Effects:
        """Apply the due rule, and confirm what it released."""
        effects = self.apply(Due(id))
        self.apply(*(Released(row.id, row.epoch) for row in effects.releases))
        return effects

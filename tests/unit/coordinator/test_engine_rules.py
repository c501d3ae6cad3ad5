"""Any records in any order keep the invariants: a machine of several jobs, workers and commands on the real store."""

from __future__ import annotations

from typing import get_args

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker_jobs.coordinator.records import LeaseOver, ProvenLost, Released, ReleaseFailed, ReleaseUnknown, TimerDue
from broker_jobs.messages.commands import DeleteJob, RequeueJob, RescheduleJob
from broker_jobs.messages.events import FailureKind
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Row
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness

ids = st.sampled_from(["a", "b", "c"])
workers = st.sampled_from(["w1", "w2"])
epochs = st.integers(0, 2)
"""How many releases behind the row's own an event is."""


class Records(RuleBasedStateMachine):
    """Records of every kind, also such as could hardly come: late, twice, of epochs long past."""

    def __init__(self) -> None:
        super().__init__()
        self.harness = EngineHarness()
        self.epochs: dict[str, int] = {}
        self.finals: dict[str, State] = {}
        self.asked: set[str] = set()

    def epoch_of(self, id: str, behind: int) -> int:
        row = self.harness.store.reader.jobs.get(id)
        return max(1, (row.epoch if row is not None else 1) - behind)

    @rule(id=ids)
    def enqueued(self, id: str) -> None:
        self.harness.apply(self.harness.ready(id))

    @rule(id=ids, delay=st.sampled_from([0.0, 5.0, 100.0]))
    def scheduled(self, id: str, delay: float) -> None:
        self.harness.apply(self.harness.held(id, delay=delay))

    @rule(id=ids, behind=epochs, worker=workers, owned=st.booleans())
    def started(self, id: str, behind: int, worker: str, owned: bool) -> None:
        self.harness.apply(self.harness.started(id, self.epoch_of(id, behind), worker, owned=owned))

    @rule(id=ids, behind=epochs, worker=workers)
    def succeeded(self, id: str, behind: int, worker: str) -> None:
        self.harness.apply(self.harness.succeeded(id, self.epoch_of(id, behind), worker))

    @rule(id=ids, behind=epochs, worker=workers, final=st.booleans(), ended=st.sampled_from(get_args(FailureKind)))
    def failed(self, id: str, behind: int, worker: str, final: bool, ended: FailureKind) -> None:
        self.harness.apply(self.harness.failed(id, self.epoch_of(id, behind), worker, final=final, ended=ended))

    @rule(
        id=ids,
        behind=epochs,
        worker=workers,
        reason=st.sampled_from(
            ["redelivered", "fenced", "shutdown", "pause", "unknown job", "delivery limit", "no queue"]
        ),
    )
    def returned(self, id: str, behind: int, worker: str, reason: str) -> None:
        self.harness.apply(self.harness.returned(reason, id, self.epoch_of(id, behind), worker))  # type: ignore[arg-type]

    @rule(id=ids, worker=workers)
    def lease_over(self, id: str, worker: str) -> None:
        self.harness.apply(LeaseOver(id, worker, "its worker vanished"))

    @rule(id=ids, kind=st.sampled_from([Released, ReleaseUnknown, ProvenLost]))
    def publication(self, id: str, kind: type) -> None:
        self.harness.apply(kind(id, self.epoch_of(id, 0)))

    @rule(id=ids)
    def unreleased(self, id: str) -> None:
        self.harness.apply(ReleaseFailed(id, self.epoch_of(id, 0), "RabbitMQ is away"))

    @rule(id=ids, kind=st.sampled_from([DeleteJob, RequeueJob]))
    def command(self, id: str, kind: type) -> None:
        self.asked.add(id)
        self.harness.apply(self.harness.ask(kind, job_id=id))

    @rule(id=ids, delay=st.sampled_from([0.0, 5.0]))
    def reschedule(self, id: str, delay: float) -> None:
        self.asked.add(id)
        self.harness.apply(self.harness.ask(RescheduleJob, job_id=id, due_at=self.harness.now + delay))

    @rule(seconds=st.integers(1, 15))
    def time_passes(self, seconds: int) -> None:
        self.harness.ticks(seconds)
        self.harness.apply(*(TimerDue(id) for id in ("a", "b", "c")))

    @rule(id=ids, worker=workers)
    def heartbeat(self, id: str, worker: str) -> None:
        self.harness.apply(*self.harness.apply(self.harness.beat(worker, running=[(id, self.epoch_of(id, 0))])).next)

    def rows(self) -> list[Row]:
        return self.harness.store.reader.jobs.newest()

    @invariant()
    def the_store_is_sound(self) -> None:
        assert broken(self.harness.store) == []

    @invariant()
    def epochs_never_fall_and_an_end_is_left_only_on_a_persons_word(self) -> None:
        for row in self.rows():
            assert row.epoch >= self.epochs.get(row.id, 0), row
            self.epochs[row.id] = row.epoch
            before = self.finals.get(row.id)
            if before is not None and row.state is not before:
                assert row.id in self.asked, f"{row.id} was {before} and is {row.state}"
            if row.state.is_final:
                self.finals[row.id] = row.state
            else:
                self.finals.pop(row.id, None)
        self.asked.clear()

    @invariant()
    def what_is_released_is_out(self) -> None:
        for effects in self.harness.effects[-1:]:
            for row in effects.releases:
                assert row.publication is Publication.PUBLISHING
                assert row.state is State.ENQUEUED
                assert row.due_at is None or row.due_at <= self.harness.now


TestRecords = Records.TestCase
TestRecords.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

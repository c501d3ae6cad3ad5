"""A supervisor speaks for a worker that cannot: for no other, again and again, and of its end until it is confirmed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker_jobs.broker import names
from broker_jobs.broker.interface import Delivery, Unconfirmed
from broker_jobs.broker.memory import MemoryBroker
from broker_jobs.broker.topology import fixed_topology
from broker_jobs.clock import ManualClock
from broker_jobs.messages.events import BUNDLE, Bundle, Started, Supervised
from broker_jobs.metrics import Snapshot
from broker_jobs.processes.child import ChildProcess, Report
from broker_jobs.processes.health import Health
from broker_jobs.processes.run_board import RunBoard
from broker_jobs.processes.supervised_heartbeats import SupervisedHeartbeats
from tests.support.wait import eventually


class Process:
    """What is asked of a child's process."""

    pid = 42
    exitcode = -9


class Stage:
    """A supervisor's heartbeats on the broker in memory, and what the log holds of them."""

    def __init__(self) -> None:
        self.broker = MemoryBroker("memory://")
        self.broker.start()
        self.broker.apply(fixed_topology())
        self.clock = ManualClock()
        self.bundles: list[Bundle] = []
        self.broker.subscribe([names.LOG], self._take, prefetch=100)
        self.heartbeats = SupervisedHeartbeats(
            self.broker, period_seconds=5.0, now=self.clock.now, monotonic=self.clock.monotonic
        )
        self.heartbeats.start()

    def _take(self, deliveries: list[Delivery]) -> None:
        self.bundles += [BUNDLE.validate_json(delivery.body) for delivery in deliveries]

    def child(self, *, silent: float = 0.0, heard: float | None = 0.0, worker: str = "w1") -> ChildProcess:
        child = ChildProcess("pool.0", RunBoard(4), Process(), None, worker, started_at=self.clock.now())  # type: ignore[arg-type]
        child.report = Report(Snapshot(), Health(True), heard, ("mail", "default"))
        child.reported_at = self.clock.now()
        child.silent_seconds = silent
        return child

    def look(self, *children: ChildProcess) -> None:
        self.heartbeats.look(list(children))

    def said(self, count: int) -> list[Bundle]:
        eventually(lambda: len(self.bundles) >= count, 30, "in the log")
        assert len(self.bundles) == count
        return self.bundles


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.heartbeats.stop()


def test_a_worker_that_speaks_for_itself_is_not_spoken_for(stage: Stage) -> None:
    stage.look(stage.child(silent=1.0, heard=5.0))
    assert stage.broker.depth(names.LOG) == (0, 1)
    assert stage.bundles == []


def test_a_silent_worker_lives_with_what_it_runs(stage: Stage) -> None:
    child = stage.child(silent=4.0, heard=1.0)
    began_at = stage.clock.now()
    child.board.begin("job", 3, began_at)
    stage.clock.advance(4.0)
    stage.look(child)
    (bundle,) = stage.said(1)
    assert (bundle.worker.id, bundle.worker.slot, bundle.worker.pid) == ("w1", "pool.0", 42)
    assert bundle.sent_at == stage.clock.now()
    started, lives = bundle.events
    assert started == Started(id="job", epoch=3, at=began_at), "its worker may not have said so"
    assert lives == Supervised(
        at=stage.clock.now(), running=[("job", 3)], queues=["mail", "default"], silent_since=began_at
    )
    eventually(lambda: len(child.heard) == 1, 30, "its lease goes on")

    stage.look(child)
    stage.clock.advance(1.0)
    stage.look(child)
    stage.clock.advance(4.0)
    stage.look(child)
    stage.said(2)


def test_a_run_that_has_just_begun_is_listed_and_not_said_to_have_started(stage: Stage) -> None:
    child = stage.child(silent=4.0)
    child.board.begin("job", 1, stage.clock.now())
    stage.look(child)
    (bundle,) = stage.said(1)
    (lives,) = bundle.events
    assert isinstance(lives, Supervised)
    assert lives.running == [("job", 1)]


def test_a_worker_that_is_cut_off_and_answers_is_not_silent(stage: Stage) -> None:
    stage.look(stage.child(silent=0.0, heard=11.0))
    (bundle,) = stage.said(1)
    (lives,) = bundle.events
    assert isinstance(lives, Supervised)
    assert lives.silent_since is None


def test_the_end_of_a_process_is_said_until_it_is_confirmed(stage: Stage) -> None:
    child = stage.child()
    child.board.begin("job", 3, stage.clock.now())
    eventually(lambda: stage.broker.connected, 30, "connected")
    stage.broker.fail_next(Unconfirmed.UNKNOWN)
    stage.heartbeats.ended(child)
    eventually(lambda: not stage.heartbeats._in_flight, 30, "not confirmed")
    assert stage.bundles == []
    stage.look()
    (bundle,) = stage.said(1)
    (ended,) = bundle.events
    assert ended == Supervised(at=stage.clock.now(), running=[("job", 3)], ended="was killed by signal 9")
    eventually(lambda: not stage.heartbeats._in_flight, 30, "confirmed")
    stage.look()
    stage.said(1)


def test_an_end_that_could_not_be_said_is_said_when_the_broker_is_back(stage: Stage) -> None:
    stage.broker.disconnect()
    stage.heartbeats.ended(stage.child())
    assert stage.bundles == []
    stage.broker.reconnect()
    eventually(lambda: stage.broker.connected, 30, "connected")
    stage.look()
    (bundle,) = stage.said(1)
    assert isinstance(bundle.events[0], Supervised)
    assert bundle.events[0].ended

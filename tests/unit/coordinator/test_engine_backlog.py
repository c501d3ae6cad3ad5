"""What a coordinator makes of a log it reads late, twice, or beside clocks that are wrong."""

from __future__ import annotations

import pytest

from broker_jobs.clock import LogTime
from broker_jobs.coordinator.inputs import CommandReceived, Input
from broker_jobs.coordinator.liveness import READ_SECONDS, UNCONFIRMED_SECONDS
from broker_jobs.coordinator.records import FromWorker, LeaseOver
from broker_jobs.messages.commands import Hello
from broker_jobs.messages.events import Progress, Tick, WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication
from tests.support.invariants import broken
from tests.unit.coordinator.engine_harness import EngineHarness


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def test_heartbeats_from_before_a_start_do_not_speak_against_it_when_all_is_read_at_once(
    harness: EngineHarness,
) -> None:
    early: list[Input] = []
    for _ in range(3):
        early.append(harness.beat())
        harness.now += 10.0
    late: list[Input] = [harness.started(), harness.started(owned=True), harness.beat(running=[("j", 1)])]
    assert harness.apply(harness.ready(), *early, *late).next == []
    assert harness.apply(harness.beat(running=[("j", 1)])).next == []


def test_a_heartbeat_that_comes_again_counts_once(harness: EngineHarness) -> None:
    harness.apply(harness.ready(), harness.started(owned=True))
    silent = harness.beat()
    assert harness.apply(silent).next == []
    harness.ticks(10)
    assert harness.apply(silent).next == []
    assert [type(record) for record in harness.apply(harness.beat()).next] == [LeaseOver]


def test_what_a_predecessor_said_before_does_not_end_its_successor(harness: EngineHarness) -> None:
    old, new = WorkerRef(id="old", host="h", slot="1"), WorkerRef(id="new", host="h", slot="1")
    last_words = harness.beat(old.id)
    harness.apply(last_words)
    harness.now += 5.0
    harness.apply(CommandReceived(Hello(id="hi", at=harness.now, worker=new, queues=["default"]), None, None))
    harness.apply(last_words)  # the log is behind the command queue
    leases = harness.engine.liveness.leases
    log_now = LogTime(harness.store.reader.meta().log_time)
    assert leases.dead(log_now + READ_SECONDS) == [("old", "its worker was replaced")]
    assert leases.living() == ["new"]


def test_log_time_goes_on_when_the_wall_clock_steps_back(harness: EngineHarness) -> None:
    harness.ticks(5)
    before = harness.store.reader.meta().log_time
    harness.now -= 3_600.0
    harness.ticks(5)
    assert harness.store.reader.meta().log_time >= before + 5.0


def test_log_time_goes_on_beside_a_coordinator_whose_clock_is_ahead_and_not_faster(harness: EngineHarness) -> None:
    meta = harness.store.reader.meta()
    for _ in range(10):
        harness.now += 1.0
        harness.apply(harness.tick())
        harness.apply(Tick(coordinator="c2", store=meta.store_id, serial=0, sent_at=harness.now + 3_600.0))
    harness.ticks(5)
    assert harness.store.reader.meta().log_time == pytest.approx(15.0, abs=2.0)


def test_how_far_the_log_is_read_is_told_by_our_own_ticks(harness: EngineHarness) -> None:
    meta = harness.store.reader.meta()
    stranger = Tick(coordinator="c9", store=meta.store_id, serial=0, sent_at=harness.now + 3_600.0)
    assert harness.apply(stranger).tick_at is None
    own = Tick(coordinator="c1", store=meta.store_id, serial=0, sent_at=harness.now)
    assert harness.apply(own, stranger).tick_at == harness.now


def test_a_release_whose_fate_was_never_told_is_not_waited_for_for_ever(harness: EngineHarness) -> None:
    harness.apply(harness.held())
    assert harness.row().publication is Publication.PUBLISHING
    assert harness.unknown_releases(0.0) == harness.unknown_releases(UNCONFIRMED_SECONDS - 1.0) == []
    found = harness.unknown_releases(UNCONFIRMED_SECONDS)
    harness.apply(*found)
    assert (harness.row().state, harness.row().publication) == (State.SCHEDULED, Publication.NONE)


def test_a_release_that_a_restored_store_was_making_is_nobodys_once_a_later_one_is_heard_of(
    harness: EngineHarness,
) -> None:
    harness.apply(harness.held())
    assert harness.row().publication is Publication.PUBLISHING
    harness.apply(FromWorker("w1", Progress(id="j", epoch=5, at=harness.now, done=1.0)))
    assert (harness.row().epoch, harness.row().publication, harness.row().sender) == (5, Publication.PUBLISHED, None)
    assert broken(harness.store) == []

"""What a coordinator makes of a log it reads late, twice, or beside clocks that are wrong."""

from __future__ import annotations

import pytest

from broker_jobs.coordinator.inputs import CommandReceived, Input
from broker_jobs.coordinator.records import FromWorker, LeaseOver
from broker_jobs.messages.commands import Hello
from broker_jobs.messages.events import Progress, Tick, WorkerRef
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication
from tests.support.invariants import broken
from tests.unit.coordinator.engine_desk import Desk


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_heartbeats_from_before_a_start_do_not_speak_against_it_when_all_is_read_at_once(desk: Desk) -> None:
    early: list[Input] = []
    for _ in range(3):
        early.append(desk.beat())
        desk.now += 10.0
    late: list[Input] = [desk.started(), desk.started(owned=True), desk.beat(running=[("j", 1)])]
    assert desk.apply(desk.ready(), *early, *late).next == []
    assert desk.apply(desk.beat(running=[("j", 1)])).next == []


def test_a_heartbeat_that_comes_again_counts_once(desk: Desk) -> None:
    desk.apply(desk.ready(), desk.started(owned=True))
    silent = desk.beat()
    assert desk.apply(silent).next == []
    assert desk.apply(silent).next == []
    desk.now += 10.0
    assert [type(record) for record in desk.apply(desk.beat()).next] == [LeaseOver]


def test_what_a_predecessor_said_before_does_not_end_its_successor(desk: Desk) -> None:
    old, new = WorkerRef(id="old", host="h", slot="1"), WorkerRef(id="new", host="h", slot="1")
    last_words = desk.beat(old.id)
    desk.apply(last_words)
    desk.now += 5.0
    desk.apply(CommandReceived(Hello(id="hi", at=desk.now, worker=new, queues=["default"]), None, None))
    desk.apply(last_words)  # the log is behind the command queue
    leases = desk.engine.leases
    log_now = desk.store.reader.meta().log_time
    assert leases.dead(log_now, desk.now + 1.0) == [("old", "its worker was replaced")]
    assert leases.living() == ["new"]


def test_log_time_goes_on_when_the_wall_clock_steps_back(desk: Desk) -> None:
    desk.ticks(5)
    before = desk.store.reader.meta().log_time
    desk.now -= 3_600.0
    desk.ticks(5)
    assert desk.store.reader.meta().log_time >= before + 5.0


def test_log_time_goes_on_beside_a_coordinator_whose_clock_is_ahead_and_not_faster(desk: Desk) -> None:
    meta = desk.store.reader.meta()
    for _ in range(10):
        desk.now += 1.0
        desk.apply(desk.tick())
        desk.apply(Tick(coordinator="c2", store=meta.store_id, serial=0, sent_at=desk.now + 3_600.0))
    desk.ticks(5)
    assert desk.store.reader.meta().log_time == pytest.approx(15.0, abs=2.0)


def test_how_far_the_log_is_read_is_told_by_our_own_ticks(desk: Desk) -> None:
    meta = desk.store.reader.meta()
    stranger = Tick(coordinator="c9", store=meta.store_id, serial=0, sent_at=desk.now + 3_600.0)
    assert desk.apply(stranger).tick_at is None
    own = Tick(coordinator="c1", store=meta.store_id, serial=0, sent_at=desk.now)
    assert desk.apply(own, stranger).tick_at == desk.now


def test_a_release_whose_fate_was_never_told_is_not_waited_for_for_ever(desk: Desk) -> None:
    desk.apply(desk.held())
    assert desk.row().publication is Publication.PUBLISHING
    assert desk.engine.unsure_releases(desk.now + 10.0, 0.0) == []
    found = desk.engine.unsure_releases(desk.now + 120.0, 0.0)
    desk.apply(*found)
    assert (desk.row().state, desk.row().publication) == (State.SCHEDULED, Publication.NONE)


def test_a_release_that_a_restored_store_was_making_is_nobodys_once_a_later_one_is_heard_of(desk: Desk) -> None:
    desk.apply(desk.held())
    assert desk.row().publication is Publication.PUBLISHING
    desk.apply(FromWorker("w1", Progress(id="j", epoch=5, at=desk.now, done=1.0)))
    assert (desk.row().epoch, desk.row().publication, desk.row().sender) == (5, Publication.PUBLISHED, None)
    assert broken(desk.store) == []

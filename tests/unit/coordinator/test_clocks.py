"""Clocks that disagree and step, of producers, workers and the coordinator's own host: nothing is lost by them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker_jobs.clock import LogTime, RemoteTime, WallTime
from broker_jobs.coordinator.inputs import WorkItemsWaiting
from broker_jobs.coordinator.liveness import LEASE_SECONDS, LEFT, READ_SECONDS, REPLACED, Leases
from broker_jobs.coordinator.records import JobRecord, LeaseOver, ProvenLost, ReleaseUnknown, WaitingCopy
from broker_jobs.messages.events import WorkerRef
from broker_jobs.messages.state import State
from tests.unit.coordinator.engine_harness import EngineHarness

DAY, HOUR = 86_400.0, 3_600.0
IN_1970 = "in 1970"
OFF = [-DAY, -120.0, DAY, IN_1970]
KEEP = 7 * DAY


class Skewed(EngineHarness):
    """A harness whose messages are written by a machine with another clock, and whose own clock may step."""

    def __init__(self) -> None:
        super().__init__()
        self.monotonic = 0.0
        self.judge()

    def written(self, off: float | str, make: str, *arguments: object, **fields: object) -> object:
        """What a machine writes whose clock is off by some seconds."""
        real = self.now
        self.now = 0.0 if off == IN_1970 else real + float(off)
        try:
            return getattr(self, make)(*arguments, **fields)
        finally:
            self.now = real

    def passes(self, seconds: float) -> None:
        """Time passes, of which the log knows."""
        self.now += seconds
        self.monotonic += seconds
        with self.store.transaction() as tx:
            tx.meta.log_time += seconds

    def look(self) -> None:
        """Look at an empty work queue; read the log beyond it; judge."""
        self.engine.liveness.depth_seen("default", 0, WallTime(self.now), self.monotonic)

    def judge(self) -> list[JobRecord]:
        liveness = self.engine.liveness
        with self.store.transaction() as tx:
            log_now = LogTime(tx.meta.log_time)
            return liveness.judge(tx, liveness.dead_workers(log_now), WallTime(self.now), log_now)

    def lost(self) -> list[str]:
        """The jobs whose messages are proven lost now."""
        return [record.id for record in self.judge() if isinstance(record, ProvenLost)]

    def purged(self) -> int:
        with self.store.transaction() as tx:
            return tx.purge(now=self.now, keep_succeeded=KEEP, keep_deleted=KEEP, keep_failed=KEEP, limit=100)


@pytest.fixture
def harness() -> Skewed:
    return Skewed()


# ---- producers


@pytest.mark.parametrize("off", OFF)
def test_a_message_is_not_lost_because_the_clock_of_its_producer_is_wrong(harness: Skewed, off: float | str) -> None:
    harness.look()
    harness.passes(62.0)
    assert harness.lost() == []
    harness.apply(harness.written(off, "ready"))  # type: ignore[arg-type]
    harness.look()  # a worker has received it, and has not said so yet
    harness.passes(13.0)
    assert harness.lost() == []


@pytest.mark.parametrize("off", OFF)
def test_a_message_that_is_lost_is_found_whatever_the_clock_of_its_producer(harness: Skewed, off: float | str) -> None:
    harness.apply(harness.written(off, "ready"))  # type: ignore[arg-type]
    found: list[str] = []
    for _ in range(4):
        harness.passes(60.0)
        found += harness.lost()
        harness.look()
    assert found[:1] == ["j"]


@pytest.mark.parametrize("off", OFF)
def test_a_batch_is_not_abandoned_because_the_clock_of_its_producer_is_wrong(harness: Skewed, off: float | str) -> None:
    first, second, commit = (
        harness.written(off, "chunk", "b", ["1"], 0),
        harness.written(off, "chunk", "b", ["2"], 1),
        harness.written(off, "commit", "b", 2),
    )
    harness.apply(first)  # type: ignore[arg-type]
    harness.passes(10.0)
    harness.apply(WorkItemsWaiting())
    harness.apply(second, commit)  # type: ignore[arg-type]
    harness.work()
    assert {harness.row(id).state for id in "12"} == {State.ENQUEUED}


def test_an_outage_of_days_abandons_no_committed_batch(harness: Skewed) -> None:
    first, second, commit = harness.chunk("b", ["1"], 0), harness.chunk("b", ["2"], 1), harness.commit("b", 2)
    harness.now += 3 * DAY  # no coordinator ran; the log has kept all of it
    harness.apply(first)
    harness.apply(WorkItemsWaiting())
    harness.now += 2 * DAY  # it stopped in the middle of the log
    harness.apply(WorkItemsWaiting())
    harness.apply(second, commit)
    harness.work()
    assert {harness.row(id).state for id in "12"} == {State.ENQUEUED}


def test_an_outage_of_days_gives_up_no_parent(harness: Skewed) -> None:
    harness.apply(harness.child("c", "p"))
    harness.now += 3 * DAY
    since = LogTime(harness.store.reader.meta().log_time - DAY)
    assert harness.store.reader.dependencies.unknown_parents(since=since, after=("", "", ""), limit=10)[0] == []


@pytest.mark.parametrize("off", OFF)
def test_a_job_is_kept_while_a_copy_of_it_may_be_in_the_delay_queues(harness: Skewed, off: float | str) -> None:
    held = harness.written(off, "held", delay=0.0)
    assert isinstance(held, WaitingCopy)
    harness.apply(replace(held, copied_for=30 * DAY))
    harness.release()
    harness.apply(harness.succeeded())
    harness.passes(KEEP + HOUR)
    assert harness.purged() == 0
    harness.passes(30 * DAY)
    assert harness.purged() == 1


# ---- workers


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("end", ["succeeded", "failed", "interrupted"])
def test_an_ended_job_is_kept_as_long_as_it_is_said_whatever_the_clock_of_its_worker(
    harness: Skewed, off: float | str, end: str
) -> None:
    more = {"final": True} if end == "failed" else {"acknowledged": True} if end == "interrupted" else {}
    harness.apply(harness.ready())
    harness.apply(harness.written(off, end, **more))  # type: ignore[arg-type]
    if end == "interrupted":
        harness.passes(2.0)
        harness.release()
        harness.apply(harness.written(off, "succeeded", epoch=2))  # type: ignore[arg-type]
    harness.passes(KEEP - HOUR)
    assert harness.purged() == 0
    harness.passes(2 * HOUR)
    assert harness.purged() == 1


@pytest.mark.parametrize("off", OFF)
def test_an_end_is_counted_in_the_minute_in_which_it_was_stored(harness: Skewed, off: float | str) -> None:
    harness.apply(harness.ready(), harness.written(off, "succeeded"))  # type: ignore[arg-type]
    assert [(at, n) for at, _, n in harness.store.reader.statistics.throughput(harness.now - 60.0)] == [
        (harness.now // 60 * 60, 1)
    ]


@pytest.mark.parametrize("off", [-DAY, DAY, -1_700_000_000.0])
def test_a_worker_that_left_or_was_replaced_is_dead_once_the_log_was_read_whatever_its_clock(off: float) -> None:
    leases, at = Leases(), 1_770_000_000.0 + off
    left, old, new = (WorkerRef(id=id, host="h", slot=slot) for id, slot in (("l", "1"), ("o", "2"), ("n", "2")))
    for worker, said_at in ((left, at), (old, at), (new, at + 5.0)):
        leases.heard(worker.id, LogTime(100.0), worker, RemoteTime(said_at))
        leases.replaced(worker, RemoteTime(said_at))
    leases.leaving(left.id, RemoteTime(at))
    assert leases.dead(LogTime(101.0)) == []  # what they had reported may still be in the log
    assert sorted(leases.dead(LogTime(100.0) + READ_SECONDS)) == [("l", LEFT), ("o", REPLACED)]
    assert leases.living() == ["n"]


def test_a_worker_whose_clock_was_set_back_an_hour_is_still_believed(harness: Skewed) -> None:
    harness.apply(harness.ready(), harness.started(owned=True), harness.beat(running=[("j", 1)]))
    found = []
    for _ in range(3):
        harness.passes(10.0)
        found += harness.apply(harness.written(-HOUR, "beat")).next  # type: ignore[arg-type]
    assert [record.id for record in found if isinstance(record, LeaseOver)][:1] == ["j"]


# ---- this host


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_no_message_is_called_lost_because_this_clock_was_set_between_two_looks(harness: Skewed, step: float) -> None:
    harness.now -= min(0.0, step)
    harness.look()
    harness.passes(62.0)
    assert harness.lost() == []
    harness.now += step
    harness.apply(harness.ready())
    harness.look()
    harness.passes(13.0)
    assert harness.lost() == []


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_lost_message_is_found_in_minutes_after_this_clock_was_set(harness: Skewed, step: float) -> None:
    harness.apply(harness.ready())
    harness.now += step
    found: list[str] = []
    for _ in range(4):
        harness.passes(60.0)
        found += harness.lost()
        harness.look()
    assert found[:1] == ["j"]


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_release_under_way_is_not_doubted_because_this_clock_was_set(harness: Skewed, step: float) -> None:
    harness.apply(harness.held())
    assert harness.judge() == []
    harness.now += step
    harness.passes(5.0)
    assert harness.judge() == []
    harness.passes(60.0)
    assert harness.judge() == [ReleaseUnknown("j", 1)]


def test_a_lease_ends_by_log_time_whatever_the_wall_clock(harness: Skewed) -> None:
    harness.apply(harness.ready(), harness.started())
    harness.now += DAY
    assert harness.judge() == []
    harness.now -= 2 * DAY
    harness.passes(LEASE_SECONDS + 1.0)
    assert [record.id for record in harness.judge() if isinstance(record, LeaseOver)] == ["j"]

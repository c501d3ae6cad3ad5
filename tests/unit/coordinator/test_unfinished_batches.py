"""A batch whose block is still open keeps what it needs, however short ended jobs and batches are kept."""

from __future__ import annotations

import pytest

from broker_jobs.messages.commands import DeleteBatch
from broker_jobs.messages.state import State
from broker_jobs.store.retention import PurgeProgress
from tests.unit.coordinator.engine_harness import EngineHarness

KEEP = 60.0
HOUR = 3_600.0


@pytest.fixture
def harness() -> EngineHarness:
    return EngineHarness()


def passes(harness: EngineHarness, seconds: float) -> None:
    """Time passes, of which the log knows, and all that is old is forgotten."""
    harness.now += seconds
    progress = PurgeProgress()
    with harness.store.transaction() as tx:
        tx.meta.log_time += seconds
        while not progress.is_complete:
            tx.purge(
                now=harness.now, keep_succeeded=KEEP, keep_deleted=KEEP, keep_failed=KEEP, limit=10, progress=progress
            )


def test_a_block_that_is_open_for_longer_than_anything_is_kept_completes(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"], 0))
    for number in range(1, 4):
        passes(harness, HOUR)
        harness.apply(harness.chunk("b", [str(number + 1)], number))
    passes(harness, HOUR)
    harness.apply(harness.commit("b", 4))
    harness.work()
    assert {harness.row(id).state for id in "1234"} == {State.ENQUEUED}
    harness.apply(*(harness.succeeded(id) for id in "1234"))
    assert harness.batch("b").state == "succeeded"


@pytest.mark.parametrize("late_chunks", [0, 1])
def test_a_batch_that_was_deleted_while_its_block_was_open_stays_deleted_when_the_block_ends(
    harness: EngineHarness, late_chunks: int
) -> None:
    harness.apply(harness.chunk("b", ["1"], 0), harness.chunk("b", ["2"], 1))
    harness.apply(harness.ask(DeleteBatch, batch_id="b"))
    harness.work()
    assert harness.batch("b").state == "deleted"
    passes(harness, HOUR)
    harness.apply(*(harness.chunk("b", ["3"], 2) for _ in range(late_chunks)), harness.commit("b", 2 + late_chunks))
    harness.work()
    assert harness.batch("b").state == "deleted"
    assert all(harness.row("3").state is State.DELETED for _ in range(late_chunks))
    passes(harness, HOUR)
    with harness.store.transaction() as tx:
        assert tx.batches.load(["b"]) == {}, "the block has ended, so the batch is needed no more"


def test_a_block_inside_one_that_ended_late_is_kept_with_it(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("in", ["1"]), harness.commit("in", parent="out", parent_submission="out.1"))
    passes(harness, HOUR)
    harness.apply(harness.commit("out", 0, batches=["in"]))
    harness.work()
    assert harness.row("1").state is State.ENQUEUED
    harness.apply(harness.succeeded("1"))
    assert (harness.batch("in").state, harness.batch("out").state) == ("succeeded", "succeeded")


def test_what_was_abandoned_without_a_commit_is_forgotten_in_the_end(harness: EngineHarness) -> None:
    harness.apply(harness.chunk("b", ["1"]))
    harness.apply(harness.ask(DeleteBatch, batch_id="b"))
    harness.work()
    passes(harness, 40 * 24 * HOUR)
    with harness.store.transaction() as tx:
        assert tx.submissions.get("b.1") is None
        assert tx.batches.load(["b"]) == {}

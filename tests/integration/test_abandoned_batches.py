"""A batch whose block never ends is abandoned after a day of log time, all parts real; a shorter one is waited for."""

import pytest

from broker_jobs.coordinator import maintenance
from broker_jobs.messages.state import State
from tests.support.system import System
from tests.support.wait import eventually

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow]

DAY = 86_400
MANY = 600
"""Jobs of a block: those of a chunk are sent while it runs, and the rest at its end."""


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator looks each second for what was never committed; usually each minute."""
    monkeypatch.setattr(maintenance, "PURGE_EVERY_SECONDS", 0.2)


def log_time(system: System) -> float:
    return system.store.reader.meta().log_time


@pytest.mark.usefixtures("looks_often")
def test_a_batch_whose_block_is_open_for_a_day_of_log_time_is_deleted_and_stays_so_when_it_ends(
    system: System,
) -> None:
    work = system.jobs.work
    with system.jobs.program.batch("in time") as in_time:
        in_time.enqueue(work)
    system.here("coordinator")
    with system.jobs.program.batch("too long") as batch:
        ids = [receipt.id for receipt in batch.enqueue_many(work.bind(0.0) for _ in range(MANY))]
        sent = eventually(lambda: system.states(ids).get("awaiting", 0), 60, "a chunk is known")
        assert 0 < sent < MANY
        system.tick(DAY - 600)
        ticked = log_time(system)
        eventually(lambda: log_time(system) >= ticked + 3, 60, "it has looked since, several times a tick")
        assert system.states(ids) == {"awaiting": sent, "unknown": MANY - sent}
        with system.log_time_passes(per_second=10_000):
            eventually(lambda: system.states(ids).get("deleted") == sent, 60, "it is abandoned")
        assert {row.reason for row in system.rows(ids).values()} == {"its batch was never completed"}
    after = work.after(batch, on="finished").enqueue()
    assert batch.wait(60) is State.DELETED
    assert batch.counts().deleted == MANY
    system.here("worker")
    system.succeeded([after.id])
    assert in_time.wait(60) is State.SUCCEEDED
    assert not set(system.starts()) & set(ids), "nothing of it has run"
    system.nothing_broken()

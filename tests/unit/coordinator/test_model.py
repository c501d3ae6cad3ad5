"""Every interleaving of the chosen faults keeps the law of transitions."""

from __future__ import annotations

import pytest

from broker_jobs.coordinator.records import JobRecord, ReleaseUnknown, TimerDue
from broker_jobs.coordinator.state_machine.context import Context, Decision
from broker_jobs.coordinator.state_machine.decide import decide
from broker_jobs.messages.state import State
from broker_jobs.store.row import Publication, Row
from tests.unit.coordinator import model

FAULTS: list[dict[str, int]] = [
    {},
    {"started_is_told": 1, "handover": 1},
    {"worker_dies": 1, "started_is_told": 1},
    {"worker_dies": 1, "handover": 1},
    {"blip": 1, "started_is_told": 1},
    {"blip": 1, "handover": 1},
    {"blip": 2},
    {"coordinator_dies": 1, "worker_dies": 1},
    {"coordinator_dies": 1, "blip": 1},
    {"coordinator_dies": 2},
    {"log_ack_lost": 1, "blip": 1},
    {"log_ack_lost": 2},
    {"purge": 1, "worker_dies": 1},
    {"delete": 1, "blip": 1},
    {"delete": 1, "worker_dies": 1, "started_is_told": 1},
    {"delete": 1, "requeue": 1},
    {"delete": 1, "requeue": 1, "coordinator_dies": 1},
    {"requeue": 1, "blip": 1},
    {"requeue": 1, "coordinator_dies": 1},
    {"reschedule": 1, "blip": 1},
    {"reschedule": 1, "requeue": 1},
    {"reschedule": 1, "delete": 1},
    {"interrupt": 1, "started_is_told": 1},
    {"interrupt": 1, "handover": 1},
    {"interrupt": 1, "blip": 1},
    {"interrupt": 1, "worker_dies": 1},
    {"interrupt": 1, "log_ack_lost": 1},
    {"interrupt": 1, "delete": 1, "started_is_told": 1},
    {"interrupt": 1, "requeue": 1},
    {"interrupt": 1, "reschedule": 1},
    {"interrupt": 1, "coordinator_dies": 1},
    {"interrupt": 1, "purge": 1},
    {"repeat": 1, "blip": 1},
    {"repeat": 1, "delete": 1},
    {"repeat": 1, "requeue": 1},
    {"repeat": 1, "coordinator_dies": 1},
]


@pytest.mark.parametrize("faults", FAULTS, ids=lambda faults: "+".join(faults) or "none")
def test_no_interleaving_breaks_the_law(faults: dict[str, int]) -> None:
    found = model.walk(**faults)
    assert not found.broken, found.broken
    assert found.ends > 0


def test_the_walk_finds_a_coordinator_that_publishes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def naive(row: Row | None, record: JobRecord, at: Context) -> Decision:
        if isinstance(record, ReleaseUnknown) and row is not None:  # "it may not have been sent, so send it again"
            record, row = TimerDue(row.id), row.evolve(state=State.SCHEDULED, publication=Publication.NONE)
            after = decide(row, record, at).row
            return Decision(after.evolve(fence=0) if after is not None else None)
        return decide(row, record, at)

    monkeypatch.setattr(model, "decide", naive)
    found = model.walk(coordinator_dies=1, requeue=1)
    assert {"two runs at once", "two runnable messages in the queue"} & set(found.broken)


def test_the_walk_finds_a_wire_that_is_never_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(row: Row | None, record: JobRecord, at: Context) -> Decision:
        after = decide(row, record, at).row
        settled = after is not None and row is not None and row.state.is_final and after.publication is Publication.NONE
        return Decision(row if settled else after)

    monkeypatch.setattr(model, "decide", forgetful)
    assert model.walk(delete=1).broken

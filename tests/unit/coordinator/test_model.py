"""Every interleaving of the chosen faults keeps the law of transitions."""

from __future__ import annotations

import pytest

from tests.unit.coordinator.model import walk

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
    {"repeat": 1, "blip": 1},
    {"repeat": 1, "delete": 1},
    {"repeat": 1, "requeue": 1},
    {"repeat": 1, "coordinator_dies": 1},
]


@pytest.mark.parametrize("faults", FAULTS, ids=lambda faults: "+".join(faults) or "none")
def test_no_interleaving_breaks_the_law(faults: dict[str, int]) -> None:
    found = walk(**faults)
    assert not found.broken, found.broken
    assert found.ends > 0

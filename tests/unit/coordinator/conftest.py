"""Whatever a test of the coordinator did: the store it leaves is sound."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.invariants import broken
from tests.unit.coordinator.coordinator_harness import CoordinatorHarness
from tests.unit.coordinator.engine_harness import EngineHarness

LAST = 5
"""Harnesses that are looked at; a property test makes hundreds."""


@pytest.fixture(autouse=True)
def sound_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at the stores of a test when it has ended, and close them."""
    made: deque[EngineHarness] = deque()
    first = EngineHarness.__init__

    def remember(harness: EngineHarness, *arguments: Any, **named: Any) -> None:
        first(harness, *arguments, **named)
        made.append(harness)
        if len(made) > LAST:
            close(made.popleft())

    def close(harness: EngineHarness) -> None:
        if all(harness.store is not other.store for other in made):
            harness.store.close()

    monkeypatch.setattr(EngineHarness, "__init__", remember)
    try:
        yield
        assert [broken(harness.store) for harness in made] == [[] for _ in made]
    finally:
        while made:
            close(made.popleft())


@pytest.fixture
def room() -> Iterator[CoordinatorHarness]:
    """A coordinator that is not started yet."""
    room = CoordinatorHarness()
    yield room
    room.close()

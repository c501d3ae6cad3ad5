"""Whatever a test of the coordinator did: the store it leaves is sound."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.invariants import broken
from tests.unit.coordinator.engine_desk import Desk

LAST = 5
"""Desks that are looked at; a property test makes hundreds."""


@pytest.fixture(autouse=True)
def sound_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at the stores of a test when it has ended, and close them."""
    made: deque[Desk] = deque()
    first = Desk.__init__

    def remember(desk: Desk, *arguments: Any, **named: Any) -> None:
        first(desk, *arguments, **named)
        made.append(desk)
        if len(made) > LAST:
            close(made.popleft())

    def close(desk: Desk) -> None:
        if all(desk.store is not other.store for other in made):
            desk.store.close()

    monkeypatch.setattr(Desk, "__init__", remember)
    try:
        yield
        assert [broken(desk.store) for desk in made] == [[] for _ in made]
    finally:
        while made:
            close(made.popleft())

"""A start waits for a broker that is unreachable, not for one that refuses."""

from __future__ import annotations

import pytest

from broker_jobs.errors import BrokerError, BrokerRefused
from broker_jobs.processes.connect import wait_for_broker


class Start:
    """Raises what it is given, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.undone = 0
        self.pauses: list[float] = []

    def __call__(self) -> None:
        if self._errors:
            raise self._errors.pop(0)

    def undo(self) -> None:
        self.undone += 1

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return False


def test_unreachable_is_tried_again_with_growing_pauses() -> None:
    start = Start(*[BrokerError("unreachable")] * 5)
    assert wait_for_broker(start, start.undo, start.wait)
    assert start.pauses == [1, 2, 4, 5, 5]
    assert start.undone == 5


def test_a_refusal_is_raised_at_once() -> None:
    start = Start(BrokerError("unreachable"), BrokerRefused("wrong password"))
    with pytest.raises(BrokerRefused):
        wait_for_broker(start, start.undo, start.wait)
    assert start.pauses == [1]
    assert start.undone == 2


def test_a_process_that_is_to_stop_does_not_try_again() -> None:
    start = Start(BrokerError("unreachable"))
    assert not wait_for_broker(start, start.undo, lambda _: True)

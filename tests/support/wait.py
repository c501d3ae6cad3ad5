"""Waits for an event, with a deadline, instead of for a number of seconds."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout: float = 20, what: str = "the condition", poll: float = 0.01) -> T:
    """Call `condition` until it returns something true, and return that.

    `timeout` and `poll` are in seconds; the pause between two calls grows from `poll` to a quarter of a second. An
    AssertionError in `condition` means "not yet"; any other exception passes through.
    Raises AssertionError when the time is over, naming `what` was awaited and what was seen last.
    """
    deadline = time.monotonic() + timeout
    while True:
        last: object
        try:
            seen = condition()
        except AssertionError as not_yet:
            last = not_yet
        else:
            if seen:
                return seen
            last = seen
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {timeout} s; last seen: {last!r}")
        time.sleep(poll)
        poll = min(poll * 1.5, 0.25)

"""Waits for an event, with a deadline, instead of for a number of seconds."""

import time
from collections.abc import Callable
from typing import TypeVar
from urllib.error import HTTPError

T = TypeVar("T")
PATIENCE = 3
"""How much slower than the machine that the timeouts of tests were chosen on another may be. Only a failure waits it
out."""


def eventually(
    condition: Callable[[], T],
    timeout: float = 20,
    what: str = "the condition",
    poll: float = 0.01,
    patience: float = PATIENCE,
) -> T:
    """Call `condition` until it returns something true, and return that.

    `timeout` and `poll` are in seconds; the pause between two calls grows from `poll` to a quarter of a second. An
    AssertionError in `condition` means "not yet", and so does a LookupError or an OSError: the condition looks into
    something that is not there yet, or does not answer yet. Any other exception passes through, an answer with an error
    of HTTP too.
    Raises AssertionError when `patience` times the timeout is over, naming `what` was awaited and what was seen last.
    """
    timeout *= patience
    deadline = time.monotonic() + timeout
    while True:
        last: object
        try:
            seen = condition()
        except HTTPError:
            raise
        except (AssertionError, LookupError, OSError) as not_yet:
            last = not_yet
        else:
            if seen:
                return seen
            last = seen
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {timeout:g} s; last seen: {last!r}")
        time.sleep(poll)
        poll = min(poll * 1.5, 0.25)


def while_it_moves(
    look: Callable[[], T],
    done: Callable[[T], bool],
    still: float = 30,
    what: str = "the condition",
    poll: float = 0.05,
) -> T:
    """Call `look` until `done` says that what it returned is the end, and return that.

    For work of many parts, whose length depends on the machine: the time is over when `look` has returned the same for
    `PATIENCE` times `still` seconds, however long the work takes. `poll` is the pause between two calls, in seconds.
    Raises AssertionError then, naming `what` was awaited and what was seen last.
    """
    still *= PATIENCE
    seen, since = look(), time.monotonic()
    while not done(seen):
        time.sleep(poll)
        now = look()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() >= since + still:
            raise AssertionError(f"{what}: nothing has moved for {still:g} s; last seen: {seen!r}")
    return seen

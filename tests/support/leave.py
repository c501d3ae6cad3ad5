"""Lets a program wait until it is asked to leave, by a signal or by a thread of its own."""

import contextlib
import queue
from types import FrameType


class Leave:
    """Whether the program has been asked to leave.

    A `threading.Event` may hang here: the handler of a signal runs in the thread that waits, which may just hold the
    event's lock. A `SimpleQueue` has none.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()

    def ask(self) -> None:
        """Ask it to leave (any thread, a handler of a signal)."""
        self._asked.put(None)

    def on_signal(self, _: int, __: FrameType | None) -> None:
        """Ask it to leave, as the handler of a signal."""
        self.ask()

    def asked(self, seconds: float) -> bool:
        """Wait so long; whether it has been asked."""
        with contextlib.suppress(queue.Empty):
            self._asked.get(timeout=seconds)
            return True
        return False

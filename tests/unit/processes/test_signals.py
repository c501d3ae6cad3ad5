"""The first wish to leave finishes what runs; what is left of the second is tried on real processes (acceptance)."""

from __future__ import annotations

import os
import signal
import threading

from broker_jobs.processes.signals import (
    EXIT_BROKEN,
    Broken,
    ShutdownSignals,
    Signalled,
    Stopped,
    serve,
)


class Part:
    """A part that stops as it is told to."""

    def __init__(self, *, in_time: bool = True) -> None:
        self.stopped_with: list[float] = []
        self.thread = ""
        self._in_time = in_time

    def stop(self, timeout: float) -> bool:
        self.stopped_with.append(timeout)
        self.thread = threading.current_thread().name
        return self._in_time

    def stop_now(self) -> None:
        raise AssertionError("nobody asked for that")


def test_a_signal_stops_gracefully_in_another_thread() -> None:
    part = Part()
    with ShutdownSignals() as wishes:
        os.kill(os.getpid(), signal.SIGTERM)
        assert serve(part, wishes, 7.0) == 0
    assert part.stopped_with == [7.0]
    assert part.thread != threading.main_thread().name


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with ShutdownSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_broken_part_is_stopped_and_ends_with_its_code() -> None:
    part, wishes = Part(), ShutdownSignals()
    wishes.put(Broken("the store is another one's"))
    assert serve(part, wishes, 1.0) == EXIT_BROKEN
    assert part.stopped_with == [1.0]


def test_a_child_leaves_ctrl_c_to_its_parent_and_takes_sigterm_twice_as_once() -> None:
    part = Part()
    with ShutdownSignals(has_parent=True) as wishes:
        os.kill(os.getpid(), signal.SIGINT)
        assert not wishes.wait_asked(0.05)
        wishes.put(Signalled(signal.SIGTERM))
        wishes.put(Signalled(signal.SIGTERM))
        assert serve(part, wishes, 1.0) == 0
    assert part.stopped_with == [1.0]


def test_news_that_was_waited_for_is_not_lost() -> None:
    wishes = ShutdownSignals()
    assert not wishes.wait_asked(0)
    wishes.put(Stopped(True))
    assert wishes.wait_asked(0)
    assert wishes.wait_asked(0)
    assert wishes.get() == Stopped(True)
